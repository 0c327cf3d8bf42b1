"""Two steps of every optimiser against its formula, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.train.optimizers import OPTIMIZERS, make_optimizer, parameter_groups

W, G1, G2 = [0.5, -1.5, 2.0], [0.2, -0.1, 0.4], [-0.3, 0.5, 0.1]
LR = 0.1
Formula = Callable[[list[float], list[list[float]]], list[float]]


def sgd(w: list[float], steps: list[list[float]]) -> list[float]:
    for gradient in steps:
        w = [a - LR * g for a, g in zip(w, gradient, strict=True)]
    return w


def momentum(w: list[float], steps: list[list[float]], nesterov: bool = False) -> list[float]:
    v = [0.0] * len(w)
    for gradient in steps:
        v = [0.9 * b + g for b, g in zip(v, gradient, strict=True)]
        move = [g + 0.9 * b for b, g in zip(v, gradient, strict=True)] if nesterov else v
        w = [a - LR * m for a, m in zip(w, move, strict=True)]
    return w


def rmsprop(w: list[float], steps: list[list[float]], inside: bool = False) -> list[float]:
    v = [0.0] * len(w)
    for gradient in steps:
        v = [0.99 * b + 0.01 * g * g for b, g in zip(v, gradient, strict=True)]
        root = [math.sqrt(b + 1e-2) if inside else math.sqrt(b) + 1e-2 for b in v]
        w = [a - LR * g / r for a, g, r in zip(w, gradient, root, strict=True)]
    return w


def adagrad(w: list[float], steps: list[list[float]]) -> list[float]:
    v = [0.0] * len(w)
    for gradient in steps:
        v = [b + g * g for b, g in zip(v, gradient, strict=True)]
        w = [a - LR * g / (math.sqrt(b) + 1e-10) for a, g, b in zip(w, gradient, v, strict=True)]
    return w


def adam(w: list[float], steps: list[list[float]], decay: float = 0.0) -> list[float]:
    m, v = [0.0] * len(w), [0.0] * len(w)
    for t, gradient in enumerate(steps, 1):
        w = [a - LR * decay * a for a in w]
        m = [0.9 * b + 0.1 * g for b, g in zip(m, gradient, strict=True)]
        v = [0.999 * b + 0.001 * g * g for b, g in zip(v, gradient, strict=True)]
        first, second = [b / (1 - 0.9**t) for b in m], [b / (1 - 0.999**t) for b in v]  # bias correction
        w = [a - LR * f / (math.sqrt(s) + 1e-8) for a, f, s in zip(w, first, second, strict=True)]
    return w


FORMULAS: dict[str, tuple[Formula, dict[str, float]]] = {
    "sgd": (sgd, {}),
    "momentum": (momentum, {}),
    "nesterov": (lambda w, steps: momentum(w, steps, nesterov=True), {}),
    "rmsprop": (rmsprop, {"eps": 1e-2}),
    "rmsprop_inside": (lambda w, steps: rmsprop(w, steps, inside=True), {"eps": 1e-2}),
    "adagrad": (adagrad, {}),
    "adam": (adam, {}),
    "adamw": (lambda w, steps: adam(w, steps, decay=1e-2), {}),
}


def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor(W, dtype=torch.float64))


def test_every_optimizer_of_the_table_is_checked() -> None:
    assert set(FORMULAS) | {"lbfgs"} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", FORMULAS)
def test_two_steps_follow_the_formula(name: str) -> None:
    formula, settings = FORMULAS[name]
    w = weight()
    optimizer = make_optimizer(name, [{"params": [w]}], LR, **settings)
    for gradient in (G1, G2):
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor(formula(W, [G1, G2]), dtype=torch.float64), rtol=1e-12, atol=0)


def test_weight_decay_of_sgd_is_the_l2_term() -> None:
    w = weight()
    w.grad = torch.tensor(G1, dtype=torch.float64)
    make_optimizer("sgd", [{"params": [w]}], LR, weight_decay=0.3).step()
    expected = [a - LR * (g + 0.3 * a) for a, g in zip(W, G1, strict=True)]
    torch.testing.assert_close(w.detach(), torch.tensor(expected, dtype=torch.float64))


def test_lbfgs_solves_a_quadratic() -> None:
    w = weight()
    a = torch.diag(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
    optimizer = make_optimizer("lbfgs", [{"params": [w]}], 1.0)

    def closure() -> Tensor:
        w.grad = a @ w.detach()
        return 0.5 * w.detach() @ a @ w.detach()

    optimizer.step(closure)  # type: ignore[arg-type]
    assert w.detach().abs().max() < 1e-4


def test_wrong_arguments_are_named() -> None:
    groups = [{"params": [weight()]}]
    with pytest.raises(LookupFailure, match="adam"):
        make_optimizer("adma", groups, 0.1)
    with pytest.raises(ArgumentError, match="lr=-1"):
        make_optimizer("adam", groups, -1.0)
    with pytest.raises(ArgumentError, match="no setting 'beta'"):
        make_optimizer("adam", groups, 0.1, beta=0.9)


def test_groups_by_rate_and_freezing() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    names, groups = parameter_groups(net, {"1": 0.5, "1.bias": 0.25}, ["0"])
    rates = {id(w): group.get("lr") for group in groups for w in group["params"]}
    found = {name: rates[id(w)] for name, w in net.named_parameters() if id(w) in rates}
    assert found == {"1.weight": 0.5, "1.bias": 0.25, "2.weight": None, "2.bias": None}
    assert set(names) == set(found)
    with pytest.raises(LookupFailure, match="parameter prefix"):
        parameter_groups(net, freeze=["4"])
    with pytest.raises(ArgumentError, match="no parameter to train"):
        parameter_groups(net, freeze=["0", "1", "2"])
