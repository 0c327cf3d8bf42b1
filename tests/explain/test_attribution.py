import json

import numpy as np
import pytest
import torch
from torch import nn

from cutaway import explain
from cutaway.errors import ArgumentError
from cutaway.explain.picture import scales, title

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
X = torch.rand(3, 3, 8, 8)


def test_npz_holds_everything(tmp_path):
    found = explain.integrated_gradients(NET, X, 1, steps=4, seed=5)
    loaded = np.load(found.save(tmp_path / "map.npz"), allow_pickle=False)
    for name in ("values", "target", "scores", "gap"):
        np.testing.assert_array_equal(loaded[name], getattr(found, name).detach().numpy())
    about = json.loads(str(loaded["about"]))
    assert about["method"] == "integrated_gradients" and about["seed"] == 5
    assert about["settings"] == {"baseline": None, "steps": 4, "tolerance": None}


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf", ".PNG"])
def test_pictures_are_written(tmp_path, ending):
    path = explain.grad_cam(NET, X).save(tmp_path / f"map{ending}", X)
    assert path.stat().st_size > 3000


def test_unknown_endings_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"map\.bmp"):
        explain.gradient(NET, X).save(tmp_path / "map.bmp")


def shown(figure):
    return [image for axis in figure.axes for image in axis.images]


def test_signed_maps_share_a_scale_symmetric_about_zero():
    found = explain.gradient(NET, X)
    images = [image for image in shown(found.plot(X)) if image.get_cmap().name == "RdBu_r"]
    assert len(images) == 3
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high < 0


def test_maps_can_have_scales_of_their_own():
    found = explain.gradient(NET, torch.cat([X[:1], X[1:2] * 0.1]), shared_scale_target(2))
    images = [image for image in shown(found.plot(shared=False)) if image.get_cmap().name == "RdBu_r"]
    assert len(images) == 2 and len({image.get_clim() for image in images}) == 2


def shared_scale_target(n):
    return list(range(n))


def test_scales_ignore_the_largest_half_percent():
    maps = torch.zeros(1, 20, 20)
    maps[0, 0, 0] = 1000.0
    assert scales(maps, False) == [1000.0]  # nothing else is there
    maps[0, 1:] = 2.0
    assert scales(maps, False) == [2.0]


def test_overlay_strength_is_adjustable():
    found = explain.grad_cam(NET, X, 0, score=False)
    peaks = []
    for overlay in (0.0, 0.4, 1.0):
        images = [image for image in shown(found.plot(X, overlay=overlay)) if image.get_cmap().name == "inferno"]
        peaks.append(max(float(np.max(image.get_alpha())) for image in images))
    assert peaks == pytest.approx([0.0, 0.4, 1.0])
    with pytest.raises(ArgumentError, match=r"1\.5"):
        found.plot(X, overlay=1.5)


def test_a_failing_method_carries_its_warning_in_words():
    words = "guided backprop draws much the same map"
    found = explain.Attribution(torch.randn(1, 3, 4, 4), "guided_backprop", None, "logit", warning=words)
    figure = found.plot()
    assert words in figure.get_supxlabel()
    assert words in repr(found)


def test_titles_say_what_is_shown():
    found = explain.grad_cam(NET, X, of="log_probability", score=False)
    assert title(found) == "Grad-CAM of the log probability at 1"
    figure = found.plot(X, names=["cat", "dog", "gibbon"], limit=1)
    assert figure.axes[0].get_title() in {"cat", "dog", "gibbon"}


def test_tables_and_signals_are_drawn_as_lines():
    table = explain.gradient(nn.Linear(6, 2), torch.rand(2, 6))
    signal = explain.gradient(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(24, 2)), torch.rand(2, 2, 10))
    assert len(table.plot().axes) == 2
    assert len(signal.plot().axes[0].patches) == 10


def test_notebooks_get_a_picture():
    assert explain.gradient(NET, X)._repr_png_().startswith(b"\x89PNG")


def test_wrong_pictures_are_refused():
    found = explain.gradient(NET, X, score=False)
    with pytest.raises(ArgumentError, match="3 explained images"):
        found.plot(X[:2])
    with pytest.raises(ArgumentError, match="'rainbow'"):
        found.plot(style="rainbow")
    with pytest.raises(ArgumentError, match="colour"):
        explain.grad_cam(NET, X, score=False).plot(style="colour")
