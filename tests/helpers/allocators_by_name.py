"""Allocators by their names."""

from collections.abc import Mapping

from pipeline.prune.allocators import Allocator
from profiles.plugins import plugin

PACKAGE = "pipeline.prune.allocators"


RATIOS = {"0": 0.3, "3": 0.0, "*": 0.6}


ROWS = [{"layers": layers, "pruning_ratio": ratio} for layers, ratio in RATIOS.items()]


NEEDED = {"table": {"rows": ROWS}}
"""Fields without which an allocator says nothing."""


def made(name: str, fields: Mapping[str, object]) -> Allocator:
    kind = plugin(PACKAGE, name, Allocator)  # type: ignore[type-abstract]
    return kind.model_validate({**NEEDED.get(name, {}), **fields})
