import copy

import pytest
import torch
from torch import nn

from cutaway import explain
from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.explain.randomize import cascade, control, randomized, redraw_


class Vision(nn.Module):
    """What randomisation tests of others leave untouched: attention in-projections, position embeddings, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 4, 8) * 0.02)
        self.token, self.scale = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.ones(1))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) * self.scale
        return self.head(self.block(tokens)[:, 0])


def test_every_parameter_is_drawn_anew_and_the_model_is_left_alone():
    net = Vision()
    before = copy.deepcopy(net.state_dict())
    made = dict(randomized(net, 0).named_parameters())
    assert "block.self_attn.in_proj_weight" in made
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name])
        assert (parameter != made[name]).all(), name


def test_the_cascade_covers_every_parameter_once_from_the_output_down():
    net = Vision()
    groups = cascade(G.capture(net, torch.rand(2, 3, 8, 8)), 100)
    names = [name for _, members in groups for name in members]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert groups[0][0] == "head"
    order = [label for label, _ in groups]
    assert order.index("block.linear2") < order.index("block.linear1") < order.index("block.self_attn")
    assert order.index("block.self_attn") < order.index("embed")


@pytest.mark.parametrize("stages", [1, 2, 3, 100])
def test_the_cascade_is_grouped_into_so_many_stages(stages):
    graph = G.capture(Vision(), torch.rand(2, 3, 8, 8))
    groups, single = cascade(graph, stages), cascade(graph, 100)
    assert len(groups) == min(stages, len(single))
    assert [name for _, members in groups for name in members] == [name for _, members in single for name in members]


def test_a_redraw_keeps_mean_and_spread():
    weight = torch.randn(200, 300) * 0.3 + 0.1
    drawn = weight.clone()
    redraw_(drawn, torch.Generator().manual_seed(1))  # the weights themselves come from seed 0
    assert drawn.mean() == pytest.approx(0.1, abs=0.005)
    assert drawn.std() == pytest.approx(0.3, rel=0.01)
    assert abs(torch.corrcoef(torch.stack([weight.flatten(), drawn.flatten()]))[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int8])
def test_any_kind_of_parameter_changes(dtype):
    tensor = torch.arange(64).to(dtype)
    drawn = tensor.clone()
    redraw_(drawn, torch.Generator().manual_seed(0))
    assert drawn.dtype == dtype and not torch.equal(drawn, tensor)


def test_a_seed_fixes_the_draw():
    net = nn.Linear(4, 4)
    assert torch.equal(randomized(net, 3).weight, randomized(net, 3).weight)
    assert not torch.equal(randomized(net, 3).weight, randomized(net, 4).weight)


def test_the_control_is_random_in_its_upper_half_only():
    net = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    made = control(G.capture(net, torch.rand(2, 4)), 0)
    changed = [not torch.equal(p, q) for p, q in zip(net.parameters(), made.parameters(), strict=True)]
    assert changed == [False] * 4 + [True] * 4


def test_the_control_is_kept_until_the_model_changes():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = G.capture(net, torch.rand(2, 4))
    first = control(graph, 0)
    assert control(graph, 0) is first
    with torch.no_grad():
        net[0].weight.add_(1)
    second = control(graph, 0)
    assert second is not first
    assert torch.equal(second[0].weight, net[0].weight)
    assert control(graph, 1) is not second


def test_a_model_that_cannot_be_copied_is_explained_without_a_score():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("one is enough")

    net, x = Stubborn(3, 2), torch.rand(2, 3)
    with pytest.raises(ArgumentError, match=r"one is enough.*score=False"):
        explain.gradient(net, x)
    assert explain.gradient(net, x, score=False).values.shape == (2, 3)
