"""Short runs of the machine, scripted by hand: no host, no faults. Each leaves a log and a trace of all that went in and out."""

from __future__ import annotations

from collections.abc import Callable

from agentraft_ray.errors import ErrorType
from agentraft_ray.identity import OwnerToken, digest
from agentraft_ray.protocol import RunMachine, fold
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    AnyCommand,
    AnyEvent,
    CommandReceived,
    PermitDenied,
    PermitGranted,
    RunStep,
    StepRaised,
    StepReturned,
    Tick,
    VerdictReturned,
    Verify,
    WorkerLost,
)
from agentraft_ray.protocol.plan import BudgetSpec, PlanSpec, Policies, StepSpec, plan_of
from agentraft_ray.protocol.records import OwnerClaimed, RunAdmitted, TaskRecord, encode_record
from agentraft_ray.taxonomy import Cost, FailureCause, VerificationResult

RUN = "run-1"
_USUAL = Policies(verifier="v1")


class ScriptedRun:
    """One owner's life after the other over one log; `trace` has a line for everything."""

    def __init__(self, policies: Policies = _USUAL, **steps: StepSpec | None) -> None:
        block = tuple(spec or StepSpec(name, (k - 1,) if k else (), goal=f"do {name}") for k, (name, spec) in enumerate(steps.items()))
        plan = plan_of(PlanSpec("scripted", block, 1, policies))
        self.log: list[bytes] = []
        self.trace: list[str] = []
        self.now = 100.0
        self.epoch = 0
        self.open: list[AnyCommand] = []
        admitted = RunAdmitted(RUN, TaskRecord("the task", b"\x80", "task-1"), plan.spec, plan.fingerprint, self.now)
        self._write(encode_record(admitted), "RunAdmitted")
        self.claim()

    def claim(self) -> None:
        """A new owner takes over from the log alone."""
        self.epoch += 1
        self._write(encode_record(OwnerClaimed(self.epoch, f"owner-{self.epoch}", self.now)), f"OwnerClaimed epoch={self.epoch}")
        self.machine = RunMachine(fold(RUN, self.log), listening=False)
        assert self.machine.token == OwnerToken(self.epoch, f"owner-{self.epoch}")
        self.open = []
        self.machine.start(self.now)
        self._take()

    def feed(self, event: AnyEvent, after_s: float = 1.0) -> ScriptedRun:
        self.now += after_s
        self.trace.append(f"> {_short(event)}")
        self.machine.feed(event, self.now)
        self._take()
        return self

    # --- answers to the oldest open command of a kind ----------------------------------------------------------------------

    def returns(self, output: str, tokens: int = 0) -> ScriptedRun:
        return self.feed(StepReturned(self._next(RunStep).call, output.encode(), Cost(tokens)))

    def raises(self, message: str) -> ScriptedRun:
        return self.feed(StepRaised(self._next(RunStep).call, FailureCause.RAISED, message))

    def loses_worker(self) -> ScriptedRun:
        return self.feed(WorkerLost(self._next(RunStep).call))

    def passes(self) -> ScriptedRun:
        return self.feed(VerdictReturned(self._next(Verify).call, VerificationResult.ok(verifier="v1", confidence=0.9)))

    def rejects(self, blame: str | None = None, verifier: str = "v1") -> ScriptedRun:
        result = VerificationResult.fail(ErrorType.HALLUCINATION, verifier=verifier, confidence=0.8, blame=blame)
        return self.feed(VerdictReturned(self._next(Verify).call, result))

    def answers(self, result: VerificationResult | None) -> ScriptedRun:
        return self.feed(VerdictReturned(self._next(Verify).call, result))

    def grants(self) -> ScriptedRun:
        return self.feed(PermitGranted(self._next(AcquirePermit).call, "permit"))

    def denies_permit(self, for_s: float) -> ScriptedRun:
        command = self._next(AcquirePermit)
        return self.feed(PermitDenied(command.call, command.scope, self.now + 1.0 + for_s))

    def commits(self, output: str) -> ScriptedRun:
        return self.returns(output).passes()

    def says(self, kind: str, step: int = -1, output: str = "", lineage: int = 0, name: str = "c1") -> ScriptedRun:
        data = digest(output.encode()) if output else b""
        return self.feed(CommandReceived(name, kind, step, lineage, data, "ann"))

    def feed_tick(self, after_s: float) -> ScriptedRun:
        return self.feed(Tick(), after_s)

    def _next(self, kind: type) -> AnyCommand:
        found = next(command for command in self.open if isinstance(command, kind))
        self.open.remove(found)
        return found

    def _take(self) -> None:
        while (ready := self.machine.take_ready()) is not None:
            assert ready.index == len(self.log)
            for record, stored in zip(ready.decided, ready.records, strict=True):
                self._write(stored, _short(record))
            self.trace.extend(f"    {_short(command)}" for command in ready.commands)
            self.open.extend(ready.commands)

    def _write(self, stored: bytes, text: str) -> None:
        self.trace.append(f"  {len(self.log):2} {text}")
        self.log.append(stored)


def _short(value: object) -> str:
    """Type and fields of a value, digests cut to 4 bytes, without what says nothing."""
    skipped = {"plan", "fingerprint", "token", "policy", "goal", "prompt", "calibration", "run", "cached", "known_usd"}
    parts = []
    for name in value.__struct_fields__:  # type: ignore[attr-defined]
        found = getattr(value, name)
        if name in skipped or found in (None, "", (), b"", Cost()):
            continue
        if name == "call":
            found = f"#{found.number}" if found.token.epoch == 1 else f"#{found.number}@{found.token.epoch}"
        elif isinstance(found, bytes):
            found = found[:4].hex()
        elif hasattr(found, "__struct_fields__"):
            found = f"({_short(found)})"
        parts.append(f"{name}={found}")
    return " ".join([type(value).__name__, *parts])


def retries_with_a_hint() -> ScriptedRun:
    return ScriptedRun(first=None, second=None).commits("one").returns("two?").rejects().raises("boom").commits("two")


def goes_back_by_blame() -> ScriptedRun:
    policies = Policies(verifier="v1", max_rollback_depth=2)
    run = ScriptedRun(policies, first=None, second=None, third=None).commits("one").commits("two")
    run.returns("three?").rejects(blame="second").passes()  # the suspect stands
    run.returns("three??").rejects(blame="first").rejects(verifier="v2")  # the suspect falls, with its dependents
    return run.commits("one again").commits("two again").commits("three")


def waits_for_people() -> ScriptedRun:
    gate = StepSpec("gate", (), approve_before=True)
    publish = StepSpec("publish", (0,), needs_approval=True)
    run = ScriptedRun(gate=gate, publish=publish).says("approve", 0, name="c1").commits("one")
    run.returns("two").passes().says("approve", 1, "another", name="c2").says("deny", 1, "two", name="c3")
    run.returns("two better").passes().claim()
    return run.says("approve", 1, "two better", name="c4")


def keeps_to_its_budget() -> ScriptedRun:
    budget = BudgetSpec(attempts=4, tokens=100, reserve=(10, 0.0, 0.0))
    run = ScriptedRun(Policies(verifier="v1", budget=budget), first=None, second=None)
    run.loses_worker().returns("one", tokens=7).passes().claim()
    return run.returns("two?", tokens=9).rejects()


def waits_for_the_breaker() -> ScriptedRun:
    run = ScriptedRun(Policies(verifier="v1", breaker=True), only=None)
    return run.denies_permit(30.0).feed(Tick(), 30.0).grants().commits("one")


def waits_for_a_verifier() -> ScriptedRun:
    run = ScriptedRun(Policies(verifier="v1", verifier_faults_max=1), only=None)
    run.returns("one").answers(VerificationResult.fault("down", verifier="v1")).claim()
    return run.passes()


def votes() -> ScriptedRun:
    run = ScriptedRun(only=StepSpec("only", (), ahead_by=2, samples_max=6))
    return run.returns("a").returns("b").raises("malformed").returns("a").returns("a").passes()


def books_what_comes_late() -> ScriptedRun:
    run = ScriptedRun(slow=StepSpec("slow", (), timeout_s=4.0), last=None)
    late = run._next(RunStep).call
    run.feed(Tick(), 4.0).feed(StepReturned(late, b"too late", Cost(tokens=5)))
    return run.commits("one").commits("two")


def is_cancelled() -> ScriptedRun:
    return ScriptedRun(first=None, second=None).commits("one").says("cancel")


def drains() -> ScriptedRun:
    run = ScriptedRun(only=None)
    run.machine.drain(run.now)
    run._take()
    run.claim()
    return run.commits("one")


SCRIPTED: dict[str, Callable[[], ScriptedRun]] = {
    one.__name__: one
    for one in (
        retries_with_a_hint,
        goes_back_by_blame,
        waits_for_people,
        keeps_to_its_budget,
        waits_for_the_breaker,
        waits_for_a_verifier,
        votes,
        books_what_comes_late,
        is_cancelled,
        drains,
    )
}
