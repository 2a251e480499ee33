"""Retention: removing the logs of runs that have finished. Open and parked runs are never touched; tombstones stay."""

from __future__ import annotations

from dataclasses import dataclass

from agentraft_ray.checkpoint.base import RunStore

__all__ = ["PruneReport", "prune"]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune removed, or would remove: runs, their ids, and the bytes of their records and blobs."""

    runs: int
    freed_bytes: int
    run_ids: tuple[str, ...]
    dry_run: bool


async def prune(store: RunStore, *, older_than_s: float = 0, dry_run: bool = False) -> PruneReport:
    """Remove the logs of the runs that finished at least `older_than_s` seconds ago; with `dry_run` only count them.

    A pruned run keeps its tombstone, so that its id is not run again by mistake. Raises StoreUnavailable.
    """
    freed_bytes = 0
    run_ids: list[str] = []
    for run_id in await store.finished_runs(older_than_s):
        meta = await store.meta(run_id)
        if meta is None or meta.expired or meta.status != "finished":
            continue
        freed_bytes += meta.size_bytes if dry_run else await store.delete_run(run_id)
        run_ids.append(run_id)
    return PruneReport(len(run_ids), freed_bytes, tuple(run_ids), dry_run)
