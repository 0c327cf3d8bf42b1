"""Dropout as an ensemble: predictions of many networks that a network with dropout holds."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway.errors import ArgumentError, NonFiniteError
from cutaway.nets.modes import evaluating
from cutaway.progress import bar
from cutaway.rng import seeded
from cutaway.saving import save, save_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DROPOUTS: dict[Callable[..., Any], str] = {  # function -> its argument with the probability of dropping
    F.dropout: "p",
    F.dropout1d: "p",
    F.dropout2d: "p",
    F.dropout3d: "p",
    F.alpha_dropout: "p",
    F.feature_alpha_dropout: "p",
    F.multi_head_attention_forward: "dropout_p",
}


class _DropoutOn(TorchFunctionMode):
    """Runs every dropout as in training, whatever the mode of its module, and counts those that drop something."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in DROPOUTS:
            return func(*args, **(kwargs or {}))
        given = inspect.signature(func).bind(*args, **(kwargs or {}))
        given.apply_defaults()
        given.arguments["training"] = True
        self.dropped += given.arguments[DROPOUTS[func]] > 0
        return func(*given.args, **given.kwargs)


@dataclass(frozen=True)
class MonteCarlo:
    """What an ensemble of networks with dropped units predicts.

    Attributes:
        mean: (N, K) probabilities, averaged over the ensemble.
        std: (N, K) their standard deviation over the ensemble (n − 1).
        entropy: (N,) of the mean, in nats, 0 … ln K: how unsure the prediction is.
        mutual_information: (N,) in nats: the entropy less the mean of the networks' own entropies. It is the part that
            comes from the networks disagreeing; 0 when all of them say the same.
        samples: how many networks.
        seed: of the units dropped.
    """

    mean: Float[Tensor, "n k"]
    std: Float[Tensor, "n k"]
    entropy: Float[Tensor, " n"]
    mutual_information: Float[Tensor, " n"]
    samples: int
    seed: int

    def plot(self, inputs: int = 6, classes: int = 5) -> "Figure":
        """Draw the likeliest classes of the first inputs with their standard deviations.

        Args:
            inputs: how many inputs at most.
            classes: how many classes of each at most.
        """
        from matplotlib.figure import Figure  # matplotlib only where something is drawn

        shown = min(inputs, len(self.mean))
        figure = Figure(figsize=(2.4 * shown, 2.6), layout="constrained")
        for place, axis in enumerate(figure.subplots(1, shown, squeeze=False, sharey=True)[0]):
            best = self.mean[place].topk(min(classes, self.mean.shape[1])).indices.cpu()
            heights, spreads = self.mean[place].cpu()[best], self.std[place].cpu()[best]
            ends = torch.stack([spreads.minimum(heights), spreads.minimum(1 - heights)])  # within 0 and 1
            axis.bar(range(len(best)), heights.tolist(), color="0.7", yerr=ends.tolist())
            axis.set_xticks(range(len(best)), [str(index) for index in best.tolist()])
            words = f"entropy {self.entropy[place]:.2f}\ndisagreement {self.mutual_information[place]:.2f}"
            axis.set_title(words, fontsize=9)
            axis.set(xlabel="class", ylim=(0, 1))
            axis.spines[["top", "right"]].set_visible(False)
        figure.supylabel(f"probability, mean ± sd of {self.samples}", fontsize=9)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the numbers (.npz), or the picture (.png, .svg, .pdf); returns the path."""
        names = ("mean", "std", "entropy", "mutual_information")
        tensors = {name: getattr(self, name) for name in names}
        numbers = partial(save_arrays, tensors=tensors, about={"samples": self.samples, "seed": self.seed})
        return save(path, self.plot, numbers, ".npz")


def monte_carlo(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    *,
    samples: int = 50,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> MonteCarlo:
    """Predict with dropout on, many times: the mean over an ensemble of thinned networks, and how far they agree.

    A network of n units under dropout is an ensemble of 2ⁿ networks that share weights. Evaluation replaces their mean
    by one pass with all units; here networks are drawn, for every input its own, and their predictions are averaged.
    Only dropout runs as in training (that of `torch.nn.functional`, which the modules of `torch.nn` but the recurrent
    ones use); batch norm keeps its fixed statistics. The model's modes, flags and buffers and torch's global random
    state stay as they are, and no gradient is recorded. More samples with the same seed go on from the fewer.

    Args:
        model: from `x` to logits `(N, K)`, K ≥ 2.
        x: inputs `(N, …)`, on the model's device.
        samples: networks drawn for every input, at least 2.
        seed: fixes the units that are dropped, together with `batch_size` and the device.
        batch_size: inputs at a time.
        progress: show a bar on the terminal.

    Raises:
        ArgumentError: when the model drops nothing, its output is not (N, K), or a number is too small.
        NonFiniteError: when it answers with NaN or infinite logits.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014, section 7.5;
    Gal, Ghahramani, "Dropout as a Bayesian approximation", 2016, section 4; Houlsby et al., "Bayesian active learning
    for classification and preference learning", 2011, section 2 (mutual information).

    >>> found = monte_carlo(nn.Sequential(nn.Dropout(), nn.Linear(4, 3)), torch.ones(2, 4), samples=20)
    >>> found.mean.shape, bool((found.mutual_information < found.entropy).all())
    (torch.Size([2, 3]), True)
    """
    if samples < 2 or batch_size < 1 or len(x) < 1:
        given = f"samples={samples}, batch_size={batch_size}, {len(x)} inputs"
        raise ArgumentError(f"{given}: expected 2 samples or more, and 1 or more of the others")
    starts = range(0, len(x), batch_size)
    with evaluating(model), torch.no_grad(), bar("networks", samples * len(starts), progress) as tick:
        found = [_moments(model, x, start, start + batch_size, samples, seed, tick) for start in starts]
    mean, squares, inner = (torch.cat(each) for each in zip(*found, strict=True))  # (N, K), (N, K), (N,)
    entropy = _entropy(mean)
    std, information = (squares / (samples - 1)).sqrt(), (entropy - inner).clamp(min=0)
    mean, std, entropy, information = (each.to(torch.get_default_dtype()) for each in (mean, std, entropy, information))
    return MonteCarlo(mean, std, entropy, information, samples, seed)


def _moments(
    model: nn.Module, x: Tensor, start: int, stop: int, samples: int, seed: int, tick: Callable[..., None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a batch's probabilities: mean (N, K), sum of squared deviations from it (N, K), mean of entropies (N,)."""
    mean = squares = inner = torch.zeros((), dtype=torch.float64, device=x.device)
    for count in range(1, samples + 1):
        with seeded(seed, "dropout", start, count), _DropoutOn() as mode:
            logits = model(x[start:stop])
        _check(model, logits, mode.dropped, start, min(stop, len(x)))
        p = logits.double().softmax(1)  # (N, K)
        off = p - mean
        mean = mean + off / count
        squares = squares + off * (p - mean)  # Welford's update: no difference of large numbers
        inner = inner + (_entropy(p) - inner) / count
        tick()
    return mean, squares, inner


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(1)  # (N,)


def _check(model: nn.Module, logits: Any, dropped: int, start: int, stop: int) -> None:
    name, n = type(model).__name__, stop - start
    if not dropped:
        raise ArgumentError(
            f"{name} drops nothing: no dropout with a probability above 0 ran (recurrent layers' own is not reached); "
            "make one with dropout, such as nets.make('mlp', 784, 128, 10, dropout=0.5)"
        )
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != n or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ArgumentError(f"{name} answers {shape} to {n} inputs; expected logits ({n}, K) with K ≥ 2")
    if not logits.isfinite().all():
        bad = start + int((~logits.isfinite().all(1)).nonzero()[0])
        raise NonFiniteError(f"{name} answers input {bad} with NaN or infinite logits; check it and its weights")
