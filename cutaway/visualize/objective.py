"""What an image is changed for: numbers of layers' values, that add, subtract and multiply."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError

IMAGE = "image"  # stands for the image itself, before it is transformed
Values = Mapping[str, Tensor]  # layers' values by name


@dataclass(frozen=True)
class Term:
    """One summand: a function of the values of some layers to one number for each image.

    Attributes:
        layers: their names.
        function: of their values by name.
        side: whether it is a side condition, which does not make a unit less dead.
    """

    layers: frozenset[str]
    function: Callable[[Values], Float[Tensor, " n"]]
    side: bool = False


@dataclass(frozen=True)
class Objective:
    """A number for each image, made larger by `optimize`: a sum of terms.

    Objectives add, subtract and multiply with each other and with numbers: `channel("conv2", 3) - 0.1 * l2()`.

    Attributes:
        terms: the summands.
        words: what it is, for titles.
        count: for how many images at once it is made (several channels: one image each); 1 for any number.
        titles: what each of these images is for.
    """

    terms: tuple[Term, ...]
    words: str
    count: int = 1
    titles: tuple[str, ...] = ()

    @property
    def layers(self) -> list[str]:
        """The layers whose values it needs, without the image itself."""
        return sorted({name for term in self.terms for name in term.layers} - {IMAGE})

    @property
    def separable(self) -> bool:
        """Whether each term looks at one layer only, so that each layer's adjoint needs only its own value."""
        return all(len(term.layers) == 1 for term in self.terms)

    def part(self, keep: Callable[[Term], bool]) -> "Objective":
        """The sum of some of the terms."""
        return replace(self, terms=tuple(term for term in self.terms if keep(term)))

    def value(self, values: Values) -> Float[Tensor, " n"]:
        """The number of each image (N,), from layers' values by name."""
        n = len(next(iter(values.values())))
        found = [term.function(values) for term in self.terms]
        for each in found:
            if each.shape != (n,):
                raise ArgumentError(f"{self.words}: a term gave shape {tuple(each.shape)} for {n} images, not ({n},)")
        return torch.stack(found).sum(0) if found else next(iter(values.values())).new_zeros(n)

    def __add__(self, other: "Objective | float") -> "Objective":
        other = objective_of(other)
        return _joined(self.terms + other.terms, f"{self.words} + {other.words}", self, other)

    def __neg__(self) -> "Objective":
        return self._scaled(-1.0, f"−({self.words})" if len(self.terms) > 1 else f"−{self.words}")

    def __sub__(self, other: "Objective | float") -> "Objective":
        other = objective_of(other)
        words = f"({other.words})" if len(other.terms) > 1 else other.words
        return _joined(self.terms + (-other).terms, f"{self.words} − {words}", self, other)

    def __mul__(self, other: "Objective | float") -> "Objective":
        if not isinstance(other, Objective):
            return self._scaled(float(other), f"{other:g} × {_bracketed(self)}")
        pairs = tuple(_product(a, b) for a in self.terms for b in other.terms)
        return _joined(pairs, f"{_bracketed(self)} × {_bracketed(other)}", self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> "Objective":
        return objective_of(other) - self

    def __repr__(self) -> str:
        return f"<Objective {self.words}>"

    def _scaled(self, factor: float, words: str) -> "Objective":
        terms = tuple(Term(term.layers, _times(term.function, factor), term.side) for term in self.terms)
        return replace(self, terms=terms, words=words)


def objective_of(number: "Objective | float") -> Objective:
    """An objective as it is; a number as the constant one, which changes no gradient."""
    if isinstance(number, Objective):
        return number
    constant = float(number)
    term = Term(frozenset([IMAGE]), lambda values: values[IMAGE].new_full((len(values[IMAGE]),), constant))
    return Objective((term,), f"{constant:g}")


def custom(
    layer: str,
    function: Callable[[Tensor], Tensor],
    words: str | None = None,
    count: int = 1,
    titles: tuple[str, ...] = (),
    side: bool = False,
) -> Objective:
    """Make an objective of any function of one layer's value.

    Args:
        layer: a node or module by name; "image" for the image (N, C, H, W) itself.
        function: from the layer's value (N, …) to one number for each image (N,), differentiable by torch.
        words: what it is, for titles.
        count: for how many images at once; titles: what each of them is for.
        side: whether it is a side condition, as diversity is: a unit that only this moves is dead.

    >>> import torch
    >>> (custom("fc", lambda z: z.sum(1)) * 2).value({"fc": torch.ones(1, 3)})
    tensor([6.])
    """
    term = Term(frozenset([layer]), lambda values: function(values[layer]), side)
    return Objective((term,), words or layer, count, titles)


def _joined(terms: tuple[Term, ...], words: str, a: Objective, b: Objective) -> Objective:
    """An objective made of two, if they are for as many images.

    Raises:
        ArgumentError: they are not.
    """
    counts = {a.count, b.count} - {1}
    if len(counts) > 1:
        raise ArgumentError(f"{a.words} is for {a.count} images and {b.words} for {b.count}: they cannot be combined")
    return Objective(terms, words, counts.pop() if counts else 1, a.titles or b.titles)


def _times(function: Callable[[Values], Tensor], factor: float) -> Callable[[Values], Tensor]:
    return lambda values: factor * function(values)


def _product(a: Term, b: Term) -> Term:
    return Term(a.layers | b.layers, lambda values: a.function(values) * b.function(values))


def _bracketed(objective: Objective) -> str:
    return f"({objective.words})" if len(objective.terms) > 1 else objective.words
