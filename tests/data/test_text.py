"""Synonyms and typos: what they change, how far, and what they leave alone."""

import re
from collections import Counter

import pytest

from cutaway import data
from cutaway.data import text
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.rng import generator

TEXTS = [
    "The big dog's owner bought 3 small houses at http://a.b/c2, didn't she?",
    'A quick answer — "Enormous!" — he shouted; ANGRY children jumped.',
    "",
    "Die Straße ist groß, naïve café.",
]
WORDS = re.compile(r"[^\W\d_]+")


def distance(a: str, b: str) -> int:
    """Edit distance with exchanges of neighbours as one edit (Damerau, Levenshtein)."""
    rows = [list(range(len(b) + 1))] + [[i + 1] + [0] * len(b) for i in range(len(a))]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = rows[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, same)
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


@pytest.mark.parametrize("name", data.TEXT_AUGMENTATIONS)
def test_every_augmentation_is_fixed_by_its_generator_and_keeps_labels(name, global_randomness_untouched):
    function = data.augmentation((name, {"share": 0.7}), of="text")
    first, second, other = (function(TEXTS, generator(seed)) for seed in (1, 1, 2))
    assert first == second != other and len(first) == len(TEXTS)
    for before, after in zip(TEXTS, first, strict=True):  # the text in each place is still that text
        assert WORDS.sub("", before) == WORDS.sub("", after)
        assert len(WORDS.findall(before)) == len(WORDS.findall(after))
    assert function(TEXTS, generator(3)) != TEXTS
    assert data.TEXT_AUGMENTATIONS[name](TEXTS, generator(0), share=0.0) == TEXTS


@pytest.mark.parametrize("kind", list(text.TYPOS))
def test_a_typo_is_one_edit(kind):
    words = ["the", "keyboard", "answers", "people", "Straße", "hello", "Zebra", "tt"]
    seen = set()
    for seed in range(30):
        after = text.typos([" ".join(words)], generator(seed), 1.0, [kind])[0].split()
        for old, new in zip(words, after, strict=True):
            assert distance(old, new) == (len(old) >= 3), (old, new)
            lengths = {"swap": 0, "key": 0, "drop": -1, "double": 1}
            assert len(new) - len(old) == (lengths[kind] if len(old) >= 3 else 0)
            if kind == "swap":
                assert Counter(new) == Counter(old)
            seen.add(new)
    assert len(seen) > 25


def test_neighbouring_keys_are_neighbours():
    assert set(text._NEIGHBOURS["g"]) == set("ftyhvb") and set(text._NEIGHBOURS["q"]) == set("wa")
    assert all(a in text._NEIGHBOURS[b] for a in text._NEIGHBOURS for b in text._NEIGHBOURS[a])


def test_the_share_is_the_share_of_words():
    words = ["keyboard"] * 4000
    changed = sum(word != "keyboard" for word in text.typos(words, generator(0), 0.3, ["double"]))
    assert 0.27 < changed / 4000 < 0.33
    changed = sum(word != "big" for word in text.synonyms(["big"] * 4000, generator(0), 0.1))
    assert 0.08 < changed / 4000 < 0.12


def test_synonyms_come_from_the_table_and_keep_capitals():
    table = {"big": ["large", "great"], "answer": ["reply"]}
    after = text.synonyms(["Big BIG big answer bigger"] * 50, generator(0), 1.0, table)
    assert {one.split()[0] for one in after} == {"Large", "Great"}
    assert {one.split()[1] for one in after} == {"LARGE", "GREAT"}
    assert {one.split(" ", 2)[2] for one in after} == {"large reply bigger", "great reply bigger"}


def test_the_embedded_synonyms_are_mutual_and_keep_articles_right():
    known = text.english()
    assert len(known) > 250
    for word, others in known.items():
        assert others and word not in others and word == word.lower()
        assert all(word in known[other] for other in others)
        assert {other[0] in "aeiou" for other in others} == {word[0] in "aeiou"}, word


def test_bad_input_says_what_is_wanted():
    for function in data.TEXT_AUGMENTATIONS.values():
        with pytest.raises(ArgumentError, match="brackets"):
            function("one text", generator(0))
        with pytest.raises(ArgumentError, match="brackets"):
            function([3], generator(0))
        with pytest.raises(ArgumentError, match=r"share=1\.5"):
            function(["text"], generator(0), share=1.5)
    with pytest.raises(LookupFailure, match="swap"):
        text.typos(["text"], generator(0), kinds=["swop"])
    with pytest.raises(ArgumentError, match="empty"):
        text.typos(["text"], generator(0), kinds=[])
