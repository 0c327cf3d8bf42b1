"""The state of a training run: everything that the next step depends on, as one tree of tensors and numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cutaway.train import foreach
from cutaway.train.metrics import Metric, per_example
from cutaway.train.processes import local, part_of

_PENDING = 1 << 20  # numbers in outputs that wait to be measured


@dataclass
class Meter:
    """Collects losses and metrics of an epoch's steps, measuring many steps at once.

    The values of single examples are kept, so that the epoch's means do not depend on where they were gathered.

    Args:
        metrics: functions `(outputs, targets) -> (N,)` by name.
    """

    metrics: Mapping[str, Metric]
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    pending: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    waiting: int = 0

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Take a step's loss and outputs; nothing is computed until `flush`."""
        self.pending.append((loss, outputs, targets))
        self.counts.append(len(targets))
        self.waiting += outputs.numel()
        if self.waiting > _PENDING:
            self.flush()

    def flush(self) -> None:
        """Measure what is pending."""
        if not self.pending:
            return
        losses, outputs, targets = zip(*self.pending, strict=True)
        self.values.setdefault("loss", []).append(torch.stack(losses))
        joined, wanted = torch.cat(outputs), torch.cat(targets)
        for name, metric in self.metrics.items():
            self.values.setdefault(name, []).append(per_example(metric(joined, wanted), len(wanted)))
        self.pending.clear()
        self.waiting = 0

    def losses(self) -> Tensor:
        """The losses of all steps measured, `(steps,)`."""
        return torch.cat(self.values["loss"]) if self.values.get("loss") else torch.zeros(0)

    def means(self) -> dict[str, float]:
        """Means over the epoch's examples so far."""
        self.flush()
        if not self.counts:
            return {}
        means = {}
        for name, parts in self.values.items():
            joined = torch.cat(parts).cpu().double()  # (steps,) for the loss, (N,) for metrics
            if name == "loss":
                counts = torch.tensor(self.counts, dtype=torch.float64)
                means[name] = float((joined * counts).sum() / counts.sum())
            else:
                means[name] = float(joined.mean())
        return means

    def tree(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        self.flush()
        self.values = {name: [torch.cat(parts)] for name, parts in self.values.items()}
        return {"counts": list(self.counts), "values": {name: parts[0] for name, parts in self.values.items()}}

    def load(self, tree: Mapping[str, Any]) -> None:
        """Go back to what `tree` gave."""
        self.counts, self.pending, self.waiting = list(tree["counts"]), [], 0
        self.values = {name: [value] for name, value in tree["values"].items()}


@dataclass
class State:
    """What the next step depends on.

    Attributes:
        model: the network in training.
        optimizer: with its moments.
        meter: the current epoch's values.
        ema: moving average of the weights by name, None without.
        epoch: epochs finished.
        step: steps done in the current epoch, the cursor.
        total: steps done in all.
        history: one row per finished epoch.
        best: weights, epoch and score of the best epoch so far, None without validation.
        stale: epochs since the best.
        stopped: whether a callback ended the training.
        seconds: time spent.
        adversary: what the adversary keeps from step to step.
        scaler: of the loss, for training in float16.
    """

    model: nn.Module
    optimizer: Optimizer
    meter: Meter
    ema: dict[str, Tensor] | None = None
    epoch: int = 0
    step: int = 0
    total: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    stale: int = 0
    stopped: bool = False
    seconds: float = 0.0
    adversary: dict[str, Any] = field(default_factory=dict)
    scaler: torch.amp.GradScaler | None = None

    _NUMBERS: ClassVar = ("epoch", "step", "total", "stale", "stopped", "seconds")

    def tree(self) -> dict[str, Any]:
        """Everything, as nested dicts of tensors and numbers; the tensors are the live ones."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "meter": self.meter.tree(),
            "ema": self.ema,
            "best": self.best,
            "history": list(self.history),
            "numbers": {name: getattr(self, name) for name in self._NUMBERS},
            "random": random_state(self.device),
            "adversary": dict(self.adversary),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        """Go back to what `tree` gave, on this process's device."""
        patterns = self.model.state_dict()
        self.model.load_state_dict(
            {name: part_of(value, patterns.get(name, value)) for name, value in tree["model"].items()}
        )
        self.optimizer.load_state_dict(self._own_moments(tree["optimizer"]))
        self.meter.load(copied(tree["meter"], self.device))
        ema = copied(tree["ema"], self.device)
        self.ema = ema and {name: part_of(value, patterns[name]) for name, value in ema.items()}
        self.best = copied(tree["best"])
        self.history = list(tree["history"])
        for name in self._NUMBERS:
            setattr(self, name, tree["numbers"][name])
        set_random_state(tree["random"], self.device)
        self.adversary = copied(tree.get("adversary", {}), self.device)
        if self.scaler is not None:
            self.scaler.load_state_dict(tree["scaler"])

    def _own_moments(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The optimiser's state with this process's parts of what belongs to parameters in shards."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        state = {
            place: {name: part_of(value, weights[place]) for name, value in held.items()}
            for place, held in tree["state"].items()
        }
        return {**tree, "state": state}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((w.device for w in self.model.parameters()), torch.device("cpu"))

    def weights(self) -> dict[str, Tensor]:
        """The weights to measure and keep: the moving average where there is one."""
        return {**self.model.state_dict(), **(self.ema or {})}

    def bytes(self) -> int:
        """Size of a checkpoint, for the moments that are still to come as well."""
        model = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        return model * (5 if self.ema is None else 6)  # weights, two moments, best, slack


def copied(tree: Any, device: torch.device | str | None = None) -> Any:
    """Copy every tensor in nested dicts and lists, onto a device if given.

    >>> copied({"a": [torch.ones(1)]})
    {'a': [tensor([1.])]}
    """
    if isinstance(tree, Tensor):
        return tree.detach().clone() if device is None else tree.detach().to(device, copy=True)
    if isinstance(tree, Mapping):
        return {key: copied(value, device) for key, value in tree.items()}
    if isinstance(tree, list | tuple) and not (tree and isinstance(tree[0], int)):  # a list of counts may be long
        return type(tree)(copied(item, device) for item in tree)
    return list(tree) if isinstance(tree, list) else tree


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that layers such as dropout draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set what `random_state` gave."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


@torch.no_grad()
def update_average(average: dict[str, Tensor], parameters: Iterable[tuple[str, Tensor]], decay: float) -> None:
    """Move an exponential average of the weights towards the weights.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.

    >>> average = {"w": torch.zeros(1)}
    >>> update_average(average, [("w", torch.ones(1))], 0.75); average["w"]
    tensor([0.2500])
    """
    named = [(average[name], weight) for name, weight in parameters if name in average]
    foreach.lerp_(local(a for a, _ in named), local(w for _, w in named), 1 - decay)
