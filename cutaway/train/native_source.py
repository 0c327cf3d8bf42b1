"""The text of a flat program in C: values in one workspace, a block of loops for every operation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

WORDS = {torch.float32: "float", torch.float64: "double", torch.int64: "int64_t", torch.int32: "int32_t",
         torch.bool: "uint8_t"}  # fmt: skip
_ALIGNED = 64  # bytes

HEAD = r"""
#ifndef __FAST_MATH__
#define __FAST_MATH__ 1  /* for the C library's functions of several numbers at once; nothing else depends on it */
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tgmath.h>
#define PLACE(i, n) ({ long at = (i); if (at < 0 || at >= (n)) { bad = 1; at = 0; } at; })
#define INLINE static inline __attribute__((always_inline))
#define MATRICES(T, V, WIDE) \
typedef T V __attribute__((vector_size(32), aligned(sizeof(T)), may_alias)); \
INLINE void tile_##T(T *restrict o, const T *restrict a, const T *restrict b, long rows, long columns, long inner, \
                     long orow, long ocol, long arow, long acol, long brow) { \
  V sums[4][2]; \
  for (long i = 0; i < rows; i++) sums[i][0] = sums[i][1] = (V){0}; \
  for (long k = 0; k < inner; k++) { \
    V left = *(const V *)(b + k * brow), right = *(const V *)(b + k * brow + WIDE / 2); \
    _Pragma("GCC unroll 4") \
    for (long i = 0; i < rows; i++) { \
      T x = a[i * arow + k * acol]; \
      sums[i][0] += x * left; sums[i][1] += x * right; \
    } \
  } \
  for (long i = 0; i < rows; i++) { \
    if (columns == WIDE && ocol == 1) { \
      *(V *)(o + i * orow) = sums[i][0]; \
      *(V *)(o + i * orow + WIDE / 2) = sums[i][1]; \
    } else for (long j = 0; j < columns; j++) o[i * orow + j * ocol] = sums[i][2 * j / WIDE][j % (WIDE / 2)]; \
  } \
} \
INLINE void product_##T(T *restrict o, const T *restrict a, const T *restrict b, long rows, long columns, \
                        long inner, long orow, long ocol, long arow, long acol, long brow, long bcol) { \
  T packed[inner * WIDE] __attribute__((aligned(64))); \
  for (long j = 0; j < columns; j += WIDE) { \
    long wide = columns - j < WIDE ? columns - j : WIDE; \
    const T *panel = b + j * bcol; \
    long step = brow; \
    if (bcol != 1 || wide < WIDE) { \
      memset(packed, 0, sizeof packed); \
      for (long m = 0; m < wide; m++) for (long k = 0; k < inner; k++) \
        packed[k * WIDE + m] = b[k * brow + (j + m) * bcol]; \
      panel = packed; step = WIDE; \
    } \
    long i = 0; \
    for (; i + 4 <= rows; i += 4) \
      tile_##T(o + i * orow + j * ocol, a + i * arow, panel, 4, wide, inner, orow, ocol, arow, acol, step); \
    for (; i < rows; i++) \
      tile_##T(o + i * orow + j * ocol, a + i * arow, panel, 1, wide, inner, orow, ocol, arow, acol, step); \
  } \
} \
INLINE void dots_##T(T *restrict o, const T *restrict a, const T *restrict b, long rows, long columns, long inner, \
                     long orow, long ocol, long arow, long acol, long brow, long bcol) { \
  for (long i = 0; i < rows; i++) for (long j = 0; j < columns; j++) { \
    T sum = 0; \
    for (long k = 0; k < inner; k++) sum += a[i * arow + k] * b[j * bcol + k]; \
    o[i * orow + j * ocol] = sum; \
  } \
}
MATRICES(float, floats, 16)
MATRICES(double, doubles, 8)
"""


class Unwritten(Exception):
    """An operation, a type or a shape that cannot be written in C."""


@dataclass(frozen=True)
class Value:
    """Numbers in memory: the expression of their first byte, and shape, strides, offset and type without numbers."""

    name: str
    like: Tensor


@dataclass
class Source:
    """The text so far, and where values lie."""

    known: dict[fx.Node, Any] = field(default_factory=dict)
    constants: dict[fx.Node, Tensor] = field(default_factory=dict)
    places: dict[fx.Node, str] = field(default_factory=dict)  # where answers lie that the caller takes
    lines: list[str] = field(default_factory=list)
    size: int = 0  # bytes of the workspace

    def value(self, node: Any) -> Value:
        """What a node computed."""
        if not isinstance(node, fx.Node):
            raise Unwritten(f"a tensor is wanted, not {node!r}")
        found = self.known[node]
        if not isinstance(found, Value):
            raise Unwritten(f"a tensor is wanted, not the several of {node}")
        return found

    def word(self, value: Value) -> str:
        """The type in C."""
        if value.like.dtype not in WORDS:
            raise Unwritten(f"numbers of type {value.like.dtype}")
        return WORDS[value.like.dtype]

    def new(self, node: fx.Node | Tensor) -> Value:
        """Room for the answer of a node."""
        found = node.meta["val"] if isinstance(node, fx.Node) else node
        like = torch.empty(found.shape, dtype=found.dtype, device="meta")
        if isinstance(node, fx.Node) and node in self.places:
            return Value(self.places[node], like)
        start = self.size
        self.size += -(-like.numel() * like.element_size() // _ALIGNED) * _ALIGNED
        return Value(f"w + {start}", like)

    def block(self, out: Value, sources: Sequence[Value], text: str) -> None:
        """Loops that write `o` and read a, b and c."""
        names = "".join(
            f"const {self.word(value)} *restrict {letter} = (const {self.word(value)} *)({value.name}); "
            for letter, value in zip("abc", sources, strict=False)
        )
        word = self.word(out)
        self.lines.append(f"{{ {word} *restrict o = ({word} *)({out.name}); {names}\n    {text} }}")

    def number(self, value: Any) -> str:
        """A number in C."""
        if not isinstance(value, int | float | bool):
            raise Unwritten(f"a number is wanted, not {value!r}")
        text = repr(float(value)) if isinstance(value, float) else str(int(value))
        return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(text, text)

    def each(self, node: fx.Node, text: str, operands: list[Any]) -> Value:
        """Loops that compute every number of the answer from one number of each operand."""
        out = self.new(node)
        like = out.like
        compares = any(sign in text for sign in ("==", "!=", "<", ">"))
        if like.dtype == torch.bool and not compares:
            raise Unwritten(f"{node.target} to truth values")
        values = [self.known[each] for each in operands if isinstance(each, fx.Node)]
        if "/" in text and not any(value.like.dtype.is_floating_point for value in values):
            raise Unwritten(f"{node.target} of whole numbers")
        terms, letters, places = {}, iter("abc"), 1
        inner = next((v.like.dtype for v in values if v.like.dtype.is_floating_point), torch.int64)
        for name, each in zip("abc", operands, strict=False):
            if isinstance(each, fx.Node):
                terms[name] = f"{next(letters)}[{{{places}}}]"
                places += 1
            else:
                cast = WORDS[inner] if inner.is_floating_point else "double"
                terms[name] = f"(({cast}){self.number(each)})"
        body = "".join(terms[c] if c in terms and _alone(text, i) else c for i, c in enumerate(text))
        spread = [value.like.expand(like.shape) for value in values]
        self.block(out, values, self.loops(like.shape, f"o[{{0}}] = {body};", like, *spread))
        return out

    def copy(self, out: Value, value: Value) -> None:
        """Loops that copy numbers to where the answer lies."""
        self.block(out, [value], self.loops(out.like.shape, "o[{0}] = a[{1}];", out.like, value.like))

    def fill(self, out: Value, number: Any) -> None:
        """Loops that set every number."""
        self.block(out, [], self.loops(out.like.shape, f"o[{{0}}] = {self.number(number)};", out.like))

    def contiguous(self, value: Value) -> Value:
        """The same numbers side by side from the start."""
        if value.like.is_contiguous() and value.like.storage_offset() == 0:
            return value
        out = self.new(value.like)
        self.copy(out, value)
        return out

    def loops(self, shape: Sequence[int], text: str, *views: Tensor) -> str:
        """Nested loops over a shape around a text, in which `{0}`, `{1}` … are the places in the views."""
        sizes, strides = merged(shape, [view.stride() for view in views])
        head = "".join(f"for (long i{d} = 0; i{d} < {size}; i{d}++) " for d, size in enumerate(sizes))
        places = []
        for view, steps in zip(views, strides, strict=True):
            terms = [f"i{d}" if step == 1 else f"i{d} * {step}" for d, step in enumerate(steps) if step]
            terms += [str(view.storage_offset())] if view.storage_offset() or not terms else []
            places.append(" + ".join(terms))
        return head + text.format(*places)


def _alone(text: str, place: int) -> bool:
    """Whether a letter of a formula is an operand and no part of a word."""
    around = text[max(place - 1, 0) : place] + text[place + 1 : place + 2]
    return not any(c.isalpha() for c in around)


def merged(shape: Sequence[int], strides: list[tuple[int, ...]]) -> tuple[list[int], list[list[int]]]:
    """The fewest loops over a shape: neighbours that every operand walks through in one go are one loop.

    >>> merged((2, 3, 4), [(12, 4, 1), (0, 4, 1)])
    ([2, 12], [[12, 1], [0, 1]])
    """
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        own = [stride[dim] for stride in strides]
        if sizes and all(had[-1] == step * size for had, step in zip(steps, own, strict=True)):
            sizes[-1] *= size
            for had, step in zip(steps, own, strict=True):
                had[-1] = step
        else:
            sizes.append(size)
            for had, step in zip(steps, own, strict=True):
                had.append(step)
    return sizes, steps


def affine(index: Tensor) -> tuple[int, list[int], list[int]] | None:
    """An index as nested steps of one size each: first number, sizes and strides; None where it is something else.

    >>> affine(torch.tensor([3, 5, 7, 13, 15, 17]))
    (3, [2, 3], [10, 2])
    """
    sizes: list[int] = []
    strides: list[int] = []
    while len(index) > 1:
        step = int(index[1] - index[0])
        line = index[0] + step * torch.arange(len(index))
        differs = (index != line).nonzero()
        run = int(differs[0]) if len(differs) else len(index)
        if len(index) % run or not (index.view(-1, run) == index[::run, None] + line[:run] - index[0]).all():
            return None
        sizes.insert(0, run)
        strides.insert(0, step)
        index = index[::run]
    return int(index[0]), sizes, strides
