"""The gradient step of many networks of one shape, as one program: traced once, cleaned, run at every step."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from cutaway.errors import ArgumentError
from cutaway.train.bilinear import SmallConvolutions
from cutaway.train.gradients import mean_loss, trainable
from cutaway.train.losses import Loss
from cutaway.train.state import random_state, set_random_state

Weights = dict[str, Tensor]
StackedStep = Callable[[Weights, Weights, Tensor, Tensor], tuple[Tensor, Tensor, list[Tensor]]]

aten = torch.ops.aten
_VIEWS = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
_SAME_IF_SHAPED = _VIEWS | {aten.expand.default, aten.permute.default, aten.squeeze.dim, aten.transpose.int}
_LARGEST_CONSTANT = 1 << 20  # numbers


def stack(models: Sequence[nn.Module]) -> tuple[Weights, Weights, Weights]:
    """Stack the state of networks of one shape.

    Args:
        models: networks with the same names and shapes.

    Returns:
        Trainable parameters `(R, …)`, parameters and buffers that do not train `(R, …)`, and constants: buffers
        outside the state dict that all share.

    Raises:
        ArgumentError: the networks differ in names or shapes; the first difference is named.

    >>> trained, kept, constants = stack([nn.Linear(2, 3), nn.Linear(2, 3)])
    >>> trained["weight"].shape, list(kept), list(constants)
    (torch.Size([2, 3, 2]), [], [])
    """
    names = set(trainable(models[0]))
    states = [{**dict(model.named_parameters()), **dict(model.named_buffers())} for model in models]
    for number, state in enumerate(states):
        different = [
            name
            for name in sorted({*states[0], *state})
            if name not in state or name not in states[0] or state[name].shape != states[0][name].shape
        ]
        if different:
            raise ArgumentError(
                f"network {number} differs from network 0 in {different[0]!r}; networks that are trained at once "
                "must have the same layers and shapes (train others one by one with fit)"
            )
    saved = set(models[0].state_dict())
    constants = {
        name: value
        for name, value in states[0].items()
        if name not in saved and all(torch.equal(state[name], value) for state in states)
    }
    stacked = {
        name: torch.stack([state[name].detach() for state in states]) for name in states[0] if name not in constants
    }
    trained = {name: value for name, value in stacked.items() if name in names}
    return trained, {name: value for name, value in stacked.items() if name not in names}, constants


def unstack(models: Sequence[nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Write stacked weights back into the networks.

    >>> nets = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    >>> unstack(nets, {"weight": torch.tensor([[[1.0]], [[2.0]]])}); nets[1].weight.item()
    2.0
    """
    with torch.no_grad():
        for number, model in enumerate(models):
            own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for name, value in weights.items():
                own[name].copy_(value[number])


def stacked_outputs(model: nn.Module, weights: Weights, constants: Weights, x: Tensor) -> Tensor:
    """Outputs `(R, N, …)` of all replicates for the same inputs `(N, …)`, in the mode the network is in.

    >>> nets = [nn.Linear(2, 3), nn.Linear(2, 3)]
    >>> trained, kept, constants = stack(nets)
    >>> torch.allclose(stacked_outputs(nets[0], trained, constants, torch.ones(1, 2))[1], nets[1](torch.ones(1, 2)))
    True
    """

    def outputs(own: Weights) -> Tensor:
        return functional_call(model, {**own, **constants}, (x,))

    with torch.no_grad(), SmallConvolutions(len(next(iter(weights.values()))), constants.values()):
        return vmap(outputs, randomness="different")(weights)


def stacked_step(model: nn.Module, loss: Loss, constants: Weights, shared: bool, compiled: bool = False) -> StackedStep:
    """Make the step that computes loss, outputs and gradients of all replicates.

    Args:
        model: one of the networks, in training mode; only its code is used.
        loss: from outputs and targets to one value per example.
        constants: as `stack` gives them.
        shared: whether all replicates see the same examples, `(N, …)`, or each its own, `(R, N, …)`.
        compiled: compile the program with `torch.compile`, which needs a C++ compiler and some ten seconds.

    Returns:
        A function `(trained, kept, x, y) -> (loss (R,), outputs (R, N, …), gradients)`.

    Raises:
        ArgumentError: by the step, when the network cannot be vectorised.

    >>> nets = [nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)]
    >>> trained, kept, constants = stack(nets)
    >>> step = stacked_step(nets[0], lambda z, t: z.sum(1), constants, shared=True)
    >>> value, outputs, (gradient,) = step(trained, kept, torch.ones(4, 2), torch.zeros(4))
    >>> outputs.shape, gradient.unique()
    (torch.Size([2, 4, 3]), tensor([1.]))
    """
    programs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def whole(trained: Weights, kept: Weights, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(model, {**trained, **kept, **constants}, (x,))
        return mean_loss(loss, outputs, y), outputs

    def step(trained: Weights, kept: Weights, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        key = (x.shape, x.dtype, y.shape, y.dtype)
        if key not in programs:
            apart = None if shared else 0
            function = vmap(grad_and_value(whole, has_aux=True), (0, 0, apart, apart), randomness="different")
            programs[key] = _trace(function, trained, kept, constants, x, y, compiled)
        with torch.no_grad():
            found = programs[key](*trained.values(), *kept.values(), x, y)
        return found[0], found[1], list(found[2:])

    return step


def _trace(
    function: Callable[..., Any],
    trained: Weights,
    kept: Weights,
    constants: Weights,
    x: Tensor,
    y: Tensor,
    compiled: bool,
) -> Callable[..., Any]:
    """Write the function down as one flat program for these shapes."""
    first, second = list(trained), list(kept)
    count = len(next(iter(trained.values())))

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(first, values, strict=False))
        others = dict(zip(second, values[len(first) :], strict=False))
        gradients, (value, outputs) = function(weights, others, *values[-2:])
        return (value, outputs, *(gradients[name] for name in first))

    copies = [value.clone() for value in kept.values()]  # tracing runs the step once, which may change them
    before = random_state(x.device)
    try:
        with torch.no_grad(), SmallConvolutions(count, constants.values()):
            traced = make_fx(flat)(*trained.values(), *copies, x, y)
    except Exception as reason:  # whatever a network that branches on its data raises
        raise ArgumentError(
            f"this network cannot be trained as {count} replicates at once ({type(reason).__name__}: {reason}); "
            "train them one by one with fit"
        ) from reason
    finally:
        set_random_state(before, x.device)
    cleaned = clean(traced)
    if compiled:
        return torch.compile(cleaned)
    return _script(cleaned, (*trained.values(), *(value.clone() for value in kept.values()), x, y))


def _script(program: fx.GraphModule, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Let TorchScript run a flat program: a third of Python's time for each of its hundred small operations."""
    program.graph.set_codegen(CodeGen())  # plain arguments and a plain tuple
    program.recompile()
    before = random_state(example[0].device)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is called deprecated, and that shapes are fixed, which they are
            scripted: Any = torch.jit.trace(program, example, check_trace=False)
            return scripted
    except Exception:  # an operation that it does not know: Python runs the same program
        return program.forward
    finally:
        set_random_state(before, example[0].device)


def clean(program: fx.GraphModule) -> fx.GraphModule:
    """Compute what is constant once, and drop views, factors and powers that change nothing.

    >>> traced = make_fx(lambda x: (x * 1).view(2).view(2, 1).view(2) + torch.arange(2) * 2)(torch.zeros(2))
    >>> [node.name for node in clean(traced).graph.nodes if node.op == "call_function"]
    ['add']
    """
    _fold(program)
    changed = True
    while changed:
        simpler = sum(_simplify(node) for node in list(program.graph.nodes) if node.op == "call_function")
        changed = _share(program) or simpler > 0
        program.graph.eliminate_dead_code()
    program.graph.lint()
    program.recompile()
    return program


def _fold(program: fx.GraphModule) -> None:
    """Replace what depends on constants alone by its value."""
    known: dict[fx.Node, Tensor] = {}
    for node in list(program.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(program, str(node.target))
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            fixed = not _changes(node) and not _draws(node)
            value = node.meta.get("val")
            small = isinstance(value, Tensor) and value.numel() <= _LARGEST_CONSTANT
            if fixed and small and all(source in known for source in node.all_input_nodes):
                arguments = fx.map_arg((node.args, node.kwargs), lambda n: known[n])
                known[node] = node.target(*arguments[0], **arguments[1])
    for place, (node, value) in enumerate(known.items()):
        if node.op == "call_function" and any(user not in known for user in node.users):
            name = f"_folded{place}"
            program.register_buffer(name, value.contiguous())
            with program.graph.inserting_before(node):
                fresh = program.graph.get_attr(name)
            fresh.meta["val"] = value
            node.replace_all_uses_with(fresh, lambda user: user not in known)
    program.graph.eliminate_dead_code()


def _share(program: fx.GraphModule) -> bool:
    """Compute once what is written twice."""
    if any(node.op == "call_function" and _changes(node) for node in program.graph.nodes):
        return False  # the same words may then mean another value
    seen: dict[Any, fx.Node] = {}
    found = False
    for node in list(program.graph.nodes):
        if node.op in ("call_function", "get_attr") and not _draws(node):
            key = (node.op, node.target, _frozen(node.args), _frozen(node.kwargs))
            if key in seen:
                node.replace_all_uses_with(seen[key])
                program.graph.erase_node(node)
                found = True
            seen.setdefault(key, node)
    return found


def _frozen(tree: Any) -> Any:
    """Lists and dicts as tuples, which can be keys; True and 1 stay apart."""
    if isinstance(tree, list | tuple):
        return tuple(map(_frozen, tree))
    if isinstance(tree, Mapping):
        return tuple((name, _frozen(value)) for name, value in tree.items())
    return type(tree), tree


def _changes(node: fx.Node) -> bool:
    """Whether an operation writes to its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _draws(node: fx.Node) -> bool:
    """Whether an operation draws random numbers."""
    known = isinstance(node.target, torch._ops.OpOverload)
    return known and torch.Tag.nondeterministic_seeded in node.target.tags  # pyright: ignore[reportAttributeAccessIssue]


def _simplify(node: fx.Node) -> bool:
    """Let the users of a node that changes nothing look at its argument."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not node.users:
        return False
    ours, theirs = node.meta.get("val"), source.meta.get("val")
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return False
    same = ours.shape == theirs.shape and ours.stride() == theirs.stride() and ours.dtype == theirs.dtype
    factor = node.target in (aten.mul.Scalar, aten.mul.Tensor) and node.args[1] == 1
    power = node.target is aten.pow.Tensor_Scalar and node.args[1] == 1
    if same and (node.target in _SAME_IF_SHAPED or factor or power):
        node.replace_all_uses_with(source)
        return True
    if node.target in _VIEWS and source.op == "call_function" and source.target in _VIEWS:
        both = (node.target, source.target)
        node.target = aten.reshape.default if aten.reshape.default in both else aten.view.default
        node.args = (source.args[0], list(ours.shape))
        return True
    if node.target is aten.bmm.default and theirs.shape[2] == 1:
        node.target = aten.mul.Tensor  # an outer product: nothing is summed
        return True
    if node.target is aten.sum.dim_IntList and theirs.numel() == ours.numel():
        node.target, node.args = aten.reshape.default, (source, list(ours.shape))
        return True
    return False
