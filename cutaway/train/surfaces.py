"""Surfaces in the plane that are hard to descend, the test of a critical point, descent paths and restarts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from cutaway.errors import ArgumentError, NonFiniteError
from cutaway.graph import Program, capture
from cutaway.rng import generator
from cutaway.train.optimizers import default_rate, make_optimizer

Function = Callable[[Tensor], Tensor]
Box = tuple[float, float, float, float]  # left, right, bottom, top


def _unit(w: Tensor, b: Tensor, activation: Function) -> Tensor:
    """Mean squared error of a unit with weight w and bias b against the unit with 2 and 0."""
    x = torch.linspace(-2, 2, 9, dtype=w.dtype, device=w.device)
    wrong = activation(w[..., None] * x + b[..., None]) - activation(2 * x)  # (…, 9)
    return wrong.square().mean(-1)


def _cliff(w: Tensor, b: Tensor) -> Tensor:
    """Squared error of a recurrent unit with weight w and bias b that should be at 0.7 after 50 steps."""
    x = torch.full_like(w, 0.5)
    for _ in range(50):
        x = w * torch.sigmoid(x) + b
    return (torch.sigmoid(x) - 0.7) ** 2


@dataclass(frozen=True)
class Surface:
    """A function of points `(…, 2)`, where to start on it, one of its lowest points, and the part worth seeing."""

    height: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    start: tuple[float, float]
    minimum: tuple[float, float]
    box: Box

    def __call__(self, p: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
        return self.height(p[..., 0], p[..., 1])

    @property
    def least(self) -> float:
        """The lowest value there is."""
        return float(self(torch.tensor(self.minimum, dtype=torch.float64)))


# The monkey saddle is bounded by a fourth power. The cliff: Pascanu, Mikolov, Bengio, On the difficulty of training
# recurrent neural networks, 2013, figure 6.
SURFACES: dict[str, Surface] = {
    "bowl": Surface(lambda x, y: x**2 / 2 + y**2, (-1.5, 1.0), (0.0, 0.0), (-2, 2, -1.5, 1.5)),
    "ravine": Surface(lambda x, y: x**2 / 2 + 50 * y**2, (-1.5, 0.3), (0.0, 0.0), (-2, 2, -0.5, 0.5)),
    "rosenbrock": Surface(lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.2, 1.0), (1.0, 1.0), (-2, 2, -1, 3)),
    "saddle": Surface(lambda x, y: (x**2 - y**2) / 2 + y**4 / 4, (1.5, 0.0), (0.0, 1.0), (-2, 2, -1.6, 1.6)),
    "monkey saddle": Surface(
        lambda x, y: x**3 - 3 * x * y**2 + (x**2 + y**2) ** 2, (0.7, 0.0), (-0.75, 0.0), (-1.2, 1, -1.1, 1.1)
    ),
    "quartic": Surface(lambda x, y: x**4 + y**4, (1.5, -1.0), (0.0, 0.0), (-2, 2, -1.5, 1.5)),
    "sigmoid unit": Surface(partial(_unit, activation=torch.sigmoid), (1.0, 8.0), (2.0, 0.0), (-4, 12, -9, 9)),
    "ReLU unit": Surface(partial(_unit, activation=torch.relu), (1.0, 8.0), (2.0, 0.0), (-4, 12, -9, 9)),
    "himmelblau": Surface(
        lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2, (0.0, 0.0), (3.0, 2.0), (-5, 5, -5, 5)
    ),
    "rastrigin": Surface(
        lambda x, y: 20 + x**2 + y**2 - 10 * torch.cos(2 * math.pi * x) - 10 * torch.cos(2 * math.pi * y),
        (3.3, -2.7), (0.0, 0.0), (-5, 5, -5, 5),
    ),
    "cliff": Surface(_cliff, (4.4, -2.6), (0.0, math.log(7 / 3)), (2, 6, -4, 0)),
}  # fmt: skip


@dataclass(frozen=True)
class CriticalPoint:
    """What the second-derivative test says about a point.

    Attributes:
        at: the point `(D,)`.
        value: of the function.
        gradient_norm: length of its gradient.
        hessian: second derivatives `(D, D)`.
        eigenvalues: of the Hessian, ascending `(D,)`.
        verdict: "minimum", "maximum" or "saddle"; "flat" where every eigenvalue vanishes and "undecided" where some
            do and the others have one sign, as the test says nothing there; "not critical" where the gradient is left.
    """

    at: Float64[Tensor, " d"]
    value: float
    gradient_norm: float
    hessian: Float64[Tensor, "d d"]
    eigenvalues: Float64[Tensor, " d"]
    verdict: str

    def __str__(self) -> str:
        bends = ", ".join(f"{one:.3g}" for one in self.eigenvalues.tolist())
        return f"{self.verdict}: gradient norm {self.gradient_norm:.2g}, eigenvalues {bends}"


def critical_point(function: Function, at: Any, tolerance: float = 1e-4) -> CriticalPoint:
    """Test a point by the eigenvalues of the Hessian, the engine's derivative of its own gradient, in float64.

    Args:
        function: of a point `(D,)` to one number.
        at: the point, a tensor or numbers.
        tolerance: gradients up to it count as zero; eigenvalues do up to a millionth of the largest, or of 1.

    Raises:
        ArgumentError: the point is not a row of finite numbers, or the function does not give one number.

    Source: the second partial derivative test; Goodfellow, Bengio, Courville, Deep Learning, 2016, section 4.3.1.

    >>> print(critical_point(lambda p: p[0] ** 2 - 3 * p[1] ** 2, (0.0, 0.0)))
    saddle: gradient norm 0, eigenvalues -6, 2
    """
    return critical_points(function, [_points(at).tolist()], tolerance)[0]


def critical_points(function: Function, at: Any, tolerance: float = 1e-4) -> tuple[CriticalPoint, ...]:
    """Test several points `(N, D)`, see `critical_point`; the derivatives are made once."""
    points = _points(at)
    if points.ndim != 2:
        raise ArgumentError(f"{at!r}: expected points (N, D), or for critical_point one point (D,)")
    program, name = _program(function, points[0])
    second = capture(lambda p: program.differentiable(p)[1][name], points[0])
    slope, moved = second.outputs[0], second.inputs[0]
    bends = second.jacobian(slope, moved) if moved.users and slope is not moved else lambda p: 0 * p.outer(p)
    found = []
    for point in points:
        values, adjoints = program.evaluate(point)
        hessian = bends(point)
        eigenvalues = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
        norm = float(adjoints[name].norm())
        verdict = _verdict(eigenvalues) if norm <= tolerance else "not critical"
        found.append(CriticalPoint(point, float(values["output"]), norm, hessian, eigenvalues, verdict))
    return tuple(found)


def _verdict(eigenvalues: Tensor) -> str:
    zero = 1e-6 * max(1.0, float(eigenvalues.abs().max()))
    up, down = eigenvalues > zero, eigenvalues < -zero
    if up.any() and down.any():
        return "saddle"
    if up.all() or down.all():
        return "minimum" if up.all() else "maximum"
    return "undecided" if up.any() or down.any() else "flat"


@dataclass(frozen=True)
class Descent:
    """Where descent went.

    Attributes:
        function: that was descended.
        path: the points, the start first: `(S + 1, D)`, or `(S + 1, N, D)` from N starts.
        values: of the function there, `(S + 1,)` or `(S + 1, N)`.
        settings: what it was run with.
    """

    function: Function
    path: Float64[Tensor, "s *n d"]
    values: Float64[Tensor, "s *n"]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def diverged(self) -> Bool[Tensor, "*n"]:
        """Whether it ended higher than it began, or outside of the finite numbers."""
        return ~(self.values[-1] <= self.values[0])

    @property
    def best(self) -> int:
        """Which of N starts ended lowest."""
        return int(self.values[-1].where(self.values[-1].isfinite(), math.inf).argmin())

    def __str__(self) -> str:
        ends = self.values[-1]
        if not ends.ndim:
            return f"{self.settings['optimizer']}: {self.values[0]:.4g} to {ends:.4g} in {len(self.path) - 1} steps"
        where = ", ".join(f"{x + 0:.4g}" for x in self.path[-1, self.best].round(decimals=6).tolist())
        return (
            f"kept start {self.best} of {len(ends)}: {ends[self.best]:.4g} at ({where}); the first alone gives "
            f"{ends[0]:.4g}, the median {ends.nanmedian():.4g}"
        )

    def steps_to(self, value: float) -> int | None:
        """Steps until the value of a single path was reached; None if it was not."""
        reached = (self.values <= value).nonzero()
        return int(reached[0, 0]) if len(reached) else None

    def plot(self, box: Box | None = None) -> Any:
        """Draw a path in the plane over contour lines, in a box (left, right, bottom, top) or around the path."""
        from matplotlib.figure import Figure  # matplotlib only where something is drawn

        figure = Figure(figsize=(4.6, 3.8), layout="constrained")
        axis = figure.subplots()
        low, high = self.path.flatten(0, -2).nan_to_num(0, 0, 0).aminmax(dim=0)
        room = 0.3 * (high - low) + 0.1
        (left, bottom), (right, top) = (low - room).tolist(), (high + room).tolist()
        contours(axis, self.function, box or (left, right, bottom, top))
        axis.plot(*self.path.unbind(-1), ".-", color="C3", markersize=3, linewidth=1)
        return figure


def descend(
    function: Function,
    start: Any,
    optimizer: str = "sgd",
    lr: float | None = None,
    steps: int = 200,
    clip: float | None = None,
    noise: float = 0.0,
    seed: int = 0,
    **settings: Any,
) -> Descent:
    """Descend a function from a point, or from several at once, by a named optimiser and the engine's gradients.

    Args:
        function: of points `(D,)` to a number, or of `(…, D)` to `(…)`, each point for itself.
        start: one point `(D,)` or several `(N, D)`.
        optimizer: a name of `OPTIMIZERS`.
        lr: learning rate; None for the one the optimiser starts from.
        steps: at least 1.
        clip: largest norm of a gradient; longer ones are scaled down to it. None for no limit.
        noise: standard deviation of normal noise added to every gradient, as mini-batches do.
        seed: of the noise.
        settings: of the optimiser.

    Raises:
        ArgumentError: a number is out of range.
        LookupFailure: the optimiser is unknown.

    >>> way = descend(SURFACES["bowl"], (1.0, 1.0), lr=0.1, steps=100)
    >>> way.path.shape, way.steps_to(0.01)
    (torch.Size([101, 2]), 19)
    """
    here = _points(start)
    if steps < 1 or noise < 0 or (clip is not None and not clip > 0):
        raise ArgumentError(f"steps={steps}, noise={noise}, clip={clip}: expected steps ≥ 1, noise ≥ 0 and clip > 0")
    rate = default_rate(optimizer) if lr is None else lr
    how = {"optimizer": optimizer, "lr": rate, "steps": steps, "clip": clip, "noise": noise}
    if optimizer == "lbfgs" and here.ndim > 1:  # its steps mix what it is given
        each = [descend(function, one, **{**how, "seed": seed + i}, **settings) for i, one in enumerate(here)]
        path, values = (torch.stack([getattr(one, what) for one in each], 1) for what in ("path", "values"))
        return Descent(function, path, values, {**how, "seed": seed, **settings})
    program, name = _program(function, here)
    weight, draws = nn.Parameter(here.clone()), generator(seed, "descend")
    mover = make_optimizer(optimizer, [{"params": [weight]}], how["lr"], **settings)

    def look() -> float:
        values, adjoints = program.evaluate(weight.detach())
        slope = adjoints[name]
        if clip is not None:
            slope = slope * (clip / slope.norm(dim=-1, keepdim=True)).clamp(max=1)
        weight.grad = slope + noise * torch.randn(slope.shape, generator=draws, dtype=slope.dtype)
        return float(values["output"].sum())

    path = [here]
    for _ in range(steps):
        mover.step(look)
        path.append(weight.detach().clone())
    points = torch.stack(path)
    with torch.no_grad():
        return Descent(function, points, function(points), {**how, "seed": seed, **settings})


def restarts(function: Function, starts: Any = 20, box: Box = (-1, 1, -1, 1), seed: int = 0, **how: Any) -> Descent:
    """Descend from several starts; `.best` is the one that ends lowest, never one that does not end finite.

    Args:
        function: of points `(…, D)`, see `descend`.
        starts: points `(N, D)`, or a number of them to draw uniformly from a box in the plane.
        box: left, right, bottom and top of it.
        seed: of the drawing and of the noise.
        how: settings of `descend`.

    Raises:
        ArgumentError: there is no start.
        NonFiniteError: every path left the finite numbers.

    >>> print(restarts(SURFACES["rastrigin"], [(0.1, 0.9), (2.9, 3.2), (0.9, -2.1)], lr=0.002))
    kept start 0 of 3: 0.995 at (0, 0.995); the first alone gives 0.995, the median 4.975
    """
    if isinstance(starts, int):
        left, right, bottom, top = box
        drawn = torch.rand(max(starts, 0), 2, generator=generator(seed, "restarts"), dtype=torch.float64)
        starts = torch.tensor([left, bottom]) + drawn * torch.tensor([right - left, top - bottom])
    points = _points(starts)
    if points.ndim != 2 or not len(points):
        raise ArgumentError(f"starts has the shape {tuple(points.shape)}: expected points (N, D), at least one")
    found = descend(function, points, seed=seed, **how)
    if not found.values[-1].isfinite().any():
        raise NonFiniteError(
            f"all {len(points)} paths left the finite numbers; lower lr={found.settings['lr']} or clip"
        )
    return found


def contours(axis: Any, function: Function, box: Box, least: float | None = None) -> None:
    """Draw contour lines of a function in the plane, evenly spaced in the logarithm of the height above the lowest."""
    left, right, bottom, top = box
    x, y = torch.linspace(left, right, 160).double(), torch.linspace(bottom, top, 160).double()
    heights = function(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1))  # (160, 160)
    floor = float(heights.min()) if least is None else least
    above = torch.log10(heights - floor + 1e-3 * float(heights.max() - floor) + 1e-12)
    axis.contourf(x, y, above, 24, cmap="Greys", alpha=0.5)
    axis.contour(x, y, above, 12, colors="0.55", linewidths=0.5)
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _points(given: Any) -> Float[Tensor, "*n d"]:
    points = torch.as_tensor(given, dtype=torch.float64).detach()
    if not points.ndim or not points.isfinite().all():
        raise ArgumentError(f"{given!r}: expected a point of finite numbers, or several")
    return points


def _program(function: Function, points: Tensor) -> tuple[Program, str]:
    """The engine's value and gradient of a function, and the name of its input."""
    captured = capture(function, points)
    shape = tuple(function(points).shape)
    if shape != points.shape[:-1]:
        raise ArgumentError(f"the function gives {shape} for points {tuple(points.shape)}: expected one number each")
    name = captured.inputs[0].name
    return captured.gradient("output", name), name
