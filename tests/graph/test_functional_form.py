"""In-place operations read without a second trace, and the cases where that would be wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway as ct
from cutaway.graph.functional_form import functional_twin, is_functional, remove_identities
from tests.graph.subjects import images, reused


def exported(function: nn.Module, x: Tensor) -> object:
    program = torch.export.export(function, (x,), strict=False)
    remove_identities(program)
    return program


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def chain(x: Tensor) -> Tensor:
    y = x * 2
    z = y + 1  # reads y before it changes
    y.add_(z)
    y.relu_()
    return y * z


def writes_through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    first = y[:, 0]
    first.relu_()
    return y


def writes_under_a_view(x: Tensor) -> Tensor:
    y = x * 2
    rows = y.reshape(-1)
    y.relu_()
    return rows * 3


def writes_under_an_identity(x: Tensor) -> Tensor:
    y = x * 2
    same = F.dropout(y, 0.5, training=False)
    y.relu_()
    return same + 0


FAST = {"in-place chain": chain, "under an identity": writes_under_an_identity}
SLOW = {"through a view": writes_through_a_view, "under a view": writes_under_a_view}


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_in_place_operations_mean_what_they_do(name: str) -> None:
    function = (FAST | SLOW)[name]
    x = torch.randn(3, 4, dtype=torch.float64)
    assert is_functional(exported(Function(function), x)) == (name in FAST)
    assert torch.equal(ct.capture(function, x)(x), function(x))
    free = x.clone().requires_grad_()
    theirs = torch.autograd.grad(function(free).sum(), free)[0]
    assert torch.allclose(ct.grad(function)(x), theirs, rtol=1e-12)


def test_a_residual_network_in_evaluation_needs_no_second_trace() -> None:
    assert is_functional(exported(reused().eval(), images()))
    assert not is_functional(exported(reused().train(), images())), (
        "running statistics are updated behind the schema's back"
    )


def test_a_changed_input_needs_the_second_trace() -> None:
    assert not is_functional(exported(Function(lambda x: x.relu_()), torch.randn(3)))


def test_functional_twins() -> None:
    aten = torch.ops.aten
    assert functional_twin(aten.relu_.default) is aten.relu.default
    assert functional_twin(aten.add_.Tensor) is aten.add.Tensor
    assert functional_twin(aten.relu.default) is None
