"""The tree of boxes against the graph's own edges; the layout by its properties."""

import itertools
import random

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.graph.graph import Graph
from cutaway.graph.layout import Grid, Net, arrange
from cutaway.graph.outline import outline
from cutaway.graph.place import Placed, place, wires
from cutaway.graph.sheet import sheet
from tests.graph.drawn import captured, named


@pytest.fixture(scope="module")
def graph() -> Graph:
    return captured()


# ---- the tree ----


def test_leaves_and_connections_are_the_graphs(graph: Graph) -> None:
    """Whatever the tree of containers says about signals, walked down to the leaves it is the edges of the graph."""
    for fold in (False, True):
        root = outline(graph, fold=fold)
        leaves = {leaf.node: leaf for leaf in root.leaves() if leaf.kind != "output"}
        assert set(leaves) == {
            node for node in graph.nodes if node.kind == "input" or (node.shape and node.op is not None)
        }
        expected = {(a, b) for b in leaves for a in b.inputs if a in leaves} | {(graph.outputs[0], None)}
        found = set()
        for box in root.walk():
            for signal, targets in box.nets.items():
                for target in targets:
                    if target is not None and not target.children:
                        found.add((signal.node, None if target.kind == "output" else target.node))
        assert found == expected


def test_signals_cross_every_edge_between(graph: Graph) -> None:
    root = outline(graph, fold=False)
    block = named(root, "blocks.1")
    assert [signal.path for signal in block.entering] == ["blocks.0.relu_1"]
    assert [signal.path for signal in block.leaving] == ["blocks.1.relu_1"]
    assert block.nets[block.entering[0]] == [named(root, "blocks.1.conv1"), named(root, "blocks.1.add")]
    assert [signal.path for signal in named(root, "blocks").leaving] == ["blocks.2.relu_1"]


def test_copies_and_reuse_are_folded(graph: Graph) -> None:
    folds = {box.path: box for box in outline(graph).walk() if box.kind == "fold"}
    assert {path: box.badge for path, box in folds.items()} == {"blocks.0": "+2 more", "mix": "×3"}
    assert [len(box.children) for box in folds.values()] == [3, 3]
    assert folds["mix"].children[0].kind == "group"  # the layer and its tanh
    last = [*folds["blocks.0"].children[2].leaves()][-1]
    assert folds["blocks.0"].twin(last).path == "blocks.0.relu_1"
    assert not [box for box in outline(graph, fold=False).walk() if box.kind in ("fold", "group")]


def test_what_differs_is_not_folded() -> None:
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)]
    root = outline(ct.capture(nn.Sequential(*layers), torch.randn(2, 4)))
    assert not [box for box in root.walk() if box.kind == "fold"]


# ---- the table ----


def random_nets(seed: int, count: int) -> list[Net]:
    rng = random.Random(seed)
    nets = []
    for source in range(count - 1):
        near = [source + 1] if rng.random() < 0.7 else []
        far = rng.sample(range(source + 1, count), min(rng.randrange(3), count - source - 1))
        if targets := tuple(sorted({*near, *far})):
            nets.append(Net(source, targets))
    return nets


def cells_of(grid: Grid) -> dict[int, list[tuple[int, int]]]:
    """For each row the column ranges that are taken."""
    rows: dict[int, list[tuple[int, int]]] = {}
    for row, first, last in grid.cells:
        rows.setdefault(row, []).append((first, last))
    for lane in grid.lanes:
        for row, column in lane.items():
            rows.setdefault(row, []).append((column, column))
    return rows


@pytest.mark.parametrize("seed", range(40))
def test_any_graph_is_laid_out_downwards_without_overlap(seed: int) -> None:
    nets = random_nets(seed, 3 + seed)
    grid = arrange(3 + seed, nets, anchors=[0])
    row = [cell[0] for cell in grid.cells]
    for number, net in enumerate(nets):
        assert all(row[target] > row[net.source] for target in net.targets)
        assert set(grid.lanes[number]) == set(range(row[net.source] + 1, max(row[t] for t in net.targets)))
    for taken in cells_of(grid).values():
        taken.sort()
        assert all(left[1] < right[0] for left, right in itertools.pairwise(taken))
        assert taken[-1][1] < grid.columns
        assert taken[0][0] >= 0


def test_a_chain_is_straight_and_shortcuts_have_lanes() -> None:
    grid = arrange(5, [Net(0, (1, 4)), Net(1, (2, 3)), Net(2, (3,)), Net(3, (4,))])
    assert grid.cells == tuple((row, 0, 0) for row in range(5))
    assert grid.lanes[0].keys() == {1, 2, 3}
    assert grid.lanes[1].keys() == {2}
    assert len(set(grid.lanes[0].values())) == 1  # straight
    assert {*grid.lanes[0].values()}.isdisjoint(grid.lanes[1].values())


def test_branches_are_centred_and_ordered() -> None:
    grid = arrange(6, [Net(0, (1, 2, 3, 4)), *(Net(branch, (5,)) for branch in (1, 2, 3, 4))])
    assert list(grid.cells[1:5]) == [(1, column, column) for column in range(4)]
    assert grid.cells[0] == (0, 0, 3)
    assert grid.cells[5] == (2, 0, 3)


def test_what_is_not_computed_from_the_input_stands_before_its_use() -> None:
    grid = arrange(5, [Net(0, (2,)), Net(1, (4,)), Net(2, (3,)), Net(3, (4,))], anchors=[0])
    assert [row for row, _, _ in grid.cells] == [0, 2, 1, 2, 3]


# ---- places ----


def everything(placed: Placed) -> list[Placed]:
    return [placed, *(inner for child in placed.inner for inner in everything(child))]


@pytest.mark.parametrize("unfolded", [False, True])
def test_boxes_lie_in_their_modules_and_beside_each_other(graph: Graph, unfolded: bool) -> None:
    root = place(sheet(graph), lambda box: True, lambda box: unfolded)
    for each in everything(root):
        for child in each.inner:
            assert child.x >= each.x - 0.01
            assert child.x + child.width <= each.x + each.width + 0.01
            assert each.y <= child.y
            assert child.y + child.height <= each.y + each.height + 0.01
        for a, b in itertools.combinations(each.inner, 2):
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
            assert apart, (a.box.path, b.box.path)


def test_arrows_end_at_boxes(graph: Graph) -> None:
    made = sheet(graph)
    root = place(made, lambda box: True, lambda box: True)
    closed = [each for each in everything(root) if each.frame is None]
    tips = [wire.tip for wire in wires(root, made) if wire.tip is not None]
    edges = sum(len(targets) for box in made.root.walk() for targets in box.nets.values() if box.children)
    assert 0 < len(tips) <= edges
    for x, y in tips:
        assert any(each.x < x < each.x + each.width and each.y == pytest.approx(y) for each in closed)
    assert any(wire.skip for wire in wires(root, made))
