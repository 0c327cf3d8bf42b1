"""Objectives: units, channels, layers, classes, directions, and the priors that keep images natural."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError
from cutaway.visualize.objective import IMAGE, Objective, custom

Channel = int | Sequence[int]


def unit(layer: str, channel: Channel, place: Sequence[int] | None = None, axis: int = 1) -> Objective:
    """One unit: a channel at one place.

    Args:
        layer: a node or module by name.
        channel: its index; several give one image each.
        place: the place in the layer's map; None for the centre.
        axis: where the channels stand in the layer's value: 1 for (N, C, H, W), −1 for tokens (N, T, C).

    >>> import torch
    >>> unit("conv", 1).value({"conv": torch.arange(18.0).reshape(1, 2, 3, 3)})
    tensor([13.])
    """

    def at(z: Tensor) -> Tensor:
        maps = _maps(z, axis)  # (N, C, …)
        where = tuple(side // 2 for side in maps.shape[2:]) if place is None else tuple(place)
        if len(where) != maps.dim() - 2 or any(not 0 <= p < side for p, side in zip(where, maps.shape[2:])):
            raise ArgumentError(f"place {where} is none of layer {layer!r} with a map of {tuple(maps.shape[2:])}")
        return _chosen(maps[(slice(None), slice(None), *where)], channel, layer)

    return custom(layer, at, _named(layer, channel, "unit"), *_many(channel, "unit"))


def channel(layer: str, channel: Channel, axis: int = 1) -> Objective:
    """A whole channel: the mean over its places.

    Args:
        layer, channel, axis: as for `unit`.

    >>> import torch
    >>> channel("conv", [0, 1]).value({"conv": torch.arange(16.0).reshape(2, 2, 2, 2)})
    tensor([ 1.5000, 13.5000])
    """
    mean = lambda z: _chosen(_maps(z, axis).flatten(2).mean(2) if z.dim() > 2 else z, channel, layer)  # noqa: E731
    return custom(layer, mean, _named(layer, channel, "channel"), *_many(channel, "channel"))


def layer(layer: str) -> Objective:
    """A whole layer, as DeepDream does: half the mean square of its values.

    Args:
        layer: a node or module by name.

    Source: A. Mordvintsev, C. Olah, M. Tyka, Inceptionism: Going Deeper into Neural Networks, 2015.

    >>> import torch
    >>> layer("conv").value({"conv": torch.full((1, 2, 2, 2), 2.0)})
    tensor([2.])
    """
    return custom(layer, lambda z: z.flatten(1).square().mean(1) / 2, f"layer {layer}")


def logit(target: Channel) -> Objective:
    """A class, by its logit; several classes give one image each.

    Args:
        target: the class index.

    >>> import torch
    >>> logit(2).value({"output": torch.tensor([[0.0, 1.0, 5.0]])})
    tensor([5.])
    """
    return custom(
        "output", lambda z: _chosen(z, target, "output"), _named("", target, "class"), *_many(target, "class")
    )


def direction(layer: str, vector: Float[Tensor, " c"], power: float = 1.0, axis: int = 1) -> Objective:
    """A direction in a layer's space of channels: the dot product, weighted by the cosine with it.

    Args:
        layer, axis: as for `unit`.
        vector: the direction (C,).
        power: of the cosine; 0 for the dot product alone, which strong but unrelated units can win.

    Source: S. Carter et al., Activation Atlas, 2019.

    >>> import torch
    >>> direction("fc", torch.tensor([3.0, 4.0]), power=0).value({"fc": torch.tensor([[1.0, 1.0]])})
    tensor([7.])
    """

    def along(z: Tensor) -> Tensor:
        maps = _maps(z, axis).flatten(2).mean(2) if z.dim() > 2 else z  # (N, C)
        if vector.shape != maps.shape[1:]:
            raise ArgumentError(
                f"direction {tuple(vector.shape)} does not fit layer {layer!r} of {maps.shape[1]} units"
            )
        goal = vector.to(maps)
        dot = maps @ goal
        if power == 0:
            return dot
        cosine = dot / (maps.norm(dim=1) * goal.norm()).clamp(min=1e-8)
        return dot * cosine.clamp(min=0.1) ** power

    return custom(layer, along, f"a direction of {layer}")


def interpolation(layer: str, first: int, second: int, count: int = 5, axis: int = 1) -> Objective:
    """The way from one channel to another: image k of `count` is for a mixture of both.

    Args:
        layer, axis: as for `unit`.
        first, second: channels.
        count: how many images, at least 2.

    >>> import torch
    >>> interpolation("fc", 0, 1, count=2).value({"fc": torch.tensor([[1.0, 2.0], [1.0, 2.0]])})
    tensor([1., 2.])
    """
    if count < 2:
        raise ArgumentError(f"interpolation needs count >= 2, got {count}")
    share = torch.linspace(0, 1, count)
    shares = tuple(f"{1 - float(s):.0%} + {float(s):.0%}" for s in share)

    def mixed(z: Tensor) -> Tensor:
        maps = _maps(z, axis).flatten(2).mean(2) if z.dim() > 2 else z
        two = [_chosen(maps, each, layer) for each in (first, second)]
        return two[0] * (1 - share.to(maps)) + two[1] * share.to(maps)

    return custom(layer, mixed, f"channels {first} to {second} of {layer}", count, shares)


def guide(layer: str, value: Float[Tensor, "1 c ..."]) -> Objective:
    """The likeness to another image at a layer: at each place the dot product with the best matching place.

    Args:
        layer: a node or module by name.
        value: the layer's value for the guide image (1, C, h, w).

    Source: A. Mordvintsev, M. Tyka, google/deepdream, dream.ipynb, 2015 ("objective_guide").

    >>> import torch
    >>> guide("conv", torch.ones(1, 2, 1, 1)).value({"conv": torch.ones(1, 2, 2, 2)})
    tensor([2.])
    """
    places = value[0].flatten(1)  # (C, P)

    def alike(z: Tensor) -> Tensor:
        own = z.flatten(2)  # (N, C, Q)
        match = torch.einsum("cp,ncq->npq", places.to(own), own)
        return match.amax(1).mean(1)

    return custom(layer, alike, f"likeness at {layer}")


def diversity(layer: str) -> Objective:
    """How different the images of a batch are: minus the mean cosine between their Gram matrices at a layer.

    Args:
        layer: a node or module by name.

    Source: C. Olah, A. Mordvintsev, L. Schubert, Feature Visualization, 2017, "Diversity".

    >>> import torch
    >>> diversity("conv").value({"conv": torch.ones(2, 3, 2, 2)}).round(decimals=4)
    tensor([-1., -1.])
    """

    def apart(z: Tensor) -> Tensor:
        maps = z.flatten(2)
        grams = F.normalize(torch.einsum("nip,njp->nij", maps, maps).flatten(1), dim=1, eps=1e-8)  # (N, C·C)
        alike = grams @ grams.T
        return -(alike.sum(1) - alike.diagonal()) / max(len(z) - 1, 1)

    return custom(layer, apart, f"diversity at {layer}", side=True)


def l1(center: float = 0.5) -> Objective:
    """The mean distance of the pixels from grey; subtract it.

    >>> import torch
    >>> l1().value({"image": torch.ones(1, 3, 2, 2)})
    tensor([0.5000])
    """
    return custom(IMAGE, lambda x: (x - center).abs().flatten(1).mean(1), "L1")


def l2(center: float = 0.5) -> Objective:
    """The mean squared distance of the pixels from grey; subtract it.

    Source: K. Simonyan, A. Vedaldi, A. Zisserman, Deep Inside Convolutional Networks, 2013, eq. 1.

    >>> import torch
    >>> l2().value({"image": torch.ones(1, 3, 2, 2)})
    tensor([0.2500])
    """
    return custom(IMAGE, lambda x: (x - center).square().flatten(1).mean(1), "L2")


def total_variation(power: float = 1.0) -> Objective:
    """The mean difference between neighbouring pixels; subtract it.

    Args:
        power: of the differences.

    Source: A. Mahendran, A. Vedaldi, Understanding Deep Image Representations by Inverting Them, 2014, section 2.2.

    >>> import torch
    >>> total_variation().value({"image": torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])})
    tensor([1.])
    """

    def varied(x: Tensor) -> Tensor:
        steps = [x.diff(dim=axis).abs() for axis in range(2, x.dim())]
        return torch.stack([(step if power == 1 else step**power).flatten(1).mean(1) for step in steps]).sum(0)

    return custom(IMAGE, varied, "TV")


def blur(width: int = 3) -> Objective:
    """The mean squared distance of the image from its blurred self, which counts high frequencies; subtract it.

    Args:
        width: of the window, in pixels, odd.

    Source: A. Nguyen, J. Yosinski, J. Clune, Deep Neural Networks are Easily Fooled, 2014.

    >>> import torch
    >>> blur().value({"image": torch.ones(1, 3, 4, 4)})
    tensor([0.])
    """
    if width < 3 or width % 2 == 0:
        raise ArgumentError(f"blur needs an odd width of at least 3 pixels, got {width}")

    def rough(x: Tensor) -> Tensor:
        padded = F.pad(x, [width // 2] * 4, mode="reflect")
        return (x - F.avg_pool2d(padded, width, 1)).square().flatten(1).mean(1)

    return custom(IMAGE, rough, "blur")


def _maps(z: Tensor, axis: int) -> Tensor:
    return z.movedim(axis, 1)


def _chosen(values: Float[Tensor, "n c"], channel: Channel, layer: str) -> Float[Tensor, " n"]:
    """One channel for all images, or one for each."""
    wanted = [channel] if isinstance(channel, int) else list(channel)
    if min(wanted) < 0 or max(wanted) >= values.shape[1]:
        raise ArgumentError(f"channel {channel} is none of layer {layer!r}, which has 0 … {values.shape[1] - 1}")
    if len(wanted) not in (1, len(values)):
        raise ArgumentError(f"{len(wanted)} channels need as many images, got {len(values)}")
    index = torch.tensor(wanted, device=values.device).expand(len(values))
    return values.gather(1, index[:, None])[:, 0]


def _many(channel: Channel, what: str) -> tuple[int, tuple[str, ...]]:
    """For how many images an objective is, and what each is for."""
    each = [channel] if isinstance(channel, int) else list(channel)
    if not each:
        raise ArgumentError(f"at least one {what} is needed, got none")
    return len(each), tuple(f"{what} {index}" for index in each) if not isinstance(channel, int) else ()


def _named(layer: str, channel: Channel, what: str) -> str:
    which = str(channel) if isinstance(channel, int) else ", ".join(map(str, channel))
    many = not isinstance(channel, int) and len(channel) > 1
    kind = {"class": "classes"}.get(what, f"{what}s") if many else what
    return f"{kind} {which}" + (f" of {layer}" if layer else "")
