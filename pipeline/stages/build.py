"""ONNX -> the engine of one runtime, held to the ONNX model it came from."""

import logging
from pathlib import Path

import numpy as np
from pydantic import PositiveInt

from exporters.base import call_one, runtime
from exporters.engines.ort import plain_network
from exporters.opener import open_onnx
from exporters.parity import compare, feeds_of, require
from pipeline.artifact import Engine, OnnxModel
from pipeline.stage import Stage

log = logging.getLogger("slimgate")


class Build(Stage[OnnxModel, Engine]):
    """Build and verify. The engine depends on this machine, and so does its key."""

    engine: str
    threads: PositiveInt

    def environment(self) -> dict[str, str]:
        return runtime(self.engine, self.threads).environment()

    def run(self, source: OnnxModel, out: Path, scratch: Path) -> None:
        exporter = runtime(self.engine, self.threads)
        path = out / f"engine{exporter.suffix}"
        exporter.build(source.model, path)
        session = exporter.open(path)
        dynamic = session.inputs[0].shape[0] is None
        feeds = feeds_of(np.load(source.feeds, allow_pickle=False), dynamic)
        # The store may be shared: what it holds is opened like any file of somebody else.
        reference = plain_network(open_onnx(source.model).SerializeToString())
        parity = compare(reference, lambda batch: call_one(session, batch), feeds)
        require(f"building with {self.engine}", parity)
        log.info("  largest relative difference %.1e", parity.error)

    def load(self, source: OnnxModel, out: Path, key: str) -> Engine:
        exporter = runtime(self.engine, self.threads)
        return Engine(key, out / f"engine{exporter.suffix}", source)
