"""The settings of a training, and what follows from them alone."""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.data.arrays import IntArray
from pipeline.data.batches import Augmentation, balanced_indices
from pipeline.task import Task, is_cross_entropy
from profiles.errors import ConfigError
from profiles.spec import Fraction, Spec

WARM_UP = 0.3
"""The part of a one-cycle schedule in which the rate rises (Smith, arXiv 1708.07120)."""


class Settings(Spec):
    """How to train."""

    epochs: PositiveInt
    """The number of times that the training samples are seen."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam in steps relative to each tensor's weights, or SGD.

    A repaired network is near its goal, and the steps of SGD differ by orders of magnitude from
    layer to layer: at rates that lose nothing it learns too little.
    """
    learning_rate: PositiveFloat = 0.01
    """The first learning rate; for Adam relative to the root mean square of each tensor as an epoch
    begins."""
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    """How the learning rate falls: along a cosine, or after a rise (arXiv 1708.07120)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The momentum of SGD, and the decay of Adam's first moment."""
    weight_decay: NonNegativeFloat = 5e-4
    """The weight decay of SGD; Adam has none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The part of each label that is spread over all classes; needs the cross entropy."""
    batch_size: PositiveInt = 64
    """The number of samples in one step."""
    augment: Augmentation = "none"
    """How images are varied: `crop` shifts them, `crop_flip` mirrors half of them as well."""
    trainable: Literal["all", "norm_bias_head"] = "all"
    """Which parameters are trained: all, or the norms', the biases and the last linear layer
    (arXiv 2312.15230)."""
    distill: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The weight of the distance from the dense network's outputs; the task's loss has the rest.

    Half, since the dense network tells of every class, and the label is never wrong. Two epochs
    of 2,250 images ended 2 to 4 points above labels alone (ResNet-20 at half of its MACs); 0.9
    was no better, and at a learning rate of 0.02 worse than none.
    """
    temperature: PositiveFloat = 4.0
    """What divides the logits before they are compared: higher shows more of the small ones."""
    ema: Fraction | None = None
    """The part of itself that a moving average of the weights keeps in each step; the average is
    scored and kept in place of the weights. No average when not given."""
    samples: PositiveInt | None = None
    """The number of training samples to use, of every class alike; all when not given."""
    holdout: Fraction = 0.1
    """The part of the training samples that chooses the epoch and is not trained on."""
    seed: NonNegativeInt = 0
    """What the choice and the order of the samples, and their augmentation, depend on."""

    def split(self, task: Task) -> tuple[IntArray, IntArray]:
        """The places of the training samples to train on, and of those that choose the epoch.

        Raises ConfigError when none is left to train on.
        """
        chosen = np.arange(len(task.train))
        if self.samples is not None:
            chosen = np.array(balanced_indices(task.train, self.samples, self.seed))
        order = np.random.default_rng(self.seed).permutation(chosen)
        count = max(1, round(self.holdout * len(order)))
        if count >= len(order):
            raise ConfigError(
                f"finetune.holdout = {self.holdout:g} of {len(order)} training samples leaves "
                "none to train on: give more samples, or set a smaller finetune.holdout"
            )
        return order[count:], order[:count]

    def rate(self, done: float) -> float:
        """The part of the learning rate in use when the fraction `done` of all steps is done."""
        if self.schedule == "one_cycle" and done < WARM_UP:
            return 0.04 + 0.96 * done / WARM_UP
        if self.schedule == "one_cycle":
            done = (done - WARM_UP) / (1 - WARM_UP)
        return 0.5 * (1 + math.cos(math.pi * done))

    def loss(self, task: Task) -> Callable[[Tensor, Tensor], Tensor]:
        """The task's loss, its labels smoothed.

        Raises ConfigError for another loss than the cross entropy, whose labels cannot be.
        """
        if not self.label_smoothing:
            return task.loss
        if not is_cross_entropy(task.loss):
            raise ConfigError("finetune.label_smoothing needs the cross entropy as the task's loss")
        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)
