"""A user's folder with a tiny network, its data, weights and recipe; slimgate run on it."""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

import pipeline.cli
from pipeline.store.manifest import MANIFEST, write_manifest

Value: TypeAlias = "str | int | float | Sequence[Value] | Mapping[str, Value]"


Table: TypeAlias = Mapping[str, "Value | None"]


Array = npt.NDArray[np.uint8 | np.int64 | np.float32 | np.object_ | np.str_]


NETWORK = '''
import torch
from torch import nn


class Net(nn.Module):
    """A stem and one residual block on `width` channels."""

    def __init__(self, width=16, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, 16, 3, padding=1, bias=False)
        self.inner_bn = nn.BatchNorm2d(16)
        self.outer = nn.Conv2d(16, width, 3, padding=1, bias=False)
        self.outer_bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        y = torch.relu(self.inner_bn(self.inner(x)))
        return self.fc(torch.relu(self.outer_bn(self.outer(y)) + x).mean((2, 3)))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()
'''


TASK = '''
import numpy as np
from net import network
from pipeline.task import Task


class Data:
    """Random images of 4 classes."""

    def __init__(self, count):
        generator = np.random.default_rng(count)
        self.inputs = generator.standard_normal((count, 1, 12, 12)).astype(np.float32)
        self.targets = np.arange(count) % 4

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index]


def task():
    return Task(network=network, train=Data(48), validation=Data(32))
'''


RECIPE: Mapping[str, Table] = {
    "task": {
        "network": "net.py:network",
        "weights": "weights.safetensors",
        "data": "data.npz",
        "mean": [0.5],
        "std": [0.25],
        "size": 12,
    },
    "prune": {"macs_ratio": 0.6, "multiple": 2, "samples": 32},
    "recover": {"samples": 32},
    "target": {"budget": {"macs_ratio": 0.7, "top1_drop": 0.99, "peak_memory_mib": 4096}},
    "measure": {"processes": 5, "seconds": 0.02, "starts": 5},
}


@dataclass(frozen=True)
class Outcome:
    """How one `slimgate` ended."""

    code: int
    out: str
    err: str

    def says(self, code: int, *words: str) -> None:
        """Assert the exit code, and one message with all of these words in it."""
        assert self.code == code, self.err
        assert self.err.startswith("slimgate: "), self.err
        assert self.err.count("slimgate: ") == 1, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, self.err


class Project:
    """A user's folder: `net.py`, `data.npz`, `weights.safetensors`, and a store in `cache`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.bundle = folder / "recipe.bundle"
        self.out = folder / "out"

    def recipe(self, **tables: Table | None) -> Path:
        """Write the recipe with keys put into its tables; None takes a key or a table away.

        A task with a `file` is written as it is given.
        """
        recipe = dict(RECIPE)
        for name, table in tables.items():
            kept = {} if table is None or "file" in table else recipe.get(name, {})
            recipe[name] = {**kept, **(table or {})}
        path = self.folder / "recipe.toml"
        path.write_text("\n".join(f"[{n}]\n{_lines(t)}" for n, t in recipe.items() if t))
        return path

    def task_recipe(self, source: str, **tables: Table | None) -> Path:
        """Write `task.py` and the recipe for its function `task`."""
        (self.folder / "task.py").write_text(source)
        return self.recipe(task={"file": "task.py:task"}, **tables)

    def put(self, **arrays: Array) -> None:
        """Put arrays into `data.npz`."""
        with np.load(self.folder / "data.npz") as archive:
            whole: dict[str, Array] = {name: archive[name] for name in archive.files}
        np.savez(self.folder / "data.npz", allow_pickle=True, **(whole | arrays))

    def stages(self) -> set[str]:
        """The keys of the finished results in the store."""
        done = self.cache / "done"
        return {path.name for path in done.iterdir()} if done.exists() else set()

    def leftovers(self) -> list[Path]:
        """What a run that has ended should have taken away."""
        hidden = [path for path in self.folder.iterdir() if path.name.startswith(".")]
        work = self.cache / "work"
        return hidden + (list(work.iterdir()) if work.exists() else [])

    def slimgate(self, verb: str, *arguments: str | Path) -> Outcome:
        """Run a verb in this process, on the store of this project."""
        with _own_process(self) as patch:
            patch.setattr(sys, "argv", ["slimgate", verb, *map(str, arguments)])
            with (
                contextlib.redirect_stdout(io.StringIO()) as out,
                contextlib.redirect_stderr(io.StringIO()) as err,
                pytest.raises(SystemExit) as ended,
            ):
                pipeline.cli.main()
        code = ended.value.code
        assert isinstance(code, int)
        return Outcome(code, out.getvalue(), err.getvalue())

    def prune(self) -> Outcome:
        """Run the flow up to the pruned network, the shortest way into every input."""
        return self.slimgate("prune", self.folder / "recipe.toml", "--out", self.out)

    def refuses(self, code: int, *words: str) -> None:
        """Assert that `prune` ends in one message, and leaves nothing behind."""
        self.prune().says(code, *words)
        assert not self.out.exists()
        assert not self.stages()
        assert not self.leftovers()

    def start(self, verb: str, *arguments: str | Path, once: bool = False) -> subprocess.Popen[str]:
        """Start the console script in this folder, in a session of its own.

        `once` measures once even where the machine is noisy, which is most of a short run.
        """
        script = Path(sys.executable).with_name("slimgate")
        code = "import pipeline.measure.sessions as m; m.SESSIONS = 1\n" if once else ""
        code += "from pipeline.cli import main; main()"
        command = [sys.executable, "-P", "-c", code]
        if script.exists() and not once:
            command = [str(script)]
        return subprocess.Popen(
            [*command, verb, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "SLIMGATE_CACHE": str(self.cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@contextlib.contextmanager
def _own_process(project: Project) -> Iterator[pytest.MonkeyPatch]:
    """Put back what `main` and the user's files change in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logger = logging.getLogger("slimgate")
    level = logger.level
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIMGATE_CACHE", str(project.cache))
        patch.delenv("SLIMGATE_DEBUG", raising=False)
        patch.setattr(sys, "path", list(sys.path))
        try:
            yield patch
        finally:
            logger.setLevel(level)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for name in set(sys.modules) - modules:
                file = getattr(sys.modules[name], "__file__", None)
                if file and Path(file).is_relative_to(project.folder):
                    del sys.modules[name]


def rewrite_in_bundle(bundle: Path, name: str, text: str) -> None:
    """Write a file of a bundle anew, and make the manifest agree."""
    (bundle / name).write_text(text)
    (bundle / MANIFEST).unlink()
    write_manifest(bundle, 0.0)


def change_budget(bundle: Path, **limits: float) -> None:
    """Change the budget of the one target of a bundle, in its terms and its recipe alike."""
    for name in ("recipe.json", "targets.json"):
        whole = json.loads((bundle / name).read_text())
        for key in {"target", "targets"} & whole.keys():
            whole[key][0]["budget"] = limits
        rewrite_in_bundle(bundle, name, json.dumps(whole))


def change_terms(bundle: Path, fields: dict[str, object]) -> None:
    """Change what the one target of a bundle was built for."""
    whole = json.loads((bundle / "targets.json").read_text())
    (terms,) = whole["targets"]
    rewrite_in_bundle(bundle, "targets.json", json.dumps({**whole, "targets": [terms | fields]}))


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._path),)


def _lines(table: Table) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items() if value is not None)


def _toml(value: Value) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)
