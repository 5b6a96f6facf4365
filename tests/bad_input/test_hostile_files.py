"""Hostile files: refused by name or opened without harm, whatever opens them."""

import ctypes
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hostile_external_data
import hostile_onnx
import hostile_opener_process
import hostile_weights
import pytest
from hostile_file import Hostile, fresh

from exporters.graph.open import open_onnx

SECRET = bytes(range(64, 104)) * 4
REFUSED = {"ConfigError", "IntegrityError", "DeviceError", "StageError"}
IN_ACCESS, IN_OPEN = 0x1, 0x20


@dataclass(frozen=True)
class Opening:
    """What became of every file, and of the canary."""

    files: tuple[Hostile, ...]
    outcomes: Mapping[str, str]
    canary_touched: bool
    folder: Path


@contextmanager
def watched(path: Path) -> Iterator[int]:
    """A handle that tells when `path` is opened or read under any name, by native code too."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle: int = libc.inotify_init1(os.O_NONBLOCK)
    assert handle >= 0
    try:
        assert libc.inotify_add_watch(handle, os.fsencode(path), IN_ACCESS | IN_OPEN) > 0
        yield handle
    finally:
        os.close(handle)


def touched(handle: int) -> bool:
    try:
        return bool(os.read(handle, 1 << 16))
    except BlockingIOError:
        return False


def outcomes(files: Sequence[Hostile], folder: Path) -> dict[str, str]:
    """Open all in one child; one that ends it is named, and a new child takes the rest."""
    found: list[str] = []
    while len(found) < len(files):
        rest = files[len(found) :]
        child = subprocess.run(
            [sys.executable, hostile_opener_process.__file__, SECRET.hex()],
            input="".join(json.dumps([one.kind, str(one.path)]) + "\n" for one in rest),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        found += lines
        if len(lines) < len(rest):
            assert child.returncode < 0, child.stderr
            found.append(f"ended the process by signal {-child.returncode}")
    return dict(zip((one.name for one in files), found, strict=True))


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> Opening:
    root = tmp_path_factory.mktemp("hostile")
    (root / "outside").mkdir()
    canary = root / "outside" / "canary"
    canary.write_bytes(SECRET)
    inside = root / "inside"
    inside.mkdir()
    files = (
        *hostile_external_data.files(fresh(inside / "external"), canary),
        *hostile_external_data.engines(fresh(inside / "engines"), canary),
        *hostile_onnx.files(fresh(inside / "onnx")),
        *hostile_onnx.engines(inside / "damaged"),
        *hostile_weights.files(inside / "weights"),
    )
    with watched(canary) as handle:
        found = outcomes(files, inside)
        return Opening(files, found, touched(handle), inside)


def test_the_watch_sees_a_file_that_is_read_by_another_name(tmp_path: Path) -> None:
    path = tmp_path / "canary"
    path.write_bytes(SECRET)
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "soft").symlink_to(path)
    for name in ("canary", "hard", "soft"):
        with watched(path) as handle:
            assert path.stat().st_size == len(SECRET)
            assert not touched(handle)
            assert (tmp_path / name).read_bytes() == SECRET
            assert touched(handle)


def test_there_are_hostile_files_of_every_kind(opening: Opening) -> None:
    assert len({one.name for one in opening.files}) == len(opening.files)
    surely = Counter(one.kind for one in opening.files if not one.may_open)
    assert surely["onnx"] >= 200
    assert surely["weights"] >= 100
    assert surely["engine"] >= 50
    assert len(opening.files) >= 1500


def test_every_hostile_file_is_refused_or_harmless(opening: Opening) -> None:
    wrong = {
        one.name: outcome
        for one in opening.files
        if (outcome := opening.outcomes[one.name])
        not in (REFUSED | {"opened"} if one.may_open else REFUSED)
    }
    assert not wrong


def test_calls_branches_and_loops_are_refused_only_beyond_reason(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for graph in (
        hostile_onnx.doubling(8),
        hostile_onnx.calling_in_line(50),
        hostile_onnx.nested_ifs(20),
        hostile_onnx.endless_loop(),
    ):
        path.write_bytes(graph.SerializeToString())
        assert open_onnx(path) == graph


def test_the_canary_is_never_opened(opening: Opening) -> None:
    assert not opening.canary_touched
    assert "secret" not in opening.outcomes.values()


def test_no_pickle_runs(opening: Opening) -> None:
    assert not list(opening.folder.rglob(hostile_weights.MARK))
