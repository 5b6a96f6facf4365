"""Weights that are kept to go back to."""

import torch
import torchvision

from pipeline.network.copies import set_state, state_of


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
