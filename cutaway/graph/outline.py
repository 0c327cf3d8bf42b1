"""The outline of a graph: its modules as a tree of boxes, repeats folded, and in each box who feeds whom.

A leaf is one operation (or a module that is one operation), an input, an output, a parameter. The value a leaf makes
is a signal, known by its leaf. In every container a signal comes from a child, or from outside through the top edge,
and goes to children, or out through the bottom edge; so a container can be drawn without looking into others.
"""

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cutaway.graph.backward import ancestors
from cutaway.graph.nodes import Node, Size

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph

SHAPE_ONLY = {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like"}
LONGEST_PATTERN = 8  # siblings in a row that are looked at as one repeating pattern


@dataclass(eq=False)
class Box:
    """One box of the picture.

    Attributes:
        kind: "module", "operation", "input", "output", "parameter", "constant", "group" (a pattern of siblings) or
            "fold" (equal copies in a row, of which the first is shown).
        name: relative to the box around it.
        path: the module's path, or the node's name.
        label: class or operation.
        node: for leaves, the node whose value they are.
        badge: of folds: "×3" for one module called three times, "+2 more" for more copies with own weights.
        entering, leaving: the signals that cross its edges.
        nets: for each signal in it, the children it goes to (None for out through the bottom).
    """

    kind: str
    name: str
    path: str
    label: str = ""
    node: Node | None = None
    children: list["Box"] = field(default_factory=list)
    parent: "Box | None" = None
    badge: str = ""
    entering: list["Box"] = field(default_factory=list)
    leaving: list["Box"] = field(default_factory=list)
    nets: dict["Box", list["Box | None"]] = field(default_factory=dict)
    number: int = -1

    @property
    def shape(self) -> tuple[Size, ...] | None:
        """The shape of what leaves the box."""
        last = self.node if self.node is not None else (self.leaving[-1].node if self.leaving else None)
        if last is None:
            return None
        return last.shape if last.parts is None else next((shape for shape, _ in last.parts if shape is not None), None)

    def leaves(self) -> Iterator["Box"]:
        """The leaves in it, itself if it is one."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    def walk(self) -> Iterator["Box"]:
        """Itself and every box in it, outer ones first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def above(self) -> list["Box"]:
        """The boxes around it, outermost first, itself last."""
        chain: list[Box] = []
        box: Box | None = self
        while box is not None:
            chain.append(box)
            box = box.parent
        return chain[::-1]

    def twin(self, leaf: "Box") -> "Box":
        """For folds: the leaf of the first copy that stands where a leaf stands in its own copy."""
        for copy in self.children:
            found = list(copy.leaves())
            if leaf in found:
                return list(self.children[0].leaves())[found.index(leaf)]
        return leaf


def outline(graph: "Graph", leaves_too: bool = False, fold: bool = True) -> Box:
    """Make the tree of boxes of a graph.

    Args:
        graph: a captured graph.
        leaves_too: show parameters, buffers and constants as boxes of their own.
        fold: fold equal siblings in a row into one box.
    """
    module = graph.module
    kind = getattr(getattr(module, "function", None), "__name__", "") or type(module).__name__
    root = Box("module", kind, "", kind)
    boxes = _leaves(graph, root, leaves_too)
    feeds = _feeds(graph, boxes)
    for position, node in enumerate(graph.outputs):
        if (source := boxes.get(_stand(node))) is not None:
            name = "output" if len(graph.outputs) == 1 else f"output {position}"
            box = Box("output", name, f"output@{position}", parent=root, node=node)
            root.children.append(box)
            feeds[box] = [source]
    for box in [box for box in root.walk() if box.children]:
        _merge(box)
    if fold:
        _fold(root, feeds, {leaf.name: id(module.get_parameter(leaf.target)) for leaf in graph.parameters})
    _connect(root, feeds)
    for number, box in enumerate(root.walk()):
        box.number = number
    return root


def _leaves(graph: "Graph", root: Box, leaves_too: bool) -> dict[Node, Box]:
    """Put a box for every node that is shown into the tree of modules."""
    shown = _shown(graph, leaves_too)
    containers: dict[tuple, Box] = {}
    boxes: dict[Node, Box] = {}

    def container(call: tuple) -> Box:
        if len(call) < 2:
            return root
        if call not in containers:
            around = container(call[:-1])
            path, _, kind = call[-1]
            prefix = f"{around.path}." if around.path else ""
            containers[call] = Box("module", path.removeprefix(prefix), path, kind, parent=around)
            around.children.append(containers[call])
        return containers[call]

    size = Counter(node.call for node in shown if node.op is not None)
    for node in sorted(shown, key=lambda node: (_first_use(node), node.index)):
        call = node.call
        if node.op is None and node.kind != "input" and node.users:
            call = node.users[0].call
            call = call[:-1] if size[call] == 1 else call  # the module itself becomes a leaf
        around = container(call)
        name = node.name.removeprefix(around.path).lstrip(".") or node.op_name
        kind = "constant" if node.kind == "buffer" else node.kind
        boxes[node] = Box(kind, name, node.name, node.op_name if node.op is not None else kind, node, parent=around)
        around.children.append(boxes[node])
    return boxes


def _first_use(node: Node) -> int:
    """Where a node stands in order; leaves stand just before their first user."""
    return node.index if node.op is not None or node.kind == "input" or not node.users else node.users[0].index


def _shown(graph: "Graph", leaves_too: bool) -> list[Node]:
    """Operations that compute tensors, and the leaves asked for; not what is the same for every input."""
    varying = set(graph.inputs) | set(graph.parameters)
    for node in graph.nodes:
        if any(source in varying for source in node.inputs) and node.op_name not in SHAPE_ONLY:
            varying.add(node)
    needed = ancestors([*graph.outputs, *graph.updates.values()])
    shown = []
    for node in graph.nodes:
        if node.kind == "operation":
            tensor = node.shape is not None or node.parts is not None
            if tensor and node.op is not operator.getitem and (leaves_too or node in varying):
                shown.append(node)
        elif node.kind == "input" or (leaves_too and node in needed):
            shown.append(node)
    return shown


def _stand(node: Node) -> Node:
    """One part of a tuple is drawn with the operation that makes the tuple."""
    while node.op is operator.getitem and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _feeds(graph: "Graph", boxes: dict[Node, Box]) -> dict[Box, list[Box]]:
    """For each leaf, the leaves whose values it reads."""
    feeds: dict[Box, list[Box]] = {}
    for node, box in boxes.items():
        sources = (boxes.get(_stand(source)) for source in node.inputs)
        feeds[box] = list(dict.fromkeys(source for source in sources if source is not None))
    return feeds


def _merge(box: Box) -> None:
    """A module that is one operation becomes a leaf."""
    if box.parent is None or len(box.children) != 1 or box.children[0].kind != "operation":
        return
    leaf = box.children[0]
    leaf.kind, leaf.name, leaf.label, leaf.parent = "module", box.name, box.label, box.parent
    leaf.path = box.path
    siblings = box.parent.children
    siblings[siblings.index(box)] = leaf


def _fold(box: Box, feeds: dict[Box, list[Box]], weights: dict[str, int]) -> None:
    """Fold equal siblings in a row, innermost boxes first; `weights` tells which parameters are the same tensor."""
    for child in box.children:
        _fold(child, feeds, weights)
    if len(box.children) < 2:
        return
    forms = [form(child, feeds) for child in box.children]
    place = {leaf: position for position, child in enumerate(box.children) for leaf in child.leaves()}
    reads = [_reads(child, feeds, place) for child in box.children]
    found: list[Box] = []
    at = 0
    while at < len(box.children):
        length, copies = _longest(box.children, forms, reads, at)
        run = box.children[at : at + length * copies]
        found.append(_folded(box, run, length, weights) if copies > 1 else run[0])
        at += len(run) if copies > 1 else 1
    box.children = found


def form(box: Box, feeds: dict[Box, list[Box]]) -> tuple:
    """What makes two boxes copies of each other: classes, operations, shapes and inner connections."""
    leaves = list(box.leaves())
    place = {leaf: position for position, leaf in enumerate(leaves)}
    parts = []
    for leaf in leaves:
        node = leaf.node
        if node is None:
            continue
        weights = tuple(source.shape for source in node.inputs if source.kind in ("parameter", "buffer"))
        inner = tuple(place.get(source, -1) for source in feeds.get(leaf, ()))
        parts.append((leaf.kind, leaf.label, node.op, node.shape, weights, inner))
    return (box.kind, box.label, tuple(parts))


def _reads(box: Box, feeds: dict[Box, list[Box]], place: dict[Box, int]) -> set:
    """What a box reads from outside of it: the positions of siblings, or leaves further away."""
    own = set(box.leaves())
    return {place.get(source, source) for leaf in own for source in feeds.get(leaf, ()) if source not in own}


def _longest(children: Sequence[Box], forms: Sequence[tuple], reads: Sequence[set], at: int) -> tuple[int, int]:
    """The repeating pattern that covers most siblings from a position on: its length and the number of copies."""
    best = (1, 1)
    for length in range(1, min(LONGEST_PATTERN, (len(children) - at) // 2) + 1):
        pattern = forms[at : at + length]
        copies = 1
        while forms[at + copies * length : at + (copies + 1) * length] == pattern and _follows(
            reads, at, length, copies
        ):
            copies += 1
        small = not any(child.children for child in children[at : at + length])
        if copies >= (3 if small else 2) and length * copies > best[0] * best[1]:
            best = (length, copies)
    return best


def _follows(reads: Sequence[set], at: int, length: int, copies: int) -> bool:
    """Whether the next copy reads the copy before it, and else only itself and what the first copy reads as well."""
    start = at + copies * length
    outside = set().union(*reads[start : start + length]) - set(range(start, start + length))
    before = set(range(start - length, start))
    shared = set().union(*reads[at : at + length])
    return bool(outside & before) and outside <= before | shared


def _folded(box: Box, run: list[Box], length: int, weights: dict[str, int]) -> Box:
    groups = [run[start : start + length] for start in range(0, len(run), length)]
    copies = [group[0] if length == 1 else _group(box, group) for group in groups]
    first = copies[0]
    used = [
        {weights[leaf.name] for node in operations(copy) for leaf in node.inputs if leaf.kind == "parameter"}
        for copy in copies
    ]
    reused = bool(used[0]) and all(each == used[0] for each in used)
    badge = f"×{len(copies)}" if reused else f"+{len(copies) - 1} more"
    fold = Box("fold", first.name, first.path, first.label, children=copies, parent=box, badge=badge)
    for copy in copies:
        copy.parent = fold
    return fold


def _group(box: Box, members: list[Box]) -> Box:
    name = f"{members[0].name} … {members[-1].name}"
    group = Box("group", name, members[0].path, " · ".join(b.label for b in members), children=members, parent=box)
    for member in members:
        member.parent = group
    return group


def _connect(root: Box, feeds: dict[Box, list[Box]]) -> None:
    """Give every container its nets, and every box the signals that cross its edges."""
    chains = {leaf: leaf.above() for leaf in root.leaves()}
    for leaf in chains:
        for source in feeds.get(leaf, ()):
            _wire(source, chains[source], chains[leaf])


def _wire(signal: Box, start: list[Box], end: list[Box]) -> None:
    shared = next(i for i, (a, b) in enumerate(zip(start, end)) if a is not b)
    for box in start[shared:-1]:
        _add(box.nets.setdefault(signal, []), None)
    for box in start[shared:]:
        _add(box.leaving, signal)
    for around, box in zip(end[shared - 1 :], end[shared:]):
        _add(around.nets.setdefault(signal, []), box)
        _add(box.entering, signal)


def _add(found: list, item: Box | None) -> None:
    if item not in found:
        found.append(item)


def operations(box: Box) -> Iterator[Node]:
    """The nodes of the operations in a box."""
    return (leaf.node for leaf in box.leaves() if leaf.node is not None and leaf.node.op is not None)
