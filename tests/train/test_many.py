"""Replicates trained at once are what separate runs give."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway import nets
from cutaway.errors import ArgumentError, LookupFailure, NonFiniteError, RunFolderError
from cutaway.rng import generator
from cutaway.train import fit, fit_many
from tests.train.common import blobs, seeded, small_net

quiet: Any = partial(fit_many, progress=False)


def mlp(seed: int) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)), seed)


def normed(seed: int) -> nn.Module:
    def make() -> nn.Module:
        # without the bias that batch norm takes away: its gradient is rounding alone, which Adam makes large
        layers = [
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        ]
        return nn.Sequential(*layers, nn.Linear(4 * 16, 3))

    return seeded(make, seed)


def pictures(n: int = 40, side: int = 8, classes: int = 3) -> tuple[Tensor, Tensor]:
    draw = generator(5, "pictures")
    return torch.randn(n, 1, side, side, generator=draw), torch.randint(0, classes, (n,), generator=draw)


def lenet(seed: int) -> nn.Module:
    return nets.make("lenet1989", seed=seed)


CASES: dict[str, tuple[Callable[[int], nn.Module], tuple[Tensor, Tensor], dict[str, Any]]] = {
    "lenet1989, batch 1": (lenet, pictures(100, 16, 10), {"optimizer": "sgd", "lr": 0.03, "batch_size": 1}),
    "lenet1989, fixed order": (
        lenet,
        pictures(100, 16, 10),
        {"optimizer": "adamw", "batch_size": 1, "shuffle": False, "loss": "squared_error"},
    ),
    "batch norm": (normed, pictures(), {"optimizer": "adam", "batch_size": 12, "epochs": 5}),
    "clipped, l1, smoothed": (
        mlp,
        blobs(),
        {"optimizer": "nesterov", "clip": 0.1, "l1": 1e-3, "label_smoothing": 0.1, "batch_size": 16, "epochs": 4},
    ),
    "average": (mlp, blobs(), {"optimizer": "rmsprop", "ema": 0.9, "batch_size": 16, "epochs": 3, "warm_up": 0.2}),
    "adagrad": (mlp, blobs(50), {"optimizer": "adagrad", "batch_size": 16, "drop_last": True, "epochs": 3}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_replicates_are_separate_runs(name: str, global_randomness_untouched: None) -> None:
    make, data, settings = CASES[name]
    settings = {"epochs": 1, **settings}
    many = quiet(make, data, data, data, seeds=[3, 4, 5], restore_best=False, **settings)
    for number, seed in enumerate([3, 4, 5]):
        alone = fit(make(seed), data, data, data, seed=seed, restore_best=False, progress=False, **settings)
        mine, theirs = many.models[number].state_dict(), alone.model.state_dict()
        for key in theirs:
            torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
        for column in ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"):
            assert many[number].history[column] == pytest.approx(alone.history[column], abs=1e-5)
        assert alone.test is not None and many.test[number]["loss"] == pytest.approx(alone.test["loss"], abs=1e-5)


def test_every_replicate_has_its_own_rate() -> None:
    for optimizer in ("sgd", "momentum", "adamw", "rmsprop"):
        settings = {"optimizer": optimizer, "epochs": 2, "batch_size": 16}
        many = quiet(mlp, blobs(), seeds=[1, 1, 2], lr=[1e-3, 1e-2, 5e-2], **settings)
        for number, (seed, rate) in enumerate(zip([1, 1, 2], [1e-3, 1e-2, 5e-2], strict=True)):
            alone = fit(mlp(seed), blobs(), seed=seed, lr=rate, progress=False, **settings)
            for mine, theirs in zip(many.models[number].parameters(), alone.model.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_patience_ends_each_replicate_by_itself() -> None:
    train, validation = blobs(30, spread=1.0), blobs(60, seed=1, spread=1.0)
    settings = {"epochs": 60, "lr": 0.05, "patience": 3}
    make = lambda seed: mlp(seed).double()  # noqa: E731 - in float32 the best of two equal epochs may be either
    many = quiet(make, train, validation, seeds=range(4), **settings)
    for seed in range(4):
        alone = fit(make(seed), train, validation, seed=seed, progress=False, **settings)
        assert many.best_epoch[seed] == alone.best_epoch
        assert many.validation[seed]["loss"] == pytest.approx(alone.validation["loss"], abs=1e-5)  # type: ignore[index]
    assert many.status == "stopped early"


def test_other_initialisations_can_be_given_as_networks() -> None:
    made = [nets.initialize(mlp(0), scheme) for scheme in ("xavier", "orthogonal")]
    many = quiet(made, blobs(), seeds=[0, 0], epochs=2)
    for scheme, run in zip(("xavier", "orthogonal"), many, strict=True):
        alone = fit(nets.initialize(mlp(0), scheme), blobs(), epochs=2, progress=False)
        assert run.history["loss"] == pytest.approx(alone.history["loss"], abs=1e-5)


def test_dropout_differs_between_replicates_and_repeats() -> None:
    runs = [quiet([small_net(), small_net()], blobs(), seeds=[0, 0], epochs=2, batch_size=16) for _ in range(2)]
    losses = [run.history["loss"] for run in runs]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0][:, 0], losses[0][:, 1])


def test_augmentation_is_seeded_by_replicate() -> None:
    def noise(x: Tensor, draw: torch.Generator) -> Tensor:
        return x + torch.randn(x.shape, generator=draw)

    settings = {"epochs": 2, "batch_size": 7, "augment": noise}
    both = quiet([mlp(0), mlp(0)], blobs(), seeds=[1, 2], **settings)
    alone = quiet([mlp(0)], blobs(), seeds=[2], **settings)
    torch.testing.assert_close(both.history["loss"][:, 1], alone.history["loss"][:, 0], atol=1e-5, rtol=0)
    assert not torch.allclose(both.history["loss"][:, 0], both.history["loss"][:, 1])


def test_spread_curves_and_folders(tmp_path: Any) -> None:
    runs = quiet(mlp, blobs(), blobs(seed=1), blobs(seed=2), seeds=range(3), epochs=3)
    found = runs.spread("test_accuracy")
    assert found.n == 3 and found.low < found.mean < found.high
    assert [axis.get_ylabel() for axis in runs.plot().axes] == ["loss", "accuracy"]
    assert {path.name for path in runs.save(tmp_path / "runs").iterdir()} == {"seed-0", "seed-1", "seed-2"}
    with pytest.raises(LookupFailure, match="test_accuracy"):
        runs.values("test_acuracy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 2}, "accumulate=2"),
        ({"optimizer": "lbfgs"}, "lbfgs"),
        ({"lr": [0.1, 0.2]}, "2 rates for 3 seeds"),
        ({"patience": 2}, "needs validation data"),
        ({"seeds": []}, "seeds is empty"),
    ],
)
def test_what_cannot_be_done_at_once_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        quiet(mlp, blobs(), **{"seeds": range(3), **changes})


def test_networks_of_other_shapes_or_that_branch_are_refused() -> None:
    class Branching(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if float(input.sum()) > 0 else input

    with pytest.raises(ArgumentError, match=r"network 1 differs from network 0 in '0\.bias'"):
        quiet([nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 4))], blobs(), seeds=[0, 1])
    with pytest.raises(ArgumentError, match="one by one with fit"):
        quiet(lambda seed: Branching(2, 3), blobs(), seeds=[0, 1])


def test_a_replicate_that_diverges_is_named_or_left_behind() -> None:
    settings = {"optimizer": "sgd", "loss": "squared_error", "epochs": 30, "schedule": "constant", "seeds": [7, 8]}
    with pytest.raises(NonFiniteError, match="seeds 8"):
        quiet(lambda seed: seeded(lambda: nn.Linear(2, 3), seed), blobs(), lr=[0.1, 1e6], **settings)
    make = lambda seed: seeded(lambda: nn.Linear(2, 3), seed)  # noqa: E731
    runs = quiet(make, blobs(), lr=[0.1, 1e6], nonfinite="continue", **settings)
    assert runs.history["loss"][-1].isfinite().tolist() == [True, False]


def test_replicates_go_on_from_their_checkpoint_to_the_same_bits(tmp_path: Any) -> None:
    settings = {"seeds": range(3), "batch_size": 16, "optimizer": "adamw", "ema": 0.9, "epochs": 5, "patience": 4}
    make = lambda seed: small_net()  # noqa: E731
    whole = quiet(make, blobs(), blobs(seed=1), **settings)

    class Stop(Exception):
        pass

    def broken(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise Stop
        return x.argmax(1).eq(y).float()

    def right(x: Tensor, y: Tensor) -> Tensor:
        return x.argmax(1).eq(y).float()

    calls: list[int] = []
    broken.__name__ = broken.__qualname__ = right.__qualname__ = "right"
    right.__name__ = "right"
    with pytest.raises(Stop):
        quiet(make, blobs(), blobs(seed=1), out=tmp_path, metrics=[broken], **settings)
    again = quiet(make, blobs(), blobs(seed=1), out=tmp_path, metrics=[right], **settings)
    assert torch.equal(again.history["loss"], whole.history["loss"]) and again.best_epoch == whole.best_epoch
    for one, other in zip(again.models, whole.models, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )
    with pytest.raises(RunFolderError, match="other settings"):
        quiet(make, blobs(), blobs(seed=1), out=tmp_path, metrics=[right], **{**settings, "lr": 0.5})
