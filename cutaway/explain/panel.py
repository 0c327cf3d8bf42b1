"""One picture for several explanations of one image: the image and the maps side by side, each with its score."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.explain.attribution import Attribution
from cutaway.explain.frame import PASSES
from cutaway.explain.picture import ORANGE, Cell, collapse, scales, show, show_image, spelled, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 5


def panel(image: Float[Tensor, "c h w"], maps: Mapping[str, Attribution], title: str = "") -> "Figure":
    """Draw an image and what several methods say about it; a method that fails its sanity test says so.

    Args:
        image: with values in [0, 1].
        maps: attributions by name, each of a batch of one.
        title: what is explained.

    Returns:
        A matplotlib figure; nothing is shown or written.

    Raises:
        ArgumentError: there are no maps, or one of them is none of an image.

    >>> import torch
    >>> from cutaway.explain import gradient
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> len(panel(torch.ones(1, 2, 2), {"gradient": gradient(net, torch.ones(1, 1, 2, 2))}).axes)
    2
    """
    from matplotlib.figure import Figure

    flat = [name for name, one in maps.items() if one.values.dim() != 4]
    if not maps or flat:
        raise ArgumentError(f"a panel shows maps (N, C, H, W) of images; got {flat or 'none'}")
    cells = len(maps) + 1
    columns = min(cells, COLUMNS)
    rows = -(-cells // columns)
    figure = Figure(figsize=(2.3 * columns, 2.75 * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    image = image.detach().cpu().float()
    show_image(axes[0], image)
    axes[0].set_title("the image", fontsize=9)
    for axis, (name, one) in zip(axes[1:], maps.items(), strict=False):
        _draw(axis, name, one, image)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw(axis: "Axes", name: str, one: Attribution, image: Float[Tensor, "c h w"]) -> None:
    values = one.values.detach().cpu().float()[:1]
    style = style_of(one, "auto", values)
    drawn = collapse(values, style)
    layered = drawn.shape[-2:] != image.shape[-2:]
    cell = Cell(drawn[0], scales(drawn, False)[0], image if layered else None, "", "")
    show([axis], cell, style, 0.85)
    words, colour = _heading(name, one)
    axis.set_title(words, fontsize=9, color=colour)


def _heading(name: str, one: Attribution) -> tuple[str, str]:
    """The title of a map and its colour."""
    if one.score is None:
        return spelled(name) + "\n", "black"
    failed = one.score < PASSES
    words = f"sanity score {one.score:.2f}" + (": fails" if failed else "")
    return f"{spelled(name)}\n{words}", ORANGE if failed else "black"
