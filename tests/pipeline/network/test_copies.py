"""Weights that are kept to go back to."""

import torch
import torchvision
from torch import Tensor, nn

from pipeline.network.copies import set_state, state_of


class OwnDict(nn.Linear):
    """Hands out copies of its weights."""

    def state_dict(self, *_: object, **__: object) -> dict[str, Tensor]:  # type: ignore[override]
        return {"own": self.weight.detach().clone()}


def test_a_network_with_a_state_dict_of_its_own_goes_back_too() -> None:
    network = OwnDict(2, 2)
    before, kept = network.weight.detach().clone(), state_of(network)
    with torch.no_grad():
        network.weight.mul_(2)
    set_state(network, kept)
    assert torch.equal(network.weight, before)


def test_a_network_that_asks_for_versions_goes_back_to_the_weights_it_had() -> None:
    network = torchvision.models.mnasnet0_5().eval()
    inputs = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before, kept = network(inputs), state_of(network)
        for value in network.state_dict().values():
            value.mul_(2)
        assert not torch.equal(network(inputs), before)
        set_state(network, kept)
        assert torch.equal(network(inputs), before)
