"""Plugins: found by their files, imported one at a time, one class in each."""

import importlib
import sys
from pathlib import Path

import pytest

from profiles.errors import ConfigError
from profiles.plugins import plugin, plugin_names

PACKAGE = "a_package_of_plugins"
FILES = {
    "__init__": "",
    "one": "from collections import OrderedDict\nclass One(OrderedDict): ...",
    "two": "class Left(dict): ...\nclass Right(dict): ...",
    "none": "number = 1",
    "borrowed": f"from {PACKAGE}.one import One",
    "broken": "raise RuntimeError('imported')",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "notes.txt").write_text("no plugin")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
        monkeypatch.delitem(sys.modules, name)
    return PACKAGE


def test_the_names_are_those_of_the_files_and_none_is_imported(package: str) -> None:
    assert plugin_names(package) == ("borrowed", "broken", "none", "one", "two")
    assert f"{package}.broken" not in sys.modules


def test_a_plugin_is_the_one_class_its_file_defines(package: str) -> None:
    found = plugin(package, "one", dict)
    assert (found.__name__, found.__module__) == ("One", f"{package}.one")


@pytest.mark.parametrize(("name", "count"), [("two", 2), ("none", 0), ("borrowed", 0)])
def test_a_file_without_exactly_one_is_a_bug(package: str, name: str, count: int) -> None:
    with pytest.raises(TypeError, match=f"defines {count} dicts, not one"):
        plugin(package, name, dict)


@pytest.mark.parametrize("name", ["three", "", "one.py", "__init__", ".one", "../one", "os"])
def test_an_unknown_name_is_told_the_known_ones(package: str, name: str) -> None:
    with pytest.raises(ConfigError, match=r"none of the a_package_of_plugins: .*one, two"):
        plugin(package, name, dict)


def test_what_is_wrong_inside_a_plugin_is_shown(package: str) -> None:
    with pytest.raises(RuntimeError, match="imported"):
        plugin(package, "broken", dict)


def test_a_module_that_is_no_package_has_no_plugins() -> None:
    assert plugin_names("profiles.spec") == ()
