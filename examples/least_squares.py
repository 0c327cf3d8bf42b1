"""Least squares and ridge on the graph: every value and every adjoint of the lecture's worked example.

Expected, for w = (1, −2), b = 0.5, x = (3, 0.5), y = 4, λ = 0.1:

    ŷ = w·x + b = 2.5        r = y − ŷ = 1.5        ℓ = r² = 2.25        R = λ·w·w = 0.5        J = ℓ + R = 2.75
    ∂ℓ/∂r = 2r = 3           ∂ℓ/∂ŷ = −2r = −3       ∂ℓ/∂b = −2r = −3
    ∂J/∂w = −2r·x + 2λw = (−9 + 0.2, −1.5 − 0.4) = (−8.8, −1.9)
"""

import torch

import cutaway as ct


def objective(w: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rate: float) -> torch.Tensor:
    """The ridge objective J of one example."""
    prediction = torch.dot(w, x) + b  # ŷ
    residual = y - prediction  # r
    loss = residual**2  # ℓ
    penalty = rate * torch.dot(w, w)  # R
    return loss + penalty  # J


def main() -> None:
    """Print the forward and the backward pass, then the same derivative as a sum over paths."""
    w, b = torch.tensor([1.0, -2.0]), torch.tensor(0.5)
    x, y = torch.tensor([3.0, 0.5]), torch.tensor(4.0)
    graph = ct.capture(objective, w, b, x, y, 0.1)
    trace = graph.run(w, b, x, y, 0.1).backward()

    print(f"{'node':<8}{'operation':<12}{'value':>16}{'adjoint':>16}   line")
    for node in graph.nodes:
        reading = trace[node]
        value, adjoint = (text(number) for number in (reading.value, reading.adjoint))
        print(f"{node.name:<8}{node.op_name:<12}{value:>16}{adjoint:>16}   {node.source}")

    print("\nthe chain rule, path by path: ∂J/∂w = the sum of the products")
    paths = graph.paths("w", "output")(w, b, x, y, 0.1)
    for path in paths.paths:
        print(f"  {path!s:<36}{text(path.product)}")
    print(f"  {'sum':<36}{text(paths.total)}")


def text(number: torch.Tensor | None) -> str:
    """A tensor as short text."""
    return "" if number is None else ", ".join(f"{entry:.4g}" for entry in number.flatten().tolist())


if __name__ == "__main__":
    main()
