"""Seeds: every random number in Cutaway comes from a generator made here, never from the global state."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *words: object) -> int:
    """Derive an independent seed from a seed and words that name its use.

    Args:
        seed: any integer.
        words: what the numbers are for ("split", epoch, …); equal words give equal seeds on every machine.

    >>> derive(0, "shuffle", 3) == derive(0, "shuffle", 3)
    True
    >>> derive(0, "shuffle", 3) == derive(0, "shuffle", 4)
    False
    """
    text = "\x1f".join([str(int(seed)), *map(str, words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1  # 63 bits


def generator(seed: int, *words: object, device: str | torch.device = "cpu") -> torch.Generator:
    """Make a generator from a seed and words, see `derive`.

    >>> torch.rand(2, generator=generator(0, "noise")).shape
    torch.Size([2])
    """
    made = torch.Generator(device=device)
    made.manual_seed(derive(seed, *words) if words else int(seed))
    return made


@contextmanager
def seeded(seed: int, *words: object) -> Iterator[None]:
    """Start torch's global generators, from which layers and initialisers draw, at a seed; their states come back.

    >>> with seeded(0, "dropout"): first = torch.rand(2)
    >>> with seeded(0, "dropout"): bool((torch.rand(2) == first).all())
    True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    with torch.random.fork_rng(devices=devices):
        for each in (torch.default_generator, *(torch.cuda.default_generators[device] for device in devices)):
            each.manual_seed(derive(seed, *words) if words else int(seed))
        yield
