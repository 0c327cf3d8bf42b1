"""What searches share: the best image of each example so far, and who is still in the batch."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.attack.losses import Goal, Logits, margin, without
from cutaway.attack.problem import Problem


def firm(goal: Goal, logits: Logits) -> Bool[Tensor, "n"]:
    """Whether the goal is reached by more than rounding, which differs between batch sizes."""
    return margin(logits, goal)[0] > 1e-5 * logits.abs().amax(1)


def contenders(problem: Problem, count: int) -> Int[Tensor, "n r"]:
    """The classes whose boundaries are looked at: the target, or the likeliest others."""
    if problem.goal.target is not None:
        return problem.goal.target[:, None]
    count = min(count, problem.clean.shape[1] - 1)
    return without(problem.clean, problem.goal.label).topk(count, dim=1).indices


def linearized(
    part: Problem, point: Tensor, pivots: Int[Tensor, "n 1"], others: Int[Tensor, "n r"]
) -> tuple[Logits, Float[Tensor, "n r"], Float[Tensor, "n r d"]]:
    """Logits, and for each other class the lead of its logit over the pivot's and the gradient of that lead."""
    logits, gradients = part.oracle.leads(point, pivots, others)  # (N, R, C, H, W)
    return logits, logits.gather(1, others) - logits.gather(1, pivots), gradients.flatten(2)


class Keeper:
    """The best image found for each example: a successful one beats any other, then the larger score wins.

    Attributes:
        x: the best images (N, C, H, W), clean ones at first.
        success: (N,) whether they reach the goal, as the search saw it.
        score: (N,) how good they are; the clean image scores −∞ unless it solves the problem by itself.
    """

    def __init__(self, problem: Problem, solved_score: float = float("-inf")) -> None:
        self.x = problem.x.clone()
        self.success = problem.solved.clone()
        self.score = torch.full((len(self.x),), float("-inf"), dtype=torch.float64, device=self.x.device)
        self.score[self.success] = solved_score
        self.trace: list[Tensor] = []

    def open(self) -> Int[Tensor, "m"]:
        """The examples that are not solved."""
        return (~self.success).nonzero()[:, 0]

    def everyone(self) -> Int[Tensor, "n"]:
        """All examples."""
        return torch.arange(len(self.x), device=self.x.device)

    def offer(self, rows: Int[Tensor, "m"], x: Tensor, success: Bool[Tensor, "m"], score: Tensor) -> Bool[Tensor, "m"]:
        """Take over the images that are better than those kept, and say which."""
        score = score.detach().to(self.score.dtype)
        was = self.success[rows]
        better = (success & ~was) | ((success == was) & (score > self.score[rows]))
        if len(rows) == len(self.x) and better.all():
            self.x.copy_(x)
        else:
            self.x[rows[better]] = x[better]
        self.success[rows[better]] = success[better]
        self.score[rows[better]] = score[better]
        return better

    def give_back(self, problem: Problem, failed: Bool[Tensor, "n"] | None = None) -> None:
        """Put the clean images where the search failed, so that a failure looks like one."""
        failed = ~self.success if failed is None else ~self.success | failed
        self.success[failed] = False
        self.x[failed] = problem.x[failed]

    def note(self, rows: Int[Tensor, "m"], values: Float[Tensor, "m"]) -> None:
        """Add a line to the trace: the values of the examples still in the batch."""
        line = torch.full((len(self.x),), float("nan"), device=self.x.device)
        line[rows] = values.detach().to(line.dtype)
        self.trace.append(line)

    def lines(self) -> Float[Tensor, "steps n"]:
        """The trace."""
        return torch.stack(self.trace) if self.trace else torch.empty(0, len(self.x), device=self.x.device)

    def words(self) -> str:
        """How far the search is."""
        return f"{int(self.success.sum())} of {len(self.x)} solved"
