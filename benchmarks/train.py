"""Time of a training step against a plain PyTorch loop and against other libraries, on the same networks in one run.

    make bench-env && .bench/bin/python benchmarks/train.py [--threads 1 2] [--rounds 5] [--save docs/train.csv]

Rounds are interleaved: every contender trains an epoch, then the next one, and again. The ratio is the median over the
rounds of its time to the plain loop's in the same round. Data lie in memory, all contenders see the same batches, and
the time of the first epoch, in which graphs are captured, is left out. Lightning, Keras 3 on torch and skorch train
beside it where they are installed, with their bars, logs and checkpoints off.

`fit_many` trains 32 replicates of LeNet-1989 at batch 1; its ratio says how many times the steps per second of the
plain loop run 32 times it makes.
"""

import argparse
import csv
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cutaway as ct
from benchmarks.coverage_models import define_torchvision
from cutaway.train.traced import PAYS

define_torchvision()
os.environ.setdefault("KERAS_BACKEND", "torch")
try:
    import keras
    import lightning
    import skorch
except ImportError:  # the peers are in .bench/ alone
    keras = lightning = skorch = None

REPLICATES = 32


def lenet1989() -> nn.Module:
    """The network of 1989 with logits."""
    return ct.nets.make("lenet1989", seed=0, output_activation="identity")


# name: network, shape of an example, batch size, steps in an epoch
WORKLOADS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "LeNet-1989, batch 1": (lenet1989, (1, 16, 16), 1, 200),
    "LeNet-5, batch 1": (lambda: ct.nets.make("lenet5", seed=0), (1, 32, 32), 1, 200),
    "MLP 784-128-10, batch 32": (lambda: ct.nets.make("mlp", 784, 128, 10, seed=0), (784,), 32, 200),
    "LeNet-5, batch 128": (lambda: ct.nets.make("lenet5", seed=0), (1, 32, 32), 128, 15),
    "CIFAR ResNet-20, batch 128": (lambda: ct.nets.make("resnet20_cifar", seed=0), (3, 32, 32), 128, 4),
    "ResNet-18, batch 64": (lambda: ct.nets.make("resnet18", seed=0), (3, 64, 64), 64, 4),
}
LONG = 200  # steps in an epoch of those whose training is also measured when it is long enough to compile the step
PEERS = ("LeNet-5, batch 1", "MLP 784-128-10, batch 32")  # the workloads that the other libraries train too


def examples(shape: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    """Random images and classes."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=draw), torch.randint(0, 10, (count,), generator=draw)


def plain(make: Callable[[], nn.Module], x: Tensor, y: Tensor, batch: int) -> Iterator[float]:
    """Seconds of each epoch of the loop that everybody writes."""
    model = make().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    while True:
        began = time.perf_counter()
        for rows in torch.randperm(len(x)).split(batch):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield time.perf_counter() - began


def ours(make: Callable[[], nn.Module], x: Tensor, y: Tensor, batch: int, epochs: int = 3) -> Iterator[float]:
    """Seconds of each epoch of `fit`, everything it does at an epoch's end included."""
    settings = {"batch_size": batch, "optimizer": "sgd", "lr": 0.01, "schedule": "constant", "progress": False}
    while True:
        stamps = [0.0]
        ct.fit(make(), (x, y), epochs=epochs, callbacks=[lambda _, s=stamps: s.append(time.perf_counter())], **settings)
        yield stamps[-1] - stamps[-2]


def many(make: Callable[[], nn.Module], x: Tensor, y: Tensor, batch: int) -> Iterator[float]:
    """Seconds of each epoch of `fit_many` with 32 replicates, divided by their number."""
    settings = {"batch_size": batch, "optimizer": "sgd", "lr": 0.01, "schedule": "constant", "progress": False}
    while True:
        times = [
            ct.fit_many(
                lambda seed: make(), (x, y), seeds=range(REPLICATES), epochs=epochs, compiled=True, **settings
            ).seconds
            for epochs in (20, 60)
        ]
        yield (times[1] - times[0]) / 40 / REPLICATES


def by_lightning(make: Callable[[], nn.Module], x: Tensor, y: Tensor, batch: int) -> Iterator[float]:
    """Seconds of each epoch of Lightning's trainer."""
    stamps: list[float] = []

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = make()

        def training_step(self, pair: list[Tensor], place: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(pair[0]), pair[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def on_train_epoch_end(self) -> None:
            stamps.append(time.perf_counter())

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    while True:
        loader = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
        lightning.Trainer(max_epochs=3, accelerator="cpu", **quiet).fit(Task(), loader)
        yield stamps[-1] - stamps[-2]


def by_skorch(make: Callable[[], nn.Module], x: Tensor, y: Tensor, batch: int) -> Iterator[float]:
    """Seconds of each epoch of skorch's classifier."""
    settings = {"lr": 0.01, "batch_size": batch, "train_split": None, "verbose": 0, "iterator_train__shuffle": True}
    net = skorch.NeuralNetClassifier(make(), criterion=nn.CrossEntropyLoss, **settings).initialize()
    while True:
        net.partial_fit(x, y, epochs=1)
        yield net.history[-1]["dur"]


def by_keras(make: Callable[[], nn.Module], x: Tensor, y: Tensor, batch: int) -> Iterator[float]:
    """Seconds of each epoch of Keras 3 on torch, on layers of its own with the same shapes."""
    layers = keras.layers
    if x.dim() == 2:
        shaped, wanted = x.numpy(), [layers.Dense(128, activation="relu"), layers.Dense(10)]
    else:
        shaped = x.permute(0, 2, 3, 1).numpy()
        wanted = [
            layers.Conv2D(6, 5, activation="tanh"), layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="tanh"), layers.AveragePooling2D(2),
            layers.Conv2D(120, 5, activation="tanh"), layers.Flatten(), layers.Dense(84, activation="tanh"),
            layers.Dense(10),
        ]  # fmt: skip
    model = keras.Sequential([keras.Input(shaped.shape[1:]), *wanted])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)
    while True:
        stamps: list[float] = []
        watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_, s=stamps: s.append(time.perf_counter()))
        model.fit(shaped, y.numpy(), batch_size=batch, epochs=2, verbose=0, callbacks=[watch])
        yield stamps[-1] - stamps[-2]


def measure(name: str, threads: int, rounds: int) -> list[dict[str, object]]:
    """The rows of one workload."""
    torch.set_num_threads(threads)
    make, shape, batch, steps = WORKLOADS[name]
    x, y = examples(shape, batch * steps)
    contenders = {"plain": plain(make, x, y, batch), "fit": ours(make, x, y, batch)}
    if steps >= LONG:
        contenders["fit, 20,000 steps"] = ours(make, x, y, batch, PAYS // steps)
    if name == "LeNet-1989, batch 1":
        contenders["fit_many, 32 replicates"] = many(make, x, y, batch)
    if name in PEERS and keras is not None:
        contenders |= {"Lightning": by_lightning(make, x, y, batch), "skorch": by_skorch(make, x, y, batch)}
        contenders["Keras 3 on torch"] = by_keras(make, x, y, batch)
    times: dict[str, list[float]] = {who: [] for who in contenders}
    for turn in range(rounds + 1):
        for who, epochs in contenders.items():
            torch.set_num_threads(threads)
            seconds = next(epochs)
            if turn:  # the first round warms up
                times[who].append(seconds / steps * 1e3)
    rows: list[dict[str, object]] = []
    for who, taken in times.items():
        ratios = [mine / theirs for mine, theirs in zip(taken, times["plain"], strict=True)]
        rows.append({
            "workload": name, "threads": threads, "contender": who, "ms per step": statistics.median(taken),
            "low": min(taken), "high": max(taken), "ratio": statistics.median(ratios),
            "ratio low": min(ratios), "ratio high": max(ratios),
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table, and write it as CSV if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning|keras|skorch")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {options.rounds} interleaved rounds")
    rows = []
    for threads in options.threads:
        for name in options.workloads:
            for row in measure(name, threads, options.rounds):
                rows.append(row)
                again = (
                    f", {1 / row['ratio']:.1f} times the steps per second" if "many" in str(row["contender"]) else ""
                )
                print(
                    f"{row['workload']:28} {threads} threads  {row['contender']:24} {row['ms per step']:8.3f} ms "
                    f"ratio {row['ratio']:.3f} ({row['ratio low']:.3f} to {row['ratio high']:.3f}){again}",
                    flush=True,
                )
    if options.save:
        with options.save.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
