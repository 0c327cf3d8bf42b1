"""A search that was killed goes on to the same result, and so does one that several processes share."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.errors import ArgumentError, RunFolderError
from cutaway.visualize import dataset_examples, search

ROOT = Path(__file__).resolve().parents[2]
X = torch.rand(50, 3, 12, 12, generator=torch.Generator().manual_seed(3))
X[30] = X[4]  # equal scores
FAST: dict[str, Any] = {"k": 5, "batch_size": 7, "progress": False}


def same(first, second):
    for name in ("scores", "index", "place"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0)
    assert (first.field, first.layer, first.by, first.seen) == (second.field, second.layer, second.by, second.seen)
    assert list(first.images) == list(second.images)
    assert all(torch.equal(image, second.images[i]) for i, image in first.images.items())


@pytest.mark.parametrize("layer", ["add", "output"])
@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_interrupted_search_goes_on(layer, stop, failure, small, tmp_path):
    """In batches from a stream that breaks off; the rest alone is looked at again."""
    state, calls = tmp_path / "examples.safetensors", []

    def stream(until):
        for number, batch in enumerate(X.split(7)):
            if number == until:
                raise failure
            calls.append(number)
            yield batch

    with pytest.raises(failure):
        dataset_examples(small, stream(stop), layer, state=state, **FAST)
    found = dataset_examples(small, stream(None), layer, state=state, **FAST)
    same(found, dataset_examples(small, X, layer, **FAST))
    assert calls == [*range(stop), *range(8)]
    again = dataset_examples(small, X, layer, state=state, **FAST)  # finished: read from the file
    same(again, found)


def test_batches_that_are_done_are_not_looked_at_again(small, tmp_path, monkeypatch):
    seen, real = [], search._of_batch
    monkeypatch.setattr(search, "_of_batch", lambda *args: seen.append(args[-1]) or real(*args))
    state = tmp_path / "deep" / "examples.safetensors"

    def stream():
        yield from X.split(7)[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset_examples(small, stream(), "add", state=state, **FAST)
    dataset_examples(small, X, "add", state=state, **FAST)
    assert seen == [0, 7, 14, 21, 28, 35, 42, 49]


KILLED = """
import sys, time, torch
from torch import nn
sys.path.insert(0, {root!r})
from cutaway.visualize import dataset_examples
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
def stream():
    x = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    for batch in x.split(4):
        time.sleep({pause})
        yield batch
found = dataset_examples(net, stream(), "1", k=3, state={state!r}, every=0.0, progress=False)
torch.save([found.scores, found.index, found.place], {out!r})
"""


@pytest.mark.slow  # starts three processes
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills with SIGKILL")
def test_a_killed_search_goes_on(tmp_path):
    state, out = tmp_path / "examples.safetensors", tmp_path / "found.pt"
    texts = {"root": str(ROOT), "out": str(out)}
    slow = KILLED.format(state=str(state), pause=0.2, **texts)
    process = subprocess.Popen([sys.executable, "-c", slow])
    end = time.monotonic() + 60
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() != 0 and not out.exists() and state.exists()
    results = []
    for path in (state, tmp_path / "other.safetensors"):
        subprocess.run([sys.executable, "-c", KILLED.format(state=str(path), pause=0, **texts)], check=True)
        results.append(torch.load(out, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_state_of_another_search_is_refused(small, tmp_path):
    state = tmp_path / "examples.safetensors"
    dataset_examples(small, X, "add", state=state, **FAST)
    with pytest.raises(ArgumentError, match=r"k=5, this one has k=6"):
        dataset_examples(small, X, "add", state=state, **{**FAST, "k": 6})
    with pytest.raises(ArgumentError, match="other data"):
        dataset_examples(small, X.flip(0), "add", state=state, **FAST)
    with torch.no_grad():
        small.conv1.weight += 1
    with pytest.raises(ArgumentError, match="model="):
        dataset_examples(small, X, "add", state=state, **FAST)
    state.write_bytes(b"nothing")
    with pytest.raises(RunFolderError, match="delete it"):
        dataset_examples(small, X, "add", state=state, **FAST)


SHARED = """
import os, sys, torch
from torch import nn
sys.path.insert(0, {root!r})
from cutaway.visualize import dataset_examples
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
x = torch.rand(50, 3, 12, 12, generator=torch.Generator().manual_seed(3))
x[30] = x[4]
import torch.distributed as dist
for count in (50, 5):  # the second: one batch, nothing for the other process
    state = {folder!r} + f"/s{{count}}.st"
    found = dataset_examples(net, x[:count], "1", k=5, batch_size=7, progress=False, state=state)
    assert not dist.is_initialized()
    alone = [found.scores, found.index, found.place, torch.tensor(found.seen), torch.stack(list(found.images.values()))]
    rank = os.environ.get("RANK", "0")
    torch.save(alone, {folder!r} + f"/{{count}}-{{rank}}.pt")
"""


def test_what_processes_found_is_joined_exactly(small, monkeypatch):
    """Every second batch each; the images are asked for only where they are among the best."""
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(search, "place", lambda rank=rank: (rank, 2))
        parts.append(search._pass(small, X.split(7), "add", 5, "max", search.State(None, {}), False))
    assert [part.seen for part in parts] == [28, 22]
    answers = iter([[replace(part, images={}) for part in parts], [part.images for part in parts]])
    monkeypatch.setattr(search, "exchanged", lambda value: next(answers))
    found = search._of_all(parts[0])
    monkeypatch.undo()
    same(found, dataset_examples(small, X, "add", **FAST))


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    (tmp_path / "shared.py").write_text(SHARED.format(root=str(ROOT), folder=str(tmp_path)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, "shared.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (tmp_path / "alone").mkdir()
    alone = SHARED.format(root=str(ROOT), folder=str(tmp_path / "alone"))
    subprocess.run([sys.executable, "-c", alone], check=True)
    for count in (50, 5):
        one = torch.load(tmp_path / "alone" / f"{count}-0.pt", weights_only=True)
        for rank in (0, 1):
            two = torch.load(tmp_path / f"{count}-{rank}.pt", weights_only=True)
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert {path.name for path in tmp_path.glob("s50*")} == {"s50.0-of-2.st", "s50.1-of-2.st"}
