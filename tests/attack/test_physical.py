"""Examples that survive photography: what is reported is what the photographs show, and averaging is what does it."""

import copy
from typing import Any

import pytest
import torch

from cutaway import attack
from cutaway.attack.draws import Draws
from cutaway.errors import ArgumentError

CAMERA = attack.Channel(perspective=(0.0, 0.06), blur=(0.3, 0.6), noise=(0.02, 0.06), quality=None, gain=(0.7, 1.3))
RUN: dict[str, Any] = {"eps": 0.2, "channel": CAMERA, "steps": 12, "samples": 4, "trials": 10, "progress": False}


@pytest.fixture(scope="module")
def case(net, digits):
    x, y = digits[0][:40], digits[1][:40]
    right = net(x).argmax(1) == y
    return x[right], y[right]


@pytest.fixture(scope="module")
def made(net, case):
    return attack.physical(net, *case, target=(case[1] + 1) % 10, **RUN)


def test_it_survives_what_plain_examples_do_not(made):
    rates = made.rates
    assert list(rates) == ["image", "pgd", "physical", "random noise"]
    assert rates["physical"] > rates["pgd"] + 0.1
    assert rates["random noise"] < 0.2 and rates["image"] < 0.1
    assert made.destruction() < made.destruction("pgd")
    assert made.attack.trace[-1].mean() > made.attack.trace[0].mean()


def test_the_ball_is_kept_and_the_plain_example_has_the_same(made):
    for one in (made.attack, made.plain):
        assert (one.distance <= 0.2 + 1e-6).all() and one.x.min() >= 0 and one.x.max() <= 1
    assert torch.allclose(made.attack.control.distance, made.attack.distance, atol=1e-6)


def test_success_is_that_of_the_photographs(made, net, case):
    x, target = made.attack.x, (case[1] + 1) % 10
    draws = Draws(0, torch.arange(len(x)))
    for number in (0, 7):
        seen = CAMERA.apply(x, *CAMERA.draw(x, draws, "trial", number))
        assert torch.equal(made.through["physical"][number], net(seen).argmax(1) == target)
    assert torch.equal(made.shown[2], CAMERA.apply(x, *CAMERA.draw(x, draws, "trial", 0)))
    assert torch.equal(made.predicted[2], net(made.shown[2]).argmax(1))


def test_destruction_is_kurakins_definition(net, digits):
    found = attack.physical(net, digits[0][:25], digits[1][:25], **RUN)
    label, through = digits[1][:25], found.through["pgd"]
    clean, fooled = net(digits[0][:25]).argmax(1), net(found.plain.x).argmax(1)
    above = below = 0
    for m in range(len(through)):
        for i in range(25):
            if clean[i] == label[i] and fooled[i] != label[i]:
                below += 1
                above += int(not through[m, i])  # the photograph is seen right
    assert below > 0 and found.destruction("pgd") == pytest.approx(above / below)
    with pytest.raises(ArgumentError, match="'physical' or 'pgd'"):
        found.destruction("fgsm")
    none = attack.physical(net, digits[0][:3], net(digits[0][:3]).argmax(1), **{**RUN, "eps": 0.0, "trials": 1})
    assert none.destruction() is None


def test_an_example_does_not_depend_on_the_others(net, case):
    quick: dict[str, Any] = {**RUN, "steps": 3, "samples": 2, "trials": 2}
    whole, part = (attack.physical(net, case[0][:n], case[1][:n], **quick) for n in (6, 3))
    assert torch.allclose(whole.attack.x[:3], part.attack.x, atol=1e-5)
    assert torch.equal(part.attack.x, attack.physical(net, case[0][:3], case[1][:3], **quick).attack.x)


def test_model_generators_and_images_are_untouched(net, case, global_randomness_untouched):
    model, x = copy.deepcopy(net).train(), case[0][:4].clone()
    state = copy.deepcopy(model.state_dict())
    with pytest.warns(attack.ModelModeWarning):
        found = attack.physical(model, x, case[1][:4], **{**RUN, "steps": 2, "trials": 1})
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(x, case[0][:4]) and not found.attack.x.requires_grad


def test_bad_input_is_refused(net, case):
    x, y = case[0][:3], case[1][:3]
    for given, words in (
        ({"samples": 0}, "samples=0"),
        ({"eps": 8.0}, "eps=8/255"),
        ({"target": int(y[0])}, "is the label of image 0"),
    ):
        with pytest.raises(ArgumentError, match=words):
            attack.physical(net, x, y, **{**RUN, **given})
    with pytest.raises(ArgumentError, match=r"no gradient .* hop_skip_jump"):
        attack.physical(lambda images: net(images.detach()), x, y, **RUN)


def test_saving_and_plotting(made, tmp_path):
    figure = made.plot(1, [f"digit {k}" for k in range(10)])
    assert len(figure.axes) == 8 and "success in" in figure.axes[6].get_xlabel()
    assert made.save(tmp_path / "p.png").stat().st_size > 5000
    assert made.save(tmp_path / "p.safetensors").stat().st_size > 5000


def colours(x: torch.Tensor) -> torch.Tensor:
    """A model that says which of red and blue a picture has more of."""
    mean = x.mean((2, 3))
    return 20 * torch.stack([mean[:, 0], mean[:, 2] + 0.03], 1)


@pytest.fixture(scope="module")
def vase():
    grey = torch.full((3, 12, 24), 0.5)
    views = attack.Views(side=24, tint=0.0, background=(0.4, 0.6))
    given: dict[str, Any] = {"views": views, "eps": 0.3, "steps": 10, "per_step": 3, "held_out": 20, "progress": False}
    return attack.texture(colours, attack.lathe(around=16, smooth=1), grey, 0, **given), given


def test_a_texture_works_from_views_it_was_not_made_from(vase):
    found, given = vase
    assert found.rates["original"] < 0.5 < 0.9 < found.rates["adversarial"]
    assert found.rates["random"] <= found.rates["original"] + 0.1
    assert (found.texture - 0.5).abs().max() <= 0.3 + 1e-6 and found.texture.min() >= 0
    assert (found.random - 0.5).abs().allclose(torch.tensor(0.3))
    assert found.trace[-1] > found.trace[0]
    scene = given["views"].draw(found.mesh, 3, 0, "held out", 0)
    for number, texture in enumerate((found.original, found.texture, found.random)):
        pictures = scene.picture(texture)
        assert torch.equal(found.shown[number], pictures)
        kind = ("original", "adversarial", "random")[number]
        assert torch.equal(found.seen[kind][:3], colours(pictures).argmax(1))


def test_a_texture_is_reproduced_drawn_and_saved(vase, tmp_path, global_randomness_untouched):
    found, given = vase
    again = attack.texture(colours, found.mesh, found.original, 0, **given)
    assert torch.equal(found.texture, again.texture)
    figure = found.plot(["red", "blue"])
    assert len(figure.axes) == 12 and "adversarial: red" in figure.axes[4].get_xlabel()
    assert found.save(tmp_path / "t.safetensors").stat().st_size > 3000


def test_bad_textures_are_refused(vase):
    found, given = vase
    for change, words in (
        ({"texture": torch.ones(1, 4, 4)}, r"texture is \(1, 4, 4\)"),
        ({"texture": torch.full((3, 4, 4), 2.0)}, r"images have to be in \[0, 1\]"),
        ({"target": 7}, r"target\[0\] = 7"),
        ({"eps": 8}, "eps=8"),
        ({"views": attack.Views(side=16, distance=(0.5, 0.6))}, "before the camera"),
    ):
        words_of: dict[str, Any] = {"texture": found.original, "target": 0} | given | change
        with pytest.raises(ArgumentError, match=words):
            attack.texture(colours, found.mesh, words_of.pop("texture"), words_of.pop("target"), **words_of)
