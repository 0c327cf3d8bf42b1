"""The network that learns CIFAR-10 in a few passes: whitened patches, an identity to start from, mirror images."""

import pytest
import torch
import torch.nn.functional as F

from cutaway import nets
from cutaway.errors import ArgumentError
from cutaway.rng import generator


def images(n: int = 40) -> torch.Tensor:
    """Noise whose neighbouring pixels and channels go together, `(n, 3, 12, 12)`."""
    draw = generator(0, "images")
    coarse = F.interpolate(torch.randn(n, 3, 6, 6, generator=draw), scale_factor=2, mode="bilinear")
    return coarse + torch.randn(n, 1, 12, 12, generator=draw) + 0.3 * torch.randn(n, 3, 12, 12, generator=draw)


def test_the_first_layer_whitens_the_patches_it_was_set_from():
    x = images()
    model = nets.fast_cifar(widths=(4,))
    model.whiten(x, epsilon=0.0)
    found = model.whitening(x).transpose(0, 1).flatten(1).double()  # (24, patches)
    torch.testing.assert_close(torch.cov(found[:12]), torch.eye(12, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[12:], -found[:12])
    patches = torch.stack([x[:, :, i : i + 11, j : j + 11] for i in (0, 1) for j in (0, 1)], 2)  # (N, 3, 4, 11, 11)
    variance = torch.cov(patches.permute(1, 2, 0, 3, 4).reshape(12, -1).double())
    strongest = model.whitening.weight[0].flatten().double()
    along = strongest / strongest.norm()
    assert float(along @ variance @ along) == pytest.approx(float(torch.linalg.eigvalsh(variance)[-1]), rel=1e-4)


def test_the_first_layer_is_saved_and_not_trained():
    model = nets.fast_cifar(widths=(4,))
    before = model.whitening.weight.clone()
    model.whiten(images())
    assert "whitening.weight" in model.state_dict() and not model.whitening.weight.requires_grad
    assert not torch.equal(before, model.whitening.weight)


def test_convolutions_start_as_the_identity_on_their_first_channels():
    stage = nets.fast_cifar(channels=1, widths=(12,)).stages[0]
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(stage.conv1(x)[:, :8], x)  # type: ignore[operator]
    assert stage.conv1(x)[:, 8:].abs().min() > 0  # type: ignore[operator]


def test_evaluation_takes_the_mean_over_the_mirror_image_and_training_does_not():
    x = images(4)
    model, plain = (nets.make("fast_cifar", seed=0, widths=(6, 8), mirror=mirror) for mirror in (True, False))
    torch.testing.assert_close(model.train()(x), plain.train()(x))
    expected = (plain.eval()(x) + plain(x.flip(3))) / 2
    torch.testing.assert_close(model.eval()(x), expected)
    assert not torch.allclose(model(x), plain(x))


def test_a_network_without_stages_is_refused():
    with pytest.raises(ArgumentError, match=r"widths=\(\)"):
        nets.fast_cifar(widths=())
