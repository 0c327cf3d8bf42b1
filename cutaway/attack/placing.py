"""Where a patch goes: random places, sizes and angles, differentiable in the patch."""

from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.attack.draws import Draws


@dataclass(frozen=True)
class Placing:
    """How patches are put into images.

    Attributes:
        scale: least and largest side of the patch, as shares of the image's shorter side.
        turn: largest rotation to either side, in degrees.
    """

    scale: tuple[float, float]
    turn: float

    def put(
        self,
        patch: Float[Tensor, "c s s"],
        mask: Float[Tensor, "s s"],
        x: Float[Tensor, "n c h w"],
        draws: Draws,
        *name: object,
    ) -> Float[Tensor, "n c h w"]:
        """The images with the patch at a random place, differentiable in the patch."""
        maps = self._maps(x, draws, *name).to(x.dtype)  # (N, 2, 3)
        grid = F.affine_grid(maps, list(x.shape), align_corners=False)
        both = torch.cat([patch * mask, mask[None]])[None].expand(len(x), -1, -1, -1)  # (N, C + 1, S, S)
        placed = F.grid_sample(both, grid, align_corners=False)
        return (x * (1 - placed[:, -1:]) + placed[:, :-1]).clamp(0, 1)

    def _maps(self, x: Tensor, draws: Draws, *name: object) -> Tensor:
        """From the image's coordinates to the patch's, both in [−1, 1]: shift, turn and scale."""
        height, width = x.shape[2:]
        low, high = self.scale
        side = (low + (high - low) * draws.uniform((), *name, "scale")) * min(height, width)  # (N,) in pixels
        angle = (2 * draws.uniform((), *name, "turn") - 1) * self.turn * pi / 180
        across, down = (
            (2 * draws.uniform((), *name, axis) - 1) * (1 - side / length)  # the patch's square stays inside
            for axis, length in (("across", width), ("down", height))
        )
        cos, sin = angle.cos(), angle.sin()
        to_x = torch.stack([cos * width / side, sin * height / side], 1)
        to_y = torch.stack([-sin * width / side, cos * height / side], 1)
        turned = torch.stack([to_x, to_y], 1)  # (N, 2, 2)
        shift = -(turned * torch.stack([across, down], 1)[:, None]).sum(2, keepdim=True)
        return torch.cat([turned, shift], 2)
