"""Rows of recurrent networks: backpropagation through time, layer by layer and step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cutaway.graph.rows import row

# One step of each cell: (x·Wᵀ + b of the gates, h, c) → (h, c, what the way back needs). x's part comes for all steps
# at once; h's is computed here. Gates stand in PyTorch's order.


def lstm_step(projected: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, bias: Tensor | None) -> tuple:
    """i, f, o = σ(…), g = tanh(…); c ← f·c + i·g; h ← o·tanh(c)."""
    i, f, g, o = (projected + torch.nn.functional.linear(hidden, weight, bias)).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * cell + i * g
    return o * new.tanh(), new, (i, f, g, o, cell, new, hidden)


def lstm_back(d_hidden: Tensor, d_cell: Tensor, saved: tuple, weight: Tensor) -> tuple:
    """The adjoints of the gates' sums and of the cell before."""
    i, f, g, o, cell, new, _ = saved
    squashed = new.tanh()
    d_new = d_cell + d_hidden * o * (1 - squashed * squashed)
    gates = torch.cat(
        [
            d_new * g * i * (1 - i),
            d_new * cell * f * (1 - f),
            d_new * i * (1 - g * g),
            d_hidden * squashed * o * (1 - o),
        ],
        -1,
    )
    return gates, gates, gates @ weight, d_new * f


def gru_step(projected: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, bias: Tensor | None) -> tuple:
    """r, z = σ(…); n = tanh(x·W + r·(h·U + b)); h ← (1 − z)·n + z·h."""
    xr, xz, xn = projected.chunk(3, -1)
    hr, hz, hn = torch.nn.functional.linear(hidden, weight, bias).chunk(3, -1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + r * hn).tanh()
    return (hidden - n) * z + n, cell, (r, z, n, hn, hidden)


def gru_back(d_hidden: Tensor, d_cell: Tensor, saved: tuple, weight: Tensor) -> tuple:
    """The reset gate stands between h's sum and the candidate, so x's sums and h's sums have adjoints of their own."""
    r, z, n, hn, hidden = saved
    d_n = d_hidden * (1 - z) * (1 - n * n)
    d_r, d_z = d_n * hn * r * (1 - r), d_hidden * (hidden - n) * z * (1 - z)
    inner = torch.cat([d_r, d_z, d_n * r], -1)
    return torch.cat([d_r, d_z, d_n], -1), inner, inner @ weight + d_hidden * z, d_cell


def simple_step(squash: Callable) -> Callable:
    """h ← tanh(x·W + h·U + b), or ReLU."""

    def step(projected: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, bias: Tensor | None) -> tuple:
        new = squash(projected + torch.nn.functional.linear(hidden, weight, bias))
        return new, cell, (new, hidden)

    return step


def simple_back(slope: Callable) -> Callable:
    """The slope of the squashing function, from its value."""

    def back(d_hidden: Tensor, d_cell: Tensor, saved: tuple, weight: Tensor) -> tuple:
        inner = d_hidden * slope(saved[0])
        return inner, inner, inner @ weight, d_cell

    return back


CELLS: dict[str, tuple[Callable, Callable]] = {
    "lstm": (lstm_step, lstm_back),
    "gru": (gru_step, gru_back),
    "rnn_tanh": (simple_step(torch.tanh), simple_back(lambda h: 1 - h * h)),
    "rnn_relu": (simple_step(torch.relu), simple_back(lambda h: (h > 0).to(h.dtype))),
}


def _layers(params: Sequence[Tensor], has_biases: bool, projected: bool) -> list[tuple]:
    """The flat list of weights as (W, U, b, b′, P) for each layer and direction."""
    width = 2 + 2 * has_biases + projected
    found = []
    for start in range(0, len(params), width):
        part = list(params[start : start + width])
        biases = part[2:4] if has_biases else [None, None]
        found.append((part[0], part[1], *biases, part[-1] if projected else None))
    return found


def run(
    kind: str,
    x: Tensor,
    hidden: Sequence[Tensor],
    params,
    has_biases,
    num_layers,
    dropout,
    train,
    bidirectional,
    batch_first,
) -> tuple:
    """The forward pass, step by step. Returns the output, the last states, and a tape for the way back."""
    step, cells = CELLS[kind][0], hidden[-1]
    directions = 2 if bidirectional else 1
    projected = kind == "lstm" and hidden[0].shape[-1] != hidden[1].shape[-1]
    layers = _layers(params, has_biases, projected)
    x = x.transpose(0, 1) if batch_first else x  # (T, B, width)
    tape, last, last_cells = [], [], []
    for layer in range(num_layers):
        mask = None
        if layer and dropout and train:
            x, mask = torch.ops.aten.native_dropout(x, dropout, True)
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            w, u, b, b2, p = layers[place]
            sums = torch.nn.functional.linear(x, w, b)  # (T, B, gates)
            h, c = hidden[0][place], cells[place]
            found: list[Any] = [None] * x.shape[0]
            saved: list[Any] = [None] * x.shape[0]
            for t in _times(x.shape[0], direction):
                raw, c, kept = step(sums[t], h, c, u, b2)
                h = raw if p is None else raw @ p.T
                found[t], saved[t] = h, (kept, raw)
            outputs.append(torch.stack(found))
            last.append(h)
            last_cells.append(c)
            tape.append((x, saved, mask))
        x = torch.cat(outputs, -1)
    out = x.transpose(0, 1) if batch_first else x
    states = (torch.stack(last), torch.stack(last_cells)) if kind == "lstm" else (torch.stack(last),)
    return (out, *states), tape


def _times(length: int, direction: int) -> range:
    return range(length) if direction == 0 else range(length - 1, -1, -1)


def through_time(
    kind: str,
    grad: tuple,
    tape: list,
    hidden: Sequence[Tensor],
    params,
    has_biases,
    num_layers,
    dropout,
    bidirectional,
    batch_first,
) -> tuple:
    """The way back: layers from the last to the first, steps against their order.

    Returns:
        The adjoints of the input, of the first states, and of every weight, in the order they were given.
    """
    back = CELLS[kind][1]
    directions = 2 if bidirectional else 1
    projected = kind == "lstm" and hidden[0].shape[-1] != hidden[1].shape[-1]
    layers = _layers(params, has_biases, projected)
    d_out: Any = grad[0] if grad[0] is None or not batch_first else grad[0].transpose(0, 1)
    d_states: list[list[Any]] = [[None] * len(layers), [None] * len(layers)]
    d_params: list[list] = [[] for _ in layers]
    for layer in reversed(range(num_layers)):
        d_x: Any = 0
        for direction in range(directions):
            place = layer * directions + direction
            x, saved, mask = tape[place]
            w, u, b, _, p = layers[place]
            size = hidden[0].shape[-1]
            d_h = torch.zeros_like(hidden[0][place]) if grad[1] is None else grad[1][place]
            d_c = torch.zeros_like(hidden[-1][place])
            d_c = grad[2][place] if kind == "lstm" and grad[2] is not None else d_c
            sums: list = [None] * x.shape[0]
            inner: list = [None] * x.shape[0]
            d_raw: list = [None] * x.shape[0]
            for t in reversed(_times(x.shape[0], direction)):
                if d_out is not None:
                    d_h = d_h + d_out[t, :, direction * size : (direction + 1) * size]
                kept, _ = saved[t]
                d_raw[t] = d_h
                d_h = d_h if p is None else d_h @ p
                sums[t], inner[t], d_h, d_c = back(d_h, d_c, kept, u)
            d_states[0][place], d_states[1][place] = d_h, d_c
            outer, nested = torch.stack(sums), torch.stack(inner)  # (T, B, gates)
            before = torch.stack([kept[-1] for kept, _ in saved])  # (T, B, hidden)
            d_x = d_x + outer @ w
            found = [_product(outer, x), _product(nested, before)]
            found += [outer.sum((0, 1)), nested.sum((0, 1))] if b is not None else []
            found += [] if p is None else [_product(torch.stack(d_raw), torch.stack([raw for _, raw in saved]))]
            d_params[place] = found
        mask = tape[layer * directions][2]
        d_out = d_x if mask is None else d_x * mask * (0.0 if dropout == 1 else 1 / (1 - dropout))
    d_input = d_out.transpose(0, 1) if batch_first else d_out
    states = [torch.stack(part) for part in d_states[: len(hidden)]]
    return d_input, states, [each for part in d_params for each in part]


def _product(adjoint: Tensor, value: Tensor) -> Tensor:
    """Σ over steps and examples of δ·vᵀ."""
    return adjoint.flatten(0, 1).T @ value.flatten(0, 1)


def recurrent(kind: str) -> None:
    """Write the row of one kind of recurrent network, over a tensor of steps and examples."""
    several = kind == "lstm"

    def forward(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
        settings = (params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
        return run(kind, input, hx if several else [hx], *settings)

    def serve(grad, tape, hx, params, has_biases, num_layers, dropout, bidirectional, batch_first):
        settings = (params, has_biases, num_layers, dropout, bidirectional, batch_first)
        d_input, d_states, d_params = through_time(kind, grad, tape, hx if several else [hx], *settings)
        return d_input, d_states if several else d_states[0], d_params

    row(f"{kind}.input", forward=forward, residuals=("tape",), joint=(("input", "hx", "params"), serve))


for kind in CELLS:
    recurrent(kind)
