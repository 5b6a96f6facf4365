"""The file in which finished trials are noted."""

from pathlib import Path

import pytest
from spoiled_file import spoil

from pipeline.prune.trial_notes import TrialsFile
from pipeline.store.reports import Trial
from profiles.errors import ConfigError

TRIALS = {
    "rough 0": Trial(criterion="pro", allocator="uniform", distance=0.1 + 0.2, reason=""),
    "full 0": Trial(criterion="pro", allocator="uniform", distance=None, reason="not finite"),
}


def noted(path: Path) -> TrialsFile:
    """A file with all of TRIALS, each noted by a run of its own."""
    file = TrialsFile(path, lambda: None)
    for name, trial in TRIALS.items():
        file.notes().note(name, trial)
    return file


def test_trials_are_read_as_they_were_noted(tmp_path: Path) -> None:
    assert TrialsFile(tmp_path / "none", lambda: None).notes().finished == {}
    assert noted(tmp_path / "key" / "trials").notes().finished == TRIALS


@pytest.mark.parametrize("place", [0, 64, 65, 200, -1, None])
def test_damaged_notes_are_told_of_and_removed(
    place: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trials"
    file = noted(path)
    spoil(path, place)
    assert file.notes().finished == {}
    assert f"{path} is damaged; all is tried again" in caplog.text
    assert not path.exists()


def test_the_notes_of_another_result_are_none(tmp_path: Path) -> None:
    noted(tmp_path / "key" / "trials")
    (tmp_path / "key").rename(tmp_path / "other")
    assert TrialsFile(tmp_path / "other" / "trials", lambda: None).notes().finished == {}


def test_a_trial_on_data_that_has_changed_meanwhile_is_not_noted(tmp_path: Path) -> None:
    def changed() -> None:
        raise ConfigError("data.npz has changed")

    file = TrialsFile(tmp_path / "trials", changed)
    with pytest.raises(ConfigError, match=r"data\.npz has changed"):
        file.notes().note("full 0", TRIALS["full 0"])
    assert file.notes().finished == {}
