"""Functions with a backward pass of their own."""

import pytest
import torch
from torch import Tensor, nn

import cutaway as ct


class Reversed(torch.autograd.Function):
    """Gradient reversal: nothing forward, a sign and a scale backward."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return -ctx.scale * grad, None


class Binary(torch.autograd.Function):
    """A sign with the adjoint of a clip, in the newer form, with two outputs."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.sign(), x * y

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor, product: Tensor):
        x, y = ctx.saved_tensors
        return grad * (x.abs() < 1) + product * y, product * x


class Swish(torch.autograd.Function):
    """Saves memory; its backward pass is the derivative of its forward pass."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return grad * s * (1 + x * (1 - s))


class Net(nn.Module):
    """All three, inside a network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = Reversed.apply(self.first(x), 0.5)
        sign, product = Binary.apply(x, self.second(x))
        return sign * 2 + Swish.apply(product)


@pytest.mark.parametrize("specialise", [False, True])
def test_their_own_backward_is_used(specialise: bool) -> None:
    model, x = Net().double(), torch.randn(3, 4, dtype=torch.float64)
    run = model if not specialise else lambda x: model(x) if x.sum() > -1e9 else x
    graph = ct.capture(run, x, specialise=specialise)
    assert graph.specialised == specialise
    names = [node.name for node in graph.parameters]
    seed = torch.randn(3, 4, dtype=torch.float64)
    ours = graph.gradient(wrt=["x", *names])(x, seed=seed)
    leaf = x.clone().requires_grad_()
    theirs = torch.autograd.grad(model(leaf), [leaf, *model.parameters()], seed)
    assert torch.allclose(graph(x), model(x))
    for name, a, b in zip(["x", *names], ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10), name


def test_they_are_nodes_named_like_the_class_unless_they_are_plain_derivatives() -> None:
    graph = ct.capture(Net(), torch.randn(3, 4))
    words = {node.op_name for node in graph.nodes}
    assert {"Reversed", "Binary", "sigmoid"} <= words and "Swish" not in words


def test_a_rule_can_stand_in_for_them() -> None:
    plain = ct.grad(lambda x: Reversed.apply(x, 2.0) * 3, rules={"Reversed": {"tensors": lambda grad: [grad[0]]}})
    assert torch.equal(plain(torch.ones(2)), torch.full((2,), 3.0))
    assert torch.equal(ct.grad(lambda x: Reversed.apply(x, 2.0) * 3)(torch.ones(2)), torch.full((2,), -6.0))
