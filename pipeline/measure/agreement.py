"""An engine's outputs beside those of the ONNX model it came from, on the machine that runs it."""

from collections.abc import Iterator, Sequence

import numpy as np

from exporters.arrays import FloatArray
from exporters.graph.open import open_onnx
from exporters.graph.reference import plain_network
from exporters.parity import Network, Parity, feeds_of, require_agreement
from exporters.worker import EngineFile
from pipeline.measure.feeds import images_and_others
from pipeline.measure.places import Place
from pipeline.store.artifacts import OnnxModel


def agreement(
    step: str, place: Place, engine: EngineFile, source: OnnxModel, prepared: bytes | None = None
) -> tuple[Parity, Parity]:
    """How far they differ: on images, and on noise and edges.

    Where the ONNX model that the engine was `prepared` from is known, it is held to the one at
    fp32, and the engine to it, each within the tolerances of the precision.
    Raises StageError naming the step where a difference is more than the precision allows, and
    DeviceError where the engine does not run there.
    """
    # The store may be shared: what it holds is opened like any file of somebody else.
    model = open_onnx(source.model)
    free = not model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    inputs = images_and_others(np.load(source.feeds, allow_pickle=False))
    images, others = (feeds_of(of, free) for of in inputs)
    feeds, precision = (images, others), engine.options.precision
    found = [answer for of in feeds for answer in _answers(place, engine, of)]
    wanted = _outputs_of(model.SerializeToString(), feeds)
    if prepared is not None and precision != "fp32":
        lowered = _outputs_of(prepared, feeds)
        pair = _in_turn(wanted), _in_turn(lowered)
        require_agreement(f"lowering to {precision}", pair, feeds, precision)
        require_agreement(step, (_in_turn(lowered), _in_turn(found)), feeds, precision)
    return require_agreement(step, (_in_turn(wanted), _in_turn(found)), feeds, precision)


def _outputs_of(model: bytes, feeds: Sequence[Sequence[FloatArray]]) -> list[FloatArray]:
    network = plain_network(model)
    return [network(feed) for of in feeds for feed in of]


def _in_turn(outputs: Sequence[FloatArray]) -> Network:
    """A network that gives these outputs, one a call."""
    left = iter(outputs)
    return lambda _: next(left)


def _answers(place: Place, engine: EngineFile, feeds: list[FloatArray]) -> Iterator[FloatArray]:
    """The engine's own outputs for every feed, those for one input not as a part of many."""
    ones = [feed for feed in feeds if len(feed) == 1]
    for some in (ones, feeds[len(ones) :]):
        if some:
            yield from place.outputs(engine, some)
