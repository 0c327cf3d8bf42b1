"""The rasteriser: the triangles that rays find, exact gradients of the texture, meshes that look outwards."""

import pytest
import torch

from cutaway import attack
from cutaway.attack.render import FINE, looked_up, rasterized, rotation
from cutaway.errors import ArgumentError

FOCAL, SIDE = 2.5, 40


@pytest.fixture(scope="module")
def seen():
    """A vase from two sides, its vertices in the camera's axes, and what the rasteriser says."""
    mesh = attack.lathe(around=14, smooth=2)
    turn = rotation(torch.tensor([0.4, 2.0]).double(), torch.tensor([0.5, -0.2]).double())
    points = mesh.vertices.double() @ turn.transpose(1, 2) - torch.tensor([0.1, 0.0, 3.5]).double()
    return mesh, points, *rasterized(points, mesh.faces, FOCAL, SIDE)


def cast(points: torch.Tensor, faces: torch.Tensor, row: int, column: int) -> tuple[int, torch.Tensor]:
    """The first triangle that a ray from the camera through a pixel's centre meets, by solving for each of them."""
    ray = torch.tensor([(2 * column + 1) / SIDE - 1, 1 - (2 * row + 1) / SIDE, -FOCAL], dtype=torch.float64)
    a, b, c = (points[faces[:, k]] for k in range(3))
    turned = (torch.linalg.cross(b - a, c - a) * a).sum(1) < -1e-9  # neither seen from behind nor shrunk to a line
    rows = turned.nonzero()[:, 0]
    a, b, c = a[rows], b[rows], c[rows]
    # far·ray = a + u(b − a) + v(c − a)
    far, u, v = torch.linalg.solve(torch.stack([ray.expand_as(a), a - b, a - c], 2), a).unbind(1)
    met = ((u >= 0) & (v >= 0) & (u + v <= 1) & (far > 0)).nonzero()[:, 0]
    if not len(met):
        return -1, torch.zeros(3).double()
    best = met[far[met].argmin()]
    return int(rows[best]), torch.stack([1 - u[best] - v[best], u[best], v[best]])


def test_pixels_show_what_rays_meet(seen):
    mesh, points, faces, where = seen
    chosen = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(0))[:25].tolist()
    hits = 0
    for view in range(2):
        for pixel in [*chosen, SIDE * SIDE // 2]:
            number, share = cast(points[view], mesh.faces, pixel // SIDE, pixel % SIDE)
            assert int(faces[view, pixel]) == number
            assert torch.allclose(where[view, pixel], share, atol=1e-9)
            hits += number >= 0
    assert 10 < hits < 40  # some see the vase, some the background


def test_nearer_triangles_hide_farther_ones():
    square = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]).double()
    points = torch.cat([square - torch.tensor([0, 0, 3.0]), square * 0.4 - torch.tensor([0, 0, 2.0])])[None]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    for order in (faces, faces.flip(0)):
        found, _ = rasterized(points, order, 2.0, 30)
        front = [int((order == face).all(1).nonzero()) for face in (faces[2], faces[3])]
        middle = found.view(30, 30)[10:20, 10:20]
        assert all(int(one) in front for one in middle.unique())
        assert int(found.view(30, 30)[15, 6]) not in [*front, -1]
        assert int(found.view(30, 30)[15, 1]) == -1
    behind, _ = rasterized(points, faces.flip(1), 2.0, 30)
    assert (behind == -1).all()  # turned away
    with pytest.raises(ArgumentError, match="before the camera"):
        rasterized(points + torch.tensor([0, 0, 2.5]), faces, 2.0, 30)


def test_a_sphere_has_the_size_perspective_gives_it():
    mesh = attack.sphere(40, 80)
    found, _ = rasterized(mesh.vertices.double()[None] - torch.tensor([0, 0, 4.0]).double(), mesh.faces, 3.0, 200)
    share = (found >= 0).double().mean()
    radius = 3.0 / (4.0**2 - 1) ** 0.5  # of its outline in the picture, which is 2 wide
    assert share == pytest.approx(torch.pi * radius**2 / 4, rel=0.01)


@pytest.mark.parametrize("mesh", [attack.sphere(12, 16), attack.lathe(around=16)])
def test_meshes_look_outwards(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, k]].double() for k in range(3))
    outward = torch.linalg.cross(b - a, c - a)
    flat = outward.norm(dim=1) > 1e-9  # at the poles triangles shrink to lines
    normal = sum(mesh.normals[mesh.faces[:, k]].double() for k in range(3))
    assert ((outward * normal).sum(1) > 0)[flat].all()
    assert torch.allclose(mesh.normals.norm(dim=1), torch.ones(len(mesh.normals)), atol=1e-5)
    assert mesh.places.min() >= 0 and mesh.places.max() <= 1
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    assert volume > 0.5


def test_a_spheres_volume_is_known():
    mesh = attack.sphere(60, 120)
    a, b, c = (mesh.vertices[mesh.faces[:, k]].double() for k in range(3))
    assert float((a * torch.linalg.cross(b, c)).sum() / 6) == pytest.approx(4 / 3 * torch.pi, rel=3e-3)


def test_texels_are_looked_up_where_they_are():
    texture = torch.arange(12.0, dtype=torch.float64).view(1, 3, 4)
    down, across = torch.meshgrid(
        (torch.arange(3).double() + 0.5) / 3, (torch.arange(4).double() + 0.5) / 4, indexing="ij"
    )
    middles = torch.stack([across, down], 2)
    assert torch.allclose(looked_up(texture, middles[None]), texture[None])
    seam = torch.tensor([[[[0.0, 0.5], [1.0, 0.5]]]]).double()
    assert torch.allclose(looked_up(texture, seam), torch.tensor([[[[5.5, 5.5]]]]).double())  # between 4 and 7


def test_the_textures_gradient_is_finite_differences():
    views = attack.Views(side=6, distance=(3.4, 3.6), background=(0.2, 0.3), shine=0.05)
    scene = views.draw(attack.lathe(around=12, smooth=1), 2, 0, "a")
    texture = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(0)).double().mul(0.5).add(0.2)
    assert torch.autograd.gradcheck(scene.picture, texture.requires_grad_())


def test_pictures_are_the_texture_lit_before_a_background():
    views = attack.Views(side=32, direct=(0.0, 0.0), ambient=(0.5, 0.5), tint=0.0, shine=0.0)
    scene = views.draw(attack.sphere(), 3, 1, "a")
    red = scene.picture(torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 4, 8))
    whole = torch.nn.functional.avg_pool2d((scene.light > 0).float(), FINE)[:, 0] == 1
    assert 0.1 < whole.float().mean() < 0.9
    assert torch.allclose(red[:, 0][whole], torch.tensor(0.5)) and (red[:, 1:].amax(1)[whole] == 0).all()
    outside = torch.nn.functional.avg_pool2d((scene.light > 0).float(), FINE)[:, 0] == 0
    assert (red.amin(1)[outside] >= 0.1 - 1e-6).all()
    assert scene.light.shape == (3, 3, 32 * FINE, 32 * FINE)


def test_views_depend_on_the_seed_and_name(global_randomness_untouched):
    views, mesh = attack.Views(side=16), attack.sphere(6, 8)
    first = views.draw(mesh, 2, 0, "a")
    assert torch.equal(first.place, views.draw(mesh, 2, 0, "a").place)
    for other in (views.draw(mesh, 2, 1, "a"), views.draw(mesh, 2, 0, "b")):
        assert not torch.equal(first.place, other.place)
    with pytest.raises(ArgumentError, match="at least 2, 3 and 1"):
        attack.lathe(around=2)
    with pytest.raises(ArgumentError, match="faces is"):
        attack.Mesh(mesh.vertices, mesh.faces + 1000, mesh.places, mesh.normals)
