"""The people of a simulated world: they read logs, approve, deny, cancel, err, and resume what is parked for an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentraft_ray.checkpoint.base import Command
from agentraft_ray.identity import digest
from agentraft_ray.protocol.messages import CommandReceived
from agentraft_ray.testing.host import NEEDS_OPERATOR
from agentraft_ray.testing.log_model import LogModel

if TYPE_CHECKING:
    from agentraft_ray.testing.world import World

__all__ = ["People"]

_VISIT_S = 6.0
_ASK_AGAIN_S = 40.0


class People:
    """They come by every few seconds and look at every run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._sent = 0
        self._answered: dict[tuple[str, int, int, bytes], float] = {}

    def begin(self) -> None:
        self.world.after(_VISIT_S, self._visit)

    def _visit(self) -> None:
        world = self.world
        for scenario in world.scenarios:
            log = world.checkers.logs.get(scenario.run_id)
            if log is not None and log.finished is None and not world.store.is_down:
                self._look_at(log)
        world.after(_VISIT_S, self._visit)

    def _look_at(self, log: LogModel) -> None:
        world = self.world
        if world.chance("cancel"):
            self._send(log, "cancel", -1, 0, b"")
        if world.chance("late_command"):
            self._err(log)
        for step, proposal in list(log.proposals.items()):
            if proposal.certificate is not None:
                self._answer(log, step, proposal.lineage, proposal.output.digest)
        for reason in log.parked or ():
            if reason.startswith("approval:") and reason.endswith(" before it runs"):
                name = reason.removeprefix("approval:").removesuffix(" before it runs")
                step = self._step(log, name)
                self._answer(log, step, log.lineage[step], b"")
        if log.parked is None:
            return
        if all(reason.startswith(NEEDS_OPERATOR) for reason in log.parked) or world.chance("parked_run_moved"):
            self._resume(log)

    def _answer(self, log: LogModel, step: int, lineage: int, output: bytes) -> None:
        """Approve or deny what waits; if nothing comes of it for long, say it again."""
        world, key = self.world, (log.run, step, lineage, output)
        if world.now < self._answered.get(key, -1e9) + _ASK_AGAIN_S or (not world.healed and world.rng.random() < 0.5):
            return
        self._answered[key] = world.now
        self._send(log, "deny" if world.chance("denial") else "approve", step, lineage, output)

    def _err(self, log: LogModel) -> None:
        """A command that comes too late, or is about something else."""
        rng = self.world.rng
        step = rng.randrange(len(log.parents))
        kind = rng.choice(("approve", "approve", "deny", "shrug"))
        lineage = max(0, log.lineage[step] - rng.choice((0, 0, 1)))
        proposal = log.proposals.get(step)
        if proposal is not None and proposal.certificate is not None and kind == "approve":
            self._send(log, kind, step, lineage, digest(b"another output"))
        else:
            known = [output for of, _, output in log.judges if of == step]
            self._send(log, kind, step, lineage, rng.choice([b"", *known]))

    def _send(self, log: LogModel, kind: str, step: int, lineage: int, output: bytes) -> None:
        self._sent += 1
        command = CommandReceived(f"c{self._sent}", kind, step, lineage, output, "ann", "")
        self.world.tally.commands[log.run, command.id] = command
        self.world.note("command", log.run, command)
        self.world.seen[f"command {kind}"] += 1
        self.world.store.push(log.run, Command(command.id, msgspec.msgpack.encode(command)))

    def _resume(self, log: LogModel) -> None:
        """An operator resumes a run that no coordinator would touch."""
        world = self.world
        hosts = [host for host in world.hosts if host.is_up and not host.is_paused and not host.is_late]
        if not hosts or (not world.healed and world.rng.random() < 0.7):
            return
        host = world.rng.choice(hosts)
        meta = world.store.meta(log.run)
        if meta is not None and log.run not in host.lives and log.run not in host.claiming:
            world.seen["operator resumes"] += 1
            host.claim(log.run, meta)

    def _step(self, log: LogModel, name: str) -> int:
        base, _, number = name.partition("[")
        place = next(k for k, step in enumerate(log.plan.block) if step.name == base)
        return int(number[:-1]) * len(log.plan.block) + place if number else place
