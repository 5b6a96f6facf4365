"""How far a long piece of work has come: said on a terminal, and nowhere else."""

import os
import sys

import pytest

from pipeline.data import progress as module
from pipeline.data.progress import progress, progress_line


def test_the_time_left_is_told_at_the_pace_so_far() -> None:
    assert progress_line("layers", 0, 53, 2.0) == "  layers: 0 of 53"
    assert progress_line("layers", 10, 50, 5.0) == "  layers: 10 of 50, about 20 s left"
    assert progress_line("layers", 10, 50, 60.0) == "  layers: 10 of 50, about 4 min left"


def test_nothing_is_written_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.0)
    assert list(progress("layers", range(5), 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_how_far_it_is_and_the_line_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(module, "EVERY_S", 0.0)
        assert list(progress("layers", iter("abc"), 3)) == ["a", "b", "c"]
        terminal.flush()
        seen = ""
        while seen.count("\r") < 5:  # three lines, and the one that clears
            seen += os.read(reader, 1000).decode()
    os.close(reader)
    assert "layers: 2 of 3, about" in seen
    assert not seen.split("\r")[-2].strip()
