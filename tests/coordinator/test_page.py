"""The tables of `docs/coordinator.md` are the tables of the code."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

import pytest

from brigade.coordinator import control, job, settings
from docs.fleet_picture import PICTURE, draw

PAGE = (Path(__file__).parents[2] / "docs/coordinator.md").read_text()


@pytest.mark.parametrize(("file", "steps"), [("job.py", job.STEPS), ("control.py", control.STEPS)], ids=["job", "control"])
def test_a_table_of_states(file: str, steps: dict[tuple[Enum, str], Enum]) -> None:
    after = PAGE.split(f"<!-- the table of brigade/coordinator/{file} -->", 1)[1]
    rows = re.match(r"\s*\| state \|.*\n\| --- .*\n((?:\|.*\n)+)", after)
    assert rows is not None
    said = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in rows.group(1).splitlines()]
    assert said == [(state.value, event, then.value) for (state, event), then in steps.items()]


def test_every_waiting_time_that_it_names_is_a_setting() -> None:
    names = set(re.findall(r"`(\w+_(?:timeout|grace))`", PAGE))
    assert len(names) == 6 and names <= set(settings.CoordinatorSettings.__dataclass_fields__)


def test_every_file_of_the_room_is_explained() -> None:
    room = Path(job.__file__).parent
    for path in room.glob("*.py"):
        assert path.name == "__init__.py" or f"`{path.name}`" in PAGE, path.name


def test_the_committed_picture_is_the_one_that_is_drawn() -> None:
    assert PICTURE.read_text() == draw(), "run `python -m docs.fleet_picture`, and look at docs/fleet.svg"
