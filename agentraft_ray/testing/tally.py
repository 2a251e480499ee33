"""What really happened in a simulated world: the simulator's own notes about calls, verdicts, commands and permits.

Nothing here comes from a machine's state. Workers, verifiers, people and the breaker write it; the laws read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentraft_ray.breaker import Permit
from agentraft_ray.identity import OwnerToken
from agentraft_ray.protocol.messages import CommandReceived

__all__ = ["Execution", "Judgement", "Tally", "Violation"]


class Violation(AssertionError):
    """A law of the design was broken. `law` is its name."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


@dataclass(slots=True)
class Execution:
    """One call of a step function that a worker really began. `output` is the digest of what it returned, None so far."""

    run: str
    step: int
    lineage: int
    attempt: int
    sample: int
    token: OwnerToken
    inputs: bytes
    asked_at: float
    tokens: int = 0
    output: bytes | None = None
    running: bool = True


@dataclass(slots=True)
class Judgement:
    """One verdict that a verifier really gave. `lineage` is the step's lineage in the log when the owner asked, None for others."""

    id: str
    run: str
    step: int
    attempt: int
    lineage: int | None
    position: int
    inputs: bytes
    output: bytes
    previous: str
    tokens: int = 0
    kind: str = ""
    verifier: str = ""
    error_type: str = ""
    confidence: float = 0.0


@dataclass(slots=True)
class Tally:
    """The notes of one world."""

    executions: dict[str, list[Execution]] = field(default_factory=dict)  # by run
    judgements: dict[str, Judgement] = field(default_factory=dict)  # by the id that the verdict carries as its prompt
    commands: dict[tuple[str, str], CommandReceived] = field(default_factory=dict)  # (run, command id) -> what a person sent
    permits: dict[int, Permit] = field(default_factory=dict)  # granted and not settled, by number

    def executed(self, run: str) -> list[Execution]:
        return self.executions.setdefault(run, [])

    def outputs_of(self, run: str, step: int, lineage: int, attempt: int, inputs: bytes) -> set[bytes]:
        """Digests of what this very attempt returned on these inputs, by all workers that ran it."""
        key = (step, lineage, attempt, inputs)
        return {
            one.output for one in self.executed(run) if one.output is not None and (one.step, one.lineage, one.attempt, one.inputs) == key
        }

    def tokens_spent(self, run: str, besides: Execution) -> int:
        """Model tokens that the run really used: all executions but `besides`, and one verdict an attempt that got any.

        Further verdicts about one attempt (after a fault, a time-out or an accusation) are what it may cost beyond its reserve.
        """
        judged = {(one.step, one.attempt): one.tokens for one in self.judgements.values() if one.run == run and one.position < 0}
        return sum(one.tokens for one in self.executed(run) if one is not besides) + sum(judged.values())
