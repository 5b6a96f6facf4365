"""The pages beside the code name all that is there, and link to what exists."""

import re
from pathlib import Path

import pytest
from rooms import LAYERS, ROOT, room_arrows
from user_project import Project

from profiles.budget import Budget
from profiles.device import DeviceProfile, device_names
from profiles.plugins import plugin_names

FOLDERS = (*LAYERS, "tests")
PAGES = [ROOT / "README.md", *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.md"))]


def first_column(page: str) -> list[str]:
    """Every name in backquotes in the first column of the tables of a page, in order."""
    rows = re.findall(r"^\| ([^|]*)", (ROOT / page).read_text(), re.M)
    return [name for row in rows for name in re.findall(r"`\[?([^`\]]+)\]?`", row)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_page_of_budget_items_names_every_limit() -> None:
    assert sorted(first_column("profiles/BUDGET.md")) == sorted(Budget.model_fields)


def test_the_page_of_devices_names_every_profile_and_field() -> None:
    fields = set(DeviceProfile.model_fields)
    named = first_column("profiles/devices/README.md")
    assert sorted(named) == sorted([*device_names(), *fields])


def test_the_page_of_engines_names_every_runtime() -> None:
    named = first_column("exporters/engines/README.md")
    assert sorted(named) == sorted(plugin_names("exporters.engines"))


def test_the_page_of_bundles_names_every_file(complete: Project) -> None:
    found = {path.name for path in complete.bundle.iterdir()}
    assert found == set(first_column("pipeline/release/README.md"))


def test_the_page_of_rooms_names_every_room_after_those_it_imports() -> None:
    arrows = room_arrows(ROOT)
    named = first_column("pipeline/README.md")
    rooms = [
        name.removesuffix("/").removesuffix(".py").replace("/", ".")
        for name in (n if n.startswith(LAYERS) else f"pipeline/{n}" for n in named)
    ]
    assert sorted([*rooms, *LAYERS]) == sorted(arrows)
    place = {room: number for number, room in enumerate(rooms)}
    early = [
        (room, other)
        for room in rooms
        for other in arrows[room]
        if other not in LAYERS and place[other] >= place[room]
    ]
    assert early == []
