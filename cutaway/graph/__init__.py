"""Computation graphs: capture, run, differentiate by replaceable rules."""

from cutaway.graph import rules, tables  # noqa: F401 - importing fills the table
from cutaway.graph.capture import capture
from cutaway.graph.cost import Cost, CostRow
from cutaway.graph.draw import Drawing
from cutaway.graph.functional import grad, jvp
from cutaway.graph.graph import Graph
from cutaway.graph.measure import Timing
from cutaway.graph.nodes import Node
from cutaway.graph.passes import UNFUSED, cut, start
from cutaway.graph.program import Program
from cutaway.graph.rows import TABLE, Row
from cutaway.graph.trace import Trace, first_nonfinite
from cutaway.graph.walks import check_gradient, linear_algebra

__all__ = [
    "TABLE",
    "UNFUSED",
    "Cost",
    "CostRow",
    "Drawing",
    "Graph",
    "Node",
    "Program",
    "Row",
    "Timing",
    "Trace",
    "capture",
    "check_gradient",
    "cut",
    "first_nonfinite",
    "grad",
    "jvp",
    "linear_algebra",
    "rules",
    "start",
]
