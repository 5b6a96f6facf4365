"""The dense network as a teacher: how far a pruned one's outputs are from its own."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.arrays import IntArray
from pipeline.data.batches import batches
from pipeline.network.run import Loss, outputs_of
from pipeline.task import Task, is_cross_entropy
from profiles.errors import StageError

ROUNDING = 1e-9
"""A variance below this part of the mean square is none."""


@dataclass(frozen=True)
class Teacher:
    """The dense network in eval mode, and how far other outputs are from its own."""

    network: nn.Module
    temperature: float | None
    """The number that divides logits before they are compared; None where outputs are values."""
    variance: float = 1.0
    """The variance of the network's outputs: the unit of the squared distance of values."""

    def outputs(self, inputs: Tensor) -> Tensor:
        """What the network answers, [n, ...], without a gradient."""
        with torch.no_grad():
            return outputs_of(self.network, inputs)

    def distance(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """A mean over samples [n, ...]: KL divergence of logits, or squared error."""
        if self.temperature is None:
            return functional.mse_loss(outputs, wanted) / self.variance
        found, goal = (
            functional.log_softmax(logits / self.temperature, 1) for logits in (outputs, wanted)
        )
        divergence = functional.kl_div(found, goal, reduction="none", log_target=True)
        return divergence.sum(1).mean() * self.temperature**2


def teacher_for_task(
    dense: nn.Module, task: Task, held_out: IntArray, temperature: float
) -> Teacher:
    """The teacher for a task, whose held-out samples give the unit of distance."""
    device = next(dense.parameters()).device
    read = batches(task.train, held_out, 256)
    feeds = (torch.from_numpy(inputs).to(device) for inputs, _ in read)
    return teacher_for_loss(dense, task.loss, feeds, temperature)


def teacher_for_loss(
    dense: nn.Module, loss: Loss, held_out: Iterable[Tensor], temperature: float
) -> Teacher:
    """The teacher for a loss: of logits where that is the cross entropy, else of values."""
    dense.eval()
    if is_cross_entropy(loss):
        return Teacher(dense, temperature)
    plain = Teacher(dense, None)
    count, total, squares = 0, 0.0, 0.0
    for inputs in held_out:
        outputs = plain.outputs(inputs).double()
        count += outputs.numel()
        total += outputs.sum().item()
        squares += outputs.square().sum().item()
    variance = squares / count - (total / count) ** 2
    if not variance > ROUNDING * squares / count:
        raise StageError(
            "the dense network gives every held-out sample the same outputs, so that nothing tells "
            "how near others are; check its weights, take more samples or, to train by labels "
            "alone, set finetune.distill = 0"
        )
    return Teacher(dense, None, variance)
