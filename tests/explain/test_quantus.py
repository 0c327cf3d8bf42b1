"""Agreement with Quantus and captum on measures of explanations. Run where they are installed.

Quantus replaces parts by noise of its own, so that both are given the same; its patches pile up (after the k-th, k are
gone), and it randomises only modules with a method `reset_parameters`.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from cutaway import explain
from cutaway import graph as G
from cutaway.explain.curves import curve
from cutaway.explain.infidelity import foretold, infidelity, parts
from cutaway.explain.methods import MAPS
from cutaway.explain.objective import objective
from cutaway.explain.randomize import cascade, randomized
from cutaway.explain.sensitivity import max_sensitivity, neighbours

TARGET = torch.tensor([1, 0, 3])

pytestmark = pytest.mark.filterwarnings("ignore")


def define_torchvision():
    """timm and Quantus import torchvision, which names two operators that it has beside a CUDA build of torch only."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture(scope="module")
def quantus():
    define_torchvision()
    return pytest.importorskip("quantus", reason="needs Quantus: make bench-env")


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 4)
    return nn.Sequential(*layers).eval()


@pytest.fixture
def x():
    return torch.rand(3, 1, 8, 8)


def gradients(model, inputs, targets, **_):
    """Explain as Quantus asks for it: arrays in, arrays out."""
    maps = explain.gradient(model, torch.as_tensor(inputs), torch.as_tensor(targets), score=False)
    return maps.values.numpy()


QUIET = {"disable_warnings": True, "display_progressbar": False, "normalise": False}


def test_rank_correlation_is_quantus_s(quantus):
    a, b = torch.rand(5, 30).round(decimals=1), torch.rand(5, 30)
    theirs = [quantus.similarity_func.correlation_spearman(p.numpy(), q.numpy()) for p, q in zip(a, b, strict=True)]
    torch.testing.assert_close(explain.rank_correlation(a, b), torch.tensor(theirs, dtype=torch.float64))


def test_infidelity_is_quantus_s(quantus, net, x):
    maps = gradients(net, x, TARGET)
    metric = quantus.Infidelity(perturb_patch_sizes=[2], n_perturb_samples=1, perturb_baseline=0.0, **QUIET)
    theirs = metric(net, x.numpy(), TARGET.numpy(), maps, channel_first=True)
    piled = torch.zeros(16, 8, 8, dtype=torch.bool)
    for step, (row, column) in enumerate(itertools.product(range(0, 8, 2), repeat=2)):
        piled[step:, row : row + 2, column : column + 2] = True
    fill = torch.zeros_like(x)
    weights = foretold("gradient", torch.as_tensor(maps), x, fill)
    ours = infidelity(G.capture(net, x), x, objective(x, TARGET, "logit"), weights, fill, piled)
    assert min(theirs) > 0
    np.testing.assert_allclose(ours.unscaled.numpy(), theirs, rtol=1e-4)


def test_max_sensitivity_is_quantus_s(quantus, net, x):
    changes = iter(neighbours(x, 0.1, 6, 0))
    metric = quantus.MaxSensitivity(
        nr_samples=6, perturb_func=lambda arr, indices, **_: arr + next(changes).flatten().numpy(), **QUIET
    )
    maps = gradients(net, x, TARGET)
    theirs = metric(net, x.numpy(), TARGET.numpy(), maps, channel_first=True, explain_func=gradients)
    goal = objective(x, TARGET, "logit")
    options = {"radius": 0.1, "samples": 6, "seed": 0}
    ours = max_sensitivity(MAPS["gradient"], G.capture(net, x), x, goal, torch.as_tensor(maps), {}, **options)
    assert min(theirs) > 0
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4)


def test_deletion_is_quantus_s_pixel_flipping(quantus, net, x):
    importance = torch.rand(3, 8, 8, dtype=torch.float64)
    metric = quantus.PixelFlipping(features_in_step=4, perturb_baseline=0.0, **QUIET)
    theirs = metric(net, x.numpy(), TARGET.numpy(), importance[:, None].numpy(), channel_first=True, softmax=True)
    goal = objective(x, TARGET, "logit")
    ours = curve("deletion", G.capture(net, x), x, goal, importance, fill="zero", steps=16, seed=0)
    np.testing.assert_allclose(ours.values[:, 1:].numpy(), np.array(theirs), rtol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_captum_s(normalize, net, x):
    """With and without the best factor, on the same rectangles."""
    metrics = pytest.importorskip("captum.metrics", reason="needs captum: make bench-env")
    masks, fill = parts(x, 12, 0), torch.zeros_like(x)
    drawn = iter(masks)

    def perturb(given):
        taken = given * next(drawn)
        return taken, given - taken

    maps = torch.as_tensor(gradients(net, x, TARGET))
    theirs = metrics.infidelity(
        net, perturb, x, maps, target=TARGET, n_perturb_samples=12, max_examples_per_batch=3, normalize=normalize
    )
    weights = foretold("gradient", maps, x, fill)
    ours = infidelity(G.capture(net, x), x, objective(x, TARGET, "logit"), weights, fill, masks)
    torch.testing.assert_close(ours.values if normalize else ours.unscaled, theirs.double(), rtol=1e-4, atol=1e-9)


def vit():
    """A vision transformer of timm, a small one."""
    define_torchvision()
    timm = pytest.importorskip("timm", reason="needs timm: make bench-env")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=5
    ).eval()


def encoder():
    """An encoder layer of torch with fused in-projections, position embedding and class token."""

    class Vision(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.position = nn.Conv2d(3, 48, 8, 8), nn.Parameter(torch.randn(1, 17, 48) * 0.02)
            self.token, self.head = nn.Parameter(torch.randn(1, 1, 48) * 0.02), nn.Linear(48, 5)
            self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(48, 3, 96, batch_first=True) for _ in range(2)))

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
            return self.head(self.blocks(tokens)[:, 0])

    return Vision().eval()


def untouched(before, after):
    """The share of parameters left as they were, and their names."""
    pairs = [(name, p, dict(after.named_parameters())[name]) for name, p in before.named_parameters()]
    names = [name for name, p, q in pairs if torch.equal(p, q)]
    return sum(p.numel() for name, p, _ in pairs if name in names) / sum(p.numel() for _, p, _ in pairs), names


@pytest.mark.parametrize("make", [vit, encoder])
def test_every_parameter_of_a_vision_transformer_is_randomised(make):
    model = make()
    share, names = untouched(model, randomized(model, 0))
    assert share == 0, names
    groups = cascade(G.capture(model, torch.rand(2, 3, 32, 32)), 100)
    assert {name for _, members in groups for name in members} == {name for name, _ in model.named_parameters()}


def test_quantus_leaves_parameters_of_a_vision_transformer_untouched(quantus):
    wrapped = pytest.importorskip("quantus.helpers.model.pytorch_model").PyTorchModel
    left = {}
    for make in (vit, encoder):
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))  # as after training: no zeros, no ones
        with torch.random.fork_rng():
            *_, (_, last) = wrapped(model, channel_first=True).get_random_layer_generator()
        left[make] = untouched(model, last)
    assert left[vit][0] > 0.01 and set(left[vit][1]) >= {"cls_token", "pos_embed"}
    assert left[encoder][0] > 0.25 and "blocks.0.self_attn.in_proj_weight" in left[encoder][1]
