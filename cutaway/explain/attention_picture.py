"""The picture of a model's attention: a row for each layer, a cell for each head."""

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.explain.picture import UNSIGNED, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cutaway.explain.attention import AttentionMaps


def draw(
    maps: "AttentionMaps",
    example: int = 0,
    *,
    token: int | None = None,
    x: Float[Tensor, "n c h w"] | None = None,
    heads: int = 12,
) -> "Figure":
    """Draw every head of every layer for one example, each on a scale from 0 to its own largest weight.

    Args:
        maps: what to draw.
        example: which one.
        token: draw what this token looks at as a map of the image; None takes the class token where there is one, and
            otherwise draws whole matrices, queries downwards and keys to the right.
        x: the inputs, for the picture of the example beside them.
        heads: at most so many of each layer.

    Raises:
        ArgumentError: there is no such example.
    """
    from matplotlib.figure import Figure

    first = next(iter(maps.weights.values()))
    if not -len(first) <= example < len(first):
        raise ArgumentError(f"example={example}: there are {len(first)} examples")
    grid = maps.grid
    token = 0 if token is None and grid is not None and grid.extra else token
    columns = min(heads, max(each.shape[1] for each in maps.weights.values()))
    wide = columns + (x is not None)
    rows = len(maps.weights)
    figure = Figure(figsize=(max(0.95 * wide + 0.5, 4.5), 1.08 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, wide, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    if x is not None:
        show_image(axes[0, 0], x[example].detach().cpu())
    for row, (name, weights) in zip(axes[:, wide - columns :], maps.weights.items(), strict=True):
        for head, axis in enumerate(row[: weights.shape[1]]):
            cell = weights[example, head].detach().cpu().float()  # (L, S)
            if token is not None:
                cell = cell[token][None, :, None]  # (1, S, 1)
                cell = grid.as_map(cell)[0, 0] if grid is not None else cell[..., 0]
            axis.imshow(cell.numpy(), cmap=UNSIGNED, vmin=0)
            if head == 0:
                axis.set_title(_short(name), fontsize=7, loc="left")
    figure.suptitle(_title(token, grid is not None and bool(grid.extra)), fontsize=10)
    return figure


def _title(token: int | None, classed: bool) -> str:
    if token is None:
        return "attention by head: queries down, keys across"
    who = "the class token" if token == 0 and classed else f"token {token}"
    return f"what {who} looks at, by head"


def _short(name: str) -> str:
    """The module's name; of a long one the end."""
    for operation in (".scaled_dot_product_attention", ".softmax"):
        name = name.replace(operation, "")
    return name if len(name) <= 34 else "…" + name[-33:]
