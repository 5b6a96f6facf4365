"""Time every layer of the dense network alone, at many widths, on the machine of a target."""

import logging
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import ValidationError

from exporters.graph.layer_shape import LayerShape
from pipeline.data.batches import batches
from pipeline.data.durable_files import SealedFile
from pipeline.measure.layer_bench import LayerBench
from pipeline.measure.places import place_of
from pipeline.network.layer_shapes import layer_shapes
from pipeline.network.layer_times import LayerTime, NetworkTimes
from pipeline.stages.measured_target import MeasuredTarget
from pipeline.store.artifacts import Checkpoint, TimedLayers
from pipeline.store.files import write_json
from pipeline.store.stage import Stage
from profiles.errors import DeviceError
from profiles.machine.facts import versions
from profiles.spec import Spec

log = logging.getLogger("slimgate")


class _Noted(Spec):
    """What lies in the file that a killed run goes on from: times by the layer's shape."""

    times: dict[str, LayerTime]


class TimeLayers(Stage[Checkpoint, TimedLayers]):
    """Layers of one shape are timed once."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ("onnx",)

    target: MeasuredTarget

    def environment(self) -> dict[str, str]:
        return {**versions(self.LIBRARIES), **self.target.environment()}

    def run(self, source: Checkpoint, out: Path, scratch: Path) -> None:
        inputs, _ = next(batches(source.task.train, range(1), 1))
        shapes = layer_shapes(source.network(), torch.from_numpy(inputs))
        distinct = list(dict.fromkeys(shape for runs in shapes.values() for shape in runs))
        notes = SealedFile(scratch / "times")
        times = _noted(notes)
        target, device = self.target, self.target.device
        with place_of(target.ssh) as place:
            if place.host() != target.host:
                raise DeviceError(f"{place.name}: it was changed since the run began; run again")
            scratch.mkdir(parents=True, exist_ok=True)
            bench = LayerBench(
                place, device.engine, device.options(), device.batch, device.clock, scratch
            )
            for number, shape in enumerate(distinct, 1):
                if _name(shape) not in times:
                    times[_name(shape)] = bench.time(shape)
                    notes.write(_Noted(times=times).model_dump_json().encode())
                    log.info("  %d of %d layers", number, len(distinct))
        layers = {
            name: tuple(times[_name(shape)] for shape in runs) for name, runs in shapes.items()
        }
        write_json(out / "layers.json", NetworkTimes(layers=layers))

    def load(self, source: Checkpoint, out: Path, key: str) -> TimedLayers:
        return TimedLayers(key, out)


def _name(shape: LayerShape) -> str:
    return shape.model_dump_json()


def _noted(notes: SealedFile) -> dict[str, LayerTime]:
    raw = notes.read("all layers are timed again")
    try:
        return {} if raw is None else dict(_Noted.model_validate_json(raw).times)
    except ValidationError:  # noted by another version of slimgate
        return {}
