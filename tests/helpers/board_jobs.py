"""A board's folder in a home of its own, jobs for its program, and answers known by hand."""

import hashlib
import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx_graphs import linear

from exporters.board.main import Build, Engine, Job, Latency, Outputs, Start, write_job
from exporters.board_program import board_program

ENGINES = ("dense", "control", "shipped")
INPUTS = np.array([[1, 2], [0, 0], [3, 1], [1, 1], [2, 2]], np.float32)
WEIGHT, BIAS = np.array([[1, 3], [2, 4]], np.float32), np.array([10, 20], np.float32)
ANSWERS = INPUTS @ WEIGHT + BIAS
RAW = linear().SerializeToString()
NAME = hashlib.sha256(RAW).hexdigest()
ENGINE = Engine(NAME, "ort", 1, "fp32", False, None)


class Board:
    """A home with our program and a stored engine in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.files = home / ".slimgate"
        self.files.mkdir(mode=0o700)
        self.program = home / "program"
        self.program.write_bytes(board_program())
        (self.files / NAME).write_bytes(RAW)

    def command(self, *python: str) -> list[str]:
        return [*(python or (sys.executable, "-I")), str(self.program)]

    def start(self, job: Job | str, *command: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command or self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"HOME": str(self.home), "SSH_CONNECTION": "192.0.2.7 1 192.0.2.8 22"},
        )
        assert process.stdin
        process.stdin.write(job if isinstance(job, str) else write_job(job))
        process.stdin.flush()
        return process

    def ask(self, job: Job | str, *command: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        with self.start(job, *command) as process:
            assert process.stdout
            assert process.stderr
            out, err = process.stdout.read(), process.stderr.read()
        return process.returncode, out, err

    def result(self, job: Job, *command: str) -> str:
        code, out, err = self.ask(job, *command)
        assert (code, err) == (0, "")
        answer = json.loads(out)
        assert set(answer) == {"nonce", "result"}
        assert answer["nonce"] == job.nonce
        return json.dumps(answer["result"])

    def refuses(self, job: Job | str, code: int, *words: str) -> None:
        found, out, err = self.ask(job)
        assert (found, out) == (code, ""), err
        (line,) = err.splitlines()
        assert all(word in line for word in words), line

    def names(self) -> set[str]:
        return {path.name for path in self.files.iterdir()}


def start_job(wait_s: float = 1) -> Job:
    return Job("n1", 60, wait_s, {NAME: None}, {"engine": ENGINE}, Start(1))


def latency_job(seconds: float = 0.02) -> Job:
    task = Latency(1, seconds, 12, None, 0)
    return Job("n2", 60, 1, {NAME: None}, dict.fromkeys(ENGINES, ENGINE), task)


def outputs_job(here: Board, batch: int = 2) -> Job:
    """With the inputs just written."""
    file = io.BytesIO()
    np.save(file, INPUTS)
    name = hashlib.sha256(file.getvalue()).hexdigest() + ".0"
    (here.files / f"{name}.part").write_bytes(file.getvalue())
    files = {NAME: None, name: f"{name}.part"}
    return Job("n3", 60, 1, files, {"engine": ENGINE}, Outputs(name, batch))


def build_job() -> Job:
    """Of the stored engine, which is a model too."""
    return replace(start_job(), task=Build(NAME), engines={"engine": replace(ENGINE, name="")})


def wait_for(path: Path, content: bool = False) -> None:
    end = time.monotonic() + 30
    while not (path.exists() and (path.stat().st_size > 0 or not content)):
        assert time.monotonic() < end
        time.sleep(0.02)
