"""LiteRT, formerly TensorFlow Lite, on the CPU: XNNPACK runs what it can, as on a phone."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporters.board.library_calls import library_errors_as, silenced
from exporters.exporter import BuildFacts, Exporter, Source
from profiles.errors import DeviceError, MissingExtra, StageError
from profiles.machine.facts import versions

if TYPE_CHECKING:
    from exporters.board.sessions.litert import LiteRtSession


class LiteRt(Exporter):
    """LiteRT with its XNNPACK delegate, for a batch of one."""

    suffix: ClassVar[str] = ".tflite"
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)

    @classmethod
    def import_library(cls) -> None:
        try:
            import exporters.board.sessions.litert  # noqa: F401
        except ImportError as error:
            raise MissingExtra("ai-edge-litert", "litert") from error

    def build(self, source: Source, engine: Path) -> BuildFacts:
        network = source.network()
        with (
            silenced(),
            library_errors_as(StageError, f"LiteRT cannot convert {source.model.name}"),
        ):
            try:
                import litert_torch
                import torch
            except ImportError as error:
                raise MissingExtra("litert-torch", "litert") from error
            example = torch.from_numpy(source.calibration[:1].copy())
            content: bytes = litert_torch.convert(network, (example,)).model_content()
        engine.write_bytes(content)
        return BuildFacts()

    def open(self, engine: Path) -> "LiteRtSession":
        from exporters.board.sessions.litert import open_engine

        with library_errors_as(DeviceError, f"LiteRT cannot load {engine.name}"):
            return open_engine(str(engine), self)

    def environment(self) -> dict[str, str]:
        return versions(("ai-edge-litert", "litert-torch", "litert-converter", "torch"))
