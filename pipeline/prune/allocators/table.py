"""Pruning ratios by layer name, the published ones among them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.network.groups import Group
from pipeline.prune.allocators import Allocator, Candidate
from profiles.spec import Spec

Preset = Literal[
    "resnet50-47.7",
    "resnet50-60.0",
    "resnet50-74.2",
    "mobilenet_v2-54.2",
    "resnet56-49.3",
    "resnet56-71.8",
    "vgg19-87.5",
]


class Row(Spec):
    """A pattern of layer names, as the shell's `*` and `?`, and the fraction to remove."""

    layers: str
    pruning_ratio: Annotated[float, Field(ge=0, lt=1)]


class Table(Allocator):
    """Each group takes the first row that matches one of its layers; none keeps it whole.

    With a budget all ratios are scaled alike until it is met, 1 at most.
    """

    rows: tuple[Row, ...] = ()
    preset: Preset | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.rows) == bool(self.preset):
            raise ValueError("give either rows or a preset")
        return self

    def knob(self) -> float | None:
        return self._full_scale()

    def keep(self, candidates: Sequence[Candidate], knob: float) -> list[float]:
        scale = knob / self._full_scale()
        return [1 - min(1.0, self._ratio(candidate.group) * scale) for candidate in candidates]

    def _ratio(self, group: Group) -> float:
        names = [member.layer for member in group.members if member.side == "out"]
        for row in self._rows():
            if any(fnmatchcase(name, row.layers) for name in names):
                return row.pruning_ratio
        return 0.0

    def _rows(self) -> tuple[Row, ...]:
        return PRESETS[self.preset] if self.preset else self.rows

    def _full_scale(self) -> float:
        """The knob at which the ratios are the table's own: then the largest one reaches 1."""
        return max((row.pruning_ratio for row in self._rows()), default=0.0) or 1.0


def _rows(*pairs: tuple[str, float]) -> tuple[Row, ...]:
    return tuple(Row(layers=layers, pruning_ratio=ratio) for layers, ratio in pairs)


def _vgg19() -> tuple[Row, ...]:
    """torchvision's vgg19_bn: 16 convolutions, the first 8 at .65, the next 4 at .70, then .60."""
    places = (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49)
    ratios = [0.65] * 8 + [0.70] * 4 + [0.60] * 4
    return _rows(*((f"features.{p}", r) for p, r in zip(places, ratios, strict=True)))


PRESETS: Mapping[str, tuple[Row, ...]] = {
    "resnet50-47.7": _rows(("*downsample*", 0.25), ("layer*", 0.40)),
    "resnet50-60.0": _rows(("*downsample*", 0.35), ("layer*", 0.45)),
    "resnet50-74.2": _rows(("*downsample*", 0.45), ("layer*", 0.60)),
    "mobilenet_v2-54.2": _rows(("features.0.*", 0.20), ("features.*", 0.35)),
    "resnet56-49.3": _rows(("layer*.conv1", 0.40), ("*", 0.15)),
    "resnet56-71.8": _rows(
        ("layer1.*.conv1", 0.60), ("layer2.*.conv1", 0.65), ("layer3.*.conv1", 0.70), ("*", 0.30)
    ),
    "vgg19-87.5": _vgg19(),
}
"""Appendix C of arXiv 2507.14171, named by network and MACs removed in percent.

The split into residual and inner layers is our reading of its two columns.
"""
