"""Preprocessing that belongs to the model, so that the model takes images in [0, 1]."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError

# Mean and standard deviation that most ImageNet weights (and those of the CIFAR ResNets) were trained with.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Normalized(nn.Module):
    """See `normalized`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)  # (1, C, 1, 1)
        self.register_buffer("std", std)  # (1, C, 1, 1)
        self.size = size
        self.model = model

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n ..."]:
        if self.size is not None and tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        return self.model((x - self.mean) / self.std)

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}, size={self.size}"


def normalized(
    model: nn.Module,
    mean: float | Sequence[float] | Tensor,
    std: float | Sequence[float] | Tensor,
    size: int | tuple[int, int] | None = None,
) -> Normalized:
    """Put resizing and standardisation in front of a model: resize to `size`, subtract `mean`, divide by `std`.

    Mean and standard deviation are buffers, saved and moved with the model.

    Args:
        model: takes standardised images `(N, C, H, W)`; kept as the submodule `model`.
        mean: per channel, or one number for all.
        std: per channel, or one number for all; above 0.
        size: side, or height and width, that the model wants; bilinear. None leaves the size alone.

    Raises:
        ArgumentError: when mean and std differ in length, are not finite, or std is not above 0.

    For most ImageNet weights: `normalized(model, **IMAGENET, size=224)`.

    >>> model = normalized(nn.Flatten(), mean=0.5, std=0.25, size=4)
    >>> model(torch.ones(1, 1, 8, 8)).unique().tolist()
    [2.0]
    """
    center = torch.as_tensor(mean, dtype=torch.get_default_dtype()).reshape(1, -1, 1, 1).clone()
    scale = torch.as_tensor(std, dtype=torch.get_default_dtype()).reshape(1, -1, 1, 1).clone()
    if center.shape != scale.shape:
        raise ArgumentError(
            f"mean has {center.numel()} values and std {scale.numel()}; expected one of each per channel"
        )
    if not (center.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
        raise ArgumentError(f"mean={mean}, std={std}: expected finite numbers and std above 0")
    if isinstance(size, int):
        size = (size, size)
    return Normalized(model, center, scale, None if size is None else (int(size[0]), int(size[1])))
