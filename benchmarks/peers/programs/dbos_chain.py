"""DBOS: a workflow of trivial async steps on SQLite or Postgres, with the settings that DBOS chooses by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks.peers.programs.closed_loop import Asked, answer, asked_on_the_command_line, measure, versions


async def _say(index: int) -> str:
    return f"step {index} output about the goal."


async def _main(asked: Asked) -> None:
    url = f"sqlite:///{asked.where}" if asked.store == "sqlite" else asked.where.replace("postgresql://", "postgresql+psycopg://", 1)
    DBOS(config=DBOSConfig(name="peers", system_database_url=url, log_level="ERROR"))
    step = DBOS.step()(_say)

    async def chain() -> list[str]:
        return [await step(index) for index in range(asked.steps)]

    workflow = DBOS.workflow(name="chain")(chain)
    DBOS.launch()

    async def run_once(run_id: str) -> None:
        with SetWorkflowID(run_id):
            outputs = await workflow()
        if len(outputs) != asked.steps:
            raise RuntimeError(f"run {run_id} made {len(outputs)} of {asked.steps} steps")

    rates = await measure(run_once, asked)
    read_back = _sqlite_settings if asked.store == "sqlite" else _server_settings
    settings = versions("dbos", "sqlalchemy") | read_back(asked.where)
    DBOS.destroy()
    answer(rates, settings)


def _sqlite_settings(path: str) -> dict[str, str]:
    """As a new connection states them: DBOS changes neither, so its own connections have the same."""
    with closing(sqlite3.connect(path)) as connection:
        return {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("journal_mode", "synchronous")}


def _server_settings(url: str) -> dict[str, str]:
    import psycopg  # noqa: PLC0415 - only where Postgres is measured

    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes")
    with psycopg.connect(url) as connection:
        rows: list[Any] = [connection.execute(f"SHOW {name}").fetchone() for name in names]
    return versions("psycopg") | {name: str(row[0]) for name, row in zip(names, rows, strict=True)}


if __name__ == "__main__":
    asyncio.run(_main(asked_on_the_command_line()))
