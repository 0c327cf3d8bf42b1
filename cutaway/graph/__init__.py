"""Computation graphs: capture, run, differentiate by replaceable rules."""

from cutaway.graph import rules, table_elementwise, table_linear, table_network  # noqa: F401 - importing fills the table
from cutaway.graph.capture import capture
from cutaway.graph.functional import grad
from cutaway.graph.graph import Graph
from cutaway.graph.nodes import Node
from cutaway.graph.program import Program
from cutaway.graph.rows import TABLE, Row
from cutaway.graph.trace import Trace

__all__ = ["TABLE", "Graph", "Node", "Program", "Row", "Trace", "capture", "grad", "rules"]
