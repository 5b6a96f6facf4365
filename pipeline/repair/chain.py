"""A chain of recoveries, each kept only if the network answers more like the dense one."""

from collections.abc import Sequence
from math import inf, isfinite

import torch
from torch import Tensor, nn

from pipeline.network.calibration import Calibration
from pipeline.network.copies import set_state, state_of
from pipeline.network.distance import Teacher, teacher_for_loss
from pipeline.network.plan import PruningPlan
from pipeline.network.run import outputs_of
from pipeline.repair.recoveries import Recovery
from pipeline.scoring.collect import Loss
from pipeline.store.reports import RecoveryReport
from profiles.errors import lack_of_memory_refused
from profiles.plugins import name_of

BATCH_SAMPLES = 64


@lack_of_memory_refused("repair")
def repair(
    network: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    chain: Sequence[Recovery],
    calibration: Calibration,
    loss: Loss,
) -> tuple[RecoveryReport, ...]:
    """Repair `network`, pruned from `dense` by `plan`, in place; both in eval mode.

    A recovery after which the held-out samples are answered no more like `dense` is undone.
    """
    held = calibration.inputs[calibration.fitted :]
    teacher = teacher_for_loss(dense, loss, held.split(BATCH_SAMPLES), temperature=1.0)
    wanted = answers(teacher, held)
    before = distance_from(teacher, network, held, wanted)
    reports = []
    for recovery in chain:
        state = state_of(network)
        remarks = recovery.recover(network, dense, plan, calibration)
        after = distance_from(teacher, network, held, wanted)
        kept = after < before
        if not kept:
            set_state(network, state)
        reports.append(
            RecoveryReport(
                name=name_of(recovery),
                distance_before=before if isfinite(before) else None,
                distance_after=after if isfinite(after) else None,
                kept=kept,
                remarks=remarks,
            )
        )
        before = min(before, after)
    return tuple(reports)


def answers(teacher: Teacher, inputs: Tensor) -> list[Tensor]:
    """What the teacher answers, batch by batch."""
    return [teacher.outputs(part).double() for part in inputs.split(BATCH_SAMPLES)]


def distance_from(
    teacher: Teacher, network: nn.Module, inputs: Tensor, wanted: Sequence[Tensor]
) -> float:
    """How far the network's outputs are from `answers`: the mean over samples, or inf."""
    total = 0.0
    for part, goal in zip(inputs.split(BATCH_SAMPLES), wanted, strict=True):
        with torch.no_grad():
            outputs = outputs_of(network, part).double()
        total += float(teacher.distance(outputs, goal)) * len(part)
    return total / len(inputs) if isfinite(total) else inf
