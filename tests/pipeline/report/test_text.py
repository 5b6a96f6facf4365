"""What people read of a run."""

import pytest

from exporters.graph.cost import LayerCost
from pipeline.report.text import just_above_a_step


@pytest.mark.parametrize(
    ("op", "channels", "told"),
    [
        ("Conv", 64, False),
        ("Conv", 65, True),
        ("Conv", 68, True),
        ("Conv", 69, False),
        ("ConvTranspose", 33, True),
        ("Gemm", 65, False),
    ],
)
def test_a_convolution_that_ends_just_above_a_multiple_is_told(
    op: str, channels: int, told: bool
) -> None:
    layer = LayerCost(name="w", op=op, macs=1, channels=channels)
    assert just_above_a_step([layer], 8) == [layer] * told


def test_every_width_is_a_step_of_its_own_where_the_multiple_is_one() -> None:
    assert just_above_a_step([LayerCost(name="w", op="Conv", macs=1, channels=7)], 1) == []
