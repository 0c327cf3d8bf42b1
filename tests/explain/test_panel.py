"""One picture of many methods: every map is there, named, scored, and says so where it fails."""

import pytest
import torch

from cutaway import explain
from cutaway.errors import ArgumentError
from cutaway.explain.panel import ORANGE


def test_every_map_stands_beside_the_image_with_its_score(mixed, x):
    names = ("gradient", "guided_backprop", "grad_cam", "occlusion", "layer_attribution", "lrp")
    maps = {name: explain.METHODS[name](mixed, x[:1], 1) for name in names}
    figure = explain.panel(x[0], maps, "what speaks for a gibbon")
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 7 and figure.get_suptitle() == "what speaks for a gibbon"
    titles = [axis.get_title() for axis in shown]
    assert titles[0] == "the image"
    assert titles[1] == f"gradient\nsanity score {maps['gradient'].score:.2f}"
    assert [title.split("\n")[0] for title in titles[4:]] == ["occlusion", "layer attribution", "LRP"]


def test_a_method_that_fails_says_so_in_another_colour():
    values = torch.randn(1, 3, 8, 8)
    failed = explain.Attribution(values, "guided_backprop", None, "logit", scores=torch.tensor([0.1]))
    passed = explain.Attribution(values, "gradient", None, "logit", scores=torch.tensor([0.9]))
    axes = explain.panel(torch.rand(3, 8, 8), {"guided_backprop": failed, "gradient": passed}).axes
    assert axes[1].get_title() == "guided backprop\nsanity score 0.10: fails"
    assert axes[1].title.get_color() == ORANGE and axes[2].title.get_color() == "black"


def test_only_maps_of_images_are_shown():
    flat = explain.Attribution(torch.zeros(1, 5), "gradient", None, "logit")
    with pytest.raises(ArgumentError, match="gradient"):
        explain.panel(torch.zeros(3, 8, 8), {"gradient": flat})
    with pytest.raises(ArgumentError, match="none"):
        explain.panel(torch.zeros(3, 8, 8), {})
