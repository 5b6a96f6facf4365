"""Every seeded defect between two steps is caught, and the sound network is not."""

import onnx
import pytest
from seeded_defects import DEFECTS, STYLE, Defect, Unfit
from varied_network import Sound, sound

from exporters.graph.fp16 import to_fp16
from exporters.graph.int8 import to_int8
from exporters.graph.reference import plain_network
from exporters.graph.simplify import simplify
from exporters.parity import require_agreement
from profiles.device import Precision


@pytest.fixture(scope="module")
def before() -> Sound:
    return sound("torchscript")


def test_there_are_many_defects_of_different_names() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 40


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_is_caught(defect: Defect | Unfit, before: Sound) -> None:
    assert defect.refusal(before)


def test_the_sound_network_passes_every_step(before: Sound) -> None:
    assert not Defect("nothing", lambda sound: sound.reference).refusal(before)
    simplify(before.model, before.feeds)
    models: dict[Precision, onnx.ModelProto] = {
        "fp16": to_fp16(before.model, before.feeds),
        "int8": to_int8(before.model, before.inputs, STYLE).model,
    }
    for precision, model in models.items():
        network = plain_network(model.SerializeToString())
        require_agreement(
            "nothing", (before.reference, network), before.images_and_others, precision
        )
