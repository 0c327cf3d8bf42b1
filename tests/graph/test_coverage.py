"""A dozen architectures of timm, one of each kind of network: captured whole, right, and served by the table alone.

`benchmarks/coverage.py` measures one of every family; this is what of it runs with the tests.
"""

import importlib.util

import pytest

from benchmarks import coverage, coverage_models

HERE = {name: importlib.util.find_spec(name) is not None for name in ("timm", "transformers")}
VISION = [
    "byobnet", "convnext", "efficientnet", "levit", "maxxvit", "mlp_mixer",
    "mobilenetv3", "nfnet", "resnet", "tiny_vit", "vision_transformer_relpos", "xcit",
]  # fmt: skip
LANGUAGE = ["transformers BERT", "transformers GPT-2", "transformers T5"]
PLAIN = [name for name in coverage_models.LANGUAGE if name.startswith("nn.")]


def measured(name: str) -> coverage.Outcome:
    outcome = coverage.Outcome(name)
    coverage.measure(coverage_models.make(name), outcome)
    return outcome


def check(outcome: coverage.Outcome) -> None:
    assert outcome.captured and not outcome.specialised and outcome.dynamic
    assert outcome.output <= 1e-5, "the value of the model"
    assert outcome.gradient <= 1e-5, f"the gradient by autograd; worst is {outcome.worst}"
    assert outcome.nodes > 0 and outcome.fallback == 0, outcome.fallback_operations


@pytest.mark.slow
@pytest.mark.skipif(not HERE["timm"], reason="timm is not installed: run in the environment of the benchmarks")
@pytest.mark.parametrize("family", VISION)
def test_vision(family: str) -> None:
    check(measured(f"timm {family}"))


@pytest.mark.slow
@pytest.mark.skipif(
    not HERE["transformers"], reason="transformers is not installed: run in the environment of the benchmarks"
)
@pytest.mark.parametrize("name", LANGUAGE)
def test_language(name: str) -> None:
    check(measured(name))


@pytest.mark.parametrize("name", PLAIN)
def test_recurrent_networks_and_transformers_of_torch(name: str) -> None:
    check(measured(name))


def test_an_error_is_seen() -> None:
    good = coverage.Outcome("good", captured=True, output=0.0, gradient=1e-6)
    assert good.right
    assert not coverage.Outcome("wrong", captured=True, output=0.0, gradient=1e-3, gradient64=1e-3).right
    assert coverage.Outcome("rounded", captured=True, output=0.0, gradient=1e-4, gradient64=1e-13).right
    assert not coverage.Outcome("not a number", captured=True, output=0.0).right


def test_every_family_of_timm_is_in_the_run() -> None:
    if not HERE["timm"]:
        pytest.skip("timm is not installed")
    coverage_models.define_torchvision()
    timm = importlib.import_module("timm")
    assert set(coverage_models.VISION) == set(timm.list_modules())
