"""The weights of a convolution as pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError, nearest
from cutaway.saving import save_arrays
from cutaway.visualize import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 256  # filters in one picture


@dataclass(frozen=True, eq=False)
class Filters:
    """The kernels of a layer.

    Attributes:
        weights: (O, C, K, L), as the layer has them; (O, C, K) for signals.
        name: the parameter's name.
        dead: which filters are zero everywhere, (O,).
    """

    weights: Float[Tensor, "o c ..."]
    name: str
    dead: torch.Tensor

    def images(self) -> Float[Tensor, "o c ..."]:
        """The kernels in [0, 1], grey for zero, all on one scale: the 99.5 % quantile of their magnitudes.

        >>> Filters(torch.tensor([[[[-2.0, 2.0]]]]), "conv.weight", torch.zeros(1)).images()
        tensor([[[[0., 1.]]]])
        """
        magnitudes = self.weights.abs().flatten().sort().values
        end = magnitudes[min(len(magnitudes) - 1, round(0.995 * (len(magnitudes) - 1)))]
        end = end if end > 0 else magnitudes[-1].clamp(min=1e-12)
        return (0.5 + self.weights / (2 * end)).clamp(0, 1)

    def plot(self, columns: int | None = None) -> "Figure":
        """Draw the kernels: in colour where they read three channels, else one row per input channel's mean."""
        shown = min(len(self.weights), LIMIT)
        columns = columns or max(4, round(shown**0.5 * 1.3))
        images = self.images()[:shown]
        more = f", first {shown} of {len(self.weights)}" if shown < len(self.weights) else ""
        mean = f", mean over {images.shape[1]} channels" if images.shape[1] not in (1, 3) else ""
        dead = f", {int(self.dead.sum())} zero" if self.dead.any() else ""
        title = f"{self.name}: {tuple(self.weights.shape)}{more}{mean}{dead}"
        figure, axes = picture.grid(shown, columns, "", side=0.55, extra=-0.22)
        for axis, image, dead_one in zip(axes, images, self.dead, strict=False):
            if dead_one:
                picture.show_dead(axis, "0")
            else:
                picture.show(axis, image)
        figure.suptitle(title, fontsize=8)
        return figure

    def save(self, path: str) -> Any:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz: weights and `about`)."""
        if str(path).lower().endswith(".npz"):
            return save_arrays(path, {"weights": self.weights, "dead": self.dead}, {"name": self.name})
        return picture.save_figure(path, self.plot())

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())


def filters(
    model: nn.Module | Callable,
    layer: str | None = None,
    x: Float[Tensor, "n ..."] | None = None,
    shape: tuple[int, ...] | None = None,
) -> Filters:
    """Show the weights of a convolution or linear layer; by default the first, which reads the image.

    Args:
        model: a module; or a function, together with x.
        layer: another one by name; where it reads more than three channels, kernels are drawn as their mean.
        x: an input (N, …), to find the layers in the graph, in the order they run; without it the first in the order
            the modules were made.
        shape: of the images (C, H, W) that a linear layer reads; by default grey and square where their number fits.

    Raises:
        ArgumentError: the model has no such layer, or the shape does not fit.
        LookupFailure: no layer has this name.

    Source: M. D. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, 2014, figure 2.

    >>> filters(nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 8, 3))).weights.shape
    torch.Size([4, 3, 5, 5])
    """
    found = dict(_in_graph(model, x) if x is not None else _in_modules(model))
    if layer is not None and layer not in found:
        raise nearest(layer, found, "convolution or linear layer")
    if not found:
        raise ArgumentError("the model has no convolution or linear layer whose weights could be shown")
    name = layer or next(iter(found))
    parameter, weights = found[name]
    weights = _as_images(weights.detach().cpu().float().clone(), shape)
    return Filters(weights, parameter, (weights == 0).flatten(1).all(1))


def _as_images(weights: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """A linear layer's rows as images."""
    if weights.dim() > 2:
        return weights
    side = round(weights.shape[1] ** 0.5)
    shape = shape or ((1, side, side) if side * side == weights.shape[1] else (1, 1, weights.shape[1]))
    if torch.Size(shape).numel() != weights.shape[1]:
        raise ArgumentError(f"shape={shape} does not fit the {weights.shape[1]} inputs of the layer")
    return weights.unflatten(1, shape)


def _in_modules(model: nn.Module | Callable) -> list[tuple[str, tuple[str, Tensor]]]:
    if not isinstance(model, nn.Module):
        raise ArgumentError("filters of a function need an input x, to find the convolutions in its graph")
    return [
        (name, (f"{name}.weight", module.weight))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    ]


def _in_graph(model: nn.Module | Callable, x: Tensor) -> list[tuple[str, tuple[str, Tensor]]]:
    graph = G.capture(model, x)
    rows = []
    for node in graph.nodes:
        if node.op_name in ("conv1d", "conv2d", "conv3d", "convolution", "linear"):
            weight = node.inputs[1]
            if weight.op is None:
                rows.append((node.name, (weight.name, graph.leaf_value(weight))))
    return rows
