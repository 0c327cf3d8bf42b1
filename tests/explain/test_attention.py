"""Attention weights, fused and written out, rollout by its definition, and tokens that stand for places."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import explain
from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.explain.layers import deepest_map, map_node
from cutaway.explain.layouts import Layout, layouts


def written_out(vit):
    """The same model with attention as products and a softmax, keeping the weights."""
    net, kept = copy.deepcopy(vit), []

    def attend(q, k, v):
        kept.append(torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1))
        return kept[-1] @ v

    for block in net.blocks:
        block.attend = attend
    return net, kept


def test_fused_attention_has_the_weights_of_attention_written_out(vit, x):
    net, kept = written_out(vit)
    with torch.no_grad():
        net(x)
    expected = list(kept)
    for model in (vit, net):
        found = list(explain.attention_maps(model, x).weights.values())
        assert [each.shape for each in found] == [(3, 3, 17, 17)] * 2
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_rollout_is_its_definition(vit, x):
    net, kept = written_out(vit)
    with torch.no_grad():
        net(x)
    flow = torch.eye(17, dtype=torch.float64)
    for weights in kept:
        flow = (0.5 * weights.mean(1) + 0.5 * torch.eye(17, dtype=torch.float64)) @ flow
    found = explain.attention_rollout(vit, x, [0, 3, 1])
    torch.testing.assert_close(found.values, flow[:, 0, 1:].reshape(3, 1, 4, 4))
    assert found.target.tolist() == [0, 3, 1]
    second = explain.attention_rollout(vit, x, token=2, heads="max", score=False).values
    assert not torch.allclose(second, found.values)


def test_masks_causality_and_grouped_queries_are_kept():
    class Grouped(nn.Module):
        def forward(self, x):
            q, k = x, x[:, :2]
            out = F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True, scale=0.3)
            return out.flatten(1)[:, :3]

    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    (found,) = explain.attention_maps(Grouped(), x).weights.values()
    keys = x[:, :2].repeat_interleave(2, 1)
    scores = (x @ keys.mT * 0.3).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf)
    torch.testing.assert_close(found, scores.softmax(-1))

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = nn.Buffer(torch.randn(5, 5, dtype=torch.float64))

        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, self.mask).flatten(1)[:, :3]

    net = Masked()
    (found,) = explain.attention_maps(net, x).weights.values()
    torch.testing.assert_close(found, (x @ x.mT / 3**0.5 + net.mask).softmax(-1))


def test_multi_head_attention_of_torch_is_read():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    net, x = Reader().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    (found,) = explain.attention_maps(net, x).weights.values()
    expected = net.attention(x, x, x, average_attn_weights=False)[1]
    torch.testing.assert_close(found, expected.detach())


def test_token_grids_are_recognised(vit, x):
    graph = G.capture(vit, x)
    node, layout = map_node(graph, None)
    assert layout == Layout("tokens", (4, 4), 1)
    assert node.name == "blocks.1.norm1"  # after the last attention only the class token is read
    value = torch.arange(2 * 17 * 3.0).reshape(2, 17, 3)
    expected = torch.stack([value[:, 1 + i] for i in range(16)], 2).reshape(2, 3, 4, 4)
    assert torch.equal(layout.as_map(value), expected)


@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam", "layer_attribution"])
def test_transformers_need_no_reshape(name, vit, x):
    found = explain.METHODS[name](vit, x, [0, 3, 1], score=False)
    assert found.values.shape == (3, 12 if name == "layer_attribution" else 1, 4, 4)
    assert found.values.abs().flatten(1).max(1).values.min() > 0


def test_grad_cam_of_a_transformer_is_its_definition(vit, x):
    found = explain.grad_cam(vit, x, [0, 3, 1], layer="blocks.0", score=False).values
    tokens = vit.conv1(x).flatten(2).transpose(1, 2)
    tokens = vit.blocks[0](torch.cat([vit.token.expand(3, -1, -1), tokens], 1) + vit.position)
    logits = vit.head(vit.norm(vit.blocks[1](tokens))[:, 0])[[0, 1, 2], [0, 3, 1]]
    adjoint = torch.autograd.grad(logits.sum(), tokens)[0]
    value, adjoint = (each[:, 1:].transpose(1, 2).reshape(3, 12, 4, 4) for each in (tokens, adjoint))
    expected = (adjoint.mean((2, 3), keepdim=True) * value).sum(1, keepdim=True).relu()
    torch.testing.assert_close(found, expected.detach())


def test_pooled_and_channels_last_models_have_grids():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.mix = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.Linear(8, 8)
            self.down, self.head = nn.Linear(32, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.embed(x).permute(0, 2, 3, 1)  # (N, 4, 4, 8)
            x = x + self.mix(self.norm(x))
            parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
            return self.head(self.down(torch.cat(parts, -1)).relu().mean((1, 2)))

    net, x = Last(), torch.rand(2, 3, 8, 8)
    graph = G.capture(net, x)
    kinds = [layout.kind for layout in layouts(graph).values()]
    assert kinds[-1] == "last" and list(layouts(graph).values())[-1].size == (2, 2)
    assert explain.grad_cam(net, x, layer="norm", score=False).values.shape == (2, 1, 4, 4)
    assert deepest_map(graph).op_name == "cat"


def test_attention_is_drawn_and_saved(vit, x, tmp_path):
    maps = explain.attention_maps(vit, x)
    figure = maps.plot(1, x=x)
    assert len([axis for axis in figure.axes if axis.images]) == 2 * 3 + 1
    assert "class token" in figure.get_suptitle()
    assert maps.save(tmp_path / "heads.png").stat().st_size > 3000
    saved = np.load(maps.save(tmp_path / "heads.npz"), allow_pickle=False)
    assert saved[next(iter(maps.weights))].shape == (3, 3, 17, 17)
    with pytest.raises(ArgumentError, match=r"heads\.txt"):
        maps.save(tmp_path / "heads.txt")
    with pytest.raises(ArgumentError, match="example=5"):
        maps.plot(5)


def test_wrong_models_are_refused(vit, mixed, x):
    with pytest.raises(ArgumentError, match="no attention; it has none"):
        explain.attention_rollout(mixed, x)
    with pytest.raises(ArgumentError, match=r"begins with 'blocks\.7'"):
        explain.attention_maps(vit, x, ["blocks.7"])
    assert len(explain.attention_maps(vit, x, ["blocks.1"]).weights) == 1
    with pytest.raises(ArgumentError, match="heads='sum'"):
        explain.attention_rollout(vit, x, heads="sum")
    with pytest.raises(ArgumentError, match="token=40"):
        explain.attention_rollout(vit, x, token=40)
    crossed = explain.AttentionMaps({"a": torch.zeros(1, 1, 2, 3)})
    with pytest.raises(ArgumentError, match="same tokens"):
        crossed.rollout()
