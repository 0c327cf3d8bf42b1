"""How operations of a flat program are written in C: a table from the operation to the loops that compute it."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from cutaway.train.native_source import Source, Unwritten, Value, affine

aten = torch.ops.aten
Writer = Callable[[Source, fx.Node], Any]
TABLE: dict[Any, Writer] = {}
_LARGE = 8_000_000  # multiplications of one product
_LONG = 1 << 14  # numbers of a row: 16 of them lie on the stack

# One number of every operand gives one number: the operands are a, b and c.
_EACH: dict[str, str] = {
    "neg": "-a", "relu": "a < 0 ? 0 : a", "tanh": "tanh(a)", "exp": "exp(a)", "log": "log(a)", "sqrt": "sqrt(a)",
    "sigmoid": "1 / (1 + exp(-a))", "reciprocal": "1 / a", "rsqrt": "1 / sqrt(a)", "abs": "fabs(a)", "clone": "a",
    "mul.Tensor": "a * b", "mul.Scalar": "a * b", "div.Tensor": "a / b", "div.Scalar": "a / b",
    "clamp_min": "a < b ? b : a", "tanh_backward": "a * (1 - b * b)", "sigmoid_backward": "a * b * (1 - b)",
    "threshold_backward": "b <= c ? 0 : a", "where.self": "a ? b : c", "_to_copy": "a", "copy": "b",
    "eq.Tensor": "a == b", "eq.Scalar": "a == b", "ne.Scalar": "a != b", "gt.Scalar": "a > b", "ge.Scalar": "a >= b",
    "lt.Scalar": "a < b", "le.Scalar": "a <= b",
}  # fmt: skip
_VIEWS = (
    "view", "_unsafe_view", "reshape", "permute", "transpose.int", "t", "expand", "squeeze.dim", "squeeze.dims",
    "unsqueeze", "slice.Tensor", "select.int", "detach", "alias",
)  # fmt: skip


def _operation(name: str) -> Any:
    word, _, overload = name.partition(".")
    return getattr(getattr(aten, word), overload or "default")


def row(*names: str) -> Callable[[Writer], Writer]:
    """Enter a writer into the table under the names of its operations."""

    def enter(writer: Writer) -> Writer:
        TABLE.update({_operation(name): writer for name in names})
        return writer

    return enter


def _each(text: str) -> Writer:
    return lambda source, node: source.each(node, text, [*node.args, *_rest(node)])


def _rest(node: fx.Node) -> list[Any]:
    known = {"alpha", "dtype", "layout", "device", "memory_format", "pin_memory", "non_blocking", "implicit"}
    if set(node.kwargs) - known or node.kwargs.get("alpha", 1) != 1:
        raise Unwritten(f"{node.target} with {dict(node.kwargs)}")
    return []


TABLE.update({_operation(name): _each(text) for name, text in _EACH.items()})


@row("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar")
def _sum_of_two(source: Source, node: fx.Node) -> Value:
    sign = "-" if "sub" in str(node.target) else "+"
    scale = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    return source.each(node, f"a {sign} b * {source.number(scale)}", list(node.args[:2]))


@row("pow.Tensor_Scalar")
def _power(source: Source, node: fx.Node) -> Value:
    text = {1: "a", 2: "a * a", 3: "a * a * a"}.get(node.args[1], "pow(a, b)")  # pyright: ignore
    return source.each(node, text, list(node.args))


RESHAPED = {_operation(name) for name in _VIEWS[:3]}


@row(*_VIEWS)
def _view(source: Source, node: fx.Node) -> Value:
    value = source.value(node.args[0])
    target: Any = node.target
    try:
        seen = target(value.like, *node.args[1:], **node.kwargs)
    except RuntimeError:  # what is not contiguous here lies in another order than it did for torch
        seen = target(value.like.contiguous(), *node.args[1:], **node.kwargs)
        return Value(source.contiguous(value).name, seen)
    apart = target in (aten.reshape.default, aten._unsafe_view.default) and not _shares(value.like, seen)
    return Value(source.contiguous(value).name if apart else value.name, seen)


def _shares(whole: Tensor, view: Tensor) -> bool:
    return view.untyped_storage()._cdata == whole.untyped_storage()._cdata


@row("bmm", "mm", "addmm")
def _product(source: Source, node: fx.Node) -> Value:
    *first, a, b = map(source.value, node.args)
    out = source.new(node)
    matrices = [v.like if v.like.dim() == 3 else v.like[None] for v in (a, b, out)]
    x, y, z = ([*m.stride(), m.storage_offset()] for m in matrices)
    batch, rows, inner = matrices[0].shape
    columns = matrices[1].shape[2]
    if rows * columns * inner > _LARGE or inner > _LONG:
        raise Unwritten(
            f"a product of {rows}×{inner} and {inner}×{columns} numbers, which torch's library does as quickly"
        )
    order = [rows, columns, inner, z[1], z[2], x[1], x[2], y[1], y[2]]
    left, right = f"a + {x[3]} + n * {x[0]}", f"b + {y[3]} + n * {y[0]}"
    kernel = "dots" if rows < 4 and x[2] == 1 and y[1] == 1 else "product"
    if kernel == "product" and y[2] != 1 and rows < columns:  # the transposed product, whose panels are smaller
        order = [columns, rows, inner, z[2], z[1], y[2], y[1], x[2], x[1]]
        left, right = right, left
    sizes = ", ".join(map(str, order))
    call = f"{kernel}_{source.word(out)}(o + n * {z[0]}, {left}, {right}, {sizes});"
    source.block(out, [a, b], f"for (long n = 0; n < {batch}; n++) {call}")
    if first:
        _rest(node)
        text = "o[{0}] += a[{1}];"
        spread = first[0].like.expand(out.like.shape)
        source.block(out, first, source.loops(out.like.shape, text, out.like, spread))
    return out


@row("as_strided")
def _strided(source: Source, node: fx.Node) -> Value:
    value, given = source.value(node.args[0]), node.args[0].meta["val"]  # pyright: ignore
    if value.like.stride() != given.stride() or value.like.storage_offset() != given.storage_offset():
        raise Unwritten(f"{node} looks at memory that lies otherwise here")
    return Value(value.name, value.like.as_strided(*node.args[1:]))  # pyright: ignore


@row("index_copy")
def _copied(source: Source, node: fx.Node) -> Value:
    values, out = source.contiguous(source.value(node.args[3])), source.new(node)
    source.copy(out, source.value(node.args[0]))
    _walk(source, node, out, values, "o[{1}] = a[{0}];", values.like)
    return out


@row("avg_pool2d", "avg_pool2d_backward")
def _averaged(source: Source, node: fx.Node) -> Value:
    back = node.target is aten.avg_pool2d_backward.default
    values, rest = (
        [source.contiguous(source.value(each)) for each in node.args[: 1 + back]],
        list(node.args[1 + back :]),
    )
    sizes: Any = [rest[0], (rest[1:2] or [None])[0] or rest[0]]
    (k, m), (down, right) = ([*pair, *pair][:2] for pair in sizes)
    padded = len(rest) > 2 and any(rest[2])  # pyright: ignore
    if padded or (len(rest) > 3 and rest[3]) or (len(rest) > 5 and rest[5] is not None):
        raise Unwritten(f"{node.target} with {rest}")
    out = source.new(node)
    image, small = (out.like, values[0].like) if back else (values[0].like, out.like)
    height, width = image.shape[-2:]
    planes, (p, q) = image.numel() // (height * width), small.shape[-2:]
    shape = (planes, p, q, k, m)
    seen = image.as_strided(shape, (height * width, down * width, right, width, 1), 0)
    one = small.as_strided(shape, (p * q, q, 1, 0, 0), 0)
    text = f"o[{{0}}] += a[{{1}}] / {k * m};"
    source.fill(out, 0)
    source.block(out, values[:1], source.loops(shape, text, *((seen, one) if back else (one, seen))))
    return out


@row("cat")
def _joined(source: Source, node: fx.Node) -> Value:
    out, start = source.new(node), 0
    parts: Any = node.args[0]
    dim: Any = node.args[1] if len(node.args) > 1 else 0
    for part in map(source.value, parts):
        size = part.like.shape[dim]
        source.copy(Value(out.name, out.like.narrow(dim, start, size)), part)
        start += size
    return out


@row("constant_pad_nd")
def _padded(source: Source, node: fx.Node) -> Value:
    out, value, pads = source.new(node), source.value(node.args[0]), node.args[1]
    inner, whole = out.like, value.like
    numbers: Any = pads
    for place in range(len(numbers) // 2):
        dim, low, high = out.like.dim() - 1 - place, numbers[2 * place], numbers[2 * place + 1]
        inner = inner.narrow(dim, max(low, 0), inner.shape[dim] - max(low, 0) - max(high, 0))
        whole = whole.narrow(dim, max(-low, 0), whole.shape[dim] - max(-low, 0) - max(-high, 0))
    if any(number > 0 for number in numbers):
        source.fill(out, node.args[2] if len(node.args) > 2 else 0)
    source.copy(Value(out.name, inner), Value(value.name, whole))
    return out


@row("index_select")
def _chosen(source: Source, node: fx.Node) -> Value:
    value, out = source.contiguous(source.value(node.args[0])), source.new(node)
    _walk(source, node, out, value, "o[{0}] = a[{1}];", out.like)
    return out


@row("index_add")
def _added(source: Source, node: fx.Node) -> Value:
    _rest(node)
    values, out = source.contiguous(source.value(node.args[3])), source.new(node)
    source.copy(out, source.value(node.args[0]))
    _walk(source, node, out, values, "o[{1}] += a[{0}];", values.like)
    return out


def _walk(source: Source, node: fx.Node, out: Value, value: Value, text: str, rows: Tensor) -> None:
    """Go through rows, `{0}`, and the places that a constant index gives them, `{1}`, without the index if possible."""
    dim, named = node.args[1], node.args[2]
    index, whole = source.value(named), value.like if rows is out.like else out.like
    before, count, inner = _parts(rows, dim)
    size = whole.shape[dim]  # pyright: ignore
    found = affine(source.constants[named]) if named in source.constants else None  # pyright: ignore
    if found is None:
        nest = f"for (long n = 0; n < {before}; n++) for (long i = 0; i < {count}; i++) "
        nest += f"for (long j = 0; j < {inner}; j++) "
        there = f"(n * {size} + PLACE(b[i], {size})) * {inner} + j"
        source.block(out, [value, index], nest + text.format(f"(n * {count} + i) * {inner} + j", there))
        return
    start, sizes, strides = found
    shape = [before, *sizes, inner]
    steps = [size * inner, *(stride * inner for stride in strides), 1]
    place = whole.reshape(-1).as_strided(shape, steps, start * inner)
    source.block(out, [value], source.loops(shape, text, rows.reshape(shape), place))


def _parts(like: Tensor, dim: Any) -> tuple[int, int, int]:
    """Numbers before, along and behind a dimension."""
    shape = like.shape
    return int(torch.Size(shape[:dim]).numel()), shape[dim], int(torch.Size(shape[dim:][1:]).numel())


@row("index.Tensor")
def _rows(source: Source, node: fx.Node) -> Value:
    indices: Any = node.args[1]
    if len(indices) != 1:
        raise Unwritten(f"index with {len(indices)} tensors")
    value, index = source.contiguous(source.value(node.args[0])), source.contiguous(source.value(indices[0]))
    out = source.new(node)
    count, size, inner = index.like.numel(), len(value.like), value.like[0].numel()
    if index.like.dtype == torch.bool:
        raise Unwritten("index with truth values")
    source.block(
        out,
        [value, index],
        f"for (long i = 0; i < {count}; i++) {{ long k = PLACE(b[i] < 0 ? b[i] + {size} : b[i], {size}); "
        f"for (long j = 0; j < {inner}; j++) o[i * {inner} + j] = a[k * {inner} + j]; }}",
    )
    return out


@row("gather")
def _gathered(source: Source, node: fx.Node) -> Value:
    value, dim, index = source.contiguous(source.value(node.args[0])), node.args[1], source.value(node.args[2])
    out = source.new(node)
    strides = list(value.like.stride())
    step, strides[dim] = strides[dim], 0  # pyright: ignore
    size = value.like.shape[dim]  # pyright: ignore
    moved = value.like.as_strided(out.like.shape, strides, 0)
    text = f"o[{{0}}] = a[{{1}} + PLACE(b[{{2}}], {size}) * {step}];"
    source.block(out, [value, index], source.loops(out.like.shape, text, out.like, moved, index.like))
    return out


@row("sum.dim_IntList", "mean.dim", "sum", "mean")
def _summed(source: Source, node: fx.Node) -> Value:
    value = source.value(node.args[0])
    wanted: Any = node.args[1] if len(node.args) > 1 and node.args[1] else range(value.like.dim())
    dims = sorted(dim % value.like.dim() for dim in wanted)
    out = source.new(node)
    kept = [dim for dim in range(value.like.dim()) if dim not in dims]
    order = value.like.permute(*kept, *dims)
    count = torch.Size(value.like.shape[dim] for dim in dims).numel()
    head = torch.Size(value.like.shape[dim] for dim in kept)
    result = out.like.as_strided((*head, *order.shape[len(kept) :]), [*_strides(head), *[0] * len(dims)], 0)
    scale = f" / {count}" if "mean" in str(node.target) else ""
    source.fill(out, 0)
    source.block(out, [value], source.loops(order.shape, f"o[{{0}}] += a[{{1}}]{scale};", result, order))
    return out


def _strides(shape: torch.Size) -> list[int]:
    return [int(torch.Size(shape[dim + 1 :]).numel()) for dim in range(len(shape))]


@row("_log_softmax", "_log_softmax_backward_data")
def _log_softmax(source: Source, node: fx.Node) -> Value:
    back = node.target is aten._log_softmax_backward_data.default
    values = [source.contiguous(source.value(each)) for each in node.args[: 1 + back]]
    dim: Any = node.args[1 + back]
    out = source.new(node)
    dim = dim % out.like.dim()
    before, count, inner = _parts(out.like, dim)
    word = source.word(out)
    ahead = f"{word} most = a[p], all = 0; for (long i = 1; i < {count}; i++) if (a[p + i * {inner}] > most) "
    ahead += f"most = a[p + i * {inner}]; for (long i = 0; i < {count}; i++) all += exp(a[p + i * {inner}] - most); "
    ahead += f"all = most + log(all); for (long i = 0; i < {count}; i++) "
    text = ahead + f"o[p + i * {inner}] = a[p + i * {inner}] - all;"
    if back:
        text = f"{word} all = 0; for (long i = 0; i < {count}; i++) all += a[p + i * {inner}]; "
        text += f"for (long i = 0; i < {count}; i++) o[p + i * {inner}] = "
        text += f"a[p + i * {inner}] - exp(b[p + i * {inner}]) * all;"
    nest = f"for (long n = 0; n < {before}; n++) for (long j = 0; j < {inner}; j++) "
    source.block(out, values, nest + f"{{ long p = n * {count * inner} + j; {text} }}")
    return out


@row(
    "full",
    "new_zeros",
    "new_ones",
    "zeros_like",
    "ones_like",
    "full_like",
    "zeros",
    "ones",
    "scalar_tensor",
    "empty_like",
)
def _filled(source: Source, node: fx.Node) -> Value:
    out = source.new(node)
    name = str(node.target)
    number: Any = (
        0 if "zeros" in name or "empty" in name else 1 if "ones" in name else node.args[0 if "scalar" in name else 1]
    )
    source.fill(out, number)
    return out


@row("nll_loss_forward")
def _negative_log_likelihood(source: Source, node: fx.Node) -> tuple[Value, Value]:
    values, targets, ignored = _likelihoods(source, node, node.args[0], node.args[1:])
    out, count = source.new(node.meta["val"][0]), source.new(node.meta["val"][1])
    source.fill(count, 0)  # what torch says where nothing is averaged
    rows, classes = values.like.shape
    text = f"o[i] = b[i] == {ignored} ? 0 : -a[i * {classes} + PLACE(b[i], {classes})];"
    source.block(out, [values, targets], f"for (long i = 0; i < {rows}; i++) {text}")
    return out, count


@row("nll_loss_backward")
def _negative_log_likelihood_back(source: Source, node: fx.Node) -> Value:
    values, targets, ignored = _likelihoods(source, node, node.args[1], node.args[2:])
    grad: Any = node.args[0]
    slopes = source.contiguous(Value(source.value(grad).name, source.value(grad).like.expand(values.like.shape[:1])))
    out = source.new(node)
    source.fill(out, 0)
    rows, classes = values.like.shape
    text = f"if (b[i] != {ignored}) o[i * {classes} + PLACE(b[i], {classes})] = -a[i];"
    source.block(out, [slopes, targets], f"for (long i = 0; i < {rows}; i++) {text}")
    return out


def _likelihoods(source: Source, node: fx.Node, scores: Any, rest: Any) -> tuple[Value, Value, int]:
    targets, weights, reduction, ignored = rest[:4]
    values = source.value(scores)
    if weights is not None or reduction != 0 or values.like.dim() != 2:
        raise Unwritten(f"{node.target} with weights, reduced, or of shape {tuple(values.like.shape)}")
    return source.contiguous(values), source.contiguous(source.value(targets)), ignored


def _part(source: Source, node: fx.Node) -> Value:
    parts: Any = source.known[node.args[0]]  # pyright: ignore
    return parts[node.args[1]]


TABLE[operator.getitem] = _part
