"""The simulated coordinator: the least that any host of `RunMachine` must do, for many runs. Reference for the real hosts.

Admit, claim, restore, append before acting, drop what is refused, tick, drain. It may crash or stand still at any point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry, RunMeta
from agentraft_ray.identity import OwnerToken, chain
from agentraft_ray.protocol.messages import (
    AnyCommand,
    AnyEvent,
    CommandReceived,
    Ready,
    ReleasePermit,
    Tick,
)
from agentraft_ray.protocol.records import CommandTaken, OwnerClaimed, RunParked, decode_record, encode_record
from agentraft_ray.protocol.state import fold
from agentraft_ray.testing.errands import Errands, Life

if TYPE_CHECKING:
    from agentraft_ray.testing.world import World

__all__ = ["NEEDS_OPERATOR", "Host"]

LEASE_S = 10.0
_BEAT_S = 2.5

NEEDS_OPERATOR = ("poisoned:", "rewound:", "verifier:")
"""Reasons that no coordinator resolves: a run parked on these alone is let go until somebody resumes it."""


class Host:
    """One coordinator process by name; `owner` is new with every boot, as are its memories."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.owner = ""
        self.boots = 0
        self.is_up = False
        self.is_paused = False
        self.was_frozen = False
        self.skew_s = world.rng.choice((0.0, 0.0, 0.0, 2.0, -2.0))
        self.renewed_at = 0.0
        self.lives: dict[str, Life] = {}
        self.claiming: set[str] = set()
        self.acknowledged: dict[str, tuple[int, int, bytes]] = {}  # run -> (epoch, index, head) of the last append
        self.errands = Errands(self)
        self._mail: list[Callable[[], None]] = []

    # --- coming and going --------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """A new process under the old name."""
        self.boots += 1
        self.owner = f"{self.name}.{self.world.rng.getrandbits(32):08x}"
        self.is_up, self.was_frozen = True, False
        self.lives, self.claiming, self.acknowledged, self._mail = {}, set(), {}, []
        self.renewed_at = -1e9
        self.world.note("boot", self.owner)
        self._beat(self.boots)

    def crash(self) -> None:
        """Everything volatile is gone; a new process comes some time later."""
        self.world.note("crash", self.owner)
        self.is_up = False
        for life in self.lives.values():
            self.world.outside.cancel_all(life.run, life.machine.token)
        self.lives, self._mail = {}, []
        self.world.after(self.world.rng.uniform(0.5, 30.0), self.boot)

    def pause(self) -> None:
        """Stands still, with all its messages, and may find its epoch passed when it goes on."""
        world = self.world
        self.is_paused = True
        length_s = world.rng.choice((1.0, 4.0, 8.0, 15.0, 40.0)) * (0.5 + world.rng.random())
        frozen = world.chance("frozen_clock")
        world.note("pause", self.owner, length_s, frozen)
        world.after(length_s, self._wake, self.boots, length_s if frozen else 0.0)

    def _wake(self, boot: int, clock_stood_still_s: float) -> None:
        if boot != self.boots or not self.is_paused:
            return
        self.is_paused = False
        self.renewed_at += clock_stood_still_s
        self.was_frozen = self.was_frozen or clock_stood_still_s > 0.0
        mail, self._mail = self._mail, []
        for call in mail:
            self.now_or_later(boot, call)

    def heal(self) -> None:
        """No more trouble: whoever stands still goes on."""
        if self.is_paused:
            self._wake(self.boots, 0.0)

    def now_or_later(self, boot: int | None, call: Callable[[], None]) -> None:
        """Handle a message, unless this process is gone (`boot` None: a message for whoever bears the name)."""
        if not self.is_up or (boot is not None and boot != self.boots):
            return
        if self.is_paused:
            self._mail.append(call)
        else:
            call()

    def later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.world.after(delay_s, self.now_or_later, self.boots, partial(call, *args))

    @property
    def now(self) -> float:
        """This machine's wall clock."""
        return self.world.now + self.skew_s

    @property
    def is_late(self) -> bool:
        """Half a lease has passed without renewal: others may soon own the runs."""
        return self.world.now - self.renewed_at > LEASE_S / 2

    # --- the heartbeat -----------------------------------------------------------------------------------------------------

    def _beat(self, boot: int) -> None:
        if boot != self.boots:
            return
        world = self.world
        was_late = self.is_late
        if world.store.renew_lease(self.owner, LEASE_S):
            self.renewed_at = world.now
            if was_late:
                self._let_go_of_what_was_taken()
        for life in list(self.lives.values()):
            self._notice_a_rewind(life)
            self._resume_held(life)
            self._read_inbox(life)
        if not self.is_late and not world.store.is_down:
            self._adopt_orphans()
        self.later(_BEAT_S, self._beat, boot)
        if world.chance("pause"):
            self.pause()
        elif world.chance("drain"):
            self.drain()

    def _let_go_of_what_was_taken(self) -> None:
        """After a lapse of the lease: a step may be dispatched again without an append, so the store is asked who owns each run."""
        for life in list(self.lives.values()):
            meta = self.world.store.meta(life.run)
            if meta is None or meta.token != life.machine.token:
                self.drop(life)

    def _notice_a_rewind(self, life: Life) -> None:
        """A run that waits appends nothing, so nothing would tell that a failover took what it waits for out of its log."""
        if life.appending or life.machine.has_ready or self.world.store.is_down:
            return
        meta, state = self.world.store.meta(life.run), life.machine.state
        if meta is None or (meta.token, meta.index, meta.head) != (life.machine.token, state.index, state.head):
            self.drop(life)

    def _read_inbox(self, life: Life) -> None:
        if self.world.store.is_down or life.draining or self.lives.get(life.run) is not life:
            return
        for command in self.world.store.inbox(life.run):
            if self.lives.get(life.run) is life and command.id not in life.fed:
                life.fed.add(command.id)
                self.feed(life, msgspec.msgpack.decode(command.body, type=CommandReceived))

    def _adopt_orphans(self) -> None:
        store = self.world.store
        for run in store.open_runs():
            if run in self.lives or run in self.claiming:
                continue
            meta = store.meta(run)
            if meta is None or (meta.token.owner != self.owner and store.table.leases.get(meta.token.owner, 0.0) > self.world.now):
                continue
            if meta.status == "parked" and self._needs_operator(run):
                continue
            self.claim(run, meta)

    def _needs_operator(self, run: str) -> bool:
        for stored in reversed(self.world.store.read(run)):
            last = decode_record(stored)
            if not isinstance(last, CommandTaken):
                return isinstance(last, RunParked) and all(reason.startswith(NEEDS_OPERATOR) for reason in last.reasons)
        return False

    # --- taking a run over -------------------------------------------------------------------------------------------------

    def claim(self, run: str, meta: RunMeta) -> None:
        """Ask for the run; only when the claim stands is its log read."""
        token = OwnerToken(self.next_epoch(run, meta), self.owner)
        stored = encode_record(OwnerClaimed(token.epoch, token.owner, self.now))
        head = chain(meta.head, stored)
        entry = AppendEntry(run, token, head, meta.index, meta.head, (stored,), head, claim=meta.token)
        self.claiming.add(run)
        self.world.seen["claim sent"] += 1
        self._send(entry, partial(self._claimed, entry))

    def next_epoch(self, run: str, meta: RunMeta) -> int:
        """Higher than what the store shows and than what this process has held: after a failover the store may show less."""
        return max(meta.token.epoch, self.acknowledged.get(run, (0, 0, b""))[0]) + 1

    def _claimed(self, entry: AppendEntry, answer: Answer | None) -> None:
        run = entry.run_id
        self.claiming.discard(run)
        if answer is None or answer.kind is not AnswerKind.APPENDED:
            return
        records = self.world.store.read(run)
        state = fold(run, records)
        if state.token != entry.token or state.finished is not None:
            return
        _, index, head = self.acknowledged.get(run, (0, 0, b""))
        rewound = index > 0 and (index > len(records) or fold(run, records[:index]).head != head)
        self.acknowledged[run] = (entry.token.epoch, state.index, state.head)
        life = self.lives[run] = Life(run, state, listening=self.boots % 2 == 0)
        if rewound:
            life.machine.now = self.now
            life.machine.persist(RunParked((f"rewound: {index} records were acknowledged",), self.now))
        else:
            self.world.checkers.decide(run, life.machine.start, self.now)
        self._pump(life)

    def drop(self, life: Life) -> None:
        """This life is over: stop what it began, give its permits back, forget it."""
        if self.lives.pop(life.run, None) is None:
            return
        self.world.outside.cancel_all(life.run, life.machine.token)
        for permit in life.machine.permits():
            self.errands.do(life, ReleasePermit(permit, "released"))

    def drain(self) -> None:
        """Shut down in good order; a new process comes later."""
        self.world.note("drain", self.owner)
        for life in list(self.lives.values()):
            life.draining = True
            self.world.checkers.decide(life.run, life.machine.drain, self.now)
            self._pump(life)
        self.later(4.0, self._leave)

    def _leave(self) -> None:
        self.world.store.table.release_lease(self.owner)
        self.crash()

    # --- the loop: feed, append, act ---------------------------------------------------------------------------------------

    def feed(self, life: Life, event: AnyEvent) -> None:
        self.world.checkers.decide(life.run, life.machine.feed, event, self.now)
        self._pump(life)

    def receive(self, run: str, event: AnyEvent) -> None:
        """A reply came in, perhaps to an earlier life of this run or of this process; the machine tells."""
        life = self.lives.get(run)
        if life is not None:
            self.feed(life, event)

    def _pump(self, life: Life) -> None:
        """Take what is ready, append it, act on it. At most one append is in flight."""
        while self.lives.get(life.run) is life and not life.appending and not life.held:
            ready = life.machine.take_ready()
            if ready is None:
                break
            self.act_early(life, ready)
            if not ready.records:
                self._carry_out(life, ready.commands)
                continue
            if self.world.chance("crash_before_append"):
                self.crash()
                return
            life.appending = True
            self._send(self._entry(life, ready), partial(self._appended, life, ready))
            if self.world.chance("crash_after_append"):
                self.world.after(self.world.delay(0.0, 0.1), self._crash_of, self.boots)
        if self.lives.get(life.run) is life:
            self._rest(life)

    def act_early(self, life: Life, ready: Ready) -> None:
        """Nothing is acted on before its append. (A planted bug does.)"""

    def _crash_of(self, boot: int) -> None:
        if boot == self.boots and self.is_up:
            self.crash()

    def _entry(self, life: Life, ready: Ready) -> AppendEntry:
        return AppendEntry(
            life.run,
            ready.token,
            ready.new_head,
            ready.index,
            ready.head,
            ready.records,
            ready.new_head,
            blobs=ready.blobs,
            needs_blobs=ready.needs,
            taken=ready.taken,
            status=ready.status,  # type: ignore[arg-type]
            outcome=ready.outcome,
        )

    def _send(self, entry: AppendEntry, then: Callable[[Answer | None], None]) -> None:
        boot = self.boots
        self.world.store.send(entry, lambda answer: self.now_or_later(boot, partial(then, answer)))

    def _appended(self, life: Life, ready: Ready, answer: Answer | None) -> None:
        if self.lives.get(life.run) is not life:
            return
        life.appending = False
        if answer is None or answer.kind is not AnswerKind.APPENDED:
            self.drop(life)
            return
        self.acknowledged[life.run] = (ready.token.epoch, answer.index, answer.head)
        self.world.checkers.live(life.run, life.machine.state)
        self._carry_out(life, ready.commands)
        self._pump(life)

    def _rest(self, life: Life) -> None:
        """Nothing to do now: set the alarm, or let the run go where nobody here can move it on."""
        machine = life.machine
        if life.appending or life.held or machine.has_ready:
            return
        state = machine.state
        stuck = state.parked is not None and all(reason.startswith(NEEDS_OPERATOR) for reason in state.parked)
        if state.finished is not None or life.draining or (machine.idle and stuck and machine.wake_at is None):
            self.drop(life)
            return
        wake_at = machine.wake_at
        if wake_at is not None and (life.tick_at is None or wake_at < life.tick_at or life.tick_at <= self.now):
            life.tick_at = wake_at
            self.later(max(0.0, wake_at - self.now) + 1e-6, self._tick, life, wake_at)

    def _tick(self, life: Life, wake_at: float) -> None:
        if self.lives.get(life.run) is life and life.tick_at == wake_at:
            life.tick_at = None
            self.feed(life, Tick())

    # --- commands ----------------------------------------------------------------------------------------------------------

    def _carry_out(self, life: Life, commands: tuple[AnyCommand, ...]) -> None:
        if self.is_late or life.held:
            life.held.extend(commands)
            return
        for command in commands:
            if self.lives.get(life.run) is not life:
                return
            if self.world.chance("crash_amid_commands"):
                self.crash()
                return
            self.errands.do(life, command)

    def _resume_held(self, life: Life) -> None:
        """The lease is fresh again: go on if the run is still ours."""
        if not life.held or self.is_late or self.lives.get(life.run) is not life:
            return
        held, life.held = tuple(life.held), []
        self._carry_out(life, held)
        self._pump(life)
