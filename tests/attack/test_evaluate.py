"""The evaluation: rates and intervals, data in every form, and broken defences that its checks have to catch."""

import json
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from scipy.stats import binomtest

from cutaway import attack
from cutaway.attack.checks import rounded
from cutaway.errors import ArgumentError

EPS = [0.05, 0.1, 0.2, 0.3]


@pytest.fixture(scope="module")
def report(net, digits):
    return attack.evaluate(net, digits, eps=EPS, limit=100, progress=False)


def failed(report) -> set[str]:
    return {check.name for check in report.failed}


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 7), (480, 500)])
def test_wilson_is_scipys(hits, count):
    theirs = binomtest(hits, count).proportion_ci(method="wilson")
    assert attack.wilson(hits, count) == pytest.approx((hits / count, theirs.low, theirs.high), abs=1e-12)


def test_numbers_are_those_of_the_attacks(report, net, digits):
    x, y = digits[0][:100], digits[1][:100]
    right = net(x).argmax(1) == y
    assert report.clean_accuracy.value == right.double().mean().item()
    assert report.eps == (0.0, *EPS)
    assert report.robust_accuracy("pgd")[0] == report.clean_accuracy  # ε = 0, exactly
    for row, eps in enumerate(EPS, 1):
        found = attack.pgd(net, x[right], y[right], eps=eps, progress=False)
        assert report.robust_accuracy("pgd")[row].value == (~found.success).sum().item() / 100
    worst = [rate.value for rate in report.robust_accuracy()]
    assert worst == sorted(worst, reverse=True)
    assert worst[2] <= min(report.robust_accuracy(name)[2].value for name in ("fgsm", "pgd"))
    assert report.robust_accuracy("random noise")[2].value > worst[2] + 0.3
    with pytest.raises(LookupError, match="unknown attack 'pgdd'; nearest: 'pgd'"):
        report.robust_accuracy("pgdd")


def test_an_honest_network_passes_all_checks(report):
    assert failed(report) == set()
    assert len(report.checks) == 11
    assert "All checks that apply pass" in report.verdict


def test_the_curve_over_steps_is_that_of_the_attack(report, net, digits):
    x, y = digits[0][:100], digits[1][:100]
    assert report.steps == (0, 1, 2, 5, 10, 20, 50)
    assert list(report.over_steps) == ["pgd"]  # FGSM takes one step
    curve = report.accuracy_over_steps("pgd")
    assert curve[0] == report.clean_accuracy
    right = net(x).argmax(1) == y
    found = attack.pgd(net, x[right], y[right], eps=report.steps_eps, steps=5, progress=False)
    assert curve[3].value == (~found.success).sum().item() / 100
    half = report.clean_accuracy.value / 2
    below = [eps for eps, rate in zip(report.eps, report.robust_accuracy(), strict=True) if rate.value <= half]
    assert report.steps_eps == below[0]
    assert report.convergence in report.verdict and "pgd leaves" in report.verdict
    assert len(report.plot().axes) == 2
    assert report.words()["over steps"]["accuracy"]["pgd"][3]["value"] == curve[3].value
    with pytest.raises(LookupError, match="'fgsm'"):
        report.accuracy_over_steps("fgsm")


def test_a_curve_that_still_falls_says_so(net, digits):
    short = partial(attack.bim, step_size=0.01)
    run = partial(attack.evaluate, net, digits, short, eps=0.15, limit=40, checks=False, progress=False)
    made = run(steps=[8, 2])
    assert made.steps == (0, 2, 8)
    assert "still falls after 2 steps" in made.convergence
    assert run(steps=[20, 40, 15]).convergence.endswith("change it by at most 2 points.")
    bare = run()
    assert bare.steps == () and bare.convergence == "" and len(bare.plot().axes) == 1
    with pytest.raises(ArgumentError, match=r"steps=\[0\]"):
        run(steps=[0])


def test_gradients_hidden_by_saturation_are_caught(net, digits):
    defence = lambda x: net(torch.sigmoid(200 * (x - 0.4)))  # noqa: E731
    caught = attack.evaluate(defence, digits, eps=EPS, steps=(), limit=100, progress=False)
    assert "white-box beats black-box" in failed(caught)
    assert "Do not believe" in caught.verdict


def test_gradients_hidden_by_large_logits_are_named_and_beaten(net, digits, report):
    caught = attack.evaluate(lambda x: 1e4 * net(x), digits, eps=EPS, limit=100, progress=False)
    assert "gradient norms" in failed(caught)
    assert caught.robust_accuracy("pgd")[2].value <= report.robust_accuracy("pgd")[2].value + 0.05


def test_randomness_without_averaging_is_caught(net, digits, global_randomness_untouched):
    defence = lambda x: net(x + 0.2 * torch.randn_like(x))  # noqa: E731
    caught = attack.evaluate(defence, digits, eps=EPS, steps=(), limit=60, progress=False)
    assert "random model" in failed(caught)
    assert "samples=20" in " ".join(check.sentence for check in caught.failed)


def test_a_quantiser_without_gradient_is_caught(net, digits):
    defence = lambda x: net((4 * x).round() / 4)  # noqa: E731
    with pytest.warns(attack.MaskedGradientWarning) as said:
        caught = attack.evaluate(defence, digits, eps=EPS, steps=(), limit=60, progress=False)
    assert len(said) == 1
    assert {"unbounded attack", "white-box beats black-box", "gradient norms", "loss along the gradient"} <= failed(
        caught
    )


def test_decisions_alone_see_through_a_quantiser(net, digits):
    defence = lambda x: net((4 * x).round() / 4)  # noqa: E731
    blind = partial(attack.hop_skip_jump, steps=3, probes=30)
    with pytest.warns(attack.MaskedGradientWarning):
        made = attack.evaluate(
            defence, digits, attack.pgd, blind, eps=[1.0, 2.0], norm="l2", limit=30, checks=False, progress=False
        )
    seen, asked = (made.robust_accuracy(name)[-1].value for name in ("pgd", "hop_skip_jump"))
    assert asked < seen - 0.2


def test_transfer_from_a_surrogate_betrays_a_masked_model(net, digits):
    defence = lambda x: net((4 * x).round() / 4)  # noqa: E731
    with pytest.warns(attack.MaskedGradientWarning):
        caught = attack.evaluate(defence, digits, eps=EPS, steps=(), limit=60, surrogate=net, progress=False)
    assert "transfer in" in failed(caught)
    honest = attack.evaluate(net, digits, eps=EPS, limit=60, surrogate=net, progress=False)
    assert "transfer in" not in failed(honest)


def test_data_in_every_form(net, digits):
    @dataclass
    class Set:
        x: torch.Tensor
        y: torch.Tensor

    x, y = digits
    batches = [(x[:7], y[:7]), (x[7:20], y[7:20]), (x[20:40], y[20:40])]
    run = partial(attack.evaluate, net, eps=0.1, checks=False, progress=False)
    forms = [run((x[:20], y[:20])), run(Set(x, y), limit=20), run(batches, limit=20), run(iter(batches), limit=20)]
    assert all(torch.equal(form.worst, forms[0].worst) for form in forms)
    with pytest.raises(ArgumentError, match="expected \\(x, y\\)"):
        run(7)
    with pytest.raises(ArgumentError, match="no batches"):
        run([])
    with pytest.raises(ArgumentError, match="limit=0"):
        run((x, y), limit=0)


def test_attacks_are_named_and_their_settings_kept(net, digits):
    made = attack.evaluate(
        net, digits, partial(attack.pgd, steps=3), attack.pgd, eps=0.1, limit=20, checks=False, progress=False
    )
    assert list(made.broken) == ["pgd", "pgd 2"]
    assert made.settings["attacks"] == {"pgd": {"steps": 3}, "pgd 2": {}}


def test_bad_radii(net, digits):
    for eps in (8, [0.1, -0.1], []):
        with pytest.raises(ArgumentError, match="eps"):
            attack.evaluate(net, digits, eps=eps, progress=False)


def test_everything_misclassified(net, digits):
    x, y = digits[0][:10], (net(digits[0][:10]).argmax(1) + 1) % 10
    made = attack.evaluate(net, (x, y), eps=0.1, progress=False)
    assert made.clean_accuracy.value == 0
    assert all(rate.value == 0 for rate in made.robust_accuracy())


def test_rounding_never_leaves_the_ball():
    g = torch.Generator().manual_seed(0)
    x, far = torch.rand(50, 3, 4, 4, generator=g), torch.rand(50, 3, 4, 4, generator=g)
    whole = rounded(x, far)
    assert ((whole - x).abs() <= (far - x).abs() + 1e-5).all()
    steps = (whole * 255 - (whole * 255).round()).abs() < 1e-3
    assert (steps | (whole == x)).all()


def test_saving_and_plotting(report, tmp_path):
    words = json.loads(report.save(tmp_path / "r.json").read_text())
    assert words["robust"]["pgd"][2]["value"] == report.robust_accuracy("pgd")[2].value
    assert len(words["checks"]) == 11
    assert report.save(tmp_path / "r.png").stat().st_size > 10_000
    lines = report.plot().axes[0].lines
    assert [line.get_label() for line in lines] == ["fgsm", "pgd", "random noise"]
    assert lines[1].get_ydata()[2] == pytest.approx(100 * report.robust_accuracy("pgd")[2].value)
    with pytest.raises(ArgumentError, match=r"r\.txt"):
        report.save(tmp_path / "r.txt")
