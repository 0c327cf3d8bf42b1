"""Style transfer lowers the losses it is defined by."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.graph import capture
from cutaway.visualize import gram, style, style_nodes, total_variation


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    )


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    bands = ((torch.arange(20) // 2) % 2).float().expand(1, 3, 20, 20)
    return torch.rand(1, 3, 16, 16), bands * torch.tensor([0.9, 0.3, 0.1]).reshape(1, 3, 1, 1)


def losses(net, image, content, manner) -> tuple[float, float]:
    """The relative losses of content at the second rectifier and of style at both, by their definition."""
    manner = F.interpolate(manner, size=content.shape[2:], mode="bilinear", antialias=True)
    maps = [[net[:2](each), net(each)] for each in (image, content, manner)]
    first = (maps[0][1] - maps[1][1]).square().sum() / maps[1][1].square().sum()
    pairs = [(gram(a), gram(b)) for a, b in zip(maps[0], maps[2], strict=True)]
    second = sum(((a - b).square().sum() / b.square().sum()) for a, b in pairs) / 2
    return float(first.detach()), float(second.detach())


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("start", ["content", "noise"])
def test_the_loss_is_its_definition_and_falls(net, images, optimizer, start, tmp_path):
    content, manner = images
    found = style(
        net, content, manner, content_layers=["4"], style_layers=["1", "4"], style_weight=3.0, tv_weight=0.0,
        optimizer=optimizer, start=start, steps=15, progress=False,
    )  # fmt: skip
    total = found.history.sum(1)
    assert total[-1] < 0.9 * total[0]
    assert 1 <= len(total) <= 16
    if start == "content":
        first, second = losses(net, content, content, manner)
        assert first == 0 and float(found.history[0, 0]) == pytest.approx(3 * second, rel=1e-4)
        assert losses(net, found.image, content, manner)[1] < second
    assert found.save(tmp_path / "a.png").exists() and found.save(tmp_path / "a.npz").exists() and found.plot().axes


def test_gram_is_the_mean_of_products():
    z = torch.rand(2, 3, 4, 5)
    expected = torch.zeros(2, 3, 3)
    for n, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(3)).tolist():
        expected[n, i, j] = (z[n, i] * z[n, j]).mean()
    torch.testing.assert_close(gram(z), expected)


def test_variation_is_smoothed(net, images):
    rough, calm = (
        style(net, *images, style_weight=0.01, content_weight=0.01, tv_weight=weight, steps=10, progress=False).image
        for weight in (0.0, 10.0)
    )
    measured = [float(total_variation().value({"image": each})) for each in (rough, calm)]
    assert measured[1] < 0.7 * measured[0]


def test_colours_can_be_preserved(net, images):
    content, manner = images
    content = content * 0.4 + 0.3
    found = style(net, content, manner, keep_colour=True, steps=10, progress=False).image
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    chroma = [each - (each * weights).sum(1, keepdim=True) for each in (found, content)]
    inside = ((found > 0.001) & (found < 0.999)).all(1, keepdim=True).expand_as(found)
    torch.testing.assert_close(chroma[0][inside], chroma[1][inside], atol=1e-4, rtol=0)
    assert not torch.allclose(found, content, atol=0.01)


def test_default_layers_and_weights(net, images):
    assert style_nodes(capture(net, images[0])) == ["1", "4"]
    found = style(net, *images, style_layers={"1": 2.0, "4": 0.5}, steps=2, progress=False)
    assert found.settings["style_layers"] == {"1": 2.0, "4": 0.5}
    assert found.settings["content_layers"] == {"4": 1.0}


def test_what_does_not_fit_is_refused(net, images):
    with pytest.raises(LookupFailure, match="'lbfgs'"):
        style(net, *images, optimizer="bfgs")
    with pytest.raises(LookupFailure, match="'noise'"):
        style(net, *images, start="nois")
    with pytest.raises(LookupFailure):
        style(net, *images, style_layers=["conv9"], steps=1)
    with pytest.raises(ArgumentError, match="steps"):
        style(net, *images, steps=0)
    with pytest.raises(ArgumentError, match="colour images"):
        style(net, images[0][:, :1], images[1])
    with pytest.raises(ArgumentError, match="weights"):
        style(net, *images, style_layers={"1": 0.0}, steps=1)
