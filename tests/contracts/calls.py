"""How the contract of the backward rules writes its example calls.

A call's arguments are as in ATen, with `T(…)` for each tensor. Every real tensor is differentiated unless it says
`fixed=True`. Values are random and seeded, and stay away from kinks unless the shape of the example is about them.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

inf = float("inf")


@dataclass(frozen=True)
class T:
    """A random tensor: its sizes and what numbers it holds.

    kind: "normal", "positive" (0.5 … 2), "unit" (0.1 … 0.9), "wide" (−4 … 4), "distinct" (a permutation), "bool",
        "probabilities" (rows that sum to one), "zeros" (normal with some exact zeros), or an int n: integers below n.
    layout: "plain", "transposed" (not contiguous), "strided" (every second entry of a larger tensor), "expanded".
    """

    sizes: tuple[int, ...] = ()
    kind: Any = "normal"
    layout: str = "plain"
    dtype: torch.dtype = torch.float64
    fixed: bool = False
    values: Any = None

    def make(self, generator: torch.Generator) -> torch.Tensor:
        """The tensor itself."""
        if self.values is not None:
            return torch.tensor(self.values, dtype=self.dtype if self.kind == "normal" else None)
        sizes = list(self.sizes)
        if self.layout == "transposed":
            return self._draw([*sizes[:-2], sizes[-1], sizes[-2]], generator).mT
        if self.layout == "strided":
            return self._draw([*sizes[:-1], 2 * sizes[-1]], generator)[..., ::2]
        if self.layout == "expanded":
            return self._draw([1, *sizes[1:]], generator).expand(sizes)
        return self._draw(sizes, generator)

    def _draw(self, sizes: list[int], generator: torch.Generator) -> torch.Tensor:
        if isinstance(self.kind, int):
            return torch.randint(self.kind, sizes, generator=generator)
        if self.kind == "bool":
            return torch.rand(sizes, generator=generator) < 0.5
        if self.kind == "distinct":
            count = torch.Size(sizes).numel()
            return (torch.randperm(count, generator=generator).to(self.dtype) / 3 - count / 6 + 0.1).reshape(sizes)
        uniform = torch.rand(sizes, generator=generator, dtype=torch.float64)
        normal = torch.randn(sizes, generator=generator, dtype=torch.float64)
        drawn = {
            "normal": normal,
            "positive": 0.5 + 1.5 * uniform,
            "unit": 0.1 + 0.8 * uniform,
            "wide": 8 * uniform - 4,
            "zeros": normal * (uniform > 0.4),
            "probabilities": normal.softmax(-1) if sizes else normal,
        }[self.kind]
        return drawn.to(self.dtype)


SETTINGS = ("overload", "second", "served", "random", "constant", "outputs")


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    overload: which one, where the row serves several.
    second: whether second derivatives are compared too.
    served: whether the second derivative must be served by the table alone.
    random: the operation draws random numbers.
    constant: it has no derivative, which autograd says by an error.
    outputs: how many of its outputs are differentiated (the others are by-products for the way back); 0 means all.
    """

    args: tuple
    keywords: dict[str, Any] = field(default_factory=dict)
    overload: str = ""
    second: bool = True
    served: bool = True
    random: bool = False
    constant: bool = False
    outputs: int = 0


def call(*args: Any, **keywords: Any) -> Call:
    """Write a call as the operation is called, with the settings of `Call` among the keywords."""
    settings = {name: keywords.pop(name) for name in SETTINGS if name in keywords}
    return Call(args, keywords, **settings)


def each(*shapes: tuple[int, ...], kind: Any = "normal", **keywords: Any) -> list[Call]:
    """Calls with one tensor, for several shapes."""
    return [call(T(shape, kind), **keywords) for shape in shapes]


# the grid of shapes for functions of one number: scalar, vector, matrix, empty batch, not contiguous
def pointwise(kind: Any = "normal", *rest: Any, **keywords: Any) -> list[Call]:
    """One argument in the usual shapes and layouts, then the other arguments."""
    shapes = [T((), kind), T((2, 3), kind), T((0, 3), kind), T((3, 4), kind, "transposed")]
    return [call(shape, *rest, **keywords) for shape in shapes]


# … and of two that are broadcast
def pairwise(first: Any = "normal", second: Any = "normal", *rest: Any, **keywords: Any) -> list[Call]:
    """Two arguments: equal, broadcast on either side and on both, scalars, an empty batch, not contiguous."""
    shapes = [
        ((2, 3), (2, 3)),
        ((2, 3), (3,)),
        ((3,), (2, 3)),
        ((2, 1, 3), (4, 1)),
        ((), (2,)),
        ((2,), ()),
        ((0, 3), (3,)),
    ]
    calls = [call(T(a, first), T(b, second), *rest, **keywords) for a, b in shapes]
    return [*calls, call(T((3, 2), first, "transposed"), T((3, 2), second, "strided"), *rest, **keywords)]
