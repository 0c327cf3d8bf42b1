"""Occlusion and RISE against loops over windows and masks."""

import copy

import pytest
import torch
from torch import nn

from cutaway import explain
from cutaway.errors import ArgumentError
from cutaway.explain import frame
from cutaway.explain.perturbation import masks, windows


@pytest.mark.parametrize(("window", "stride"), [(2, None), (3, 2), ((3, 5), (2, 4)), (8, 1)])
def test_occlusion_is_its_definition(window, stride, mixed, x):
    target = [0, 3, 1]
    found = explain.occlusion(mixed, x, target, window=window, stride=stride, fill=0.2, score=False).values
    net = copy.deepcopy(mixed).eval()
    high, wide = (window, window) if isinstance(window, int) else window
    down, right = (high, wide) if stride is None else (stride, stride) if isinstance(stride, int) else stride
    with torch.no_grad():
        for n in range(3):
            total, count = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, 8)
            top = 0
            while True:
                left = 0
                while True:
                    covered = x[n : n + 1].clone()
                    covered[:, :, top : top + high, left : left + wide] = 0.2
                    fall = net(x[n : n + 1])[0, target[n]] - net(covered)[0, target[n]]
                    total[top : top + high, left : left + wide] += fall
                    count[top : top + high, left : left + wide] += 1
                    if left + wide >= 8:
                        break
                    left += right
                if top + high >= 8:
                    break
                top += down
            torch.testing.assert_close(found[n, 0], total / count, rtol=1e-8, atol=1e-10)


def test_every_place_is_covered_and_windows_end_with_the_input():
    made = windows((7, 5), (3, 2), None, torch.device("cpu"))
    assert made.shape == (9, 7, 5) and made.any(0).all()
    assert made.sum(0).max() == 1


def test_a_seventh_of_each_side_is_the_default(mixed, x):
    found = explain.occlusion(mixed, x, 1, score=False).values
    assert torch.equal(found, explain.occlusion(mixed, x, 1, window=2, score=False).values)


def test_rise_is_its_definition(mixed, x):
    target = [0, 3, 1]
    found = explain.rise(mixed, x, target, samples=9, cells=3, keep=0.4, seed=5, score=False).values
    net, drawn = copy.deepcopy(mixed).eval(), list(masks((8, 8), 9, 3, 0.4, 5))
    with torch.no_grad():
        for n in range(3):
            scores = [net(x[n : n + 1] * mask.double())[0, target[n]] for mask in drawn]
            paper = sum(score * mask for score, mask in zip(scores, drawn)) / (9 * 0.4)  # eq. 6
            offset = sum(scores) / 9 * sum(drawn) / (9 * 0.4)
            torch.testing.assert_close(found[n, 0], (paper - offset).double(), rtol=1e-5, atol=1e-7)


def test_masks_are_smooth_shifted_and_seen_as_often_as_asked():
    drawn = torch.stack(list(masks((30, 20), 400, 5, 0.3, 0)))
    assert drawn.shape == (400, 30, 20) and drawn.min() >= 0 and drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.02)
    assert (drawn[:, 1:] - drawn[:, :-1]).abs().max() < 0.4  # steps of a cell are spread over its 6 rows
    assert not torch.equal(drawn[0], drawn[1])


def test_a_linear_model_is_recovered_by_both():
    net = nn.Linear(6, 1, bias=False).double()
    x = torch.rand(2, 6, dtype=torch.float64)
    exact = x * net.weight[0].detach()
    torch.testing.assert_close(explain.occlusion(net, x, 0, window=1, fill=0.0, score=False).values, exact)
    sampled = explain.rise(net, x, 0, samples=20_000, keep=0.5, cells=6, score=False).values
    torch.testing.assert_close(sampled, exact * 0.5, rtol=0, atol=0.02)  # E[f·M]/p − E[f] = w·x·(1 − p)


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_passes_may_be_cut_anyhow(mixed, x, method, monkeypatch):
    settings = {"samples": 9} if method == "rise" else {"window": 3, "stride": 2}
    whole = explain.METHODS[method](mixed, x, [0, 1, 2], score=False, **settings).values
    monkeypatch.setattr(frame, "CHUNK", 2 * x.numel())
    parts = explain.METHODS[method](mixed, x, [0, 1, 2], score=False, **settings).values
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-8)


def test_signals_and_functions_are_covered_too():
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 12, 3))
    x = torch.rand(2, 2, 14)
    assert explain.occlusion(net, x, score=False).values.shape == (2, 1, 14)
    assert explain.rise(net, x, samples=5, score=False).values.shape == (2, 1, 14)
    black_box = explain.occlusion(lambda x: (x > 0.5).float().mean((1, 2))[:, None], x, 0, window=1, fill=0.0)
    assert black_box.values.max() > 0


def test_wrong_arguments_are_refused(mixed, x):
    with pytest.raises(ArgumentError, match=r"window=9 does not fit inputs of size \(8, 8\)"):
        explain.occlusion(mixed, x, window=9)
    with pytest.raises(ArgumentError, match="stride=0"):
        explain.occlusion(mixed, x, stride=0)
    with pytest.raises(ArgumentError, match=r"stride=\(2, 3\) goes past windows of size \(2, 2\)"):
        explain.occlusion(mixed, x, window=2, stride=(2, 3))
    with pytest.raises(ArgumentError, match="samples=0"):
        explain.rise(mixed, x, samples=0)
    with pytest.raises(ArgumentError, match=r"keep=1\.0"):
        explain.rise(mixed, x, keep=1.0)
