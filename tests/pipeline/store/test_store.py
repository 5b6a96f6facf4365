"""The store: once for one configuration, whole or not at all, whoever dies or runs beside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.store.artifacts import Artifact
from pipeline.store.manifest import MANIFEST, manifest_fault, publish, write_manifest
from pipeline.store.results import Results
from pipeline.store.runner import DryRun
from pipeline.store.stage import Stage
from pipeline.store.store import Store
from profiles.errors import StageError

KEYS = 64


class Copy(Stage[Artifact, Artifact]):
    """Writes its text `size` times."""

    RUNS: ClassVar[list[str]] = []

    text: str
    size: int = 1
    fails: bool = False

    def run(self, source: Artifact, out: Path, scratch: Path) -> None:
        self.RUNS.append(self.text)
        (out / "folder").mkdir()
        (out / "folder" / "text").write_text(self.text * self.size)
        if self.fails:
            raise StageError("asked to fail")

    def load(self, source: Artifact, out: Path, key: str) -> Artifact:
        return Artifact(key)


SOURCE = Artifact("source")


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    Copy.RUNS.clear()


def test_a_second_run_is_served_from_the_store(tmp_path: Path) -> None:
    for cached in (False, True):
        store = Store(tmp_path)
        store.run("copy", Copy(text="a"), SOURCE)
        assert [record.cached for record in store.records] == [cached]
    assert Copy.RUNS == ["a"]


@pytest.mark.parametrize("other", [(Copy(text="b"), SOURCE), (Copy(text="a"), Artifact("else"))])
def test_another_field_or_source_is_another_result(
    tmp_path: Path, other: tuple[Copy, Artifact]
) -> None:
    store = Store(tmp_path)
    first = store.run("copy", Copy(text="a"), SOURCE)
    assert store.run("copy", *other).key != first.key
    assert len(Copy.RUNS) == 2


def test_the_key_depends_on_the_stages_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Copy(text="a").key(SOURCE)
    monkeypatch.setattr(Copy, "VERSION", 2)
    assert Copy(text="a").key(SOURCE) != before


def damage_flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def damage_truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def damage_link(file: Path) -> None:
    copy = file.with_name("elsewhere")
    copy.write_bytes(file.read_bytes())
    moved = copy.rename(file.parent.parent.parent.parent / "elsewhere")
    file.unlink()
    file.symlink_to(moved)


def damage_remove(file: Path) -> None:
    file.unlink()


def damage_empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("name", ["folder/text", MANIFEST])
@pytest.mark.parametrize(
    "damage", [damage_flip, damage_truncate, damage_link, damage_remove, damage_empty]
)
def test_a_damaged_result_is_made_again_never_served(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    store = Store(tmp_path)
    key = store.run("copy", Copy(text="a", size=100), SOURCE).key
    damage(tmp_path / "done" / key / name)
    again = Store(tmp_path)
    again.run("copy", Copy(text="a", size=100), SOURCE)
    assert manifest_fault(tmp_path / "done" / key) == ""
    assert (tmp_path / "done" / key / "folder" / "text").read_text() == "a" * 100


def test_an_extra_file_makes_a_result_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = store.run("copy", Copy(text="a"), SOURCE).key
    (tmp_path / "done" / key / "extra").write_text("")
    assert "not in the manifest" in manifest_fault(tmp_path / "done" / key)
    assert Results(tmp_path).examine(key).state == "damaged"


def test_a_failing_stage_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="asked to fail"):
        Store(tmp_path).run("copy", Copy(text="a", fails=True), SOURCE)
    assert list((tmp_path / "done").iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_a_dry_run_runs_nothing_and_knows_the_keys_ahead(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.run("first", Copy(text="a"), SOURCE)
    Copy.RUNS.clear()
    dry = DryRun(Results(tmp_path))
    second = dry.run("second", Copy(text="b"), dry.run("first", Copy(text="a"), SOURCE))
    assert Copy.RUNS == []
    assert [(row.name, row.found.state) for row in dry.records] == [
        ("first", "whole"),
        ("second", "absent"),
    ]
    assert store.run("second", Copy(text="b"), first).key == second.key


def test_leftovers_of_dead_runs_go_at_the_next_start_and_live_ones_stay(tmp_path: Path) -> None:
    Store(tmp_path)
    holder = (
        "import sys, time; from filelock import FileLock\n"
        "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    live, dead = "a" * KEYS, "b" * KEYS
    for key in (live, dead):
        (tmp_path / "work" / f"{key}.x").mkdir()
    command = [sys.executable, "-c", holder, str(tmp_path / "locks" / live)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Store(tmp_path)
        left = [path.name for path in (tmp_path / "work").iterdir()]
        process.send_signal(signal.SIGKILL)
    assert left == [f"{live}.x"]
    Store(tmp_path)
    assert list((tmp_path / "work").iterdir()) == []


def test_scratch_of_finished_stages_goes_and_of_unfinished_ones_stays(tmp_path: Path) -> None:
    key = Store(tmp_path).run("copy", Copy(text="a"), SOURCE).key
    for name in (key, "c" * KEYS):
        (tmp_path / "scratch" / name).mkdir()
    old = tmp_path / "scratch" / ("d" * KEYS)
    old.mkdir()
    os.utime(old, (0, 0))
    Store(tmp_path)
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["c" * KEYS]


class Slow(Copy):
    """Takes long enough for two runs to meet."""

    def run(self, source: Artifact, out: Path, scratch: Path) -> None:
        time.sleep(0.5)
        super().run(source, out, scratch)


def test_two_runs_at_once_do_the_work_once(tmp_path: Path) -> None:
    stores = [Store(tmp_path) for _ in range(2)]
    threads = [
        threading.Thread(target=s.run, args=("copy", Slow(text="a"), SOURCE)) for s in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Copy.RUNS == ["a"]
    assert sorted(s.records[0].cached for s in stores) == [False, True]


def test_the_first_published_result_stands_even_where_locks_do_nothing(tmp_path: Path) -> None:
    done = tmp_path / "done"
    for text in ("first", "second"):
        work = tmp_path / text
        work.mkdir()
        (work / "file").write_text(text)
        write_manifest(work, 0.0)
        publish(work, done)
    assert (done / "file").read_text() == "first"
    assert manifest_fault(done) == ""


def test_a_manifest_holds_the_size_and_digest_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    write_manifest(tmp_path, 1.5)
    files = json.loads((tmp_path / MANIFEST).read_text())["files"]
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files == {"empty": {"bytes": 0, "sha256": empty}}
