"""Write your own backward rule in ten lines: a ReLU that only lets through what supports the class.

A rule set is a plain dict from an operation (or one node's name) to a function of what the function's parameters name:
`grad`, `result`, or any argument of the operation.
"""

import torch

import cutaway as ct


def supportive(grad: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Guided backpropagation's ReLU: z̄ = ȳ where z > 0 and ȳ > 0."""
    return grad * (result > 0) * (grad > 0)


def main() -> None:
    """Compare the plain gradient, the rule everywhere, the rule at one node, and the shipped rule set."""
    model = ct.nets.make("lenet5", activation="relu", pooling="max", seed=0).eval()
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = ct.capture(model, x)
    first = next(node.name for node in graph.nodes if node.op_name == "relu")

    plain = graph.gradient()(x)
    everywhere = graph.gradient(rules={"relu": supportive})(x)
    one = graph.gradient(rules={first: supportive})(x)
    shipped = graph.gradient(rules=ct.rules.guided)(x)
    print(f"plain gradient          norm {plain.norm():.5f}")
    print(f"own rule at {first:<11} norm {one.norm():.5f}")
    same = everywhere.equal(shipped)
    print(f"own rule at every ReLU  norm {everywhere.norm():.5f}, equal to ct.rules.guided: {same}")
    print("\nthe program it makes, from the output back:\n")
    code = graph.gradient(rules={"relu": supportive}).code
    print("\n".join(line for line in code.splitlines() if " d_" in line and " = " in line))


if __name__ == "__main__":
    main()
