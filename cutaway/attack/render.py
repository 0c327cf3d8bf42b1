"""A small rasteriser: which point of the texture each pixel shows, exact and differentiable in the texture.

What is seen is found without gradients (perspective, a z-buffer); a picture is then linear in the texture: bilinear
look-up, light, and the mean over the finer pixels that a pixel is made of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cutaway.attack.draws import Draws
from cutaway.attack.mesh import Mesh
from cutaway.errors import ArgumentError

NEAR = 0.05  # how close to the camera a vertex may be
FINE = 2  # finer pixels along each side of a pixel


@dataclass(frozen=True)
class Scene:
    """What N pictures show, at FINE × FINE times their size.

    Attributes:
        place: (N, H', W', 2) on the texture, both 0 … 1.
        light: (N, 3, H', W') by which the texture's colour is multiplied; zero where the mesh is not seen.
        background: (N, 3, H', W'), zero where the mesh is seen.
    """

    place: Float[Tensor, "n h w 2"]
    light: Float[Tensor, "n 3 h w"]
    background: Float[Tensor, "n 3 h w"]

    def picture(self, texture: Float[Tensor, "3 t u"]) -> Float[Tensor, "n 3 h w"]:
        """The pictures, differentiable in the texture.

        Args:
            texture: (3, T, U) in [0, 1], its left edge joined to its right one.
        """
        colour = looked_up(texture, self.place.to(texture))
        fine = colour * self.light.to(texture) + self.background.to(texture)
        return F.avg_pool2d(fine, FINE).clamp(0, 1)


def looked_up(texture: Float[Tensor, "c t u"], place: Float[Tensor, "n h w 2"]) -> Float[Tensor, "n c h w"]:
    """Bilinear look-up; left and right edge of the texture are joined, upper and lower ones repeated."""
    width = texture.shape[2]
    wide = torch.cat([texture[..., -1:], texture, texture[..., :1]], 2)[None].expand(len(place), -1, -1, -1)
    across = (place[..., 0] * width + 1) / (width + 2)
    grid = torch.stack([across, place[..., 1]], 3) * 2 - 1
    return F.grid_sample(wide, grid, mode="bilinear", padding_mode="border", align_corners=False)


def rotation(azimuth: Float[Tensor, "n"], elevation: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """From the mesh's axes to those of a camera that goes round by the azimuth and up by the elevation (radians)."""
    one, zero = torch.ones_like(azimuth), torch.zeros_like(azimuth)
    cos, sin, up, down = azimuth.cos(), azimuth.sin(), elevation.sin(), elevation.cos()
    turn = torch.stack([cos, zero, -sin, zero, one, zero, sin, zero, cos], 1).reshape(-1, 3, 3)
    tilt = torch.stack([one, zero, zero, zero, down, -up, zero, up, down], 1).reshape(-1, 3, 3)
    return tilt @ turn


def rasterized(
    points: Float[Tensor, "n v 3"], faces: Int[Tensor, "f 3"], focal: float, side: int
) -> tuple[Int[Tensor, "n p"], Float[Tensor, "n p 3"]]:
    """Which triangle each pixel's centre sees first, −1 for none, and where in it.

    Args:
        points: vertices in the camera's axes (N, V, 3); the camera is at 0 and looks along −z.
        faces: (F, 3), counter-clockwise from outside; those seen from behind are left out.
        focal: the picture plane's distance, where the picture is 2 wide.
        side: pixels along each side.

    Returns:
        faces (N, side²) and barycentric coordinates (N, side², 3) in space, rows from above.
    """
    count, total = len(points), side * side
    depth = -points[..., 2]  # (N, V)
    if depth.min() < NEAR:
        raise ArgumentError(
            f"a vertex is {float(depth.min()):.3g} before the camera; expected at least {NEAR}: move it away"
        )
    flat = points[..., :2] * (focal / depth)[..., None]
    pixel = torch.stack([flat[..., 0] + 1, 1 - flat[..., 1]], 2) * (side / 2) - 0.5  # (N, V, 2) in pixels from above
    corners, far = pixel[:, faces], depth[:, faces]  # (N, F, 3, 2), (N, F, 3)
    a, b, c = corners.unbind(2)
    area = _cross(b - a, c - a)  # below zero for faces seen from outside, as rows count downwards
    low = corners.amin(2).ceil().clamp(min=0)
    size = (corners.amax(2).floor().clamp(max=side - 1) - low + 1).clamp(min=0)  # (N, F, 2)
    pairs = (size.prod(2) * (area < -1e-12)).long().flatten()  # pixels to be tried for each face
    owner = torch.repeat_interleave(torch.arange(len(pairs), device=points.device), pairs)
    place = torch.arange(len(owner), device=points.device) - (pairs.cumsum(0) - pairs)[owner]
    wide = size[..., 0].flatten().long()[owner]
    corner = low.reshape(-1, 2)[owner]
    at = torch.stack([place % wide, place // wide], 1) + corner  # (Q, 2) columns and rows
    a, b, c = (part.reshape(-1, 2)[owner] for part in (a, b, c))
    whole = area.flatten()[owner]
    share = torch.stack([_cross(c - b, at - b), _cross(a - c, at - c), _cross(b - a, at - a)], 1) / whole[:, None]
    inside = (share >= -1e-9).all(1)
    owner, at, share = owner[inside], at[inside], share[inside]
    near = share / far.reshape(-1, 3)[owner]  # perspective: linear in 1/depth
    inverse = near.sum(1)
    slot = (owner // len(faces)) * total + (at[:, 1] * side + at[:, 0]).long()
    front = torch.zeros(count * total, dtype=inverse.dtype, device=points.device)
    front = front.scatter_reduce(0, slot, inverse, "amax")
    first = inverse >= front[slot]  # the z-buffer
    seen = torch.full((count * total,), -1, device=points.device)
    seen[slot[first]] = owner[first] % len(faces)
    where = torch.zeros(count * total, 3, dtype=inverse.dtype, device=points.device)
    where[slot[first]] = (near / inverse[:, None])[first]
    return seen.reshape(count, total), where.reshape(count, total, 3)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@dataclass(frozen=True)
class Views:
    """Where cameras stand, and what light and background they find; each range is drawn from uniformly.

    Attributes:
        side: of the pictures, in pixels.
        distance: of the camera from the mesh's middle.
        azimuth, elevation: of the camera, in degrees.
        focal: the picture plane's distance, where the picture is 2 wide.
        shift: of the mesh in the picture, as a share of its side, each way.
        ambient, direct: of the light from all sides, and of that from one.
        tint: how far the light's colour may be off, each channel by itself.
        shine: of a highlight, for a glazed surface.
        background: grey levels that the background's colours are drawn from.

    Source: Athalye et al., "Synthesizing robust adversarial examples", 2018, appendix (distributions for 3-D).
    """

    side: int = 224
    distance: tuple[float, float] = (4.0, 5.0)
    azimuth: tuple[float, float] = (-180.0, 180.0)
    elevation: tuple[float, float] = (-5.0, 30.0)
    focal: float = 3.0
    shift: float = 0.05
    ambient: tuple[float, float] = (0.35, 0.55)
    direct: tuple[float, float] = (0.4, 0.7)
    tint: float = 0.05
    shine: float = 0.25
    background: tuple[float, float] = (0.1, 0.9)

    def draw(self, mesh: Mesh, count: int, seed: int, *name: object) -> Scene:
        """Pictures of a mesh from random places.

        Args:
            mesh: its vertices about 0, no farther from it than about 1.3.
            count: how many.
            seed, name: fix the numbers.

        Raises:
            ArgumentError: the camera comes too near.
        """
        draws = Draws(seed, torch.arange(count))

        def number(field: str) -> Tensor:
            low, high = getattr(self, field)
            return low + (high - low) * draws.uniform((), *name, field)

        turn = rotation(number("azimuth") * pi / 180, number("elevation") * pi / 180)  # (N, 3, 3) float64
        away = number("distance")
        off = (2 * draws.uniform((2,), *name, "shift") - 1) * self.shift * 2 * (away / self.focal)[:, None]
        move = torch.cat([off, -away[:, None]], 1)  # (N, 3)
        points = mesh.vertices.double() @ turn.transpose(1, 2) + move[:, None]
        side = self.side * FINE
        seen, where = rasterized(points, mesh.faces, self.focal, side)
        corners, where = mesh.faces[seen.clamp(min=0)], where.float()  # (N, P, 3) each

        def across(values: Tensor) -> Tensor:
            return (values[corners] * where[..., None]).sum(2)  # (N, P, D)

        normal = F.normalize(across(mesh.normals) @ turn.transpose(1, 2).float(), dim=2)
        light = self._light(normal, draws, number, *name)  # (N, P, 3)
        mask = (seen >= 0)[..., None]
        back = self._background(draws, side, *name)
        shape = (count, side, side, -1)
        flat = [(part * keep).reshape(shape).permute(0, 3, 1, 2).float() for part, keep in
                ((light[..., :3], mask), (light[..., 3:], mask), (back, ~mask))]  # fmt: skip
        return Scene(across(mesh.places).reshape(shape).float(), flat[0], flat[1] + flat[2])

    def _light(self, normal: Tensor, draws: Draws, number: Callable[[str], Tensor], *name: object) -> Tensor:
        """What the texture is multiplied by (three channels), and the highlight that is added (three)."""
        above = draws.uniform((3,), *name, "light") * torch.tensor([2.0, 1.0, 1.0]) - torch.tensor([1.0, 0.0, -0.2])
        to_light = F.normalize(above, dim=1).to(normal)  # from above and before
        lambert = (normal * to_light[:, None]).sum(2).clamp(min=0)
        half = F.normalize(to_light + to_light.new_tensor([0.0, 0.0, 1.0]), dim=1)
        glint = self.shine * (normal * half[:, None]).sum(2).clamp(min=0) ** 40
        tint = (1 + self.tint * (2 * draws.uniform((3,), *name, "tint") - 1)).to(normal)
        bright = number("ambient").to(normal)[:, None] + number("direct").to(normal)[:, None] * lambert  # (N, P)
        return torch.cat([bright[..., None] * tint[:, None], glint[..., None].expand(-1, -1, 3)], 2)

    def _background(self, draws: Draws, side: int, *name: object) -> Tensor:
        """A wall and the table before it, each of one random muted colour fading to the side."""
        low, high = self.background
        colours = low + (high - low) * draws.uniform((2, 2, 3), *name, "background")  # above and below, left and right
        colours = (0.4 * colours + 0.6 * colours.mean(3, keepdim=True)).float()
        place = (torch.arange(side) + 0.5) / side
        fade = place[None, None, :, None]
        wall, table = (colours[:, k, None, None, 0] * (1 - fade) + colours[:, k, None, None, 1] * fade for k in (0, 1))
        edge = 0.6 + 0.2 * draws.uniform((), *name, "edge")
        below = (place[None] > edge[:, None])[..., None, None]
        return torch.where(below, table, wall).reshape(len(edge), -1, 3)
