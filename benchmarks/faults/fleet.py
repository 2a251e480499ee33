"""Many runs under one breaker while the agents' provider fails: an episode, through the real protocol and the real breakers.

Time goes in rounds: in each, every run that may makes one attempt, one run after the other, and what one learns about its attempt
the breaker knows before the next one asks. From round `outage_from` on, for `outage_rounds` rounds, attempts fail at the outage's rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from agentraft_ray.breaker import BreakerPolicy, BreakerState, Denied, Outcome, Permit, ScopedBreakers
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    AnyCommand,
    PermitDenied,
    PermitGranted,
    ReleasePermit,
    RunStep,
    StepReturned,
    Tick,
    VerdictReturned,
    Verify,
)
from agentraft_ray.protocol.plan import PlanSpec, Policies, StepSpec
from benchmarks.faults.counts import Counts, added
from benchmarks.faults.draws import FAULT, below, draw
from benchmarks.faults.model import OUTPUTS, TRUTH, Kind, TrialModel
from benchmarks.faults.scenario import FaultConfig, Scenario, check_count, check_share
from benchmarks.faults.trial import OWNER, SILENT, SUCCESS, admitted, outcome_of, verdict_of

__all__ = ["FleetScenario", "run_episode"]

_ROUNDS_MAX = 100_000
_RUNS_MIN = 3  # the breaker's own: failures of fewer runs open nothing


@dataclass(frozen=True, slots=True)
class FleetScenario:
    """`runs` runs of `n_steps` steps; outside of the outage agents fail with `p_fail`, in it with `p_outage`; hints do not help.

    `breaker=False`: nobody asks for permits. Otherwise `failure_threshold` rejections in a row open the scope of all steps for
    `cooldown_rounds`; then one attempt probes. (The breaker's second rule, a share of the last outcomes, is switched off, since no
    formula covers both.)
    """

    runs: int = 48
    n_steps: int = 24
    p_fail: float = 0.02
    p_outage: float = 1.0
    outage_from: int = 4
    outage_rounds: int = 12
    recall: float = 0.90
    fpr: float = 0.03
    max_retries: int = 3
    breaker: bool = True
    failure_threshold: int = 5
    cooldown_rounds: int = 4

    def __post_init__(self) -> None:
        for name in ("p_fail", "p_outage", "recall", "fpr"):
            check_share(name, getattr(self, name))
        check_count("runs", self.runs, _RUNS_MIN, 10_000)
        for name in ("outage_from", "outage_rounds"):
            check_count(name, getattr(self, name), 0, 1_000)
        check_count("failure_threshold", self.failure_threshold, 1, 1_000)
        check_count("cooldown_rounds", self.cooldown_rounds, 1, 1_000)
        if self.n_steps < self.outage_from + self.outage_rounds:
            raise InvalidConfig(
                f"n_steps={self.n_steps}: the runs would end before the outage does; take {self.outage_from + self.outage_rounds} or more"
            )

    @property
    def agents(self) -> Scenario:
        """The same agents and verifiers, as trials have them."""
        fault = FaultConfig(p_fail=self.p_fail, retry_improvement=1.0)
        return Scenario(self.n_steps, fault, self.recall, self.fpr, self.max_retries)

    def is_out(self, round_: int) -> bool:
        """Whether the provider fails in this round."""
        return self.outage_from <= round_ < self.outage_from + self.outage_rounds

    def settings(self) -> dict[str, Any]:
        """Everything that decides what happens, as plain data."""
        return asdict(self)


class _Run:
    """A run of the fleet: its machine, and the command that begins its next attempt, once it may make one."""

    def __init__(self, machine: RunMachine, trial: int) -> None:
        self.machine = machine
        self.trial = trial
        self.next: AnyCommand | None = None


class _Episode:
    """All runs of one episode and their breaker."""

    def __init__(self, fleet: FleetScenario, seed: int, number: int) -> None:
        policies = Policies(verifier="panel", breaker=fleet.breaker)
        spec = PlanSpec("fleet", (StepSpec("step", (), max_retries=fleet.max_retries),), fleet.n_steps, policies)
        self._fleet = fleet
        self._model = TrialModel(fleet.agents, seed)
        self._limits = (below(fleet.p_fail), below(fleet.p_outage))
        self._breakers = ScopedBreakers(
            BreakerPolicy(fleet.failure_threshold, float(fleet.cooldown_rounds), runs_min=_RUNS_MIN, failure_share=1.0)
        )
        trials = range(number * fleet.runs, (number + 1) * fleet.runs)
        self._runs = [_Run(admitted(f"trial-{trial}", spec), trial) for trial in trials]
        self._round = 0
        self.generations = self.outage_generations = self.openings = 0
        self.until_open: int | None = None  # outcomes of the outage until the breaker opened for the first time

    def play(self) -> None:
        """From the first round to the end of the last run."""
        for run in self._runs:
            self._advance(run)
        while any(run.machine.state.finished is None for run in self._runs):
            for run in self._runs:
                if run.machine.state.finished is None:
                    self._turn(run)
            self._round += 1
            if self._round > _ROUNDS_MAX:
                raise RuntimeError(f"an episode of {self._fleet} does not end")

    def outcomes(self) -> list[int]:
        """How each run ended."""
        return [outcome_of(run.machine.state) for run in self._runs]

    def _turn(self, run: _Run) -> None:
        """At most one attempt of a run."""
        machine, now = run.machine, float(self._round)
        if run.next is None and machine.wake_at is not None and machine.wake_at <= now:
            machine.feed(Tick(), now)
            self._advance(run)
        command, run.next = run.next, None
        if type(command) is AcquirePermit:
            answer = self._breakers.acquire(command.scope, command.attempt_id, OWNER, machine.state.run_id, now)
            if isinstance(answer, Denied):
                machine.feed(PermitDenied(command.call, answer.scope, answer.retry_at_s), now)
            else:
                machine.feed(PermitGranted(command.call, answer), now)
        elif type(command) is RunStep:
            self._work(run, command)
        self._advance(run, may_work=True)

    def _advance(self, run: _Run, *, may_work: bool = False) -> None:
        """Do what the machine asks for, up to the command that begins another attempt."""
        machine = run.machine
        while (ready := machine.take_ready()) is not None:
            for command in ready.commands:
                match command:
                    case RunStep() if may_work and self._fleet.breaker:
                        self._work(run, command)
                    case RunStep() | AcquirePermit():
                        run.next = command
                    case ReleasePermit():
                        self._settle(command)
                    case Verify():
                        self._judge(run, command)
                    case _:
                        raise AssertionError(f"nobody cancels or listens here: {command}")

    def _work(self, run: _Run, command: RunStep) -> None:
        """The agent's answer."""
        is_out = self._fleet.is_out(self._round)
        self.generations += 1
        self.outage_generations += is_out
        place = self._model.place(run.trial, command.step, command.attempt)
        kind = Kind.WRONG if draw(self._model.key, place | FAULT) < self._limits[is_out] else Kind.RIGHT
        run.machine.feed(StepReturned(command.call, OUTPUTS[kind][command.attempt]), float(self._round))

    def _judge(self, run: _Run, command: Verify) -> None:
        assert command.output is not None
        place = self._model.place(run.trial, command.step, command.attempt)
        is_wrong = TRUTH[command.output.digest] is Kind.WRONG
        run.machine.feed(VerdictReturned(command.call, verdict_of(self._model, place, is_wrong)), float(self._round))

    def _settle(self, command: ReleasePermit) -> None:
        assert isinstance(command.permit, Permit)
        moved = self._breakers.settle(command.permit, cast("Outcome", command.outcome), float(self._round))
        if moved is BreakerState.OPEN:
            self.openings += 1
            if self.until_open is None and self._fleet.is_out(self._round):
                self.until_open = self.outage_generations


def run_episode(fleet: FleetScenario, seed: int, number: int) -> Counts:
    """The counts of one episode."""
    episode = _Episode(fleet, seed, number)
    episode.play()
    outcomes = episode.outcomes()
    success, silent = outcomes.count(SUCCESS), outcomes.count(SILENT)
    counts = {
        "trials": 1,
        "runs": fleet.runs,
        "success": success,
        "silent_corruption": silent,
        "caught_failure": fleet.runs - success - silent,
        "opened": int(episode.until_open is not None),
    }
    figures = {
        "generations": episode.generations,
        "outage_generations": episode.outage_generations,
        "openings": episode.openings,
        "until_open": episode.until_open or 0,
    }
    squares = {f"{name}_sq": value * value for name, value in figures.items()}
    return added([counts, figures, squares])
