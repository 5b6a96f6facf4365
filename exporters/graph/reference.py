"""The reference for parity: ONNX Runtime with every optimisation off."""

from collections.abc import Callable

from exporters.arrays import Array, FloatArray
from exporters.board.library_calls import library_errors_as
from exporters.exporter import call_one
from exporters.parity import Network
from profiles.errors import MissingExtra, StageError

try:
    import onnxruntime

    from exporters.board.sessions.ort import PROVIDER, Level, OrtSession, options_of
except ImportError as error:
    raise MissingExtra("onnxruntime", "ort") from error


def plain_network(model: bytes) -> Network:
    """The reference for parity: a serialised model, run with every optimisation off."""
    session = OrtSession(_plain(model))

    def network(batch: FloatArray) -> FloatArray:
        return call_one(session, batch)

    return network


def plain_outputs(model: bytes) -> Callable[[FloatArray], dict[str, Array]]:
    """The same, with every output by its name."""
    session = _plain(model)
    name = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def network(batch: FloatArray) -> dict[str, Array]:
        return dict(zip(names, session.run(None, {name: batch}), strict=True))

    return network


def _plain(model: bytes) -> onnxruntime.InferenceSession:
    with library_errors_as(StageError, "ONNX Runtime cannot load the model"):
        options = options_of(1, Level.ORT_DISABLE_ALL)
        return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
