"""Rows of matrix products in every form."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.graph.rows import row
from cutaway.graph.shapes import sum_to


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


# y = x·Wᵀ + b: δx = δy·W, ΔW = δyᵀ·x summed over all leading dimensions
row(
    "linear",
    input=lambda grad, weight: grad @ weight if weight.ndim > 1 else grad.unsqueeze(-1) * weight,
    weight=lambda grad, input, weight_shape: linear_weight(grad, input, weight_shape),
    bias=lambda grad, bias_shape: sum_to(grad, bias_shape),
)


def linear_weight(grad: Tensor, input: Tensor, weight_shape: Sequence[int]) -> Tensor:
    """ΔW = δyᵀ·x: a matrix product over all examples and positions."""
    if len(weight_shape) == 1:
        return (grad.unsqueeze(-1) * input).reshape(-1, input.shape[-1]).sum(0)
    if grad.ndim == 1:
        return torch.outer(grad, input)
    return _flat(grad).T @ _flat(input)


row("mm", self=lambda grad, mat2: grad @ mat2.T, mat2=lambda grad, self: self.T @ grad)
row("mv", self=lambda grad, vec: torch.outer(grad, vec), vec=lambda grad, self: self.T @ grad)
row("dot", self=lambda grad, tensor: grad * tensor, tensor=lambda grad, self: grad * self)
row("vdot", self=lambda grad, other: grad * other, other=lambda grad, self: grad * self)
row("outer", "ger", self=lambda grad, vec2: grad @ vec2, vec2=lambda grad, self: grad.T @ self)
row("bmm", self=lambda grad, mat2: grad @ mat2.mT, mat2=lambda grad, self: self.mT @ grad)
row(
    "addmm",
    self=lambda grad, beta, self_shape: sum_to(grad * beta, self_shape),
    mat1=lambda grad, mat2, alpha: (grad @ mat2.T) * alpha,
    mat2=lambda grad, mat1, alpha: (mat1.T @ grad) * alpha,
)
row(
    "addmv",
    self=lambda grad, beta, self_shape: sum_to(grad * beta, self_shape),
    mat=lambda grad, vec, alpha: torch.outer(grad, vec) * alpha,
    vec=lambda grad, mat, alpha: (mat.T @ grad) * alpha,
)
row(
    "addr",
    self=lambda grad, beta, self_shape: sum_to(grad * beta, self_shape),
    vec1=lambda grad, vec2, alpha: (grad @ vec2) * alpha,
    vec2=lambda grad, vec1, alpha: (grad.T @ vec1) * alpha,
)
row(
    "baddbmm",
    self=lambda grad, beta, self_shape: sum_to(grad * beta, self_shape),
    batch1=lambda grad, batch2, alpha: (grad @ batch2.mT) * alpha,
    batch2=lambda grad, batch1, alpha: (batch1.mT @ grad) * alpha,
)
row(
    "addbmm",
    self=lambda grad, beta, self_shape: sum_to(grad * beta, self_shape),
    batch1=lambda grad, batch2, alpha: (grad @ batch2.mT) * alpha,
    batch2=lambda grad, batch1, alpha: (batch1.mT @ grad) * alpha,
)


def matmul_self(grad: Tensor, self_shape: Sequence[int], other: Tensor) -> Tensor:
    """δA = δC·Bᵀ for every case of `torch.matmul`: vectors are one-row or one-column matrices."""
    if other.ndim == 1:
        return sum_to(grad.unsqueeze(-1) * other, self_shape)
    grad = grad.unsqueeze(-2) if len(self_shape) == 1 else grad
    found = grad @ other.mT
    return sum_to(found.squeeze(-2) if len(self_shape) == 1 else found, self_shape)


def matmul_other(grad: Tensor, self: Tensor, other_shape: Sequence[int]) -> Tensor:
    """δB = Aᵀ·δC for every case of `torch.matmul`."""
    if self.ndim == 1 and len(other_shape) == 1:
        return grad * self
    if self.ndim == 1:
        return sum_to(self.unsqueeze(-1) * grad.unsqueeze(-2), other_shape)
    if len(other_shape) == 1:
        return (self * grad.unsqueeze(-1)).reshape(-1, self.shape[-1]).sum(0)
    return sum_to(self.mT @ grad, other_shape)


row("matmul", self=matmul_self, other=matmul_other)


def einsum(grad: Tensor, equation: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """δA for C = einsum("ab,bc->ac", A, B) is einsum("ac,bc->ab", δC, B): the same sum with one operand replaced."""
    terms, output = _einsum_terms(equation, [tensor.ndim for tensor in tensors], grad.ndim)
    found = []
    for position, (term, tensor) in enumerate(zip(terms, tensors, strict=True)):
        others = [t for i, t in enumerate(terms) if i != position]
        given = set(output).union(*others)
        kept = "".join(dict.fromkeys(letter for letter in term if letter in given))
        adjoint = torch.einsum(
            f"{','.join([output, *others])}->{kept}", grad, *(t for i, t in enumerate(tensors) if i != position)
        )
        found.append(_einsum_place(adjoint, kept, term, tensor))
    return found


def _einsum_place(adjoint: Tensor, kept: str, term: str, like: Tensor) -> Tensor:
    """Give an adjoint an operand's shape: repeat along summed letters, sum broadcast sizes, put on a diagonal."""
    letters = "".join(dict.fromkeys(term))
    sizes = {letter: like.shape[axis] for axis, letter in enumerate(term)}
    adjoint = adjoint.permute([kept.index(letter) for letter in letters if letter in kept])
    for axis, letter in enumerate(letters):
        adjoint = adjoint if letter in kept else adjoint.unsqueeze(axis)
    for axis, letter in enumerate(letters):
        if sizes[letter] == 1 and adjoint.shape[axis] != 1:
            adjoint = adjoint.sum(axis, keepdim=True)
    adjoint = adjoint.expand([sizes[letter] for letter in letters])
    for axis, letter in enumerate(term):  # a repeated letter reads a diagonal: the adjoint lies on it, zeros beside it
        first = term.index(letter)
        if first != axis:
            shape = [1] * (adjoint.ndim + 1)
            shape[first] = shape[axis] = sizes[letter]
            eye = torch.eye(sizes[letter], dtype=like.dtype, device=like.device).reshape(shape)
            adjoint = adjoint.unsqueeze(axis) * eye
    return adjoint


def _einsum_terms(equation: str, ndims: Sequence[int], out_ndim: int) -> tuple[list[str], str]:
    """Each operand's letters and the output's, with the ellipsis and the implicit output written out."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBAzyxwvutsrqponmlkjihgfedcba" if letter not in equation]
    widths = [
        ndim - len(term.replace("...", "")) if "..." in term else 0 for term, ndim in zip(terms, ndims, strict=True)
    ]
    dots = "".join(spare[: max(widths, default=0)])
    written = [term.replace("...", dots[len(dots) - width :]) for term, width in zip(terms, widths, strict=True)]
    if not arrow:
        letters = "".join(terms).replace(".", "")
        return written, dots + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return written, right.replace("...", dots)


row("einsum", tensors=einsum)
row("trace", self=lambda grad, self: grad * torch.eye(*self.shape, dtype=grad.dtype, device=grad.device))
row("linalg_inv_ex", A=lambda grad, result: -result[0].mT @ grad[0] @ result[0].mT)


def bilinear(grad: Tensor, input1: Tensor, input2: Tensor, weight: Tensor, needs: tuple[str, ...]) -> tuple:
    """y_o = Σ x_i·W_oij·z_j, and the sum with one of the three replaced by δy."""
    lead = [tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, input1, input2)]  # (examples, width) each
    return (
        torch.einsum("no,oij,nj->ni", lead[0], weight, lead[2]).reshape(input1.shape) if "input1" in needs else None,
        torch.einsum("no,oij,ni->nj", lead[0], weight, lead[1]).reshape(input2.shape) if "input2" in needs else None,
        torch.einsum("no,ni,nj->oij", *lead) if "weight" in needs else None,
        lead[0].sum(0) if "bias" in needs else None,
    )


row("bilinear", joint=(("input1", "input2", "weight", "bias"), bilinear))
