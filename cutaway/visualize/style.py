"""Style transfer: the content of one image in the manner of another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError, nearest
from cutaway.progress import track
from cutaway.rng import generator
from cutaway.saving import save_arrays
from cutaway.visualize import picture
from cutaway.visualize.dream import _image, _resized
from cutaway.visualize.network import Network, home, network
from cutaway.visualize.objective import IMAGE, Objective, custom
from cutaway.visualize.targets import total_variation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECTIFIERS = ("relu", "hardtanh", "gelu", "silu", "hardswish", "clamp")
OPTIMIZERS, STARTS = ("lbfgs", "adam"), ("content", "noise")
GREY = (0.299, 0.587, 0.114)  # luminance of red, green and blue, ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Styled:
    """An image with the content of one and the style of another.

    Attributes:
        image: (1, 3, H, W) in [0, 1].
        content, style: what it was made of, as they were seen.
        history: at each evaluation the network's loss (content and style), that of the variation, and what keeps the
            image in [0, 1] (evaluations, 3), weights included.
        settings: the further arguments; seed: fixes the noise.
    """

    image: Float[Tensor, "1 c h w"]
    content: Float[Tensor, "1 c h w"]
    style: Float[Tensor, "1 c h w"]
    history: Float[Tensor, "evaluations 3"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def plot(self) -> "Figure":
        """Draw content, style and result."""
        figure, axes = picture.grid(3, 3, "", side=2.8)
        for axis, image, title in zip(
            axes, (self.content, self.style, self.image), ("content", "style", "both"), strict=True
        ):
            picture.show(axis, image[0], title)
        return figure

    def save(self, path: str) -> Any:
        """Write the image pixel by pixel (.png, .jpg, .webp) or the numbers (.npz: image, content, style, history)."""
        if str(path).lower().endswith(".npz"):
            tensors = {"image": self.image, "content": self.content, "style": self.style, "history": self.history}
            return save_arrays(path, tensors, {"settings": dict(self.settings), "seed": self.seed})
        return picture.save_image(path, self.image[0])

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())

    def __repr__(self) -> str:
        return f"<styled image {tuple(self.image.shape)}, loss {float(self.history[-1].sum()):.3g}>"


def gram(z: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c c"]:
    """The Gram matrix of a layer's channels: the mean over places of the product of each two.

    Source: L. A. Gatys, A. S. Ecker, M. Bethge, A Neural Algorithm of Artistic Style, 2015, eq. 3.

    >>> gram(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[[ 2.5000,  5.5000],
             [ 5.5000, 12.5000]]])
    """
    maps = z.flatten(2)
    return maps @ maps.transpose(1, 2) / maps.shape[2]


def style(
    model: nn.Module | Callable,
    content: Float[Tensor, "1 3 h w"],
    style: Float[Tensor, "1 3 h w"],
    *,
    content_layers: Sequence[str] | Mapping[str, float] | None = None,
    style_layers: Sequence[str] | Mapping[str, float] | None = None,
    content_weight: float = 1.0,
    style_weight: float = 1000.0,
    tv_weight: float = 1.0,
    start: str = "content",
    optimizer: str = "lbfgs",
    steps: int = 100,
    lr: float | None = None,
    keep_colour: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Styled:
    """Paint one image in the style of another.

    Each layer's loss is relative: the squared distance of the values (content) or Gram matrices (style) over the
    squared norm of those aimed at. The weights then mean the same on every network.

    Args:
        model: a module or function of images (N, 3, H, W) in [0, 1] that takes the content's size.
        content, style: images (1, 3, H, W) or (3, H, W) in [0, 1]; the style is scaled to the content's size.
        content_layers, style_layers: nodes or modules by name, or {name: weight}; by default five maps
            spread over the lower three quarters, the content at the last of them.
        content_weight, style_weight, tv_weight: of the two losses, and of the image's total variation.
        start: "content" or "noise".
        optimizer: "lbfgs" or "adam".
        steps: evaluations of the gradient.
        lr: the learning rate; 1 for L-BFGS and 0.02 for Adam by default.
        keep_colour: transfer the luminance only, and keep the content's colours.
        seed: fixes the noise.
        progress: show a bar on a terminal.

    Raises:
        ArgumentError: a setting is out of range, or an image is none.
        LookupFailure: a layer, start or optimiser is unknown.

    Source: L. A. Gatys, A. S. Ecker, M. Bethge, A Neural Algorithm of Artistic Style, 2015, and, for colours,
    L. A. Gatys et al., Preserving Color in Neural Artistic Style Transfer, 2016, section 4 (luminance only).

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU())
    >>> style(net, torch.rand(1, 3, 16, 16), torch.rand(1, 3, 20, 20), steps=3).image.shape
    torch.Size([1, 3, 16, 16])
    """
    painted, manner = _image(content, "content"), _image(style, "style")
    if painted.shape[1] != 3 or manner.shape[1] != 3:
        raise ArgumentError(f"content and style are colour images (1, 3, H, W), got {painted.shape} and {manner.shape}")
    for given, known, what in ((start, STARTS, "start"), (optimizer, OPTIMIZERS, "optimiser")):
        if given not in known:
            raise nearest(given, known, what)
    if steps < 1:
        raise ArgumentError(f"style needs steps >= 1, got {steps}")
    there = home(model)
    shown = (_grey(painted), _grey(manner)) if keep_colour else (painted, manner)
    first, second = shown[0].to(**there), _resized(shown[1].to(**there), tuple(painted.shape[2:]))
    defaults = style_nodes(G.capture(model, first))
    contents = _weights(content_layers or defaults[-1:])
    styles = _weights(style_layers or defaults)
    seen = network(model, first, [*contents, *styles])
    goals = _goals(seen, first, second, contents, styles, content_weight, style_weight)
    canvas = first.clone() if start == "content" else _noise(first, seed)
    rate = lr or (1.0 if optimizer == "lbfgs" else 0.02)
    run = _Painting(seen, goals, tv_weight, canvas.requires_grad_())
    run.paint(optimizer, rate, steps, progress)
    image = run.canvas.detach().clamp(0, 1).cpu()
    image = _recoloured(image, painted.cpu()) if keep_colour else image
    settings = {"content_layers": contents, "style_layers": styles, "content_weight": content_weight}
    settings |= {"style_weight": style_weight, "tv_weight": tv_weight, "start": start, "optimizer": optimizer}
    settings |= {"steps": steps, "lr": rate, "keep_colour": keep_colour}
    return Styled(image, painted.cpu(), manner.cpu(), torch.tensor(run.history), settings, seed)


def style_nodes(graph: G.Graph, count: int = 5) -> list[str]:
    """The default layers of a style: rectified maps, or the joins of such, spread over the lower three quarters.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU())
    >>> style_nodes(G.capture(net, torch.zeros(1, 3, 16, 16)))
    ['1', '4']
    """
    maps = [node for node in graph.needed(graph.outputs[:1]) if len(node.shape or ()) == 4]
    maps = [node for node in maps if min(int(side) for side in (node.shape or ())[2:]) > 2]
    rectified = [node for node in maps if any(word in node.op_name for word in RECTIFIERS)]
    joins = [node for node in maps if node.op_name == "cat" and any(source in rectified for source in node.inputs)]
    found = [*rectified[:1], *joins] if joins else rectified
    if not found:
        raise ArgumentError("the model has no rectified maps to take by default; name content_layers and style_layers")
    lower = found[: -(-3 * len(found) // 4)]
    places = torch.linspace(0, len(lower) - 1, min(count, len(lower))).round().int().tolist()
    return [lower[place].name for place in places]


@dataclass(eq=False)
class _Painting:
    """One transfer: what is seen, what is wanted and what is changed."""

    network: Network
    goals: tuple[Objective, Objective]
    tv_weight: float
    canvas: Tensor
    history: list[list[float]] = field(default_factory=list)

    def paint(self, optimizer: str, rate: float, steps: int, progress: bool) -> None:
        """Change the canvas in so many evaluations."""
        bar = iter(track(range(steps), "painting", progress))

        def evaluate() -> Tensor:
            next(bar, None)
            return self.loss()

        if optimizer == "adam":
            adam = torch.optim.Adam([self.canvas], lr=rate)
            for _ in range(steps):
                adam.step(evaluate)  # type: ignore[arg-type]
        else:
            limits: dict[str, Any] = {"max_iter": steps, "max_eval": steps, "history_size": 50, "tolerance_change": 0.0}
            search = "strong_wolfe" if rate == 1.0 else None
            torch.optim.LBFGS([self.canvas], lr=rate, line_search_fn=search, tolerance_grad=0.0, **limits).step(
                evaluate
            )
        next(bar, None)

    def loss(self) -> Tensor:
        """The loss, with its gradient in the canvas's `.grad`."""
        x = self.canvas.detach()
        goal = self.goals[0] + self.goals[1]
        values, adjoint = self.network.gradient(x, goal)
        prior = self.tv_weight * total_variation(2.0)
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            varied = prior.value({IMAGE: leaf}).sum()
            (smoothing,) = torch.autograd.grad(varied, leaf)
        outside = (x - x.clamp(0, 1)) * 2  # a wall about [0, 1]
        wall = (outside.square() / 4).sum()
        self.canvas.grad = smoothing - adjoint + outside
        self.history.append([-float(values.sum()), float(varied.detach()), float(wall)])
        return varied.detach() - values.sum() + wall


def _goals(
    seen: Network,
    content: Tensor,
    manner: Tensor,
    contents: Mapping[str, float],
    styles: Mapping[str, float],
    content_weight: float,
    style_weight: float,
) -> tuple[Objective, Objective]:
    """Minus the content loss and minus the style loss."""
    wanted = seen.values(content)
    painted = {name: gram(value) for name, value in seen.values(manner).items() if name in styles}
    first = [weight * _distance(name, wanted[name], lambda z: z) for name, weight in contents.items()]
    second = [weight * _distance(name, painted[name], gram) for name, weight in styles.items()]
    both = []
    for parts, weights, factor in ((first, contents, content_weight), (second, styles, style_weight)):
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        both.append((-factor / sum(weights.values())) * total)
    return both[0], both[1]


def _distance(layer: str, goal: Tensor, of: Callable[[Tensor], Tensor]) -> Objective:
    """The squared distance at a layer, relative to the goal's squared norm."""
    size = goal.square().sum().clamp(min=1e-12)
    return custom(layer, lambda z: (of(z) - goal).square().flatten(1).sum(1) / size, f"distance at {layer}")


def _weights(layers: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    weights = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    if not weights or sum(weights.values()) <= 0:
        raise ArgumentError(f"layers need weights with a sum above 0, got {weights}")
    return weights


def _noise(like: Tensor, seed: int) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator(seed, "style"))
    return (0.5 + 0.1 * drawn).clamp(0, 1).to(like)


def _grey(image: Tensor) -> Tensor:
    """The luminance in three equal channels."""
    weights = torch.tensor(GREY).to(image)
    return torch.einsum("c,nchw->nhw", weights, image)[:, None].expand(-1, 3, -1, -1).contiguous()


def _recoloured(image: Tensor, colours: Tensor) -> Tensor:
    """The luminance of one image with the colours of another."""
    return (_grey(image) + colours - _grey(colours)).clamp(0, 1)
