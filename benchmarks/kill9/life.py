"""One life of the process that is killed: joins the embedded server, says "ready", waits for a line, runs or resumes the run.

It says "working" when the run is claimed and its log read, and leaves the result in a file. To be run as a program.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agentraft_ray import Event, EventType, RedisCheckpointStore, RunResult, wrap
from agentraft_ray.config import Limits
from benchmarks.kill9.work import Judge, make_pipeline, make_task

__all__ = ["LEASE_TTL_S", "READY", "WORKING"]

READY, WORKING = "ready", "working"
LEASE_TTL_S = 1.0  # a killed process keeps its lease so long; the next life waits for it


async def _live(directory: Path, run_id: str, tally: Path) -> str:
    store = RedisCheckpointStore.embedded(directory)
    await store.open()
    _say(READY)
    sys.stdin.readline()  # the audit looks at log and tally before this life changes them
    async with wrap(
        make_pipeline(tally), verifier=Judge(), store=store, on_event=_announce, limits=Limits(lease_ttl_s=LEASE_TTL_S)
    ) as coordinator:
        result = await coordinator.run(make_task(), run_id=run_id)
        found = json.dumps(_plain(result))  # outputs may have to be read from the store
    await store.close()
    return found


def _leave(found: str, result_file: Path) -> None:
    """Leave the result so that it is there whole or not at all."""
    draft = result_file.with_suffix(".draft")
    draft.write_text(found)
    draft.rename(result_file)


def _announce(event: Event) -> None:
    if event.type is EventType.RUN_START:
        _say(WORKING)


def _plain(result: RunResult) -> dict[str, Any]:
    outputs = {step.name: step.output for step in result.steps} if result.success else {}
    return {"status": result.status, "error": result.error, "rollbacks": result.rollbacks, "outputs": outputs}


def _say(word: str) -> None:
    print(word, flush=True)


if __name__ == "__main__":
    _leave(asyncio.run(_live(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))), Path(sys.argv[4]))
