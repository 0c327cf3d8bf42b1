"""Seeds: every random number in Cutaway comes from a generator made here, never from the global state."""

import hashlib

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
