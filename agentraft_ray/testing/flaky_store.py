"""The store of a simulated world: `LogTable` behind a network that loses, delays and repeats, outages, and failovers that lose a tail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry, Command, RunMeta
from agentraft_ray.checkpoint.log_table import LogTable, RunRow

if TYPE_CHECKING:
    from agentraft_ray.testing.world import World

__all__ = ["FlakyStore", "Request"]

_RESEND_AFTER_S = 2.0
_GIVE_UP_AFTER_S = 30.0


class Request:
    """One append on its way: sent again, as the very same entry, until it is answered or its sender gives up."""

    def __init__(self, entry: AppendEntry, answered: Callable[[Answer | None], None], give_up_at: float) -> None:
        self.entry = entry
        self.answered = answered
        self.give_up_at = give_up_at
        self.done = False

    def settle(self, answer: Answer | None) -> None:
        if not self.done:
            self.done = True
            self.answered(answer)


class FlakyStore:
    """What coordinators and people see of the store."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.table = LogTable(lambda: world.now)
        self.is_down = False
        self._replica: tuple[dict[str, RunRow], dict[str, float]] | None = None

    def begin(self, safety_s: float) -> None:
        """Plan the outage and the failover of this world."""
        world = self.world
        if world.chance("outage"):
            world.after(world.rng.random() * safety_s, self._go_down, world.rng.uniform(3.0, 45.0))
        if world.chance("failover"):
            for _ in range(world.rng.randint(1, 3)):
                world.after(world.rng.random() * safety_s * 0.8, self._synchronise)

    def heal(self) -> None:
        self.is_down = False
        self._replica = None

    # --- calls that wait for nothing ---------------------------------------------------------------------------------------

    def admit(self, run: str, admission: bytes, record: bytes, head: bytes) -> None:
        self.table.admit(run, admission, record, head)
        self.world.checkers.admitted(run, [record])

    def meta(self, run: str) -> RunMeta | None:
        return self.table.meta(run)

    def read(self, run: str, start: int = 0, number: int | None = None) -> list[bytes]:
        return self.table.read(run, start, number)

    def blob(self, run: str, name: bytes) -> bytes | None:
        return self.table.blob(run, name)

    def open_runs(self) -> list[str]:
        return self.table.open_runs()

    def is_finished(self, run: str) -> bool:
        row = self.table.runs.get(run)
        return row is not None and row.status == "finished"

    def push(self, run: str, command: Command) -> None:
        self.table.push_command(run, command)

    def inbox(self, run: str) -> list[Command]:
        return self.table.inbox(run)

    def renew_lease(self, owner: str, ttl_s: float) -> bool:
        """False: the call timed out and changed nothing."""
        if self.is_down or self.world.chance("renewal_lost"):
            return False
        self.table.renew_lease(owner, ttl_s)
        return True

    # --- appends -----------------------------------------------------------------------------------------------------------

    def send(self, entry: AppendEntry, answered: Callable[[Answer | None], None]) -> None:
        """Append; `answered` gets the answer, or None when there was none for too long: the outcome is unknown."""
        self._post(Request(entry, answered, self.world.now + _GIVE_UP_AFTER_S))

    def _post(self, request: Request) -> None:
        world = self.world
        if request.done:
            return
        if world.now >= request.give_up_at:
            world.seen["append given up"] += 1
            request.settle(None)
            return
        if not world.chance("request_lost"):
            late = world.chance("request_late")
            world.after(world.rng.uniform(3.0, 40.0) if late else world.delay(), self._arrive, request)
            if world.chance("request_twice"):
                world.after(world.rng.uniform(0.0, 20.0), self._arrive, request)
        world.after(_RESEND_AFTER_S, self._post, request)

    def _arrive(self, request: Request) -> None:
        world, entry = self.world, request.entry
        if self.is_down:
            return
        row = self.table.runs.get(entry.run_id)
        before = len(row.records) if row else 0
        claimed = entry.claim
        is_held = row is not None and row.status == "open" and claimed is not None and claimed.owner != entry.token.owner
        lease_alive = is_held and claimed is not None and self.table.leases.get(claimed.owner, 0.0) > world.now
        if claimed is not None and world.chance("failover_at_claim"):
            self._synchronise()
        answer = self.table.append(entry)
        if entry.run_id in world.checkers.logs:
            world.checkers.appended(entry, answer, before, self.table.read(entry.run_id), lease_alive)
        if answer.kind is not AnswerKind.APPENDED:
            world.seen[f"answer {answer.kind.value}"] += 1
        world.note("append", entry.run_id, entry.token, entry.index, len(entry.records), answer.kind.value, answer.index)
        if not world.chance("answer_lost"):
            world.after(world.delay(), request.settle, answer)

    # --- trouble -----------------------------------------------------------------------------------------------------------

    def _go_down(self, for_s: float) -> None:
        if not self.world.healed:
            self.world.note("store down", for_s)
            self.is_down = True
            self.world.after(for_s, self._come_up)

    def _come_up(self) -> None:
        self.is_down = False

    def _synchronise(self) -> None:
        """A replica has got this far; some seconds later it is promoted."""
        if self.world.healed or self._replica is not None:
            return
        copies = {
            run: replace(row, records=list(row.records), blobs=dict(row.blobs), inbox=dict(row.inbox), command_ids=set(row.command_ids))
            for run, row in self.table.runs.items()
        }
        self._replica = copies, dict(self.table.leases)
        self.world.after(self.world.rng.uniform(0.05, 8.0), self._fail_over)

    def _fail_over(self) -> None:
        if self._replica is None:
            return
        world = self.world
        runs, leases = self._replica
        self._replica = None
        old = {run: len(row.records) for run, row in self.table.runs.items()}
        lost = {run: row for run, row in self.table.runs.items() if run not in runs}  # clients whose submission is lost submit again
        for run, row in lost.items():
            row.records = row.records[:1]
            first = LogTable(lambda: world.now)
            first.admit(run, row.admission, row.records[0], world.checkers.logs[run].first_head)
            runs[run] = first.runs[run]
        self.table.runs, self.table.leases = runs, leases
        self.table.finished_at = {run: at for run, at in self.table.finished_at.items() if runs[run].status == "finished"}
        self.table.tombstones = {run: one for run, one in self.table.tombstones.items() if runs[run].status == "finished"}
        world.checkers.failovers += 1
        for run, row in runs.items():
            if len(row.records) < old[run]:
                world.seen["tail lost"] += 1
            world.checkers.lost_tail(run, row.records)
        for host in world.hosts:
            if host.is_up and world.chance("crash_at_failover"):
                host.crash()
        world.note("failover", {run: (old[run], len(row.records)) for run, row in runs.items()})
