"""The result of every explanation method."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError
from cutaway.explain import picture
from cutaway.explain.objective import Of
from cutaway.explain.similarity import magnitude
from cutaway.saving import save, save_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERPOLATION = {3: "linear", 4: "bilinear", 5: "trilinear"}  # by the number of dimensions of the map


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each part of each input (or each place of a layer's map) counts for the explained number.

    Attributes:
        values: shaped like the input (N, C, H, W), like one channel of it (N, 1, H, W) where whole places are
            covered, or like the layer's map (N, 1, h, w) or units (N, C, h, w).
        method: the name of the method, as in `cutaway.explain.METHODS`.
        target: the explained classes (N,); None where `of` is a function.
        of: "logit", "log_probability" or the user's function.
        layer: the node whose map is explained; None for the input.
        scores: quick sanity score of each map (N,): 1 − |rank correlation| between this map and the same method's map
            for a copy of the model whose upper half has random parameters. Near 1: the map depends on what the model
            has learned; near 0: the method draws the same picture for a model that has not learned it. None where it
            was turned off or the model has no parameters; NaN where one of the two maps is constant.
        gap: completeness error of each map (N,), relative: |sum of values − promised sum| / |promised sum|; None where
            the method promises no sum.
        settings: the method's further arguments, enough to compute the map again.
        seed: fixes the method's random numbers and the randomised copy.
        warning: what to beware of, in words; empty if nothing was found.
    """

    values: Float[Tensor, "n ..."]
    method: str
    target: Int[Tensor, " n"] | None
    of: Of
    layer: str | None = None
    scores: Float[Tensor, " n"] | None = None
    gap: Float[Tensor, " n"] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    warning: str = ""

    @property
    def score(self) -> float | None:
        """The mean of `scores`, between 0 (fails the sanity test) and 1; None where no map could be scored."""
        return None if self.scores is None or self.scores.isnan().all() else float(self.scores.nanmean())

    def magnitude(self) -> Float[Tensor, "n h w"]:
        """How strongly each place counts: absolute values, summed over channels."""
        return magnitude(self.values)

    def channels(self) -> Float[Tensor, "n c"]:
        """How much each channel (of a layer: each unit) counts: the sum over its places.

        >>> import torch
        >>> Attribution(torch.ones(1, 2, 3, 3), "layer_attribution", None, "logit").channels()
        tensor([[9., 9.]])
        """
        return self.values.flatten(2).sum(2) if self.values.dim() > 2 else self.values

    def upsampled(self, size: int | tuple[int, ...]) -> Float[Tensor, "n c h w"]:
        """Interpolate the map (bilinearly, corners not aligned) to another size.

        Args:
            size: (H, W) in pixels, or one number for a square.

        >>> import torch
        >>> Attribution(torch.ones(1, 1, 2, 2), "grad_cam", None, "logit").upsampled(4).shape
        torch.Size([1, 1, 4, 4])
        """
        return upsample(self.values, size)

    def plot(self, x: Float[Tensor, "n c h w"] | None = None, **options: Any) -> "Figure":
        """Draw each map beside its input; see `cutaway.explain.picture.draw` for the options.

        Args:
            x: the explained inputs (N, C, H, W) in [0, 1]; without them the maps stand alone.
        """
        return picture.draw(self, x, **options)

    def save(self, path: str | Path, x: Float[Tensor, "n c h w"] | None = None, **options: Any) -> Path:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz: values, target, scores, gap and `about` as JSON).

        Args:
            path: where to; the ending decides.
            x: the explained inputs, for pictures.

        Returns:
            The path.

        Raises:
            ArgumentError: the ending is none of these.
        """
        tensors = {"values": self.values, "target": self.target, "scores": self.scores, "gap": self.gap}
        about = {"method": self.method, "of": self.of, "layer": self.layer, "settings": dict(self.settings)}
        about |= {"seed": self.seed, "warning": self.warning}
        numbers = partial(save_arrays, tensors=tensors, about=about)
        return save(path, lambda: self.plot(x, **options), numbers, ".npz")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.plot().savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def __repr__(self) -> str:
        score = "no score" if self.score is None else f"score {self.score:.2f}"
        layer = f" at {self.layer}" if self.layer else ""
        warning = f"; {self.warning}" if self.warning else ""
        return f"<{self.method}{layer} {tuple(self.values.shape)}, {score}{warning}>"


def upsample(values: Float[Tensor, "n c ..."], size: int | tuple[int, ...]) -> Float[Tensor, "n c ..."]:
    """Interpolate maps (N, C, L), (N, C, H, W) or (N, C, D, H, W) linearly to another size."""
    if values.dim() not in INTERPOLATION:
        raise ArgumentError(f"a map of shape {tuple(values.shape)} has no places to interpolate between")
    return F.interpolate(values, size, mode=INTERPOLATION[values.dim()], align_corners=False)
