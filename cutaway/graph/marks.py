"""What a backward program does with the boxes of a picture: which rule serves them, what it keeps and leaves out."""

from cutaway.graph.backward import adjoint_name
from cutaway.graph.emit import references
from cutaway.graph.nodes import Node
from cutaway.graph.outline import Box
from cutaway.graph.program import Program
from cutaway.graph.sizes import number_bytes

MARKS = ("replaced", "fallback", "rule", "forward only", "pruned")  # a module has the first that occurs in it


def box_marks(root: Box, program: Program) -> dict[Box, str]:
    """Mark every box: "rule", "replaced" or "fallback" on the way back, "forward only", "pruned" if it never runs."""
    run = {target for line in program.built.lines for target in line.targets}
    origins = program.built.origins
    marks: dict[Box, str] = {}

    def mark(node: Node) -> str:
        if node.op is None:
            return "" if adjoint_name(node) in run else "forward only"
        return origins.get(node) or ("forward only" if node.identifier in run else "pruned")

    def visit(box: Box) -> str:
        inner = {visit(child) for child in box.children}
        if not box.children and box.node is not None and box.kind != "output":
            inner = {mark(box.node)}
        marks[box] = next((each for each in MARKS if each in inner), "")
        return marks[box]

    visit(root)
    return marks


def kept_values(program: Program) -> dict[Node, list[tuple[str, int | None]]]:
    """For each node on the way back, the values of the forward pass that its rule reads: name and bytes per example.

    Parameters are there anyway and do not count; the bytes of residuals (masks, statistics) are not known before a run.
    """
    nodes = {node.identifier: node for node in program.graph.nodes}
    owners = {adjoint_name(node): node for node in program.graph.nodes}
    found: dict[Node, dict[str, int | None]] = {}
    for line in program.built.lines:
        read = references([line.args, line.kwargs])
        owner = next((owners[name] for name in read if name in owners), None)
        if owner is None or line.label in ("add", "getitem", "unbroadcast"):
            continue
        entry = found.setdefault(owner, {})
        for name in read:
            value = nodes.get(name)
            if value is not None and value.kind not in ("parameter", "buffer", "constant"):
                entry[value.name] = number_bytes(value)
            elif name.startswith(f"{owner.identifier}__"):
                entry[name.removeprefix(f"{owner.identifier}__")] = None
    return {node: list(entry.items()) for node, entry in found.items()}
