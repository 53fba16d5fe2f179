"""What states are worth to a language model: a small head on its hidden state, and advantages made of its values."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TrainerCallback

WIDTH = 128


class ValueHead(nn.Module):
    """Values of states, from a language model's hidden state where it is about to write.

    Its values are 0 until it is trained.

    Args:
        size: Size of the hidden state.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        # Hidden states of large models have a few dimensions that are far larger than the others.
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.hidden, self.out = nn.Linear(size, WIDTH), nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Return the values of hidden states, shape ``(n, size)``, as ``(n,)``, float32."""
        values: Tensor = self.out(self.hidden(self.norm(states.float())).tanh())
        return values.squeeze(-1)


class ValueGradients(TrainerCallback):
    """Shares and clips the gradients of a value head, which wrappers of the language model know nothing of.

    Args:
        head: The value head.
        accelerator: Of the trainer.
    """

    def __init__(self, head: ValueHead, accelerator: Any) -> None:
        self.head, self.accelerator = head, accelerator

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Average the gradients over processes, and scale them down to the largest norm."""
        parameters = list(self.head.parameters())
        for parameter in parameters:
            parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        if args.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)


def clipped_value_loss(values: Tensor, before: Tensor, targets: Tensor, clip: float) -> Tensor:
    """Return half the mean squared error of values, of which a step further than ``clip`` gains nothing.

    Args:
        values: Shape ``(n,)``.
        before: What they were when the turns were played, shape ``(n,)``.
        targets: What they ought to be, shape ``(n,)``.
        clip: How far values may move.
    """
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * ((values - targets) ** 2).maximum((near - targets) ** 2).mean()


def explained_variance(values: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the share of the targets' variance that values explain: 1 at best, NaN if the targets do not vary."""
    spread = float(targets.var())
    return 1 - float((targets - values).var()) / spread if spread else float("nan")
