"""Programs under torch.compile, and replayed as CUDA graphs."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.errors import ArgumentError

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def network() -> nn.Module:
    """Convolution, normalisation, a residual sum and attention."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
            self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            self.head = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.norm(self.first(x)))
            h = torch.relu(h + self.second(h))
            return self.head(self.attention(h.flatten(2).mT).mean(1))

    return Block().eval()


@pytest.mark.parametrize("rules", [None, ct.graph.rules.guided], ids=["gradient", "guided"])
def test_a_program_runs_under_compile(rules: dict | None) -> None:
    model, x = network(), torch.randn(2, 3, 6, 6)
    program = ct.capture(model, x).gradient(wrt=["input", "first"], rules=rules, values=["norm"])
    expected = program(x)
    torch.compiler.reset()
    compiled = torch.compile(program, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(compiled(x), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_program_runs_as_generated_kernels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.randn(2, 3, 6, 6)
    program = ct.capture(model, x).gradient()
    torch.compiler.reset()
    assert torch.allclose(torch.compile(program)(x), program(x), rtol=1e-4, atol=1e-6)


def test_replay_without_a_cuda_device_says_so() -> None:
    model, x = network(), torch.randn(2, 3, 6, 6)
    with pytest.raises(ArgumentError, match="input 0 is on cpu"):
        ct.capture(model, x).gradient().replay(x)


@CUDA
@pytest.mark.parametrize("optimized", [False, True])
def test_a_replay_gives_the_programs_answer(optimized: bool) -> None:
    model, x = network().cuda(), torch.randn(2, 3, 6, 6, device="cuda")
    graph = ct.capture(model, x)
    graph = graph.optimized() if optimized else graph
    program = graph.gradient()
    replay = program.replay(x)
    for _ in range(2):
        other = torch.randn_like(x)
        assert torch.allclose(replay(other), program(other), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            model.first.weight.mul_(1.5)  # type: ignore[union-attr, operator]  # training goes on
    with pytest.raises(ArgumentError, match="recorded for inputs"):
        replay(x[:1])
