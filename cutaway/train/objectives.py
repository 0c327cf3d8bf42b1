"""What adversarial training minimises on pairs of clean and changed inputs."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cutaway.train.gradients import WithLoss, mean_loss
from cutaway.train.losses import Loss


class Mixed(WithLoss):
    """A weighted mean of the loss on clean and on changed inputs.

    >>> import torch
    >>> Mixed(nn.Identity(), lambda z, y: z.mean(1), 0.25)(torch.tensor([[[1.0], [2.0]]]), torch.zeros(1))[0]
    tensor(1.7500)
    """

    def __init__(self, model: nn.Module, loss: Loss, clean: float) -> None:
        super().__init__(model, loss)
        self.clean = clean

    def forward(self, x: Float[Tensor, "n 2 ..."], y: Tensor) -> tuple[Tensor, Tensor]:
        """Give the loss, and the outputs for the changed inputs."""
        clean, changed = self.model(x[:, 0]), self.model(x[:, 1])
        value = self.clean * mean_loss(self.loss, clean, y) + (1 - self.clean) * mean_loss(self.loss, changed, y)
        return value, changed


class Divergent(WithLoss):
    """The loss on clean inputs plus β times the mean divergence KL(clean ‖ changed) of the class probabilities.

    >>> import torch
    >>> both = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])
    >>> bool(Divergent(nn.Identity(), lambda z, y: 0 * z.mean(1), 1.0)(both, torch.zeros(1))[0] > 0)
    True
    """

    def __init__(self, model: nn.Module, loss: Loss, beta: float) -> None:
        super().__init__(model, loss)
        self.beta = beta

    def forward(self, x: Float[Tensor, "n 2 ..."], y: Tensor) -> tuple[Tensor, Tensor]:
        """Give the loss, and the outputs for the changed inputs."""
        clean, changed = self.model(x[:, 0]), self.model(x[:, 1])
        log_p, log_q = F.log_softmax(clean, 1), F.log_softmax(changed, 1)  # (N, K)
        divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
        return mean_loss(self.loss, clean, y) + self.beta * divergence, changed


class Second(nn.Module):
    """A network on the second of each pair of inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Float[Tensor, "n 2 ..."]) -> Tensor:
        """Answer for the changed inputs."""
        return self.model(x[:, 1])
