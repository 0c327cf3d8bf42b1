"""Computation graphs: capture, run, differentiate by replaceable rules."""

from cutaway.graph import rulesets as rules
from cutaway.graph import table_elementwise, table_linear, table_network  # noqa: F401 - importing fills the table
from cutaway.graph.capture import capture
from cutaway.graph.graph import Graph, Program
from cutaway.graph.nodes import Node
from cutaway.graph.rules import TABLE, Row
from cutaway.graph.trace import Trace

__all__ = ["TABLE", "Graph", "Node", "Program", "Row", "Trace", "capture", "rules"]
