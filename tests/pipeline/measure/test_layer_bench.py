"""Layers alone, timed by real sessions of ONNX Runtime on this machine."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from exporters.arrays import FloatArray
from exporters.graph.layer_model import copies_of
from exporters.graph.layer_shape import LayerShape
from exporters.worker import EngineFile, Job
from pipeline.measure.layer_bench import MANY_WEIGHTS, MOST_VALUES, LayerBench, together
from pipeline.measure.places import Place, ThisMachine
from profiles.device import EngineOptions
from profiles.errors import DeviceError, StageError
from profiles.host import Host

CONVOLUTION = LayerShape(
    kind="convolution",
    inputs=16,
    outputs=32,
    positions=(12, 12),
    kernel=(3, 3),
    stride=(1, 1),
    dilation=(1, 1),
    padding=(1, 1, 1, 1),
)
DEPTHWISE = CONVOLUTION.model_copy(update={"inputs": 32, "groups": 32})


def bench(place: Place) -> LayerBench:
    return LayerBench(place, "ort", EngineOptions(), 1, "cpu", Path(tempfile.gettempdir()))


class Answering:
    """This machine, with every answer to a comparison replaced."""

    name = "a machine"

    def __init__(self, noise: float, lacks: int = 0) -> None:
        self._noise, self._lacks = noise, lacks
        self.asked: list[int] = []

    def host(self) -> Host:
        return ThisMachine().host()

    def answer(self, job: Job) -> str:
        assert job.compare is not None
        rounds = job.compare.rounds
        self.asked.append(rounds)
        generator = np.random.default_rng(0)
        times = {
            name: (1e5 * generator.lognormal(0, self._noise, rounds - self._lacks)).tolist()
            for name in job.compare.engines
        }
        return json.dumps({"wall_ns": times, "cpu_ns": times})

    def layers_ms(self, engine: EngineFile, batch: int) -> Mapping[str, float]:
        return {}

    def outputs(self, engine: EngineFile, batches: Iterable[FloatArray]) -> Iterator[FloatArray]:
        yield from ()


def test_a_layer_with_fewer_channels_takes_less_time_on_either_side() -> None:
    try:
        found = bench(ThisMachine()).time(CONVOLUTION)
    except StageError as error:
        pytest.skip(f"another process has the machine: {error}")
    assert found.ms > 0
    assert found.inputs is not None
    for curve, channels in ((found.outputs, 32), (found.inputs, 16)):
        assert curve.channels == tuple(range(4, channels + 1, 4))
        assert curve.parts[-1] == 1
        assert curve.parts[0] < 0.9


def test_a_depthwise_layer_has_one_side() -> None:
    found = bench(Answering(0)).time(DEPTHWISE)
    assert found.inputs is None
    assert found.outputs.channels == tuple(range(4, 33, 4))


def test_noise_is_answered_by_more_rounds_and_then_told() -> None:
    place = Answering(noise=0.5)
    with pytest.raises(
        StageError, match=r"a machine: the times of single layers.*\d times as long.*macs_ratio"
    ):
        bench(place).time(CONVOLUTION)
    assert place.asked == [5, 5, 10]
    quieter = Answering(noise=0.03)
    bench(quieter).time(CONVOLUTION)
    assert quieter.asked == [5]


@pytest.mark.parametrize(("inputs", "outputs"), [(9216, 4096), (1024, 1000), (64, 10)])
def test_engines_that_are_loaded_together_have_room(inputs: int, outputs: int) -> None:
    shape = LayerShape(kind="linear", inputs=inputs, outputs=outputs, positions=())
    parts = together(shape, 1)
    for part in parts:
        copies = copies_of(shape)
        held = sum(copies * one.weights() + one.values(copies) for one in (shape, *part))
        assert held <= MOST_VALUES or len(part) == 1
    widths = [(one.inputs, one.outputs) for part in parts for one in part]
    assert len(set(widths)) == len(widths)
    assert (inputs, outputs) not in widths
    assert len(widths) <= (20 if shape.weights() > MANY_WEIGHTS else 64)


def test_an_answer_that_lacks_times_is_none() -> None:
    with pytest.raises(DeviceError, match="a machine: its reply lacks times"):
        bench(Answering(0, lacks=1)).time(CONVOLUTION)
