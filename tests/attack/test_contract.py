"""What every attack promises, one test per promise over the table of attacks."""

import copy

import pytest
import torch
from torch import nn

from cutaway import attack
from cutaway.attack.norms import LENGTHS
from cutaway.errors import ArgumentError

from .conftest import images
from .table import CASES, EPS, TABLE

every = pytest.mark.parametrize(("name", "norm"), CASES)


def likely(model, wanted: torch.Tensor) -> torch.Tensor:
    """For each class wanted an image that the model takes for it."""
    x, _ = images()
    predicted = model(x).argmax(1)
    return torch.stack([x[predicted == k][0] for k in wanted])


def launch(name: str, norm: str, model, x, y, **more):
    row = TABLE[name]
    bound = {"eps": more.pop("eps", EPS.get(norm))} if row.bounded else {}
    if row.start and isinstance(more.get("target"), torch.Tensor):
        more["start"] = likely(model, more["target"])
    return row.call(model, x, y, norm=norm, progress=False, **bound, **row.settings | more)


def briefly(name: str, norm: str, model, x, y, **more):
    return launch(name, norm, model, x, y, **TABLE[name].brief | more)


@every
def test_results_are_what_they_say_one_by_one_too(name, norm, net, digits, global_randomness_untouched):
    x, y = digits[0][:40], digits[1][:40]
    found = launch(name, norm, net, x, y)
    change = found.x.double() - x.double()
    assert found.x.shape == x.shape
    assert found.x.min() >= 0
    assert found.x.max() <= 1
    assert torch.allclose(found.distance, LENGTHS[norm](found.x - x))
    if TABLE[name].bounded:
        order = {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
        assert (torch.linalg.vector_norm(change.flatten(1), order, dim=1) <= EPS[norm] + 1e-6).all()
    with torch.no_grad():
        logits = net(found.x)
        alone = torch.cat([net(image[None]) for image in found.x]).argmax(1)
    assert torch.equal(found.success, logits.argmax(1) != y)
    assert torch.equal(found.success, alone != y)
    assert torch.equal(found.after, logits.argmax(1))
    assert torch.equal(found.before, net(x).argmax(1))
    assert torch.allclose(found.confidence_after, logits.softmax(1).amax(1))
    assert found.success_rate >= (TABLE[name].least if TABLE[name].bounded else 0.95)
    assert found.trace.shape[1] == len(x)


@every
def test_targets_are_reached_and_verified(name, norm, net, digits):
    if not TABLE[name].targeted:
        pytest.skip("untargeted only")
    x, y = digits[0][:30], digits[1][:30]
    wanted = (y + 1) % 10
    found = launch(name, norm, net, x, y, target=wanted)
    with torch.no_grad():
        assert torch.equal(found.success, net(found.x).argmax(1) == wanted)
    if TABLE[name].least >= 0.5:
        assert found.success_rate > (0.1 if TABLE[name].bounded else 0.85)


@every
def test_zero_radius_is_the_clean_accuracy(name, norm, net, digits):
    if not TABLE[name].bounded:
        pytest.skip("has no radius")
    wrong = (net(digits[0]).argmax(1) != digits[1]).nonzero()[:, 0]
    rows = torch.cat([wrong, torch.arange(30)])
    x, y = digits[0][rows], digits[1][rows]
    found = briefly(name, norm, net, x, y, eps=0)
    assert len(wrong) > 0
    assert torch.equal(found.x, x)
    assert found.accuracy == (net(x).argmax(1) == y).double().mean().item()


@every
def test_same_seed_same_result_and_any_batch(name, norm, exact, digits):
    x, y, model = digits[0][:12].double(), digits[1][:12], exact
    many = briefly(name, norm, model, x, y, seed=3)
    assert torch.equal(briefly(name, norm, model, x, y, seed=3).x, many.x)
    chunks = briefly(name, norm, model, x, y, seed=3, batch_size=5)
    assert torch.allclose(chunks.x, many.x, atol=1e-6)
    if TABLE[name].alone:
        one = briefly(name, norm, model, x[:1], y[:1], seed=3)
        assert torch.allclose(one.x, many.x[:1], atol=1e-6)


@every
def test_model_and_generators_are_untouched(name, norm, net, digits, global_randomness_untouched):
    model = copy.deepcopy(net).train()
    model[0].eval()  # each part has a mode of its own
    model[4].weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    x = digits[0][:6].clone()
    with pytest.warns(attack.ModelModeWarning, match="training mode"):
        found = briefly(name, norm, model, x, digits[1][:6])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert torch.equal(x, digits[0][:6])
    assert not found.x.requires_grad
    assert torch.equal(found.after, net(found.x).argmax(1))  # evaluation mode was used


@every
def test_two_classes_are_enough(name, norm, binary, digits):
    rows = (digits[1] < 2).nonzero()[:10, 0]
    found = briefly(name, norm, binary, digits[0][rows], digits[1][rows])
    assert found.success.shape == (10,)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.gradients])
def test_gradient_attacks_refuse_functions_without_gradients(name, net, digits):
    norm = TABLE[name].norms[0]
    for blind in (lambda x: net(x.detach()), lambda x: torch.from_numpy(net(x).detach().numpy())):
        with pytest.raises(ArgumentError, match=r"no gradient .* square"):
            launch(name, norm, blind, digits[0][:4], digits[1][:4])


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if not row.gradients])
def test_black_box_attacks_take_any_function(name, net, digits):
    norm, (x, y) = TABLE[name].norms[0], digits
    found = briefly(name, norm, lambda x: torch.from_numpy(net(x).numpy()), x[:4], y[:4])
    assert found.success.shape == (4,)
    assert found.asked["gradients"] == 0


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_is_refused(name, net, digits):
    norm, row = TABLE[name].norms[0], TABLE[name]
    x, y = digits[0][:4], digits[1][:4]
    bad = y.clone()
    bad[2] = 10
    cases = [
        ({"x": x * 2 - 1}, r"\[-1, 1\].*normalized"),
        ({"x": (x * 255).byte()}, "x / 255"),
        ({"x": x[0]}, r"\(N, C, H, W\)"),
        ({"x": x / 0}, "NaN"),
        ({"y": bad}, r"y\[2\] = 10.*0 … 9"),
        ({"y": y[:3]}, "class indices"),
        ({"model": nn.Sequential(net, nn.Threshold(1e9, float("nan"))).eval()}, "NaN or infinite logits"),
        ({"model": lambda x: net(x).argmax(1)}, "expected logits"),
        ({"model": "resnet"}, "a module or a function"),
        ({"norm": "l3"}, "unknown norm"),
    ]
    if row.targeted:
        cases += [({"target": int(y[1])}, rf"target\[\d\] = {int(y[1])} is the label"), ({"target": 12}, "0 … 9")]
    if row.bounded:
        cases += [
            ({"eps": 300.0 if norm != "linf" else 8}, "8/255" if norm == "linf" else "beyond"),
            ({"eps": -1}, "≥ 0"),
        ]
        cases += [({"eps": float("nan")}, "≥ 0")]
    for given, words in cases:
        arguments = {"model": net, "x": x, "y": y, "norm": norm} | given
        with pytest.raises((ArgumentError, LookupError), match=words):
            launch(name, arguments.pop("norm"), **arguments)


@pytest.mark.parametrize("name", TABLE)
def test_control_has_the_same_distance(name, net, digits):
    if name == "random_noise":
        pytest.skip("is the control")
    norm = TABLE[name].norms[0]
    found = launch(name, norm, net, digits[0][:20], digits[1][:20])
    assert found.control is not None
    assert torch.allclose(found.control.distance, found.distance, atol=1e-6)
    assert found.control.success_rate < found.success_rate
    assert briefly(name, norm, net, digits[0][:2], digits[1][:2], control=False).control is None
