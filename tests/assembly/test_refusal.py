"""A leader that cannot begin tells the ranks that a launcher started beside it, whatever went wrong: they would wait for it."""

from __future__ import annotations

import pytest

from brigade.assembly import assemble
from brigade.assembly.choices import Choices
from brigade.errors import ConfigError
from brigade.parallel.rendezvous import World


@pytest.mark.parametrize("kind", [ConfigError, LookupError, MemoryError, KeyboardInterrupt])
def test_the_others_are_told(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    world, told = World(0, 2, 0, 2, "torchrun", "127.0.0.1", 1), []

    def fails(*_: object) -> None:
        raise kind("no")

    monkeypatch.setattr(assemble, "found_world", lambda _: world)
    monkeypatch.setattr(assemble, "_assemble", fails)
    monkeypatch.setattr(assemble, "refuse_world", lambda where, error: told.append((where, str(error))))
    with pytest.raises(kind):
        assemble.assemble(Choices("mini"))
    assert [(where, "no" in text) for where, text in told] == [(world, True)]
