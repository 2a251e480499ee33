"""LangGraph: a chain of trivial async nodes, ``durability="sync"``, without a saver or with one of three, opened as documented."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from benchmarks.peers.programs.closed_loop import Asked, answer, asked_on_the_command_line, measure, versions


class State(TypedDict):
    """What the chain gathers: one output a node."""

    outputs: Annotated[list[str], operator.add]


async def _main(asked: Asked) -> None:
    async with _open(asked) as (saver, settings):
        app = _chain(saver, asked.steps)
        durability = {} if saver is None else {"durability": "sync"}  # written before the next node starts

        async def run_once(run_id: str) -> None:
            config = {"configurable": {"thread_id": run_id}, "recursion_limit": asked.steps + 10}
            state = await app.ainvoke({"outputs": []}, config, **durability)
            if len(state["outputs"]) != asked.steps:
                raise RuntimeError(f"run {run_id} made {len(state['outputs'])} of {asked.steps} steps")

        answer(await measure(run_once, asked), versions("langgraph", "langgraph-checkpoint") | durability | settings)


def _chain(saver: Any, steps: int) -> Any:
    graph = StateGraph(State)
    for index in range(steps):
        graph.add_node(f"s{index}", _node(index))
        graph.add_edge(f"s{index - 1}" if index else START, f"s{index}")
    graph.add_edge(f"s{steps - 1}", END)
    return graph.compile(checkpointer=saver)


def _node(index: int) -> Any:
    async def node(_state: State) -> dict[str, list[str]]:
        return {"outputs": [f"step {index} output about the goal."]}

    return node


@asynccontextmanager
async def _open(asked: Asked) -> AsyncIterator[tuple[Any, dict[str, str]]]:
    """The saver, and the settings of its database as its own connection states them."""
    match asked.store:
        case "none":
            yield None, {}
        case "memory":
            yield InMemorySaver(), {}
        case "sqlite":
            from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - only the one that is measured

            async with AsyncSqliteSaver.from_conn_string(asked.where) as saver:
                await saver.setup()
                found = {}
                for name in ("journal_mode", "synchronous"):
                    async with saver.conn.execute(f"PRAGMA {name}") as cursor:
                        found[name] = str((await cursor.fetchone())[0])
                yield saver, versions("langgraph-checkpoint-sqlite") | found
        case "postgres":
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # noqa: PLC0415

            # One connection: the saver holds a lock around every use of it, so a pool would change nothing.
            async with AsyncPostgresSaver.from_conn_string(asked.where) as saver:
                await saver.setup()
                found = {"connections": "1"}
                for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes"):
                    cursor = await saver.conn.execute(f"SHOW {name}")
                    found[name] = str((await cursor.fetchone())[name])
                yield saver, versions("langgraph-checkpoint-postgres", "psycopg") | found
        case other:
            raise ValueError(f"there is no saver for {other!r}")


if __name__ == "__main__":
    asyncio.run(_main(asked_on_the_command_line()))
