"""Names that a terminal, a log or a page would act on are shown, not obeyed."""

import io
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import releases
from user_project import Outcome, Project, change_terms, rewrite_in_bundle

from pipeline.commands.terminal import message_handler
from pipeline.release.bundle import read_measurement
from pipeline.report.html import page
from pipeline.report.junit import junit
from pipeline.report.text import markdown, summary
from profiles.printable import printable
from profiles.spec import read_spec

NAME = "a\x1b[0mb\r\b\x07\x9b0m\u202ec\u2028d\x7f"
"""Colours off, the start of the line, one back, the bell, a right-to-left override, a new line."""
SHOWN = r"a\x1b[0mb\r\x08\x07\x9b0m\u202ec\u2028d\x7f"


def is_plain(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def shows(outcome: Outcome, code: int, *names: str) -> None:
    """Assert the exit code, that nothing is raw, and that each name is there, letter by letter."""
    assert outcome.code == code, outcome.err
    assert is_plain(outcome.out), repr(outcome.out)
    assert is_plain(outcome.err), repr(outcome.err)
    for name in names:
        assert name in outcome.out + outcome.err, outcome


def test_every_control_character_is_written_out_and_no_other() -> None:
    assert printable(NAME) == SHOWN
    assert printable(os.fsdecode(b"\xff")) == r"\udcff"
    for text in (
        "two\nlines\tand a tab",
        "größer, 東京 é",
        "می‌خواهم 👩‍👧",
        "10\u00a0ms",
        r"\x1b",
        "",
    ):
        assert printable(text) == text


def rename_device(project: Project, name: str) -> None:
    """Give the one target of a bundle another name, in its recipe as in its terms."""
    recipe = json.loads((project.bundle / "recipe.json").read_text())
    recipe["target"][0]["name"] = name
    rewrite_in_bundle(project.bundle, "recipe.json", json.dumps(recipe))
    change_terms(project.bundle, {"device_name": name})


def test_a_device_in_a_bundle_is_shown_letter_by_letter(released: Project) -> None:
    rename_device(released, NAME + "\nverdict: PASS")
    found = released.slimgate("gate", released.bundle)
    shows(found, 6, f"measured for host, not {SHOWN}", SHOWN + r"\nverdict: PASS")
    assert [line for line in found.out.splitlines() if line.startswith("verdict")] == [
        "verdict: INCONCLUSIVE"
    ]
    assert json.loads(released.slimgate("gate", released.bundle, "--json").out)["targets"][0][
        "device"
    ] == (NAME + "\nverdict: PASS")


def test_a_gate_writes_well_formed_xml_and_plain_markdown(released: Project) -> None:
    rename_device(released, NAME)
    found = read_measurement(released.bundle / "measurement.json")
    start = found.shipped.starts[0].model_copy(update={"method": NAME + "\n# PASS"})
    changed = found.shipped.model_copy(
        update={"starts": (start, *found.shipped.starts[1:]), "layers_ms": {NAME: 1.0}}
    )
    text = found.model_copy(update={"shipped": changed}).model_dump_json()
    rewrite_in_bundle(released.bundle, "measurement.json", text)
    xml, md = released.folder / "gate.xml", released.folder / "gate.md"
    shows(released.slimgate("gate", released.bundle, "--junit", xml, "--markdown", md), 6)
    (suite,) = ElementTree.parse(xml).getroot()
    assert suite.attrib["name"] == SHOWN
    words = md.read_text()
    assert is_plain(words)
    assert f"# INCONCLUSIVE: {SHOWN}" in words
    assert f"({SHOWN} # PASS)" in words
    assert f"| {SHOWN} | 1 |" in words


def test_every_page_of_a_run_is_plain() -> None:
    found = releases.release(releases.judged(releases.measurement(NAME)))
    content = releases.report_content(found)
    for made in (page(content), markdown(content), summary(found), junit(found)):
        assert is_plain(made)
        assert SHOWN in made


def test_no_name_and_no_reason_begins_a_line_of_a_page() -> None:
    forged = "x\n\n# PASS\n\n"
    found = releases.release()
    pruned = found.pruned.model_copy(
        update={"criterion": forged, "refused": {forged: forged}, "remarks": (forged,)}
    )
    told = markdown(releases.report_content(replace(found, pruned=pruned)))
    assert [line for line in told.splitlines() if line.startswith("# PASS")] == ["# PASS: camera"]


@pytest.mark.parametrize("missing", ["weights", "data", "network"])
def test_a_file_of_a_recipe_is_named_letter_by_letter(missing: str, project: Project) -> None:
    name = NAME + (".py:network" if missing == "network" else ".npz")
    project.recipe(task={missing: name})
    shows(project.prune(), 2, SHOWN)


def test_a_device_profile_is_named_letter_by_letter(project: Project) -> None:
    (project.folder / f"{NAME}.toml").write_text('engine = "ort"\n')
    project.recipe(target={"device": f"{NAME}.toml"})
    shows(project.prune(), 2, f"{SHOWN}.toml: description: missing")


def test_a_file_in_a_bundle_is_named_letter_by_letter(released: Project) -> None:
    (released.bundle / NAME).write_text("")
    shows(released.slimgate("gate", released.bundle), 7, f"{SHOWN} is not in the manifest")


def test_an_engine_in_a_bundle_is_refused_letter_by_letter(released: Project) -> None:
    change_terms(released.bundle, {"engine": NAME})
    shows(released.slimgate("gate", released.bundle), 2, "engine: String should match")


def test_a_module_of_the_network_is_named_letter_by_letter(project: Project) -> None:
    source = (project.folder / "net.py").read_text()
    added = "self.fc = nn.Linear(width, classes)\n        self.add_module({!r}, nn.Linear(2, 2))"
    source = source.replace("self.fc = nn.Linear(width, classes)", added.format(NAME.strip()))
    (project.folder / "net.py").write_text(source)
    shows(project.prune(), 2, SHOWN)


def test_what_is_typed_is_named_letter_by_letter(project: Project) -> None:
    name, shown = NAME.replace("\r", ""), SHOWN.replace(r"\r", "")  # Typer writes it as \x0d
    shows(project.slimgate("gate", f"--{name}"), 2, shown)
    shows(project.slimgate(name), 2, shown)


def test_the_trace_of_an_error_is_plain(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMGATE_DEBUG", "")  # the option sets it, and nothing else takes it away
    found = project.slimgate("--debug", "gate", project.folder / NAME)
    shows(found, 2, "Traceback", SHOWN)


def test_a_log_is_plain() -> None:
    written = io.StringIO()
    logger = logging.Logger("names")
    logger.addHandler(message_handler(written))
    logger.warning("%s: found\n  twice", NAME)
    assert written.getvalue() == f"{SHOWN}: found\n  twice\n"


def test_what_reads_a_name_is_not_changed(tmp_path: Path) -> None:
    """A name is written out where it is shown, and stays what it is everywhere else."""
    from profiles.waiver import WaiverFile

    path = tmp_path / "waiver.toml"
    path.write_text(
        f'[[waiver]]\ncheck = "macs_ratio"\ndevice = {json.dumps(NAME)}\nlimit = 1.0\n'
        f'engine_sha256 = "{"0" * 64}"\nreason = "as long as it takes"\nsigned_off_by = "a"\n'
        "expires = 2027-01-31\n"
    )
    assert read_spec(path, WaiverFile).waiver[0].device == NAME
