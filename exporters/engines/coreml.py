"""Core ML: an ML program for Apple's devices, in a package of several files.

It is written anywhere and runs on macOS alone; elsewhere its structure is what can be checked.
"""

import importlib.util
import json
import sys
import tempfile
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from exporters.arrays import Array
from exporters.board.archive import pack, unpack
from exporters.board.library_calls import silenced
from exporters.board.session import TensorSpec
from exporters.exporter import BuildFacts, Exporter, Source
from profiles.device import Precision
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine.facts import versions

if TYPE_CHECKING:
    import torch
    from coremltools.models import MLModel
    from coremltools.proto.Model_pb2 import Model

PACKAGE = "network.mlpackage"
MANIFEST = f"{PACKAGE}/Manifest.json"
PROGRAM = f"{PACKAGE}/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = f"{PACKAGE}/Data/com.apple.CoreML/weights/weight.bin"
WEIGHTED = ("conv", "conv_transpose", "linear")
"""Core ML's operators that stand for a layer with weights."""


class CoreMlSession:
    """A loaded package; Core ML chooses the processor."""

    def __init__(self, model: "MLModel") -> None:
        self._model = model
        self._description = model.get_spec().description

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(value.name, "float32", tuple(value.type.multiArrayType.shape))
            for value in self._description.input
        )

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        with _core_ml_errors_as(DeviceError, "Core ML cannot run the network"):
            found = self._model.predict(dict(feed))
            return [np.array(found[value.name], np.float32) for value in self._description.output]


class CoreMl(Exporter):
    """An ML program for iOS 16, macOS 13 and later, for a batch of one; a zip of its package."""

    suffix: ClassVar[str] = ".mlpackage.zip"
    PRECISIONS: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")

    @classmethod
    def import_library(cls) -> None:
        # Importing it takes seconds, and off macOS only building needs it.
        if importlib.util.find_spec("coremltools") is None:
            raise MissingExtra("coremltools", "coreml")

    def build(self, source: Source, engine: Path) -> BuildFacts:
        network = source.network()
        with (
            tempfile.TemporaryDirectory() as folder,
            silenced(),
            _core_ml_errors_as(StageError, f"Core ML Tools cannot convert {source.model.name}"),
        ):
            import coremltools as ct
            import torch

            example = torch.from_numpy(source.calibration[:1].copy())
            traced = torch.jit.trace(network, example)
            # At fp16 the ends would become fp16 as well.
            model = ct.convert(
                traced,
                inputs=[ct.TensorType("x", tuple(example.shape), np.float32)],
                outputs=[ct.TensorType("y", dtype=np.float32)],
                convert_to="mlprogram",
                compute_precision=getattr(ct.precision, f"FLOAT{self.precision[2:]}"),
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
            model.save(str(Path(folder, PACKAGE)))
            program = ct.utils.load_spec(str(Path(folder, PACKAGE)))
            operators = _verified(program, traced, tuple(example.shape))
            files = _files(Path(folder), program)
        engine.write_bytes(pack(files))
        return BuildFacts(layers=operators, weights_bytes=len(files[WEIGHTS]))

    def open(self, engine: Path) -> CoreMlSession:
        if reason := self.unavailable_reason():
            raise DeviceError(f"cannot open {engine.name}: {reason}")
        names = (MANIFEST, PROGRAM, WEIGHTS)
        with (
            tempfile.TemporaryDirectory() as folder,
            _core_ml_errors_as(DeviceError, f"Core ML cannot load {engine.name}"),
        ):
            for name, content in zip(names, unpack(engine, names), strict=True):
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            import coremltools as ct

            return CoreMlSession(ct.models.MLModel(str(Path(folder, PACKAGE))))

    def environment(self) -> dict[str, str]:
        return versions(("coremltools", "torch"))

    def unavailable_reason(self) -> str:
        if sys.platform == "darwin":
            return ""
        return "Core ML runs on macOS only; the package was checked for structure alone"


def _verified(program: "Model", traced: "torch.jit.ScriptModule", shape: tuple[int, ...]) -> int:
    """The number of operators, once the program has the input and the layers of the network."""
    (given,) = program.description.input
    found = tuple(given.type.multiArrayType.shape)
    if found != shape:
        raise StageError(f"its input is {found}, not {shape}")
    (block,) = program.mlProgram.functions["main"].block_specializations.values()
    operators = Counter(operator.type for operator in block.operations)
    asked = Counter(node.kind() for node in traced.inlined_graph.nodes())
    layers = asked["aten::_convolution"] + asked["aten::linear"]
    weighted = sum(operators[kind] for kind in WEIGHTED)
    if weighted != layers:
        raise StageError(f"it has {weighted} convolutions and linear layers, not {layers}")
    return operators.total() - operators["const"]


def _files(folder: Path, program: "Model") -> dict[str, bytes]:
    """The package's files without what differs between two builds: the date and random names."""
    del program.description.metadata.userDefined["com.github.apple.coremltools.conversion_date"]
    manifest = (folder / MANIFEST).read_text()
    for name, entry in json.loads(manifest)["itemInfoEntries"].items():
        manifest = manifest.replace(name, str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])))
    weights = folder / WEIGHTS
    return {
        MANIFEST: json.dumps(json.loads(manifest), indent=4, sort_keys=True).encode(),
        PROGRAM: program.SerializeToString(deterministic=True),
        # The smallest networks have all their weights in the program.
        WEIGHTS: weights.read_bytes() if weights.exists() else b"",
    }


@contextmanager
def _core_ml_errors_as(kind: type[StageError] | type[DeviceError], what: str) -> Iterator[None]:
    """Core ML's errors share no base class but Exception."""
    try:
        yield
    except Exception as error:
        # Its frames hold a temporary folder, which warns when it is forgotten.
        traceback.clear_frames(error.__traceback__)
        raise kind(f"{what}: {error}") from error
