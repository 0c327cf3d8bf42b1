"""Checkpoints: exact, whole, and read back past damage."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cutaway.errors import RunFolderError
from cutaway.train.checkpoint import LAST, PREVIOUS, load_checkpoint, save_checkpoint

STATE = {
    "tensors": {"half": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor(True), "none": torch.zeros(0, 3)},
    "numbers": [0.1 + 0.2, 3, None, True, float("inf")],
    5: ("text é", {"deep": torch.tensor(1.5, dtype=torch.float64)}),
}


def flat(tree: object) -> list[object]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in (key, *flat(value))]
    if isinstance(tree, list | tuple):
        return [type(tree), *(leaf for value in tree for leaf in flat(value))]
    return [(tree.dtype, tree.shape, tree.tolist())] if isinstance(tree, torch.Tensor) else [tree]


def test_state_comes_back_exactly(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, STATE)
    assert flat(load_checkpoint(tmp_path)) == flat(STATE)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS])
def test_optimizer_state_comes_back(tmp_path: Path, optimizer: type) -> None:
    def trained() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        w = nn.Parameter(torch.tensor([1.0, -2.0]))
        made = optimizer([w], lr=0.1)
        return w, made

    def step(w: nn.Parameter, made: torch.optim.Optimizer) -> None:
        def closure() -> float:
            w.grad = w.detach() ** 3
            return float((w.detach() ** 4).sum() / 4)

        made.step(closure)

    w, made = trained()
    step(w, made)
    save_checkpoint(tmp_path, {"w": w.detach(), "optimizer": made.state_dict()})
    step(w, made)
    again, other = trained()
    state = load_checkpoint(tmp_path)
    assert state is not None
    again.data.copy_(state["w"])
    other.load_state_dict(state["optimizer"])
    step(again, other)
    assert torch.equal(again, w)


def test_two_checkpoints_are_kept_and_none_is_no_error(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for number in range(3):
        save_checkpoint(tmp_path, {"number": number})
    (tmp_path / LAST).unlink()  # killed between the two renames
    assert load_checkpoint(tmp_path) == {"number": 1}


@pytest.mark.parametrize("damage", ["flip a bit", "cut off", "empty", "text"])
def test_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, damage: str) -> None:
    for number in range(2):
        save_checkpoint(tmp_path, {"number": number, "x": torch.arange(100.0)})
    content = bytearray((tmp_path / LAST).read_bytes())
    if damage == "flip a bit":
        content[-5] ^= 1
    (tmp_path / LAST).write_bytes(
        {"flip a bit": bytes(content), "cut off": bytes(content[:-8]), "empty": b"", "text": b"no" * 99}[damage]
    )
    with pytest.warns(UserWarning, match="going on from the checkpoint before"):
        state = load_checkpoint(tmp_path)
    assert state is not None and state["number"] == 0
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(RunFolderError, match="every checkpoint is damaged"):
        load_checkpoint(tmp_path)
