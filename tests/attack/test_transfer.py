"""Transfer and ensembles: what is made on other models counts by what it does to the victim."""

import copy
from functools import partial

import pytest
import torch

from cutaway import attack
from cutaway.errors import ArgumentError

from .conftest import images, small_net, train


@pytest.fixture(scope="module")
def other():
    """Another network for the same task."""
    torch.manual_seed(5)
    x, y = images()
    return train(small_net(), x[:1500], y[:1500], 8)


def test_success_is_the_victims(net, other, digits):
    x, y = digits[0][:80], digits[1][:80]
    found = attack.transfer(other, net, x, y, eps=0.2, progress=False)
    assert torch.equal(found.success, net(found.x).argmax(1) != y)
    assert found.asked == {"logits": 80, "gradients": 0}
    assert found.settings["surrogate"]["asked"]["gradients"] == 80 * 10  # to the end, for every image
    assert found.settings["surrogate"]["settings"]["early_stop"] is False
    assert found.settings["surrogate"]["success_rate"] > found.success_rate > found.control.success_rate + 0.2
    assert (found.distance <= 0.2 + 1e-6).all()
    assert found.method == "transfer of momentum"


def test_a_victim_without_gradients_is_enough(net, other, digits):
    blind = lambda x: torch.from_numpy(net(x).detach().numpy())  # noqa: E731
    found = attack.transfer(other, blind, digits[0][:20], digits[1][:20], eps=0.2, progress=False)
    assert found.success_rate > 0.3
    with pytest.raises(ArgumentError, match="no gradient"):
        attack.transfer(blind, net, digits[0][:20], digits[1][:20], eps=0.2, progress=False)


def test_several_surrogates_are_their_mean(net, other, digits):
    x, y = digits[0][:20], digits[1][:20]
    third = copy.deepcopy(other)
    with torch.no_grad():
        third[7].weight.mul_(-0.3)
    made = attack.transfer([other, third], net, x, y, eps=0.1, progress=False)
    mean = attack.transfer(lambda x: (other(x) + third(x)) / 2, net, x, y, eps=0.1, progress=False)
    assert torch.allclose(made.x, mean.x)
    assert torch.equal(attack.transfer([other], net, x, y, eps=0.1, progress=False).x,
                       attack.transfer(other, net, x, y, eps=0.1, progress=False).x)  # fmt: skip


def test_any_attack_makes_the_examples(net, other, digits):
    x, y = digits[0][:20], digits[1][:20]
    run = partial(attack.transfer, other, net, x, y, progress=False)
    stopped = run(attack=partial(attack.pgd, steps=10, early_stop=True), eps=0.2)
    assert stopped.settings["surrogate"]["settings"]["early_stop"] is True
    assert stopped.success_rate <= run(attack=partial(attack.pgd, steps=10), eps=0.2).success_rate
    nearest = run(attack=attack.deepfool, norm="l2")
    assert nearest.eps is None and nearest.settings["surrogate"]["success_rate"] == 1
    target = (y + 1) % 10
    assert torch.equal(run(eps=0.3, target=target).success, net(run(eps=0.3, target=target).x).argmax(1) == target)
    with pytest.raises(ArgumentError, match="eps is missing: momentum"):
        run()
    with pytest.raises(ArgumentError, match="auto_attack has no targets"):
        run(attack=attack.auto_attack, eps=0.1, target=target)


def test_models_have_to_fit(net, other, digits):
    x, y = digits[0][:4], digits[1][:4] % 2
    with pytest.raises(ArgumentError, match="models is empty"):
        attack.transfer([], net, x, y, eps=0.1)
    with pytest.raises(ArgumentError, match="surrogate has 2 classes, the victim 10"):
        attack.transfer(lambda x: other(x)[:, :2], net, x, y, eps=0.1)


def test_modes_of_an_ensemble_are_its_members(net, other, recwarn):
    ensemble = attack.MeanLogits([net, other, lambda x: net(x)])
    assert not any(part.training for part in ensemble.modules())
    training = copy.deepcopy(other).train()
    assert attack.MeanLogits([net, training]).training


WHITE = [
    attack.fgsm,
    attack.pgd,
    attack.apgd,
    partial(attack.auto_attack, effort=attack.Effort(10, 2, 10)),
    partial(attack.deepfool, steps=20),
    partial(attack.carlini_wagner, steps=30, searches=3, rate=0.1, weight=1.0),
]


@pytest.mark.parametrize("method", WHITE, ids=lambda m: getattr(m, "func", m).__name__)
def test_white_box_attacks_take_an_ensemble(method, net, other, digits, global_randomness_untouched):
    x, y = digits[0][:20], digits[1][:20]
    together = lambda x: (net(x).softmax(1) + other(x).softmax(1)).log()  # noqa: E731
    name = getattr(method, "func", method).__name__
    found = method(together, x, y, progress=False, **({} if name in ("deepfool", "carlini_wagner") else {"eps": 0.2}))
    assert torch.equal(found.success, together(found.x).argmax(1) != y)
    assert found.success_rate > 0.3


def test_the_gradient_of_an_ensemble_is_its_members_mean(net, other, digits):
    x, y = digits[0][:6], digits[1][:6]
    ensemble = attack.MeanLogits([net, other])
    leaf = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy((net(leaf) + other(leaf)) / 2, y, reduction="sum").backward()
    for part in (net, other):
        part.zero_grad(set_to_none=True)
    sure = leaf.grad.abs() > 1e-6
    found = attack.fgsm(ensemble, x, y, eps=0.1)
    assert torch.equal(found.x[sure], (x + 0.1 * leaf.grad.sign()).clamp(0, 1)[sure])
