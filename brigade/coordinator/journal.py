"""What a coordinator must know after it was killed: which requests it has accepted and not yet seen the end of.

It also keeps what each model name stands for, and counts how often it was opened. Tokens that were delivered need no journal: a
client that comes back says where it stands, and what it has not seen is computed again, with the same bits. The file is SQLite with
a write-ahead log, written once a round, before anything of that round is sent. `sync="normal"` is safe against a killed process,
`"full"` against a power cut as well, for one flush of the disk a round. What cannot be written is an error that ends the
coordinator: it never goes on with a journal that has gaps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from brigade.coordinator.messages import Ask, Identity, encode
from brigade.coordinator.records import Acceptance, Ending, Pinned, Record, Unpinned
from brigade.errors import ConfigError

VERSION = 1
TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pins (model TEXT PRIMARY KEY, identity BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted
    (client BLOB, number INTEGER, ask BLOB NOT NULL, due REAL, PRIMARY KEY (client, number)) WITHOUT ROWID;
"""
_ask = msgspec.msgpack.Decoder(Ask).decode
_identity = msgspec.msgpack.Decoder(Identity).decode


class Journal:
    """One coordinator's, for as long as it lives: a second one is refused. Used by one thread at a time."""

    def __init__(self, path: str | Path, sync: Literal["normal", "full"] = "normal") -> None:
        if sync not in ("normal", "full"):
            raise ConfigError(f"journal sync is {sync!r}; it must be normal or full")
        self.path = Path(path)
        try:
            self._file = sqlite3.connect(self.path, isolation_level=None, timeout=0, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._wrong(error) from error
        try:
            self._begin(sync)
        except BaseException as error:
            self._file.close()
            if isinstance(error, sqlite3.Error):
                raise self._wrong(error) from error
            raise

    def _begin(self, sync: str) -> None:
        run = self._file.execute
        run("PRAGMA locking_mode=EXCLUSIVE")
        run("PRAGMA journal_mode=WAL")
        run(f"PRAGMA synchronous={sync.upper()}")
        run("BEGIN IMMEDIATE")  # and the lock is kept
        for statement in TABLES.split(";"):
            run(statement)
        version = self._fact("version", VERSION)
        if version != VERSION:
            raise ConfigError(f"journal {self.path} is of version {version}, this coordinator writes {VERSION}; give another file")
        found = [word for (word,) in run("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise sqlite3.DatabaseError(found[0])
        self.life = self._fact("life", 0) + 1
        run("INSERT OR REPLACE INTO facts VALUES ('version', ?), ('life', ?)", (VERSION, self.life))
        run("COMMIT")

    def _fact(self, name: str, otherwise: int) -> int:
        row = self._file.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return otherwise if row is None else row[0]

    def kept(self) -> list[Acceptance]:
        """Accepted requests that were not forgotten: no client has acknowledged their ends, or given them up."""
        try:
            rows = self._file.execute("SELECT client, number, ask, due FROM accepted").fetchall()
            return [Acceptance(client, _number(number), _ask(ask), due) for client, number, ask, due in rows]
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise self._wrong(error) from error

    def pinned(self) -> list[Pinned]:
        try:
            return [Pinned(model, _identity(blob)) for model, blob in self._file.execute("SELECT model, identity FROM pins")]
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise self._wrong(error) from error

    def write(self, records: Sequence[Record]) -> None:
        """All or none, in one transaction."""
        if not records:
            return
        try:
            self._file.execute("BEGIN IMMEDIATE")
            for record in records:
                self._write(record)
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._wrong(error) from error

    def _write(self, record: Record) -> None:
        if isinstance(record, Acceptance):
            values = (record.client, _stored(record.number), encode(record.ask), record.due)
            self._file.execute("INSERT OR REPLACE INTO accepted VALUES (?, ?, ?, ?)", values)
        elif isinstance(record, Ending):
            self._file.execute("DELETE FROM accepted WHERE client = ? AND number = ?", (record.client, _stored(record.number)))
        elif isinstance(record, Unpinned):
            self._file.execute("DELETE FROM pins WHERE model = ?", (record.model,))
        else:
            self._file.execute("INSERT OR REPLACE INTO pins VALUES (?, ?)", (record.model, encode(record.identity)))

    def close(self) -> None:
        self._file.close()

    def _wrong(self, error: Exception) -> ConfigError:
        said = " ".join(str(error).split())
        remedy = (
            "another coordinator uses it: stop that one, or give other addresses and another file"
            if "locked" in said
            else "mend or move the file, or give another one"
        )
        return ConfigError(f"journal {self.path}: {said}; {remedy}")


def _stored(number: int) -> int:
    """SQLite's integers have 64 bits and a sign; a client may number its requests up to 2**64 - 1."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _number(stored: int) -> int:
    return stored + (1 << 64) if stored < 0 else stored
