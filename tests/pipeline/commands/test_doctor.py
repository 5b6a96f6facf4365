"""What doctor says is its own: other libraries are heard only where something does not work."""

import subprocess
import sys
from pathlib import Path

import pytest
from added_runtime import added_runtime

LOUD = '''"""ONNX Runtime, with everything that libraries say about themselves."""

import logging
import os
from typing import ClassVar

from exporters.engines.ort import Ort
from exporters.exporter import Exporter
from profiles.errors import DeviceError


class Loud(Exporter):
    suffix: ClassVar[str] = ".loud.onnx"

    def build(self, source, engine):
        print("converting ...")
        logging.getLogger("loud").warning("this version was not tested")
        return Ort().build(source, engine)

    def open(self, engine):
        os.write(2, b"[cpu.cpp:1] no such file\\n")
        {end}

    def environment(self):
        return {{"library": "1"}}
'''
WORKS, FAILS = "return Ort().open(engine)", 'raise DeviceError("it does not open")'


EXAMINE = """
import logging, sys
from functools import partial
from pipeline.commands.doctor import finding_of, findings_text, runtime_finding

logging.basicConfig(format="%(message)s")
print(findings_text([finding_of(partial(runtime_finding, "loud"))]))
"""
SPEAK = """
import ctypes, os
from pipeline.commands.quietly import quietly

def loud(end):
    print("from Python")
    ctypes.CDLL(None).puts(b"from C, not flushed")
    os.write(2, b"\\xffto stderr\\n")
    return 1 / end

print("before")
print(quietly(lambda: loud(2)))
descriptors = os.listdir("/dev/fd")
for _ in range(3):
    try:
        quietly(lambda: loud(0))
    except ZeroDivisionError:
        print("an error")
assert os.listdir("/dev/fd") == descriptors
os.write(2, b"stderr is back\\n")
print("after")
"""


def python(code: str) -> tuple[str, str]:
    """What a fresh interpreter writes to stdout and stderr."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(("end", "ok"), [(WORKS, True), (FAILS, False)])
def test_a_runtime_is_heard_only_where_it_does_not_work(end: str, ok: bool, tmp_path: Path) -> None:
    with added_runtime("loud", LOUD.format(end=end), tmp_path / "engines"):
        out, err = python(EXAMINE)
    if ok:
        assert (out, err) == ("ok      engine loud       runs; library 1\n", "")
    else:
        assert out == "absent  engine loud       it does not open\n"
        first, *words = err.splitlines()
        assert first == "engine loud printed:"
        assert sorted(words) == [
            "  [cpu.cpp:1] no such file",
            "  converting ...",
            "  this version was not tested",
        ]


def test_what_python_and_c_print_is_kept_and_reaches_nobody() -> None:
    out, err = python(SPEAK)
    before, found, *errors, after = out.splitlines()
    assert (before, errors, after) == ("before", ["an error"] * 3, "after")
    assert err == "stderr is back\n"
    assert found.startswith("(0.5, ")
    for words in ("from Python", "from C, not flushed", "\ufffdto stderr"):
        assert words in found
