"""Losses by their formulas; seeds against autograd in float64."""

import pytest
import torch

from cutaway.attack.losses import LOSSES, Goal

Z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
Y = torch.arange(50) % 6
T = (Y + 2) % 6


def formula(name: str, z: torch.Tensor, goal: Goal) -> torch.Tensor:
    values = []
    for row in range(len(z)):
        logits, y, pivot = z[row], int(goal.label[row]), int(goal.pivot[row])
        s = sorted(logits.tolist(), reverse=True)
        others = torch.stack([logits[k] for k in range(len(logits)) if k != pivot])
        if name == "cross_entropy":
            values.append(goal.sign * (logits.exp().sum().log() - logits[pivot]))
        elif name == "margin":
            values.append(goal.sign * (others.max() - logits[pivot]))
        elif goal.target is None:
            values.append(-(logits[y] - others.max()) / (s[0] - s[2] + 1e-12))
        else:
            values.append(-(logits[y] - logits[pivot]) / (s[0] - 0.5 * (s[2] + s[3]) + 1e-12))
    return torch.stack(values)


@pytest.mark.parametrize("goal", [Goal(Y), Goal(Y, T)], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_seed(name, goal):
    value, seed = LOSSES[name](Z, goal)
    assert torch.allclose(value, formula(name, Z, goal), atol=1e-9)
    leaf = Z.clone().requires_grad_()
    if name == "dlr":
        s = leaf.sort(1, descending=True).values
        if goal.target is None:
            own, best = leaf[range(50), Y], leaf.scatter(1, Y[:, None], -torch.inf).amax(1)
            oracle = -(own - best) / (s[:, 0] - s[:, 2] + 1e-12)
        else:
            oracle = -(leaf[range(50), Y] - leaf[range(50), T]) / (s[:, 0] - 0.5 * (s[:, 2] + s[:, 3]) + 1e-12)
    else:
        oracle = formula(name, leaf, goal)
    (gradient,) = torch.autograd.grad(oracle.sum(), leaf)
    if name == "cross_entropy":  # the factor 1 − p(pivot) is left out on purpose
        p = Z.softmax(1)[range(50), goal.pivot]
        seed = seed * (1 - p)[:, None]
    assert torch.allclose(seed, gradient, atol=1e-10)


@pytest.mark.parametrize(("name", "goal"), [("margin", Goal(Y)), ("margin", Goal(Y, T)), ("dlr", Goal(Y))])
def test_positive_means_reached(name, goal):
    assert torch.equal(LOSSES[name](Z, goal)[0] > 0, goal.reached(Z))


def test_cross_entropy_seed_survives_a_network_that_is_sure():
    sure = torch.tensor([[2000.0, 0.0, -3.0]])
    _, seed = LOSSES["cross_entropy"](sure, Goal(torch.tensor([0])))
    assert torch.softmax(sure, 1)[0, 1] == 0  # the plain gradient is lost
    assert torch.allclose(seed, torch.tensor([[-1.0, 0.9526, 0.0474]]), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes(classes):
    z, y = Z[:, :classes], Y % classes
    for goal in (Goal(y), Goal(y, (y + 1) % classes)):
        value, seed = LOSSES["dlr"](z, goal)
        assert torch.isfinite(value).all()
        assert torch.isfinite(seed).all()
        assert (value[goal.reached(z)] >= 0).all()
