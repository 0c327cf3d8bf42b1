"""Rows where the batch is free: captured at one batch size, differentiated at others."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cutaway as ct
from cutaway.errors import ArgumentError

WEIGHT = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

EYE = torch.eye(2, 3).double()
GRU = [torch.randn(6, 3).double(), torch.randn(6, 2).double(), torch.randn(6).double(), torch.randn(6).double()]

# functions of x: (N, 3, 6, 6)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": lambda x: F.conv2d(x, WEIGHT, stride=2, padding=1),
    "convolution same": lambda x: F.conv2d(x, WEIGHT[:, :, :, :2], padding="same"),
    "transposed": lambda x: F.conv_transpose2d(x, WEIGHT.transpose(0, 1), stride=2, output_padding=1),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max pool 1d": lambda x: F.max_pool1d(x.flatten(2), 4),
    "average": lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 4) * F.adaptive_max_pool2d(x, 4),
    "resize": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear") + F.interpolate(x, size=9),
    "bicubic": lambda x: F.interpolate(x, size=(7, 4), mode="bicubic", antialias=True),
    "group norm": lambda x: F.group_norm(x.repeat(1, 2, 1, 1), 2, torch.arange(6.0).double()),
    "instance norm": lambda x: F.instance_norm(x),
    "layer norm": lambda x: F.layer_norm(x, (6,)) * F.rms_norm(x, (6, 6)),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2, x.sin(), x.mean((0, 1))),
    "attention by hand": lambda x: torch.softmax(torch.einsum("bhqd,bhkd->bhqk", x, x), -1) @ x,
    "windows": lambda x: x.reshape(x.shape[0], 3, 2, 3, 2, 3).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 9),
    "unfold": lambda x: F.unfold(x, 3, padding=1) * x.unfold(3, 2, 1).sum(),
    "roll and flip": lambda x: x.roll((1, -2), (2, 3)) * x.flip(3),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), "reflect") + F.pad(x, (2, 1, 1, 0), "circular"),
    "slices": lambda x: x[:, :, 1:-1, ::2] * x[:, 1:2, 1:-1, 1::2],
    "batch slices": lambda x: x[:-1] * 2 + x[:1].sum(),
    "split": lambda x: sum(part * i for i, part in enumerate(x.split([1, 2], 1), 1) if i > 1),  # type: ignore[misc]
    "chunk": lambda x: x.chunk(3, 1)[1] * x.chunk(2, 2)[0].sum(),
    "unbind": lambda x: x.unbind(1)[0] * x.unbind(3)[2].sum(),
    "stack": lambda x: torch.stack([x, x * 2], 1) * torch.cat([x, x], 1).sum(),
    "class token": lambda x: torch.cat([WEIGHT[:1, 0, :1].expand(x.shape[0], 1, 3).repeat(1, 1, 2), x.mean(1)], 1),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3) * x[:, :, :2, :3],
    "repeat interleave": lambda x: x.repeat_interleave(2, 1) * x.repeat_interleave(2, 0)[::2].repeat(1, 2, 1, 1),
    "statistics": lambda x: x.std((0, 2)) * x.var(0).sum() + x.amax((0, 2)) + x.norm(dim=0).sum(),
    "mean over the batch": lambda x: x.mean(0) * x.sum() / x.shape[0],
    "index": lambda x: x[:, [2, 0, 0]] * x[torch.arange(x.shape[0]), 1].unsqueeze(1),
    "gather": lambda x: x.gather(1, torch.zeros(x.shape[0], 1, 6, 6, dtype=torch.long)) * x.cumsum(2),
    "scatter": lambda x: torch.zeros_like(x).index_add(1, torch.tensor([2, 2, 0]), x) * x.tril(),
    "in place": lambda x: (x * 1).clamp_(min=0).mul_(x),
    "losses": lambda x: F.cross_entropy(x, x.argmax(1)) + F.mse_loss(x, x.flip(0)) + F.smooth_l1_loss(x, x * 2),
    "shuffles": lambda x: F.pixel_unshuffle(x, 2).sum((2, 3)) * F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2).mean(),
    "products": lambda x: x.prod(1) * x.cumprod(3)[:, 0] + torch.logsumexp(x, (1,)),
    "matrix products": lambda x: (x @ WEIGHT[0, 0].repeat(2, 2)).flatten(1) @ WEIGHT.flatten()[:108].reshape(108, 1),
    "distances": lambda x: torch.cdist(x[:, 0], x[:, 1]),
    "diagonals": lambda x: x.diagonal(0, 2, 3) * torch.diag_embed(x[:, 0, 0]).sum(1, keepdim=True),
    "sorting": lambda x: x.sort(3)[0] * x.topk(6, 2)[0] + x.kthvalue(2, 1)[0].unsqueeze(1),
    "grid": lambda x: F.grid_sample(x, F.affine_grid(EYE.repeat(x.shape[0], 1, 1) * 0.8, (x.shape[0], 3, 4, 4))),
    "recurrent": lambda x: torch.gru(x.flatten(2).mT, x[:, 0, 0, :2][None], GRU, True, 1, 0.0, False, False, True)[0],
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_at_other_batch_sizes(name: str) -> None:
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(1)
    graph = ct.capture(function, torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=generator))
    assert graph.dynamic, "the batch is free"
    program = graph.gradient()
    assert "fallback" not in program.origins.values()
    for batch in (5, 3):
        x = torch.randn(batch, 3, 6, 6, dtype=torch.float64, generator=generator)
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        seed = torch.randn(value.shape, dtype=torch.float64, generator=generator)
        values, adjoints = program.evaluate(x, seed=seed)
        assert torch.allclose(next(iter(values.values())), value, rtol=1e-9, atol=1e-11)
        expected = torch.autograd.grad(value, leaf, seed)[0]
        assert torch.allclose(next(iter(adjoints.values())), expected, rtol=1e-8, atol=1e-10), batch


def test_a_model_that_fixes_the_batch_says_so() -> None:
    graph = ct.capture(lambda x: x[1:] * 2 + x[:1], torch.randn(2, 3))  # one row and one row: no broadcasting seen
    assert not graph.dynamic and graph.inputs[0].shape == (2, 3)
    with pytest.raises(ArgumentError, match=r"shape \(5, 3\)"):
        graph.gradient()(torch.randn(5, 3))
