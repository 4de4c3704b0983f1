"""What the broker remembers: SQLite, in a file that survives kill -9, or in memory."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


class StateFileError(Exception):
    """The state file cannot be used; the message says why."""


class Store:
    """One file of records in named shelves. Only one gateway at a time can open it.

    Each change is committed before the call returns (WAL: the file is whole after a kill). Changes
    inside `together()` are committed as one.
    Raises: StateFileError.
    """

    def __init__(self, path: Path | None) -> None:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._sql = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=2)
            try:
                self._prepare()
            except BaseException:
                self._sql.close()
                raise
        except sqlite3.Error as error:
            raise StateFileError(
                f"The state file {path} cannot be used: {error}. Is another gateway running on it?"
            ) from error

    def _prepare(self) -> None:
        self._sql.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = NORMAL")
        self._sql.execute(
            "CREATE TABLE IF NOT EXISTS records (serial INTEGER PRIMARY KEY, "
            "shelf TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, UNIQUE (shelf, key))"
        )

    def close(self) -> None:
        """Closes the file."""
        self._sql.close()

    def shelf(self, name: str, kind: type[T]) -> "Shelf[T]":
        """The records of one kind."""
        return Shelf(self._sql, name, kind)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commits all changes made inside as one, or none when it raises."""
        self._sql.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise
        self._sql.execute("COMMIT")


class Shelf(Generic[T]):
    """Records of one kind by key, in the order in which they were first put."""

    def __init__(self, sql: sqlite3.Connection, name: str, kind: type[T]) -> None:
        self._sql = sql
        self._name = name
        self._json = TypeAdapter(kind)

    def put(self, key: str | int, record: T) -> None:
        """Keeps a record in place of the one under the same key."""
        self._sql.execute(
            "INSERT INTO records (shelf, key, body) VALUES (?, ?, ?) "
            "ON CONFLICT (shelf, key) DO UPDATE SET body = excluded.body",
            (self._name, str(key), self._json.dump_json(record).decode()),
        )

    def all(self) -> list[T]:
        """Every record."""
        rows = self._sql.execute(
            "SELECT body FROM records WHERE shelf = ? ORDER BY serial", (self._name,)
        )
        return [self._json.validate_json(body) for (body,) in rows]
