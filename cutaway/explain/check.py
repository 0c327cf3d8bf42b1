"""Tests of an explanation: does it depend on what was learned, and does the output follow it?"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway import rng
from cutaway.errors import ArgumentError
from cutaway.explain import check_picture
from cutaway.explain.attribution import Attribution
from cutaway.explain.check_rows import ROWS
from cutaway.explain.curves import Curve, Fill, curve, filling, places
from cutaway.explain.frame import checked, on
from cutaway.explain.infidelity import Infidelity, foretold, infidelity, parts
from cutaway.explain.methods import MAPS, SIGNED
from cutaway.explain.objective import Objective
from cutaway.explain.randomize import cascade, copied, redraw_
from cutaway.explain.sensitivity import max_sensitivity
from cutaway.explain.similarity import magnitude, rank_correlation, ssim
from cutaway.progress import track
from cutaway.saving import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Check:
    """The tests of one attribution.

    Attributes:
        method: the method tested.
        stages: what had been randomised at each stage of the cascade, from the output down to the input; at the last
            one, every parameter.
        rank_correlation: Spearman correlation of each example's map with the trained one at each stage (S, N).
        ssim: structural similarity of their magnitudes (S, N); None for inputs that are not images.
        scores: 1 − |rank correlation|, averaged over the stages (N,); 1 is best. Below 0.5 on average, the method
            fails: its picture does not need a trained model.
        deletion: output against the share of places deleted, most important first; below the random order is good.
        insertion: output against the share of places inserted; above the random order is good.
        infidelity: how far the map is from telling what replacing parts of the input does to the explained number, with
            the map multiplied by its best factor; below that of the same values in random places is good.
        sensitivity: the largest relative change of each map over inputs near its own (N,); below 1 is good.
        gap: relative completeness error (N,), for methods that promise a sum; up to 0.05 is good.
        settings: the arguments.
        seed: fixes the random parameters and orders.
    """

    method: str
    stages: tuple[str, ...]
    rank_correlation: Float[Tensor, "s n"]
    ssim: Float[Tensor, "s n"] | None
    scores: Float[Tensor, " n"]
    deletion: Curve
    insertion: Curve
    infidelity: Infidelity
    sensitivity: Float[Tensor, " n"]
    gap: Float[Tensor, " n"] | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def score(self) -> float:
        """The mean of `scores`."""
        return float(self.scores.mean())

    def rows(self) -> list[dict[str, Any]]:
        """One row for each test: its name, the number, what it is compared with, whether it passed, in words."""
        return [row for make in ROWS.values() if (row := make(self)) is not None]

    @property
    def verdict(self) -> str:
        """All tests in words."""
        return " ".join(row["words"] for row in self.rows())

    def plot(self) -> "Figure":
        """Draw the cascade and the two curves."""
        return check_picture.draw(self)

    def save(self, path: str | Path) -> Path:
        """Write the picture (.png, .svg, .pdf) or the rows and curves (.json).

        Raises:
            ArgumentError: the ending is none of these.
        """
        return save(path, self.plot, self._save_numbers, ".json")

    def _save_numbers(self, path: Path) -> None:
        curves = {
            each.kind: {"shares": each.shares.tolist(), "values": each.values.tolist(), "random": each.random.tolist()}
            for each in (self.deletion, self.insertion)
        }
        cascade = {"stages": self.stages, "rank_correlation": self.rank_correlation.tolist()}
        cascade["ssim"] = None if self.ssim is None else self.ssim.tolist()
        found = {"method": self.method, "seed": self.seed, "rows": self.rows(), "cascade": cascade, **curves}
        found["infidelity"] = {name: each.tolist() for name, each in vars(self.infidelity).items()}
        found["sensitivity"] = self.sensitivity.tolist()
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def check(
    attribution: Attribution,
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    *,
    stages: int = 8,
    steps: int = 20,
    deletion_fill: Fill = "mean",
    insertion_fill: Fill = "blur",
    samples: int = 100,
    radius: float = 0.02,
    neighbours: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Check:
    """Test an attribution: randomise the model, delete and insert places, foretell changes, move the input, add up.

    - Weight randomisation: layer after layer, from the output down, every parameter of a copy is drawn anew (normal,
      with the mean and standard deviation of its own values) and the map is computed again, for the class the copy
      itself predicts. A map that stays the same does not show what was learned. `score` = 1 − |Spearman rank
      correlation| with the trained map, averaged over the stages; values keep their sign.
    - Deletion and insertion: places are replaced (put back) in the map's order, most important first, and the target's
      probability is followed. The area under the curve is compared with that of a random order.
    - Infidelity: rectangles (intervals of signals, sets of columns) are replaced, and the change that the map foretells
      for them is compared with that of the explained number, by the mean square of the difference. The map is first
      multiplied by the factor that makes this smallest, and compared with its own values in random places.
    - Max-sensitivity: the largest ‖Φ(y) − Φ(x)‖ / ‖Φ(x)‖ over inputs y near x, for the same class.
    - Completeness: for methods that promise it, the values sum to the change of the explained number.

    Args:
        attribution: what to test.
        model: the model it came from; it is left as it was.
        x: the inputs it came from (N, …).
        stages: into how many stages the cascade is grouped at most.
        steps: into how many shares the places are cut.
        deletion_fill, insertion_fill: what stands in a deleted place: "mean" of the image's channel, "blur", "zero", a
            number or a tensor. Infidelity takes that of deletion.
        samples: how many rectangles the infidelity is averaged over.
        radius: how far max-sensitivity moves each number of the input at most.
        neighbours: how many moved inputs it tries; each costs the method once more.
        seed: fixes the random parameters, orders, rectangles and moves.
        progress: whether to show a progress bar on a terminal.

    Raises:
        ArgumentError: x does not fit the attribution, the model has no parameters, or a number is out of range.

    Source: J. Adebayo et al., Sanity Checks for Saliency Maps, 2018 (cascading randomisation); V. Petsiuk, A. Das,
    K. Saenko, RISE, 2018, section 4.3 (insertion and deletion); C.-K. Yeh et al., On the (In)fidelity and Sensitivity
    of Explanations, 2019, definitions 2.1 and 3.1.

    >>> import torch
    >>> from cutaway.explain import gradient
    >>> net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x = torch.rand(2, 6)
    >>> check(gradient(net, x), net, x, progress=False).stages
    ('2', '0')
    """
    x = checked(x)
    if min(stages, steps, samples, neighbours) < 1 or radius <= 0:
        raise ArgumentError(
            "check needs stages, steps, samples and neighbours of at least 1 and a radius above 0, got "
            f"{stages=}, {steps=}, {samples=}, {neighbours=}, {radius=}"
        )
    if len(x) != len(attribution.values):
        raise ArgumentError(f"the attribution explains {len(attribution.values)} examples, but x holds {len(x)}")
    graph = G.capture(model, x)
    goal = Objective(attribution.of, attribution.target)
    groups = cascade(graph, stages)
    maps = _cascade_maps(attribution, graph, x, groups, seed, progress)
    trained = attribution.values
    correlations = torch.stack([rank_correlation(trained, each) for each in maps])  # (S, N)
    image = trained.dim() == 4
    similarities = torch.stack([ssim(magnitude(trained), magnitude(each)) for each in maps]) if image else None
    importance = places(attribution.values, x, signed=attribution.method in SIGNED)
    fills = {"deletion": deletion_fill, "insertion": insertion_fill}
    curves = {
        kind: curve(kind, graph, x, goal, importance, fill=fill, steps=steps, seed=seed) for kind, fill in fills.items()
    }
    filled = filling(x, deletion_fill)
    weights = foretold(attribution.method, attribution.values, x, filled)
    faithful = infidelity(graph, x, goal, weights, filled, parts(x, samples, seed), seed)
    sensitivity = max_sensitivity(
        MAPS[attribution.method],
        graph,
        x,
        goal,
        attribution.values,
        attribution.settings,
        radius=radius,
        samples=neighbours,
        seed=seed,
        progress=progress,
    )
    settings = {"stages": stages, "steps": steps, "deletion_fill": deletion_fill, "insertion_fill": insertion_fill}
    settings |= {"samples": samples, "radius": radius, "neighbours": neighbours}
    return Check(
        method=attribution.method,
        stages=tuple(label for label, _ in groups),
        rank_correlation=correlations.cpu(),
        ssim=None if similarities is None else similarities.cpu(),
        scores=1 - correlations.abs().mean(0).cpu(),
        deletion=curves["deletion"],
        insertion=curves["insertion"],
        infidelity=faithful,
        sensitivity=sensitivity,
        gap=attribution.gap,
        settings=settings,
        seed=seed,
    )


def _cascade_maps(
    attribution: Attribution,
    graph: G.Graph,
    x: Tensor,
    groups: list[tuple[str, list[str]]],
    seed: int,
    progress: bool,
) -> list[Tensor]:
    """The map after each stage; the parameters outside the graph are drawn at the last one."""
    module = copied(graph.module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    compute, twin, drawn, maps = MAPS[attribution.method], on(graph, module), set(), []
    for stage, (_, names) in enumerate(track(groups, "randomising", progress)):
        for name in names if stage < len(groups) - 1 else parameters:
            if id(parameters[name]) not in drawn:
                redraw_(parameters[name], rng.generator(seed, "randomize", name))
                drawn.add(id(parameters[name]))
        maps.append(compute(twin, x, Objective(attribution.of, None), **attribution.settings).values)
    return maps
