"""Galleries hold a row for each layer; portraits set examples beside optimised images."""

import pytest
import torch

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.visualize import PRIORS, gallery, portrait, priors, total_variation

FAST = {"steps": 3, "transformation": (), "progress": False}


def test_a_gallery_has_a_row_for_each_layer(small, tmp_path):
    with torch.no_grad():
        small.conv2.weight[1], small.conv2.bias[1] = 0, -1
        small.norm.bias.fill_(2)  # no channel of the first layer is shut
    found = gallery(small, {"relu": [0, 2, 4], "relu_1": [1]}, size=12, **FAST)
    assert [len(row.images) for row in found.rows.values()] == [3, 1]
    figure = found.plot()
    assert [len(axis.images) for axis in figure.axes[:6]] == [1, 1, 1, 0, 0, 0]
    assert "dead" in figure.axes[3].texts[0].get_text()
    assert found.save(tmp_path / "gallery.png").exists() and found.save(tmp_path / "gallery.npz").exists()


def test_a_portrait_sets_examples_beside_optimised_images(small, tmp_path):
    x = torch.rand(12, 3, 12, 12)
    found = portrait(small, x, "relu", 3, count=3, **FAST)
    assert found.examples.top(3).shape == found.optimized.images.shape == (3, 3, 12, 12)
    assert "diversity" in found.optimized.words
    assert sum(len(axis.images) for axis in found.plot().axes) == 9
    assert found.save(tmp_path / "portrait.png").exists()


def test_nothing_to_show_is_refused(small):
    with pytest.raises(ArgumentError, match="at least one"):
        gallery(small, [])


def test_priors_are_compared_on_one_objective(small):
    found = priors(small, 1, size=12, steps=15, lr=0.2, share=5.0, progress=False)
    assert list(found.rows) == list(PRIORS)
    rough = {name: float(total_variation().value({"image": row.images})) for name, row in found.rows.items()}
    assert rough["TV"] < 0.6 * rough["none"]
    center = {name: float((row.images - 0.5).square().mean()) for name, row in found.rows.items()}
    assert center["L2"] < 0.6 * center["none"]
    assert sum(len(axis.images) for axis in found.plot().axes) == len(PRIORS)
    with pytest.raises(LookupFailure, match="'TV'"):
        priors(small, 1, names=["TVs"])
    with pytest.raises(ArgumentError, match="share"):
        priors(small, 1, share=-1)
