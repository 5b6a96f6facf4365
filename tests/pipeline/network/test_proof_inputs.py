"""A group is proven on several samples and noise: no single input decides about it."""

import numpy as np
import pytest
import torch
from half_pruned import images
from networks import Chain, MixesBright, trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.api import prune
from pipeline.network.groups import TOLERANCE, fault, find_groups, make_plan
from pipeline.network.plan import Kept, LayerPlan, PruningPlan, apply_plan, masked
from pipeline.network.proof_inputs import PROOF_SAMPLES, proof_samples
from profiles.errors import StageError


class Saturated(nn.Module):
    """Answers every input alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.relu(self.first(x)))).mean((2, 3))
        return torch.where(x > 1e9, x, torch.zeros_like(x))


BLANK = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("example", [BLANK, torch.cat([BLANK, images(3)])])
def test_a_blank_sample_proves_no_group_whose_channels_mix_elsewhere(
    by_batch: bool, example: Tensor
) -> None:
    torch.manual_seed(0)
    network = MixesBright(by_batch).eval()
    assert "first" not in {group.name for group in find_groups(network, example).groups}
    even = Kept(of=8, channels=(0, 2, 4, 6))
    layers = {"first": LayerPlan(out=even, inputs=None), "second": LayerPlan(out=None, inputs=even)}
    assert "channels mix elsewhere" in fault(network, PruningPlan(layers=layers), example)


def test_a_network_pruned_after_a_blank_first_sample_is_the_masked_one_on_all_others() -> None:
    torch.manual_seed(0)
    network = MixesBright(by_batch=False).eval()
    samples = torch.cat([BLANK, images(99)])
    slim = prune(network, [(samples, torch.arange(100) % 4)], 0.9)
    assert fault(network, slim.plan, images(8, 1)) == ""


def test_outputs_that_are_the_same_for_every_input_prove_nothing() -> None:
    found = find_groups(Saturated().eval(), images(8))
    assert found.groups == ()
    assert "answers all inputs alike: that proves nothing" in found.refused["first"]
    with pytest.raises(StageError, match="answers all inputs alike"):
        prune(Saturated(), [(images(20), torch.arange(20) % 4)], 0.5)


def test_a_blank_example_still_proves_the_groups_of_a_sound_network() -> None:
    network = trained(Chain)
    groups = find_groups(network, BLANK).groups
    assert [group.name for group in groups] == ["conv1", "conv2"]
    kept = {group.name: np.arange(0, group.size, 2) for group in groups}
    assert fault(network, make_plan(network, groups, kept), BLANK) == ""


def test_the_samples_of_a_proof_are_spread_over_the_data_set() -> None:
    numbers = torch.arange(100.0)[:, None]
    assert proof_samples(numbers).flatten().tolist() == [0, 12, 25, 37, 50, 62, 75, 87]
    assert len(proof_samples(numbers[:3])) == 3 < PROOF_SAMPLES


class Chaotic(nn.Module):
    """Rounds otherwise for each number of channels; each of 20 steps about doubles a difference.

    As `single` it takes all inputs as float32, and its weights can be nothing else.
    """

    def __init__(self, single: bool = False) -> None:
        super().__init__()
        self.single = single
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.second = nn.Conv2d(10, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x.float() if self.single else x))
        x = (x + 100 * x.shape[1]) - 100 * x.shape[1]
        x = self.second(x).mean((2, 3)).sigmoid()
        for _ in range(20):
            x = 4 * x * (1 - x)
        return x


def thinned(read: tuple[int, ...]) -> PruningPlan:
    """The first layer keeps three channels, the second the weights for `read`."""
    left, inputs = (Kept(of=10, channels=channels) for channels in (THREE, read))
    return PruningPlan(layers={"first": LayerPlan(out=left), "second": LayerPlan(inputs=inputs)})


THREE, OTHERS = (0, 4, 8), (0, 4, 7)


def test_rounding_that_a_network_blows_up_refutes_no_group() -> None:
    torch.manual_seed(0)
    network = Chaotic().eval()
    plan = thinned(THREE)
    with torch.no_grad():
        small, large = (make(network, plan)(images(8)) for make in (apply_plan, masked))
    assert float((small - large).abs().max()) > 10 * TOLERANCE
    assert fault(network, plan, images(8)) == ""
    found = find_groups(network, images(8))
    assert [group.name for group in found.groups] == ["first"]


@pytest.mark.parametrize(("read", "single"), [(OTHERS, False), (THREE, True)])
def test_what_is_more_than_rounding_or_cannot_be_told_from_it_is_refused(
    read: tuple[int, ...], single: bool
) -> None:
    torch.manual_seed(0)
    network = Chaotic(single).eval()
    assert "channels mix elsewhere" in fault(network, thinned(read), images(8))


class Greedy(Chain):
    """Asks for more memory than any machine has once it has lost channels."""

    def forward(self, x: Tensor) -> Tensor:
        if len(self.conv1.weight) < 8:
            torch.empty(1 << 50)
        return super().forward(x)


def test_a_lack_of_memory_is_told_as_one_and_not_held_against_the_groups() -> None:
    with pytest.raises(StageError, match=r"^proving .* takes more memory than there is"):
        find_groups(trained(Greedy), images(8))
