"""The distance from the dense network: a softened divergence of logits, or a squared error."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import squared, task
from networks import Chain, trained
from torch import nn
from torch.nn import functional

from pipeline.data.batches import batches
from pipeline.network.distance import Teacher, teacher_for_task
from pipeline.network.run import Loss
from pipeline.task import cross_entropy
from profiles.errors import StageError


def test_the_distance_of_logits_is_the_softened_divergence_from_the_dense_network() -> None:
    wanted, found = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([[1.0, 1.0]])
    # At temperature 2 the dense network says 1/4 and 3/4, the other 1/2 and 1/2.
    by_hand = 2**2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    teacher = Teacher(nn.Identity(), 2.0)
    assert teacher.distance(found, wanted).item() == pytest.approx(by_hand)
    two = torch.cat([found, wanted]), torch.cat([wanted, wanted])
    assert teacher.distance(*two).item() == pytest.approx(by_hand / 2)
    maps = [logits[:, :, None].expand(1, 2, 5) for logits in (found, wanted)]
    assert teacher.distance(*maps).item() == pytest.approx(by_hand)


def test_the_distance_of_values_is_a_squared_error_in_units_of_the_dense_networks_variance() -> (
    None
):
    asked = replace(task(), loss=squared)
    dense, held_out = trained(Chain), np.arange(20)
    teacher = teacher_for_task(dense, asked, held_out, 4.0)
    inputs = torch.from_numpy(next(batches(asked.train, held_out, 20))[0])
    wanted = teacher.outputs(inputs)
    assert teacher.variance == pytest.approx(wanted.var(correction=0).item(), rel=1e-4)
    assert teacher.distance(wanted + 3, wanted).item() == pytest.approx(9 / teacher.variance)


@pytest.mark.parametrize("constant", [0, 0.1, -1e6])
def test_a_dense_network_that_says_one_thing_cannot_teach(constant: float) -> None:
    dense = trained(Chain)
    nn.init.zeros_(dense.get_parameter("fc.weight"))
    nn.init.constant_(dense.get_parameter("fc.bias"), constant)
    with pytest.raises(StageError, match=r"set finetune.distill = 0"):
        teacher_for_task(dense, replace(task(), loss=squared), np.arange(9), 4.0)


@pytest.mark.parametrize(
    "loss", [cross_entropy, functional.cross_entropy, nn.CrossEntropyLoss()], ids=repr
)
def test_torchs_own_cross_entropy_is_that_of_logits(loss: Loss) -> None:
    teacher = teacher_for_task(trained(Chain), replace(task(), loss=loss), np.arange(9), 4.0)
    assert teacher.temperature == 4.0
    plain = teacher_for_task(trained(Chain), replace(task(), loss=squared), np.arange(9), 4.0)
    assert plain.temperature is None
