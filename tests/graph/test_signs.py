"""A value that is said to have no negative entry has none, and the usual ones are recognised."""

import pytest
import torch
import torch.nn.functional as F

import cutaway as ct
from cutaway.graph.signs import nonnegative

KNOWN = {
    "relu": lambda x: x.relu(),
    "clamp": lambda x: x.clamp(0.0, 1.0),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 2.0),
    "pooled": lambda x: F.max_pool2d(F.avg_pool2d(x.sigmoid(), 2), 2),
    "sum": lambda x: x.relu() + x.abs() + 1,
    "cat": lambda x: torch.cat([x.relu(), x.exp()], 1),
    "product": lambda x: x.relu() * x.sigmoid(),
}
UNKNOWN = {
    "input": lambda x: x * 1.0,
    "difference": lambda x: x.relu() - x.abs(),
    "less one": lambda x: x.relu() + -1,
    "negative alpha": lambda x: torch.add(x.relu(), x.relu(), alpha=-2),
    "clamp below": lambda x: x.clamp(-1.0, 1.0),
    "clamp above": lambda x: x.clamp(max=1.0),
    "scaled": lambda x: x.relu() * -2.0,
    "cat": lambda x: torch.cat([x.relu(), x], 1),
}


@pytest.mark.parametrize("name", list(KNOWN))
def test_is_known(name: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    graph = ct.capture(KNOWN[name], x)
    assert nonnegative(graph["output"]) and float(graph(x).min()) >= 0


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_is_not_claimed(name: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    graph = ct.capture(UNKNOWN[name], x)
    assert not nonnegative(graph["output"]) and float(graph(x).min()) < 0
