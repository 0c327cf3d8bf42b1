"""The parts of AutoAttack: projections, schedules, and going on after a kill."""

import pytest
import torch
from scipy.optimize import linprog

from cutaway import attack
from cutaway.attack import auto
from cutaway.attack.apgd import windows
from cutaway.attack.fab import onto_plane
from cutaway.attack.square import area
from cutaway.errors import RunFolderError


def smallest_change(x, w, need, norm):
    """The smallest change onto a plane inside the box, as a linear programme (linf, l1)."""
    d = len(x)
    if norm == "l1":
        bounds = [(0, 1 - v) for v in x] + [(0, v) for v in x]
        return linprog([1] * (2 * d), A_eq=[[*w, *(-w)]], b_eq=[need], bounds=bounds).fun
    rows = [[(1 if i == j else 0) for i in range(d)] + [-1] for j in range(d)]
    rows += [[(-1 if i == j else 0) for i in range(d)] + [-1] for j in range(d)]
    bounds = [(-v, 1 - v) for v in x] + [(0, None)]
    return linprog([0] * d + [1], A_ub=rows, b_ub=[0] * (2 * d), A_eq=[[*w, 0]], b_eq=[need], bounds=bounds).fun


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_planes_are_met_by_the_smallest_change(norm):
    g = torch.Generator().manual_seed(0)
    x, w = torch.rand(30, 12, generator=g).double(), torch.randn(30, 12, generator=g).double()
    x[:10] = x[:10].round()
    need = torch.randn(30, generator=g).double()
    change = onto_plane(x, w, need, norm)
    most = (torch.where(w * need[:, None] > 0, 1 - x, x) * w.abs()).sum(1)
    assert torch.allclose((w * change).sum(1), need.sign() * torch.minimum(need.abs(), most))
    assert ((x + change) >= -1e-12).all()
    assert ((x + change) <= 1 + 1e-12).all()
    for row in range(30):
        if need[row].abs() < most[row]:
            if norm == "l2":  # KKT: changes of pixels inside the box are proportional to the normal
                free = ((x + change)[row] > 1e-9) & ((x + change)[row] < 1 - 1e-9)
                rate = change[row][free] / w[row][free]
                assert rate.max() - rate.min() < 1e-9
            else:
                best = smallest_change(x[row].numpy(), w[row].numpy(), need[row].item(), norm)
                mine = change[row].abs().amax() if norm == "linf" else change[row].abs().sum()
                assert mine.item() == pytest.approx(best, abs=1e-9)


def test_schedules_are_the_sources():
    assert windows(100, "linf") == [22, 41, 57, 70, 80, 87, 93, 99]
    assert windows(100, "l1")[:3] == [4, 8, 12]
    assert [area(q, 0.8) for q in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)] == [
        0.8 * 0.5**k for k in (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    ]
    assert vars(attack.Effort()) == {"steps": 100, "targets": 9, "queries": 5000}
    assert auto.VERSIONS["standard"] == ("apgd-ce", "apgd-t", "fab-t", "square")


def test_it_goes_on_after_a_kill(net, digits, tmp_path, monkeypatch):
    x, y = digits[0][:40], digits[1][:40]
    few = {"eps": 0.08, "effort": attack.Effort(steps=10, targets=2, queries=10), "progress": False}
    whole = attack.auto_attack(net, x, y, **few)
    file = tmp_path / "state.safetensors"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(auto.PARTS, "fab-t", killed)
        with pytest.raises(KeyboardInterrupt):
            attack.auto_attack(net, x, y, state=file, **few)
    with monkeypatch.context() as patch:
        patch.setitem(auto.PARTS, "apgd-ce", killed)  # is not run again
        rest = attack.auto_attack(net, x, y, state=file, **few)
    assert torch.equal(rest.x, whole.x)
    assert rest.settings["survivors"] == whole.settings["survivors"]
    with pytest.raises(RunFolderError, match="other images"):
        attack.auto_attack(net, x[:5], y[:5], state=file, **few)


def test_a_kill_while_writing_leaves_the_state_before(net, digits, tmp_path, monkeypatch):
    x, y = digits[0][:20], digits[1][:20]
    few = {"eps": 0.08, "effort": attack.Effort(steps=5, targets=1, queries=5), "progress": False}
    file, write = tmp_path / "state.safetensors", auto.save_file

    def torn(tensors, path, metadata):
        if "fab-t" in metadata["survivors"]:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(auto, "save_file", torn)
        with pytest.raises(KeyboardInterrupt):
            attack.auto_attack(net, x, y, state=file, **few)
    assert torch.equal(attack.auto_attack(net, x, y, state=file, **few).x, attack.auto_attack(net, x, y, **few).x)
    with pytest.raises(RunFolderError, match="other images"):
        attack.auto_attack(net, x, (y + 1) % 10, state=file, **few)


def test_the_random_version_averages_twenty_gradients(net, digits, global_randomness_untouched):
    x, y = digits[0][:12], digits[1][:12]
    noisy = lambda images: net(images + 0.05 * torch.randn_like(images))  # noqa: E731
    few = attack.Effort(steps=8)
    found = attack.auto_attack(noisy, x, y, eps=0.15, version="rand", effort=few, progress=False)
    assert list(found.settings["survivors"]) == ["clean", "apgd-ce", "apgd-dlr"]
    assert found.asked["gradients"] % 20 == 0
    assert found.success_rate > 0.5
    again = attack.auto_attack(noisy, x, y, eps=0.15, version="rand", effort=few, progress=False)
    assert torch.equal(found.x, again.x)
    with pytest.raises(LookupError, match="unknown version 'random'"):
        attack.auto_attack(net, x, y, eps=0.1, version="random")


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_three_classes_have_two_targets_and_no_fourth_logit(net, digits, norm):
    three = lambda images: net(images)[:, :3]  # noqa: E731
    rows = (digits[1] < 3).nonzero()[:12, 0]
    x, y = digits[0][rows], digits[1][rows]
    eps, few = {"linf": 0.2, "l1": 5.0}[norm], attack.Effort(steps=8, queries=10)
    found = attack.auto_attack(three, x, y, eps=eps, norm=norm, effort=few, progress=False)
    assert torch.equal(found.success, three(found.x).argmax(1) != y)
    assert found.success_rate > 0.3
    targeted = attack.apgd(three, x, y, eps=eps, norm=norm, loss="dlr", target=(y + 1) % 3, steps=10, progress=False)
    assert torch.equal(targeted.success, three(targeted.x).argmax(1) == (y + 1) % 3)


def test_survivors_only_get_fewer(net, digits):
    found = attack.auto_attack(
        net, digits[0][:60], digits[1][:60], eps=0.1, effort=attack.Effort(20, 3, 30), progress=False
    )
    counts = list(found.settings["survivors"].values())
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == int((~found.success).sum())
    pgd = attack.pgd(net, digits[0][:60], digits[1][:60], eps=0.1, progress=False)
    assert found.accuracy <= pgd.accuracy
