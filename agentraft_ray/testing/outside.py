"""Everything that a simulated run waits for: workers, verifiers, the breaker, people. Each writes down what it really did."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from agentraft_ray.breaker import Denied, Permit
from agentraft_ray.errors import ErrorType
from agentraft_ray.identity import OwnerToken, digest
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    AnyEvent,
    Call,
    PermitDenied,
    PermitGranted,
    ReleasePermit,
    RunStep,
    StepRaised,
    StepReturned,
    VerdictReturned,
    Verify,
    WorkerLost,
)
from agentraft_ray.taxonomy import Cost, FailureCause, FaultKind, VerificationResult, VerifierFault
from agentraft_ray.testing.log_model import digest_of
from agentraft_ray.testing.people import People
from agentraft_ray.testing.scenario import STEP_TOKENS_MAX, VERDICT_TOKENS
from agentraft_ray.testing.tally import Execution, Judgement

if TYPE_CHECKING:
    from agentraft_ray.testing.errands import Life
    from agentraft_ray.testing.host import Host
    from agentraft_ray.testing.world import World

__all__ = ["Outside"]

_LOSS_SEEN_AFTER_S = 20.0


class Outside:
    """Workers, verifiers and the breaker of one world; people are in `People`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.people = People(world)
        self._running: dict[tuple[str, Call], Execution] = {}
        self._bad: dict[tuple[str, int, bytes], list[bytes]] = {}
        self._verdicts = 0
        self._asked: dict[tuple[str, Call], tuple[object, ...]] = {}  # verdicts that somebody waits for
        self._rests: dict[tuple[object, ...], tuple[float, Call]] = {}  # question -> when to ask again by the owner's clock, who said so

    def begin(self) -> None:
        self.people.begin()

    # --- workers -----------------------------------------------------------------------------------------------------------

    def run_step(self, host: Host, life: Life, command: RunStep, inputs: Sequence[bytes]) -> None:
        """A worker begins at once; what it returns comes later, twice, much later, or never."""
        world, run, call = self.world, life.run, command.call
        log = world.checkers.logs[run]
        new = Execution(
            run,
            command.step,
            command.lineage,
            command.attempt,
            command.sample,
            call.token,
            digest_of(log.task, *map(digest, inputs)),
            host.now,
        )
        world.checkers.executing(new, host.was_frozen)
        world.tally.executed(run).append(new)
        new.tokens = STEP_TOKENS_MAX - world.rng.choice((0, 0, 0, 1, STEP_TOKENS_MAX))
        self._running[run, call] = new
        world.seen["RunStep"] += 1
        world.note("run", run, call, command.step, command.lineage, command.attempt, command.sample)
        duration_s = world.rng.uniform(0.05, 3.0)
        if world.chance("worker_lost"):
            if world.rng.random() < 0.5:  # it did its work all the same
                self._work(new, command)
            world.after(_LOSS_SEEN_AFTER_S * world.rng.random(), self._reply, host, run, WorkerLost(call))
        elif not (command.timeout_s is not None and world.chance("never_returns")):
            world.after(duration_s, self._finish, host, run, command, new)

    def _finish(self, host: Host, run: str, command: RunStep, new: Execution) -> None:
        world = self.world
        cost = Cost(new.tokens, 0.0, 0.0)
        if world.chance("step_raises"):
            cause = world.rng.choice((FailureCause.RAISED, FailureCause.NOT_ENCODABLE, FailureCause.TOO_LARGE))
            event: AnyEvent = StepRaised(command.call, cause, "it broke", cost, final=world.rng.random() < 0.1)
        else:
            event = StepReturned(command.call, self._work(new, command), cost)
        self._post(host, run, event)

    def _work(self, new: Execution, command: RunStep) -> bytes:
        """The bytes of an output; its first one tells the verifiers whether it is good."""
        world = self.world
        known = self._bad.setdefault((new.run, new.step, new.inputs), [])
        is_root = not world.checkers.logs[new.run].parents[new.step]
        # Fewer at the roots, or few runs would get far enough for a step to be blamed by a later one.
        if not (is_root and world.rng.random() < 0.5) and world.chance("bad_output"):
            if known and world.chance("same_bad_again"):
                data = world.rng.choice(known)
            else:
                data = f"bad {new.run} {new.step} {new.inputs.hex()[:6]} {world.rng.getrandbits(24)}".encode()
                known.append(data)
        else:
            variant = world.rng.randint(0, 2 if command.sample == 0 else 1)
            data = f"good {new.run} {new.step} {new.inputs.hex()[:6]} {variant}".encode()
        new.output = digest(data)
        return data

    def _reply(self, host: Host, run: str, event: WorkerLost) -> None:
        self._closed(run, event.call)
        host.now_or_later(None, partial(host.receive, run, event))

    def _post(self, host: Host, run: str, event: AnyEvent) -> None:
        world = self.world
        times = 2 if world.chance("reply_twice") else 1
        for _ in range(times):
            late = world.chance("reply_late")
            world.after(world.rng.uniform(5.0, 60.0) if late else world.delay(), self._deliver, host, run, event)

    def _deliver(self, host: Host, run: str, event: AnyEvent) -> None:
        if isinstance(event, StepReturned | StepRaised):
            self._closed(run, event.call)
        if isinstance(event, VerdictReturned):
            question = self._asked.pop((run, event.call), None)  # None: it was called off, or answered before
            failure = event.result.failure if event.result is not None else None
            if question is not None and failure is not None and failure.retry_after_s is not None:
                self._rests[question] = host.now + failure.retry_after_s, event.call
        host.now_or_later(None, partial(host.receive, run, event))

    def _closed(self, run: str, call: Call) -> None:
        found = self._running.pop((run, call), None)
        if found is not None:
            found.running = False

    def cancel(self, run: str, call: Call) -> None:
        """Nobody waits for the call any more. It may answer all the same."""
        self._closed(run, call)
        self._asked.pop((run, call), None)
        self._rests = {question: rest for question, rest in self._rests.items() if rest[1] != call or question[0] != run}

    def cancel_all(self, run: str, token: OwnerToken) -> None:
        """The owner is gone, and with it all that it waited for."""
        for of, call in list(self._running):
            if of == run and call.token == token:
                self._closed(of, call)

    # --- verifiers ---------------------------------------------------------------------------------------------------------

    def verify(self, host: Host, life: Life, command: Verify, data: bytes, inputs: Sequence[bytes], previous: str) -> None:
        """A verifier judges what it was given, and signs the verdict with an id that a certificate must carry."""
        world, run = self.world, life.run
        log = world.checkers.logs[run]
        self._verdicts += 1
        world.seen["Verify"] += 1
        owned = log.owner == command.call.token
        judgement = Judgement(
            f"v{self._verdicts}",
            run,
            command.step,
            command.attempt,
            log.lineage[command.step] if owned else None,
            command.position,
            digest_of(log.task, *map(digest, inputs)),
            digest(data),
            previous,
            VERDICT_TOKENS,
        )
        self._asked[run, command.call] = _question(run, command)
        world.checkers.asking_a_verifier(self._rests.get(_question(run, command), (0.0, None))[0], host.now, run, command)
        world.note("verify", run, command.call, command.step, command.attempt, command.position, previous)
        if not world.chance("verdict_lost"):
            world.after(world.rng.uniform(0.05, 2.0), self._judge, host, life.run, command, judgement, data)

    def _judge(self, host: Host, run: str, command: Verify, judgement: Judgement, data: bytes) -> None:
        result = self._verdict(judgement, data, run)
        if result is not None:
            judgement.kind = result.kind.value if result.kind else ""
            judgement.verifier, judgement.error_type, judgement.confidence = (
                result.verifier,
                result.error_type.value,
                result.confidence,
            )
            self.world.tally.judgements[judgement.id] = judgement
        self._post(host, run, VerdictReturned(command.call, result))

    def _verdict(self, judgement: Judgement, data: bytes, run: str) -> VerificationResult | None:
        world, rng = self.world, self.world.rng
        cost = Cost(VERDICT_TOKENS, 0.0, 0.0)
        verifier = "first" if judgement.previous != "first" else "second"
        if judgement.previous and judgement.position < 0 and rng.random() < 0.3:
            return None  # there is no other mechanism
        if world.chance("verdict_fault"):
            failure = None
            if world.chance("verdict_names_a_time"):
                failure = VerifierFault(FaultKind.RATE_LIMITED, source=verifier, retry_after_s=rng.choice((1.0, 4.0, 15.0, 60.0)))
            return VerificationResult.fault("it broke", verifier=verifier, cost=cost, prompt=judgement.id, failure=failure)
        if world.chance("verdict_abstains"):
            return VerificationResult.abstain("cannot tell", verifier=verifier, cost=cost, prompt=judgement.id)
        good = data.startswith(b"good") != world.chance("verdict_wrong")
        if judgement.position >= 0 and world.chance("suspect_falls"):
            good = False
        confidence = round(rng.random(), 3)
        if good:
            return VerificationResult.ok(verifier=verifier, confidence=confidence, cost=cost, prompt=judgement.id)
        blame = self._blame(run, judgement.step) if world.chance("blame") else None
        kind = rng.choice([one for one in ErrorType if one is not ErrorType.NONE])
        return VerificationResult.fail(kind, verifier=verifier, confidence=confidence, cost=cost, blame=blame, prompt=judgement.id)

    def _blame(self, run: str, accuser: int) -> str:
        """Mostly a step that the accuser depends on, now and then any step or none at all."""
        log, rng = self.world.checkers.logs[run], self.world.rng
        step = rng.randrange(len(log.parents) + 1)
        if log.parents[accuser] and rng.random() < 0.7:
            step = rng.choice(log.parents[accuser])
            while log.parents[step] and rng.random() < 0.4:
                step = rng.choice(log.parents[step])
        if step == len(log.parents):
            return "nobody"
        name = log.spec(step).name
        return name if log.plan.repeats == 1 else f"{name}[{step // len(log.plan.block)}]"

    # --- the breaker -------------------------------------------------------------------------------------------------------

    def ask_breaker(self, host: Host, life: Life, command: AcquirePermit) -> None:
        if not self.world.chance("permit_lost"):
            self.world.after(self.world.delay(), self._acquire, host, life.run, command)

    def _acquire(self, host: Host, run: str, command: AcquirePermit) -> None:
        world, call = self.world, command.call
        answer = world.breakers.acquire(command.scope, command.attempt_id, f"{call.token.epoch}.{call.token.owner}", run, world.now)
        if isinstance(answer, Denied):
            world.seen["permit denied"] += 1
            event: PermitGranted | PermitDenied = PermitDenied(call, answer.scope, answer.retry_at_s)
        else:
            world.checkers.granted(answer, world.now)
            event = PermitGranted(call, answer)
        world.note("permit", command.attempt_id, type(answer).__name__)
        if world.chance("permit_lost"):
            return
        for _ in range(2 if world.chance("permit_twice") else 1):
            late = world.chance("reply_late")
            delay = world.rng.uniform(1.0, 30.0) if late else world.delay()
            world.after(delay, host.now_or_later, None, partial(host.errands.answered, run, event))

    def release_permit(self, life: Life, command: ReleasePermit) -> None:
        assert isinstance(command.permit, Permit)
        self.world.checkers.settled(command.permit, command.outcome, life.run)
        moved = self.world.breakers.settle(command.permit, command.outcome, self.world.now)  # type: ignore[arg-type]
        if moved is not None:
            self.world.seen[f"breaker {moved.value}"] += 1

    def return_permit(self, run: str, event: PermitGranted) -> None:
        """A permit for a life that is gone; nobody will use it."""
        assert isinstance(event.permit, Permit)
        self.world.tally.permits.pop(event.permit.number, None)
        self.world.breakers.settle(event.permit, "released", self.world.now)


def _question(run: str, command: Verify) -> tuple[object, ...]:
    """What a verifier is asked, by whom: a new owner need not know what an earlier one was told."""
    return run, command.call.token, command.step, command.attempt, command.position
