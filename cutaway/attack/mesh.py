"""Textured meshes made in code: a sphere, and vases turned on a lathe."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import ArgumentError

# The outline of a vase from foot to lip: (radius, height), inside a box of height 2.
VASE = (
    (0.0, -1.0), (0.42, -1.0), (0.44, -0.95), (0.4, -0.88), (0.5, -0.7), (0.66, -0.4), (0.74, -0.1), (0.72, 0.15),
    (0.6, 0.4), (0.42, 0.6), (0.32, 0.75), (0.32, 0.86), (0.4, 0.96), (0.44, 1.0), (0.38, 1.0), (0.28, 0.86),
    (0.0, 0.8),
)  # fmt: skip


@dataclass(frozen=True)
class Mesh:
    """Triangles in space with places on a texture.

    Attributes:
        vertices: (V, 3), x to the right, y up, z towards the viewer.
        faces: (F, 3) vertices of each triangle, counter-clockwise seen from outside.
        places: (V, 2) on the texture: (0, 0) its upper left corner, (1, 1) its lower right.
        normals: (V, 3) of length 1, outwards.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    places: Float[Tensor, "v 2"]
    normals: Float[Tensor, "v 3"]

    def __post_init__(self) -> None:
        count = len(self.vertices)
        for name, width in (("vertices", 3), ("places", 2), ("normals", 3)):
            if getattr(self, name).shape != (count, width):
                raise ArgumentError(f"{name} is {tuple(getattr(self, name).shape)}; expected ({count}, {width})")
        faces = self.faces
        if faces.dim() != 2 or faces.shape[1] != 3 or not len(faces) or faces.min() < 0 or faces.max() >= count:
            raise ArgumentError(f"faces is {tuple(faces.shape)}; expected triangles (F, 3) of vertices 0 … {count - 1}")


def lathe(outline: Sequence[tuple[float, float]] = VASE, around: int = 48, smooth: int = 3) -> Mesh:
    """Turn an outline about the vertical axis.

    Args:
        outline: at least two points (radius, height), from the lowest outer one up.
        around: how many sides, at least 3.
        smooth: how many pieces each stretch of the outline is cut into, along a Catmull–Rom curve.

    Raises:
        ArgumentError: too few points or sides.

    >>> mesh = lathe(((1, -1), (1, 1)), around=4, smooth=1)
    >>> mesh.vertices.shape, mesh.faces.shape
    (torch.Size([10, 3]), torch.Size([8, 3]))
    """
    if len(outline) < 2 or around < 3 or smooth < 1:
        raise ArgumentError(
            f"outline of {len(outline)} points, around={around}, smooth={smooth}: expected at least 2, 3 and 1"
        )
    curve, slope = _curve(torch.tensor(outline, dtype=torch.float64), smooth)  # (R, 2) each
    rows = len(curve)
    angle = torch.arange(around + 1, dtype=torch.float64) * (2 * pi / around)  # the seam's vertices are there twice
    circle = torch.stack([angle.sin(), angle.cos()], 1)  # (A + 1, 2) x and z
    radius, height = curve[:, None, :1], curve[:, None, 1:].expand(-1, around + 1, -1)
    vertices = torch.cat([radius * circle[:, :1], height, radius * circle[:, 1:]], 2)  # (R, A + 1, 3)
    outward = torch.stack([slope[:, 1], -slope[:, 0]], 1)  # (R, 2): radius and height
    normals = torch.cat([outward[:, None, :1] * circle[:, :1], outward[:, None, 1:].expand(-1, around + 1, -1),
                         outward[:, None, :1] * circle[:, 1:]], 2)  # fmt: skip
    length = torch.cat([curve.new_zeros(1), (curve[1:] - curve[:-1]).norm(dim=1).cumsum(0)])
    down = (1 - length / length[-1])[:, None].expand(-1, around + 1)
    places = torch.stack([(angle / (2 * pi)).expand(rows, -1), down], 2)
    return Mesh(
        vertices.reshape(-1, 3).float(),
        _strips(rows, around),
        places.reshape(-1, 2).float(),
        torch.nn.functional.normalize(normals.reshape(-1, 3), dim=1).float(),
    )


def sphere(rows: int = 24, around: int = 48) -> Mesh:
    """A sphere of radius 1, its texture a map with the poles above and below.

    Args:
        rows: stretches from pole to pole.
        around: sides.

    >>> bool((sphere().vertices.norm(dim=1) - 1).abs().max() < 1e-6)
    True
    """
    angle = torch.arange(rows + 1, dtype=torch.float64) * (pi / rows)
    outline = [(float(a.sin()) if 0 < k < rows else 0.0, -float(a.cos())) for k, a in enumerate(angle)]
    flat = lathe(outline, around, 1)
    return Mesh(flat.vertices, flat.faces, flat.places, torch.nn.functional.normalize(flat.vertices, dim=1))


def _curve(points: Tensor, smooth: int) -> tuple[Tensor, Tensor]:
    """Points along a Catmull–Rom curve through the given ones, and its direction there."""
    wide = torch.cat([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])  # (P + 2, 2)
    a, b, c, d = wide[:-3], wide[1:-2], wide[2:-1], wide[3:]  # (P − 1, 2)
    at = (torch.arange(smooth, dtype=points.dtype) / smooth)[None, :, None]
    b0, c1, c2, c3 = b[:, None], (c - a)[:, None] / 2, (2 * a - 5 * b + 4 * c - d)[:, None] / 2, None
    c3 = (3 * b - a - 3 * c + d)[:, None] / 2
    curve = b0 + c1 * at + c2 * at**2 + c3 * at**3
    slope = c1 + 2 * c2 * at + 3 * c3 * at**2
    end = points[-1:] - points[-2:-1]
    curve = torch.cat([curve.reshape(-1, 2), points[-1:]])
    return torch.stack([curve[:, 0].clamp(min=0), curve[:, 1]], 1), torch.cat([slope.reshape(-1, 2), end])


def _strips(rows: int, around: int) -> Tensor:
    """Two triangles for each cell of a grid of vertices, rows from below."""
    row, column = torch.meshgrid(torch.arange(rows - 1), torch.arange(around), indexing="ij")
    low = (row * (around + 1) + column).flatten()
    high = low + around + 1
    lower = torch.stack([low, low + 1, high + 1], 1)
    upper = torch.stack([low, high + 1, high], 1)
    return torch.cat([lower, upper])
