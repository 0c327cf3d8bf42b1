"""Checkpoints: one safetensors file, written atomically, checked by a sum, the one before kept."""

import hashlib
import json
import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cutaway.errors import RunFolderError

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at every moment either the old or the new one is there in full.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_atomically(place, b"one"); place.read_bytes()
    b'one'
    """
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    _sync_folder(path.parent)


def pack(tree: Any, tensors: dict[str, Tensor], place: str = "") -> Any:
    """Take the tensors out of nested dicts and lists, leaving their names, so that JSON can hold the rest.

    >>> found = {}
    >>> pack({"a": [torch.ones(1), 2.5], 3: (None,)}, found), list(found)
    ({'dict': [['a', [{'tensor': '/a/0'}, 2.5]], [3, {'tuple': [None]}]]}, ['/a/0'])
    """
    if isinstance(tree, Tensor):
        tensors[place] = tree
        return {"tensor": place}
    if isinstance(tree, Mapping):
        return {"dict": [[key, pack(value, tensors, f"{place}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list):
        return [pack(item, tensors, f"{place}/{i}") for i, item in enumerate(tree)]
    if isinstance(tree, tuple):
        return {"tuple": [pack(item, tensors, f"{place}/{i}") for i, item in enumerate(tree)]}
    return tree


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put the tensors back where `pack` took them out.

    >>> found = {}
    >>> unpack(pack({"a": [torch.ones(1), 2.5], 3: (None,)}, found), found)
    {'a': [tensor([1.]), 2.5], 3: (None,)}
    """
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "tuple" in packed:
        return tuple(unpack(item, tensors) for item in packed["tuple"])
    return {key: unpack(value, tensors) for key, value in packed["dict"]}


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state beside the one before: a process killed at any point leaves at least one whole checkpoint.

    Args:
        folder: the run folder.
        state: nested dicts and lists of tensors, numbers and strings.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(state, tensors))
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = save(whole, {"state": text, "sha256": _digest(text, whole)})
    fresh = folder / (LAST + ".new")
    with open(fresh, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(fresh, folder / LAST)
    _sync_folder(folder)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the newest whole checkpoint of a run folder; a damaged one is passed over with a warning.

    Returns:
        The state, or None when the folder has no checkpoint.

    Raises:
        RunFolderError: there are checkpoints but all are damaged.
    """
    damage: list[str] = []
    for name in (LAST, PREVIOUS):
        if (folder / name).exists():
            try:
                state = _read(folder / name)
            except (SafetensorError, ValueError, KeyError, OSError, struct.error) as reason:
                damage.append(f"{folder / name}: {reason}")
                continue
            if damage:
                warnings.warn(f"{damage[0]}; going on from the checkpoint before, {name}", stacklevel=3)
            return state
    if damage:
        raise RunFolderError(f"every checkpoint is damaged ({'; '.join(damage)}); start again with overwrite=True")
    return None


def _read(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _digest(header["state"], tensors) != header["sha256"]:
        raise ValueError("the checksum does not fit, the file is damaged")
    return unpack(json.loads(header["state"]), tensors)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make renames last through a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
