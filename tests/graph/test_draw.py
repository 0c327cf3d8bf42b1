"""What stands in a picture: texts, numbers worked out by hand, colours, marks."""

import re
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import Tensor, nn

import cutaway as ct
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.graph.graph import Graph
from cutaway.graph.labels import short, value_lines, variables
from cutaway.graph.nodes import Node
from cutaway.graph.outline import Box
from cutaway.graph.picture import Shades
from cutaway.graph.sheet import sheet
from tests.graph.drawn import captured, named

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def graph() -> Graph:
    return captured()


# ---- what stands in the picture ----


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_svg_is_whole_and_fits_a_phone() -> None:
    drawing = ct.capture(ct.nets.lenet5(), torch.rand(2, 1, 32, 32)).draw()
    root = ET.fromstring(drawing.svg)
    assert root.tag == f"{SVG}svg"
    assert float(root.get("width", "999")) <= 360
    assert "prefers-color-scheme: dark" in drawing.svg
    assert re.findall(r"(?:href|src|url)\b", drawing.svg) == []
    shown = texts(drawing.svg)
    assert "61.7k parameters · 417k multiply-adds per example" in shown
    for text in ("c1", "Conv2d  6×28×28", "156 param. · 118k mult-adds", "flatten", "output"):
        assert text in shown
    assert drawing._repr_html_() == drawing.svg


def test_depth_opens_modules(graph: Graph) -> None:
    shown = {depth: texts(graph.draw(depth=depth).svg) for depth in (0, 1, 2, 3, None)}
    assert shown[0][-1] != "conv1"
    assert "blocks" in shown[1]
    assert "conv1" not in shown[1]
    assert "+2 more" not in shown[1]
    assert "+2 more" in shown[2]
    assert "conv1" in shown[3]
    assert shown[None] == shown[3]
    assert sum(text == "conv1" for text in texts(graph.draw(depth=None, fold=False).svg)) == 3


def test_lambdas_shapes_and_names_are_escaped() -> None:
    graph = ct.capture(lambda x: (x < 1).float() * 2, torch.zeros(2, 3))
    drawing = graph.draw()
    assert texts(drawing.svg)[0] == "<lambda>"
    assert "<title>&lt;lambda&gt;</title>" in drawing.html


def ridge(x: Tensor, y: Tensor, w: Tensor, b: Tensor, lam: Tensor) -> Tensor:
    return (y - (x @ w + b)) ** 2 + lam * (w @ w)


def test_worked_example_stands_in_the_boxes() -> None:
    """Ridge regression as in the lecture: r = y − ŷ, ∂J/∂r = 2r, ∂J/∂b = −2r, ∂J/∂w = −2r·x + 2λw."""
    x, y, w, b, lam = [1.0, 2.0], 3.0, [0.5, -1.0], 0.25, 0.1
    r = y - (x[0] * w[0] + x[1] * w[1] + b)
    given = [torch.tensor(value) for value in (x, y, w, b, lam)]
    graph = ct.capture(ridge, *given)
    shown = texts(graph.draw(values=graph.run(*given).backward()).svg)

    def written(value: float) -> str:
        return f"{value:.4g}".replace("-", "−")

    of = next(text for text in shown if text.startswith("∂") and text.endswith("b = " + written(-2 * r))).split("/")[0]
    slope = ", ".join(written(-2 * r * x[j] + 2 * lam * w[j]) for j in range(2))
    for text in (
        f"= {written(r)}",
        f"{of}/∂w = [{slope}]",
        f"{of}/∂sub = {written(2 * r)}",
        f"{of}/∂y = {written(2 * r)}",
        f"{of}/∂lam = {written(w[0] ** 2 + w[1] ** 2)}",
        written(2 * r),  # beside the arrow from r to r²
        "−1",  # beside the arrow from the prediction to r
    ):
        assert text in shown, text
    without = texts(graph.draw(values=graph.run(*given).backward(), adjoints=False).svg)
    assert f"= {written(r)}" in without
    assert not [text for text in without if text.startswith("∂")]


def test_parameters_are_boxes_in_small_graphs_with_values() -> None:
    model, x = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), torch.tensor([[1.0, -1.0]])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        model[0].bias.zero_()
    graph = ct.capture(model, x)
    shown = texts(graph.draw(values=graph.run(x)).svg)
    assert {"0.weight", "0.bias", "= [1  2]", "  [3  4]", "= [−1, −1]"} <= set(shown)
    assert "0.weight" not in texts(graph.draw().svg)


def test_a_trace_of_another_graph_is_refused(graph: Graph) -> None:
    other = ct.capture(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(ArgumentError, match="another graph"):
        graph.draw(values=other.run(torch.zeros(1, 2)))


def test_values_in_words() -> None:
    assert value_lines(torch.tensor([[-1.5]])) == ["−1.5"]
    assert value_lines(torch.arange(6.0)) == ["[0, 1, 2, 3,", " 4, 5]"]
    assert value_lines(torch.tensor([[1.0, -10.0], [0.5, 2.0]])) == ["[  1  −10]", "[0.5    2]"]
    assert value_lines(torch.tensor([float("nan")])) == ["nan"]
    assert value_lines(torch.tensor([True, False])) == ["[True, False]"]
    assert value_lines(torch.zeros(0, 3)) == ["empty"]
    assert [short(number) for number in (0, 999, 1000, 12345, 99960, 999_600, 7e16)] == [
        "0", "999", "1.00k", "12.3k", "100k", "1.00M", "70.0P"
    ]  # fmt: skip


def test_variables_are_read_from_the_source() -> None:
    lines = ["f.py:1: y_hat = x @ w", "f.py:2: r = y - y_hat  # residual", "f.py:3: return r**2", "f.py:4: a == b"]
    nodes = [Node(f"n{k}", "operation", torch.ops.aten.neg.default, source=line) for k, line in enumerate(lines)]
    found = variables(nodes)
    assert [found.get(node) for node in nodes] == [("y_hat", "x @ w"), ("r", "y - y_hat"), ("", "r**2"), None]


# ---- colour ----


def test_colour_follows_the_numbers(graph: Graph) -> None:
    given = {"stem": 1.0, "blocks.0.conv1": 5.0, "left": 3.0, "right.weight": 10.0}
    made = sheet(graph, numbers={"norm": given})
    shades = Shades("norm", made.numbers["norm"])
    steps = {path: shades.step(made.numbers["norm"][named(made.root, path)]) for path in ("stem", "left", "right")}
    assert steps["stem"] == 0
    assert steps["stem"] < steps["left"] < steps["right"] == 8
    assert made.numbers["norm"][named(made.root, "blocks", "module")] == 5.0  # the largest in it
    assert named(made.root, "mix", "fold") not in made.numbers["norm"]
    svg = graph.draw(color=given).svg
    assert re.search(r'class="k-product q8".*?right', svg)
    assert any(text.startswith("color: ") for text in texts(svg))


def test_counts_add_up_in_modules(graph: Graph) -> None:
    made = sheet(graph)
    work = made.numbers["multiply_adds"]
    assert work[made.root] == graph.cost().total.multiply_adds
    assert work[named(made.root, "blocks", "module")] == graph.cost()["blocks"].multiply_adds
    fold = named(made.root, "blocks.0", "fold")
    assert work[fold] == work[fold.children[0]]  # a fold shows one copy


def test_scales_with_nothing_to_scale() -> None:
    box = Box("operation", "a", "a", parent=Box("module", "", ""))
    assert Shades("x", {box: 0.0}).shade(box) == "q0"
    assert Shades("x", {box: float("nan")}).shade(box) == "q8"
    assert Shades("x", {}).shade(box) == "q-none"
    assert Shades("x", {box: -1.0}).legend() == "x: -1 … -1"


def test_unknown_colour_lists_the_known(graph: Graph) -> None:
    with pytest.raises(LookupFailure, match="'multiply_adds'"):
        graph.draw(color="multiply-adds")
    with pytest.raises(LookupFailure, match="unknown node 'stemm'"):
        graph.draw(color={"stemm": 1.0})


def test_trace_and_timing_give_statistics(graph: Graph) -> None:
    x = torch.randn(2, 1, 6, 6)
    trace = graph.run(x).backward()
    made = sheet(graph, trace, timing=graph.measure(x, repeats=1))
    assert {"value size", "adjoint size", "forward time", "backward time"} <= set(made.numbers)
    expected = trace["stem"].value.square().mean().sqrt()
    assert made.numbers["value size"][named(made.root, "stem")] == pytest.approx(float(expected), rel=1e-5)


# ---- the backward pass ----


def test_program_marks_boxes(graph: Graph) -> None:
    program = graph.gradient(of="blocks", wrt="blocks.0", rules=ct.rules.guided)
    made = sheet(graph, program=program, fold=False)
    marks = {box.path: mark for box, mark in made.marks.items() if not box.children}
    assert marks["stem"] == "forward only"
    assert marks["blocks.0.conv1"] == "forward only"
    assert marks["blocks.1.conv1"] == "rule"
    assert marks["blocks.1.relu"] == "replaced"
    assert marks["left"] == "pruned"
    assert made.marks[named(made.root, "blocks", "module")] == "replaced"
    svg = graph.draw(depth=None, fold=False, program=program).svg
    assert svg.count('class="box replaced"') == 4  # two in each of the two blocks on the way
    pruned = [box for box, mark in made.marks.items() if mark == "pruned" and not box.children]
    assert svg.count('class="box pruned"') == len(pruned) == 10  # two convolutions, cat, mean, three layers with tanh


def test_kept_values_are_what_the_rules_read() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(2, 4)
    graph = ct.capture(model, x)
    made = sheet(graph, program=graph.gradient(wrt="input"))
    kept = {box.path: value for box, value in made.numbers["kept bytes"].items() if not box.children and value}
    assert kept == {"1": 3 * 4}  # tanh reads its result; a linear layer reads its weight alone
    made = sheet(graph, program=graph.gradient(wrt=["0.weight", "2.weight"]))
    kept = {box.path: value for box, value in made.numbers["kept bytes"].items() if not box.children and value}
    assert kept == {"0": 4 * 4, "1": 3 * 4, "2": 3 * 4}  # for a weight's adjoint a linear layer reads its input
