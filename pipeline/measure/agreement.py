"""An engine's outputs beside those of the ONNX model it came from, on the machine that runs it."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from exporters.arrays import FloatArray
from exporters.graph.open import open_onnx
from exporters.graph.reference import plain_network
from exporters.parity import Parity, feeds_of, require_agreement
from exporters.worker import EngineFile
from pipeline.measure.feeds import images_and_others
from pipeline.measure.places import Place
from pipeline.store.artifacts import OnnxModel


def agreement(
    step: str, place: Place, engine: EngineFile, source: OnnxModel
) -> tuple[Parity, Parity]:
    """How far they differ: on images, and on noise and edges.

    Raises StageError naming the step where that is more than the engine's precision allows, and
    DeviceError where it does not run there.
    """
    # The store may be shared: what it holds is opened like any file of somebody else.
    model = open_onnx(source.model)
    free = not model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    inputs = images_and_others(np.load(source.feeds, allow_pickle=False))
    images, others = (feeds_of(of, free) for of in inputs)
    found = chain(_answers(place, engine, images), _answers(place, engine, others))
    reference = plain_network(model.SerializeToString())
    pair = (reference, lambda _: next(found))
    return require_agreement(step, pair, (images, others), engine.options.precision)


def _answers(place: Place, engine: EngineFile, feeds: list[FloatArray]) -> Iterator[FloatArray]:
    """The engine's own outputs for every feed, those for one input not as a part of many."""
    ones = [feed for feed in feeds if len(feed) == 1]
    for some in (ones, feeds[len(ones) :]):
        if some:
            yield from place.outputs(engine, some)
