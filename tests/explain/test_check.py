import json

import pytest
import torch
from torch import nn

from cutaway import explain
from cutaway import graph as G
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.explain.curves import curve, filling, places, positions
from cutaway.explain.objective import objective
from cutaway.explain.randomize import cascade, randomized


@pytest.mark.parametrize("name", ["gradient", "gradient_x_input", "smooth_grad", "integrated_gradients", "grad_cam"])
def test_methods_that_depend_on_what_was_learned_pass(name, digits):
    net, x, _ = digits
    found = explain.METHODS[name](net, x)
    assert found.score > 0.6
    assert "same map" not in found.warning


@pytest.mark.parametrize("name", ["guided_backprop", "guided_grad_cam"])
def test_methods_known_to_fail_do_and_say_so(name, digits):
    net, x, _ = digits
    found = explain.METHODS[name](net, x)
    assert found.score < 0.4
    assert "much the same map when the upper half of the model is random" in found.warning
    checked = explain.check(found, net, x, steps=4, progress=False)
    assert checked.score < 0.5 and not checked.rows()[0]["passed"]
    assert "do not read it as what the model has learned" in checked.verdict


def test_the_score_is_its_definition(mixed, x):
    """1 − |rank correlation| with the gradient of a copy with a random upper half, for the class the copy predicts."""
    found = explain.gradient(mixed, x, 2, seed=3)
    graph = G.capture(mixed, x)
    copy = randomized(mixed, 3, set(cascade(graph, 2)[0][1])).eval()
    tracked = x.clone().requires_grad_()
    output = copy(tracked)
    gradient = torch.autograd.grad(output.amax(1).sum(), tracked)[0]
    torch.testing.assert_close(found.scores, 1 - explain.rank_correlation(found.values, gradient).abs())


def test_the_last_stage_of_the_cascade_is_a_random_model(mixed, x):
    found = explain.gradient(mixed, x)
    checked = explain.check(found, mixed, x, stages=3, steps=2, seed=8, progress=False)
    tracked = x.clone().requires_grad_()
    output = randomized(mixed, 8).eval()(tracked)
    gradient = torch.autograd.grad(output.amax(1).sum(), tracked)[0]
    torch.testing.assert_close(checked.rank_correlation[-1], explain.rank_correlation(found.values, gradient))
    expected = explain.ssim(found.magnitude(), gradient.abs().sum(1))
    torch.testing.assert_close(checked.ssim[-1], expected)
    torch.testing.assert_close(checked.scores, 1 - checked.rank_correlation.abs().mean(0))
    assert checked.rank_correlation.shape == (3, 3) and len(checked.stages) == 3


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_curves_are_their_definition(kind, mixed, x):
    target = torch.tensor([1, 0, 4])
    importance = torch.rand(3, 8, 8, dtype=torch.float64)
    graph = G.capture(mixed, x)
    found = curve(kind, graph, x, objective(x, target, "logit"), importance, fill="zero", steps=4, seed=0)
    net = mixed.eval()
    for example in range(3):
        order = importance[example].flatten().argsort(descending=True)
        for step in range(5):
            chosen = order[: 16 * step]
            image = (x[example] if kind == "deletion" else torch.zeros_like(x[example])).clone().flatten(1)
            image[:, chosen] = 0.0 if kind == "deletion" else x[example].flatten(1)[:, chosen]
            expected = net(image.view(1, 3, 8, 8)).softmax(1)[0, target[example]]
            assert found.values[example, step] == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(found.values[:, [0, -1]], found.random[:, [0, -1]])
    expected = ((found.values[:, 1:] + found.values[:, :-1]) / 2).mean(1)
    torch.testing.assert_close(found.area, expected)


def test_a_map_that_knows_the_answer_beats_a_random_order():
    """Only the first of 16 columns counts: a map that says so has the best curves there are."""
    net = nn.Linear(16, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[1, 0] = 10.0
    x = torch.ones(4, 16)
    checked = explain.check(explain.gradient_x_input(net, x, 1), net, x, deletion_fill=0.0, insertion_fill="zero")
    assert checked.deletion.gain > 0.1 and checked.insertion.gain > 0.1
    assert all(row["passed"] for row in checked.rows()[1:])
    assert checked.infidelity.unexplained.max() < 1e-12  # the model is linear: the map foretells every change


def test_equal_importance_is_ordered_by_chance():
    importance = torch.tensor([[1.0, 0.0, 0.0, 0.0, 2.0]])
    seen = {tuple(positions(importance, torch.rand(1, 5))[0].tolist()) for _ in range(50)}
    assert len(seen) == 6  # the three zeros in every order
    assert all(order[4] == 0 and order[0] == 1 for order in seen)


def test_fillings():
    x = torch.rand(2, 3, 10, 10)
    torch.testing.assert_close(filling(x, "mean")[1, 2], x[1, 2].mean().expand(10, 10))
    blurred = filling(x, "blur")
    assert blurred.var() < 0.3 * x.var()
    torch.testing.assert_close(filling(torch.ones(1, 1, 30, 30), "blur"), torch.ones(1, 1, 30, 30))
    assert (filling(x, 0.25) == 0.25).all()
    with pytest.raises(LookupFailure, match="blur"):
        filling(x, "blurr")
    with pytest.raises(ArgumentError, match=r"\(7,\)"):
        filling(x, torch.zeros(7))


def test_places_of_a_layers_map_are_upsampled():
    values, x = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 8, 8)
    assert places(values, x, signed=True).shape == (2, 8, 8)
    signed = torch.tensor([[[[1.0]], [[-3.0]]]])
    assert places(signed, torch.zeros(1, 2, 1, 1), signed=True).item() == -2
    assert places(signed, torch.zeros(1, 2, 1, 1), signed=False).item() == 4


def test_completeness_is_reported_where_it_is_promised(mixed, x):
    fine = explain.check(explain.integrated_gradients(mixed, x, 1, tolerance=0.02), mixed, x, steps=2, progress=False)
    row = fine.rows()[-1]
    assert row["test"] == "completeness" and row["passed"] and row["value"] <= 0.02
    other = explain.check(explain.gradient(mixed, x), mixed, x, steps=2, progress=False)
    tests = ["weight randomisation", "deletion", "insertion", "infidelity", "max-sensitivity"]
    assert [row["test"] for row in other.rows()] == tests


def test_a_check_is_drawn_and_saved(mixed, x, tmp_path):
    checked = explain.check(explain.grad_cam(mixed, x), mixed, x, stages=2, steps=3, progress=False)
    assert checked.save(tmp_path / "check.png").stat().st_size > 5000
    saved = json.loads(checked.save(tmp_path / "check.json").read_text())
    assert saved["cascade"]["stages"] == list(checked.stages)
    assert len(saved["deletion"]["values"][0]) == 4
    assert saved["infidelity"]["values"] == checked.infidelity.values.tolist() and len(saved["sensitivity"]) == 3
    with pytest.raises(ArgumentError, match=r"check\.txt"):
        checked.save(tmp_path / "check.txt")


def test_a_check_leaves_the_model_alone(mixed, x, global_randomness_untouched):
    before = {name: value.clone() for name, value in mixed.state_dict().items()}
    explain.check(explain.gradient(mixed, x), mixed, x, stages=2, steps=2, progress=False)
    assert all(torch.equal(before[name], value) for name, value in mixed.state_dict().items())
    assert mixed.training


def test_wrong_arguments_are_refused(mixed, x):
    found = explain.gradient(mixed, x, score=False)
    with pytest.raises(ArgumentError, match="3 examples, but x holds 2"):
        explain.check(found, mixed, x[:2])
    with pytest.raises(ArgumentError, match="stages=0"):
        explain.check(found, mixed, x, stages=0)
    with pytest.raises(ArgumentError, match=r"radius=0"):
        explain.check(found, mixed, x, radius=0)
    plain = explain.gradient(lambda x: x.sum(1, keepdim=True), torch.rand(2, 3), 0)
    with pytest.raises(ArgumentError, match="no parameters"):
        explain.check(plain, lambda x: x.sum(1, keepdim=True), torch.rand(2, 3))
