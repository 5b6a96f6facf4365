"""A runtime added as one file to the folder of engines, for this process and those it starts."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import exporters.engines

ROOT = Path(__file__).parents[2]


@contextmanager
def added_runtime(name: str, source: str, folder: Path) -> Iterator[None]:
    """`exporters/engines/NAME.py` with this source, for this process and those it starts."""
    started = folder / "started"
    started.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source)
    start = f"import exporters.engines\nexporters.engines.__path__.append({str(folder)!r})\n"
    (started / "sitecustomize.py").write_text(start)
    exporters.engines.__path__.append(str(folder))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (started, ROOT))))
            yield
    finally:
        exporters.engines.__path__.remove(str(folder))
        sys.modules.pop(f"exporters.engines.{name}", None)
