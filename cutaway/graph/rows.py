"""The table of backward rules: one row per operation, how the adjoint of its output becomes adjoints of its inputs.

A row gives, for each differentiable argument (by its name in the ATen schema), a plain function of tensors. The
function is handed what its parameters name:

    grad             the adjoint of the output (for operations with several outputs a tuple, None where missing)
    result           the output
    self, weight, …  any argument of the operation, by its schema name
    self_shape, …    only the shape of a tensor argument, so that the tensor itself need not be kept
    self_dtype, …    only its kind of number
    self_reference, … result_reference, and those of residuals: the same at another input, the reference
    node             the `Node`
    needs            for rows that serve several arguments at once: the set of argument names asked for
    residuals        further values that the row's `forward` returns beside the output (a mask, indices, a mean)

Only what is named is kept from the forward pass. A rule set is a plain dict `{operation or node name: row or function}`
laid over this table; a lone function is the rule for the first tensor argument.
"""

import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from cutaway.errors import ArgumentError, nearest
from cutaway.graph.nodes import Node, bound_arguments, nodes_in, operation_name


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table. A row equals itself alone, so that programs can be kept by the rules they were made with.

    Attributes:
        adjoints: argument name (or a tuple of names served together) → function; None says the derivative is zero.
        forward: replaces the operation in the forward pass where its adjoint is wanted; returns (output, *residuals).
        residuals: the names of what `forward` returns beside the output.
        broadcasts: the operation broadcasts its arguments: adjoints are summed back to each argument's shape.
    """

    adjoints: Mapping[str | tuple[str, ...], Callable | None]
    forward: Callable | None = None
    residuals: tuple[str, ...] = ()
    broadcasts: bool = False

    def function_for(self, argument: str) -> tuple[str | tuple[str, ...], Callable | None] | None:
        """The entry that serves an argument, or None if the row is silent about it."""
        for names, function in self.adjoints.items():
            if argument == names or (isinstance(names, tuple) and argument in names):
                return names, function
        return None


RuleSet = Mapping[Any, Row | Callable | Mapping[str, Callable | None]]
TABLE: dict[str, Row] = {}
OVERWRITING: dict[Callable, Callable] = {}  # rule → the same rule, which may write into the adjoint it is given


def row(
    *operations: str,
    forward: Callable | None = None,
    residuals: tuple[str, ...] = (),
    broadcasts: bool = False,
    joint: tuple[tuple[str, ...], Callable] | None = None,
    **adjoints: Callable | None,
) -> None:
    """Write one row of the table for operations named as in ATen ("relu", or "add.Tensor" for one overload)."""
    entries: dict[str | tuple[str, ...], Callable | None] = {**adjoints}
    if joint is not None:
        entries[joint[0]] = joint[1]
    made = Row(entries, forward, residuals, broadcasts)
    for operation in operations:
        TABLE[f"aten.{operation}"] = made


def named(names: Sequence[str], function: Callable) -> Callable:
    """A rule with the given parameters, for operations whose arguments are called differently."""

    def rule(**given: Any) -> Any:
        return function(*(given[name] for name in names))

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    rule.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return rule


REFERENCE = "_reference"  # ends the names of what is asked for at the reference


def compares(rules: RuleSet | None) -> bool:
    """Whether a rule set looks at values at a reference besides those at the input."""
    found: list[Any] = []
    for rule in (rules or {}).values():
        adjoints = rule.adjoints if isinstance(rule, Row) else rule
        found += adjoints.values() if isinstance(adjoints, Mapping) else [adjoints]
    return any(asked.endswith(REFERENCE) for function in found if callable(function) for asked in requests(function))


@lru_cache(maxsize=4096)
def requests(function: Callable) -> tuple[str, ...]:
    """The names of what a rule asks for: its parameters."""
    return tuple(inspect.signature(function).parameters)


def names_of(node: Node) -> tuple[str, ...]:
    """The keys under which a rule for this node is looked up, most specific first."""
    full = operation_name(node.op)  # aten.add.Tensor
    packet = full.rsplit(".", 1)[0] if full.count(".") > 1 else full  # aten.add
    short = full.split(".", 1)[1] if "." in full else full
    plain = re.sub(r"_\d+$", "", short.split(".")[0]) if full.startswith("functions.") else short.split(".")[0]
    return (node.name, full, packet, short, short.split(".")[0], plain)


def default_row(node: Node) -> Row | None:
    """The table's row for a node; None where the fallback serves."""
    if any(source.dtype is not None and source.dtype.is_complex for source in [node, *node.inputs]):
        return None  # the table is real-valued; the local vjp conjugates where it has to
    for key in names_of(node)[1:3]:
        if key in TABLE:
            return TABLE[key]
    return None


def replaced_row(node: Node, rules: RuleSet) -> Row | None:
    """The row a rule set gives for a node, or None where it is silent."""
    key = rule_key(node, rules)
    if key is not None:
        return as_row(rules[key], node)
    for part in node.merged:
        key = rule_key(part, rules)
        if key is not None:
            raise ArgumentError(
                f"the rule for {key!r} concerns node {part.name!r}, which a pass has merged into {node.name!r}; "
                f"ask for the gradient before the passes, or give a rule for {operation_name(node.op)!r} too"
            )
    return None


def rule_key(node: Node, rules: RuleSet) -> Any:
    """The key under which a rule set serves a node, most specific first; None where it is silent.

    A node that a pass made of several may be called as the operation of one of them: then the operation is meant.
    """
    name, *own = names_of(node)
    named = [] if any(name in names_of(part)[1:] for part in node.merged) else [name]
    return next((key for key in (node, node.op, *named, *own) if key in rules), None)


def of_operations(rules: Mapping[str, Any]) -> dict[Any, Any]:
    """The same rules under full names ("aten.relu"), which no node has, whatever a model calls its parts."""
    return {name if name.startswith("cutaway.") else f"aten.{name}": rule for name, rule in rules.items()}


def as_row(rule: Row | Callable | Mapping[str, Callable | None], node: Node) -> Row:
    """Read a rule as a row: a lone function serves the first tensor argument, a dict names its arguments."""
    usual = default_row(node)
    kept: dict[str | tuple[str, ...], Callable | None] = dict(usual.adjoints) if usual else {}
    extra: dict[str, Any] = {}
    if usual:
        extra = {"forward": usual.forward, "residuals": usual.residuals, "broadcasts": usual.broadcasts}
    if isinstance(rule, Row):
        return rule
    arguments = bound_arguments(node)
    if isinstance(rule, Mapping):
        unknown = [name for name in rule if name not in arguments]
        if unknown:
            raise nearest(
                unknown[0], arguments, f"argument of {operation_name(node.op)} in a rule for node {node.name!r};"
            )
        return Row(_override(kept, rule), **extra)
    if callable(rule):
        first = next((name for name, value in arguments.items() if any(True for _ in nodes_in(value))), None)
        if first is None:
            raise ArgumentError(f"the rule for node {node.name!r} has no tensor argument to give an adjoint to")
        return Row(_override(kept, {first: rule}), **extra)
    raise ArgumentError(f"a rule is a function, a dict or a Row; for {node.name!r} got {type(rule).__name__}: {rule!r}")


def _override(kept: Mapping, rule: Mapping[str, Callable | None]) -> dict:
    """Put the given arguments' functions in front of a row's; joint entries go on serving the others."""
    return {**rule, **{names: function for names, function in kept.items() if names not in rule}}


def resolve(node: Node, rules: RuleSet | None, wanted: tuple[str, ...]) -> tuple[Row, str]:
    """The row that serves a node's wanted arguments, and where it comes from: "replaced", "rule" or "fallback"."""
    if rules:
        found = replaced_row(node, rules)
        if found is not None and all(found.function_for(name) for name in wanted):
            return found, "replaced"
        if found is not None:
            missing = [name for name in wanted if not found.function_for(name)]
            raise ArgumentError(
                f"the rule for node {node.name!r} ({operation_name(node.op)}) gives no adjoint for {missing}; "
                f"add a function for each (None means zero)"
            )
    if node.op is operator.getitem:
        return Row({}), "rule"
    usual = default_row(node)
    if usual is not None and all(usual.function_for(name) for name in wanted):
        return usual, "rule"
    return fallback_row(node, wanted), "fallback"


def fallback_row(node: Node, wanted: tuple[str, ...]) -> Row:
    """A row for any operation at all: its local vjp by `torch.func.vjp`, taken in the forward pass: a random operation
    runs only once."""
    op = node.op
    arguments = list(bound_arguments(node))

    def forward(*args: Any, **kwargs: Any) -> tuple:
        given = dict(zip(arguments, args, strict=False)) | kwargs
        leaves = [leaf for name in wanted for leaf in _real_tensors(given[name])]

        def local(*tensors: torch.Tensor) -> tuple:
            remaining = iter(tensors)
            replaced = {name: _put(given[name], remaining) if name in wanted else given[name] for name in given}
            positional = [replaced[name] for name in arguments[: len(args)]]
            out = op(*positional, **{name: replaced[name] for name in kwargs})
            whole = list(out) if isinstance(out, tuple | list) else [out]
            present[:] = [isinstance(part, torch.Tensor) for part in whole]  # an output can be missing
            return tuple(part for part in whole if _real(part)), [p for p in whole if isinstance(p, torch.Tensor)]

        present: list[bool] = []
        real, pull, tensors = torch.func.vjp(local, *leaves, has_aux=True)  # type: ignore[misc]
        remaining = iter(tensors)
        whole = [next(remaining) if there else None for there in present]
        parts = iter(real)
        detached = [next(parts) if _real(part) else part for part in whole]
        several = node.parts is not None
        result = tuple(detached) if several else detached[0]

        def pullback(grad: Any) -> tuple:
            grads = grad if several else (grad,)
            seeds = [g for g, part in zip(grads, whole, strict=False) if _real(part)]
            filled = tuple(torch.zeros_like(r) if g is None else g for g, r in zip(seeds, real, strict=True))
            adjoints = iter(pull(filled))
            return tuple(_put(given[name], adjoints, alone=True) for name in wanted)

        return result, pullback

    def serve(grad: Any, pullback: Callable) -> tuple:
        return pullback(grad)

    return Row({wanted: serve}, forward, ("pullback",))


def _real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _real_tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, list | tuple):
        return [part for part in value if _real(part)]
    return [value] if _real(value) else []


def _put(value: Any, tensors: Any, alone: bool = False) -> Any:
    """The same argument with its real tensors taken from an iterator (None for the rest, if `alone`)."""
    if isinstance(value, list | tuple):
        return [next(tensors) if _real(part) else (None if alone else part) for part in value]
    return next(tensors) if _real(value) else (None if alone else value)


def cache_key(rules: RuleSet | None) -> tuple:
    """What a program depends on in a rule set; the functions themselves, so that they live as long as the program."""
    parts = rules.items() if rules else ()
    return tuple((key, tuple(rule.items()) if isinstance(rule, Mapping) else rule) for key, rule in parts)
