"""The page: one file, and a script that places everything as Python does."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from cutaway.errors import ArgumentError
from cutaway.graph.draw import opened
from cutaway.graph.graph import Graph
from cutaway.graph.nodes import Node, link
from cutaway.graph.place import Placed, place, wires
from cutaway.graph.sheet import Sheet
from tests.graph.drawn import captured


@pytest.fixture(scope="module")
def graph() -> Graph:
    return captured()


# ---- the page ----


def payload_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found is not None
    return json.loads(found[1])


def test_page_is_one_file_with_everything(graph: Graph, tmp_path: Path) -> None:
    program = graph.gradient(of="output", wrt="x")
    drawing = graph.draw(depth=2, program=program, numbers={"norm": {"stem": float("nan"), "left": 1.0}}, color="norm")
    page = drawing.save(tmp_path / "net.html").read_text()
    assert page == drawing.html
    assert re.findall(r"(?:src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org/)", page) == []
    data = payload_of(page)
    assert data["color"] == "norm"
    assert data["backward"]
    paths = [box["path"] for box in data["boxes"]]
    assert [paths[i] for i in data["open"] if i and data["boxes"][i]["type"] == "module"] == ["blocks"]
    assert data["statistics"]["norm"]["values"][paths.index("stem")] == "nan"
    stem = data["boxes"][paths.index("stem")]
    assert stem["shape"] == "4×6×6"
    assert "self.blocks(self.stem(x))" in stem["source"]
    assert data["statistics"]["parameters"]["values"][paths.index("stem")] == 40


def test_files_end_in_svg_or_html(graph: Graph, tmp_path: Path) -> None:
    graph.draw(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text().startswith("<svg")
    with pytest.raises(ArgumentError, match=r"net\.png"):
        graph.draw(tmp_path / "net.png")


def long_chain(count: int) -> Graph:
    """A graph of so many operations, built by hand: a chain with shortcuts, in modules of ten."""
    relu, add = torch.ops.aten.relu.default, torch.ops.aten.add.Tensor
    x = Node("x", "input", shape=("N", 8), dtype=torch.float32)
    nodes = [x]
    for k in range(count):
        call = (("", "", "Chain"), (f"m{k // 10}", f"m{k // 10}", f"Part{k // 10 % 7}"))
        skip = k % 10 == 9
        args = (nodes[-1], nodes[-9]) if skip else (nodes[-1],)
        name = f"m{k // 10}.{'add' if skip else f'relu{k}'}"
        nodes.append(
            Node(name, "operation", add if skip else relu, args, {}, call, shape=("N", 8), dtype=torch.float32)
        )
    for node in nodes:
        node.identifier = node.name.replace(".", "_")
    link(nodes)
    spec = pytree.tree_flatten(((torch.zeros(1),), {}))[1]
    made = Graph(nn.Identity(), nodes, [nodes[-1]], spec, spec)
    made.input_slots = [x]
    return made


def test_a_thousand_nodes_are_drawn_quickly() -> None:
    graph = long_chain(1000)
    start = time.perf_counter()
    drawing = graph.draw()
    assert len(drawing.svg) > 1000
    assert len(drawing.html) < 2_000_000
    assert time.perf_counter() - start < 3 * 4  # under 3 s on a free core; the core may be shared
    assert len(payload_of(drawing.html)["boxes"]) >= 1000


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
READ_OUT = """<script>
const all = (p) => [[p.i, p.x, p.y, p.w, p.h], ...(p.inner || []).flatMap(all)];
const found = { boxes: all(placed), paths: wires(placed).map((w) => w.path) };
document.body.innerHTML = "<pre>" + JSON.stringify(found) + "</pre>";
</script></body>"""


def everything(placed: Placed) -> list[Placed]:
    return [placed, *(inner for child in placed.inner for inner in everything(child))]


def numbers_in(path: str) -> tuple[str, list[float]]:
    return re.sub(r"-?[\d.]+", "#", path), [float(number) for number in re.findall(r"-?[\d.]+", path)]


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium to run the page's script")
@pytest.mark.parametrize("depth", [1, None])
def test_the_script_places_as_python_does(graph: Graph, tmp_path: Path, depth: int | None) -> None:
    drawing = graph.draw(depth=depth)
    made: Sheet = drawing.sheet
    root = place(made, lambda box: opened(box, depth), lambda box: False)
    (tmp_path / "page.html").write_text(drawing.html.replace("</body>", READ_OUT))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(re.search(r"<pre>(.*?)</pre>", done.stdout, re.S)[1])  # type: ignore[index]
    expected = [(p.box.number, p.x, p.y, p.width, p.height) for p in everything(root)]
    assert [row[0] for row in found["boxes"]] == [row[0] for row in expected]
    for ours, theirs in zip(expected, found["boxes"], strict=True):
        assert theirs[1:] == pytest.approx(ours[1:], abs=1.0)  # widths are rounded in the page
    drawn = [numbers_in(wire.path) for wire in wires(root, made)]
    there = [numbers_in(path) for path in found["paths"]]
    assert [shape for shape, _ in there] == [shape for shape, _ in drawn]
    for (_, ours), (_, theirs) in zip(drawn, there, strict=True):
        assert theirs == pytest.approx(ours, abs=1.0)
