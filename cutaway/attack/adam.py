"""Adam's steps, for batches from which rows can leave."""

import torch
from torch import Tensor


class Adam:
    """Moments of the gradients so far, and the step they give.

    Source: Kingma, Ba, "Adam: A method for stochastic optimization", 2015, algorithm 1.
    """

    def __init__(self, like: Tensor, rate: float) -> None:
        self.mean, self.square, self.count, self.rate = torch.zeros_like(like), torch.zeros_like(like), 0, rate

    def step(self, gradient: Tensor) -> Tensor:
        """What to add, to go down along the gradient."""
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        mean, square = self.mean / (1 - 0.9**self.count), self.square / (1 - 0.999**self.count)
        return -self.rate * mean / (square.sqrt() + 1e-8)

    def keep(self, stay: Tensor) -> None:
        """Let the other rows leave."""
        self.mean, self.square = self.mean[stay], self.square[stay]
