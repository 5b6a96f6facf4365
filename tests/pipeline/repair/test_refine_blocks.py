"""Two layers of a block refined together: better on samples that were not fitted."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.folded_layer import Folded
from pipeline.layers.output_sites import find_sites
from pipeline.layers.sampled_rows import output_rows
from pipeline.network.layer_kinds import linear_map
from pipeline.repair import refine_blocks
from pipeline.repair.refine_blocks import (
    BATCH_SAMPLES,
    MOST_PASSES,
    SMALL_BATCH_SAMPLES,
    Block,
    refine,
)


class Branch(nn.Module):
    """x + second(relu(norm(first(x)))), which a ReLU reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.norm(self.first(x)))) + x)


def block_of(network: Branch, inputs: Tensor, target: Tensor) -> Block:
    sites = find_sites(network, inputs[:1])
    layers = [Folded(network.first, network.norm), Folded(network.second, None)]
    chosen = torch.arange(0, 36, 2).repeat(len(inputs), 1)
    return Block(
        sites=[sites["first"], sites["second"]],
        layers=layers,
        inputs=inputs,
        other=output_rows(network.second, inputs, chosen),
        target=output_rows(network.second, target, chosen),
        positions=chosen,
    )


@pytest.mark.parametrize("seed", range(3))
def test_refining_a_block_lowers_its_error_on_samples_that_were_not_fitted(seed: int) -> None:
    torch.manual_seed(seed)
    inputs = torch.randn(120, 4, 6, 6)
    dense, small = Branch(8).eval(), Branch(5).eval()
    with torch.no_grad():
        wanted = dense.second(functional.relu(dense.norm(dense.first(inputs)))) + inputs
    block = block_of(small, inputs, wanted)
    before = [
        part
        for f in block.layers
        for part in (linear_map(f.layer).weight_of(f.weight()), f.affine()[1])
    ]
    after = refine(block, 60, 100)
    assert after is not None
    assert block.relative(after, 100, 120) < 0.9 * block.relative(before, 100, 120)
    unchanged = [linear_map(f.layer).weight_of(f.weight()) for f in block.layers]
    assert all(torch.equal(a, b) for a, b in zip(unchanged, before[::2], strict=True))


def test_a_block_that_is_right_already_is_not_refined() -> None:
    torch.manual_seed(0)
    inputs, network = torch.randn(60, 4, 6, 6), Branch(8).eval()
    with torch.no_grad():
        wanted = network.second(functional.relu(network.norm(network.first(inputs)))) + inputs
    assert refine(block_of(network, inputs, wanted), 30, 50) is None


def small_block() -> Block:
    torch.manual_seed(1)
    inputs = torch.randn(120, 4, 6, 6)
    dense, small = Branch(8).eval(), Branch(5).eval()
    with torch.no_grad():
        wanted = dense.second(functional.relu(dense.norm(dense.first(inputs)))) + inputs
    return block_of(small, inputs, wanted)


def test_few_samples_are_gone_through_no_more_often_than_is_of_use() -> None:
    block, turns = small_block(), 100 // SMALL_BATCH_SAMPLES
    capped, asked = refine(block, 10**6, 100), refine(block, MOST_PASSES * turns, 100)
    assert capped is not None
    assert asked is not None
    assert all(torch.equal(one, other) for one, other in zip(capped, asked, strict=True))


def test_how_many_samples_run_at_a_time_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    together = refine(small_block(), 20, 100)
    monkeypatch.setattr(refine_blocks, "LARGEST_BYTES", 3 * 5 * 36 * 4)  # three samples
    block = small_block()
    assert len(block.parts(0, BATCH_SAMPLES)) == 9
    in_turn = refine(block, 20, 100)
    assert together is not None
    assert in_turn is not None
    for one, other in zip(together, in_turn, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
