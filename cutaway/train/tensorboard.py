"""A TensorBoard log of the history, written without TensorBoard.

An event file is a sequence of records: length, masked checksum, protocol-buffer message, masked checksum.
"""

import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cutaway.train.session import Epoch

_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected


def _table() -> list[int]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ _POLYNOMIAL if value & 1 else value >> 1
        rows.append(value)
    return rows


_TABLE = _table()


def checksum(data: bytes) -> int:
    """CRC-32C of bytes.

    >>> hex(checksum(b"123456789"))
    '0xe3069283'
    """
    found = 0xFFFFFFFF
    for byte in data:
        found = _TABLE[(found ^ byte) & 0xFF] ^ found >> 8
    return found ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    """The checksum as the format stores it: turned by 15 bits, plus a constant."""
    value = checksum(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def _field(number: int, data: bytes) -> bytes:
    """A field of the message that holds bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def record(message: bytes) -> bytes:
    """A message as the event file holds it."""
    length = struct.pack("<Q", len(message))
    return length + _masked(length) + message + _masked(message)


def event(step: int, values: Mapping[str, float], seconds: float) -> bytes:
    """The message of an event with numbers by name."""
    summary = b"".join(
        _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", value)) for name, value in values.items()
    )
    return b"\x09" + struct.pack("<d", seconds) + b"\x10" + _varint(step) + _field(5, summary)


def tensorboard(folder: str | Path) -> Callable[[Epoch], None]:
    """Make a callback for `fit` that logs every column of the history for TensorBoard.

    Args:
        folder: where the event file goes; `tensorboard --logdir` of it shows the curves.

    Returns:
        A function of an `Epoch`, for `fit(…, callbacks=[tensorboard("runs/demo")])`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     tensorboard(place)(Epoch(1, {"epoch": 1, "loss": 0.5}, None, None))
    ...     next(Path(place).iterdir()).name.startswith("events.out.tfevents.")
    True
    """
    place = Path(folder)
    path = place / f"events.out.tfevents.{time.time_ns()}.cutaway"

    def log(epoch: Epoch) -> None:
        values = {
            name.replace("validation_", "validation/") if name.startswith("validation_") else f"training/{name}": value
            for name, value in epoch.row.items()
            if name != "epoch" and isinstance(value, int | float)
        }
        now = time.time()
        head = b"" if path.exists() else record(b"\x09" + struct.pack("<d", now) + _field(3, b"brain.Event:2"))
        place.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(head + record(event(epoch.number, values, now)))

    return log
