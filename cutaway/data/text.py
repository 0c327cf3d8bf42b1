"""Augmentation of text: functions of (texts, generator) that change words and nothing between them."""

import csv
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from cutaway.errors import ArgumentError, nearest

_WORD = re.compile(r"[^\W\d_]+")  # letters; numbers, signs and spaces stay
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def synonyms(
    texts: Sequence[str],
    generator: torch.Generator,
    share: float = 0.2,
    table: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Replace words by synonyms, each word that has any with a probability; capitals stay.

    Args:
        texts: as many come back, in their order.
        generator: source of the numbers.
        share: probability for each word, in [0, 1].
        table: synonyms of words in lower case; None for a small English one, whose words begin as theirs do, with a
            vowel or a consonant, so that articles stay right.

    Raises:
        ArgumentError: the share is out of range, or one text was given where several are expected.

    >>> synonyms(["A Big house."], torch.Generator(), 1.0, {"big": ["large"]})
    ['A Large house.']
    """
    known = english() if table is None else table

    def other(word: str, draw: random.Random) -> str:
        found = known.get(word.lower())
        if not found:
            return word
        new = draw.choice(list(found))
        return new.upper() if word.isupper() and len(word) > 1 else new.capitalize() if word[0].isupper() else new

    return _replaced(texts, generator, share, other)


def typos(
    texts: Sequence[str],
    generator: torch.Generator,
    share: float = 0.1,
    kinds: Sequence[str] = ("swap", "drop", "double", "key"),
    least: int = 3,
) -> list[str]:
    """Mistype words, one slip in each that is drawn.

    Args:
        texts, generator, share: see `synonyms`.
        kinds: names of `TYPOS` to draw from.
        least: letters of the shortest word that is mistyped.

    Raises:
        LookupFailure: a kind is unknown.
        ArgumentError: as for `synonyms`, or kinds is empty.

    Source: Belinkov, Bisk, "Synthetic and natural noise both break neural machine translation", 2018, section 3.

    >>> typos(["the word"], torch.Generator(), 1.0, ["double"], least=4)
    ['the worrd']
    """
    for kind in kinds:
        if kind not in TYPOS:
            raise nearest(kind, TYPOS, "kind of typo")
    if not kinds:
        raise ArgumentError(f"kinds={kinds!r} is empty: expected some of {', '.join(TYPOS)}")

    def slip(word: str, draw: random.Random) -> str:
        return TYPOS[draw.choice(list(kinds))](word, draw) if len(word) >= least else word

    return _replaced(texts, generator, share, slip)


@cache
def english() -> dict[str, tuple[str, ...]]:
    """The embedded English synonyms by word."""
    with Path(__file__).with_name("synonyms.csv").open(newline="", encoding="utf-8") as stream:
        return {word: tuple(other for other in row if other != word) for row in csv.reader(stream) for word in row}


def _swap(word: str, draw: random.Random) -> str:
    places = [i for i in range(len(word) - 1) if word[i] != word[i + 1]] or [0]
    i = draw.choice(places)
    return word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :]


def _drop(word: str, draw: random.Random) -> str:
    i = draw.randrange(len(word))
    return word[:i] + word[i + 1 :] or word


def _double(word: str, draw: random.Random) -> str:
    i = draw.randrange(len(word))
    return word[: i + 1] + word[i:]


def _key(word: str, draw: random.Random) -> str:
    places = [i for i, letter in enumerate(word) if letter.lower() in _NEIGHBOURS]
    if not places:
        return word
    i = draw.choice(places)
    new = draw.choice(_NEIGHBOURS[word[i].lower()])
    return word[:i] + (new.upper() if word[i].isupper() else new) + word[i + 1 :]


def _neighbours() -> dict[str, str]:
    """The letters beside each on a QWERTY keyboard; each row is shifted to the right by half a key."""
    at = {letter: (x + 0.5 * y, y) for y, row in enumerate(_ROWS) for x, letter in enumerate(row)}
    return {
        a: "".join(b for b in at if b != a and abs(at[a][0] - at[b][0]) <= 1 and abs(at[a][1] - at[b][1]) <= 1)
        for a in at
    }


_NEIGHBOURS = _neighbours()
TYPOS: dict[str, Callable[[str, random.Random], str]] = {"swap": _swap, "drop": _drop, "double": _double, "key": _key}
TEXT_AUGMENTATIONS: dict[str, Callable[..., list[str]]] = {"synonyms": synonyms, "typos": typos}


def _replaced(
    texts: Sequence[str], generator: torch.Generator, share: float, change: Callable[[str, random.Random], str]
) -> list[str]:
    """The texts with each word changed with a probability."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ArgumentError(f"texts={texts!r:.60}: expected a list of strings; put a single text in brackets")
    if not 0 <= share <= 1:
        raise ArgumentError(f"share={share}: expected the probability of a word in [0, 1]")
    draw = random.Random(int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device)))
    return [_WORD.sub(lambda m: change(m[0], draw) if draw.random() < share else m[0], text) for text in texts]
