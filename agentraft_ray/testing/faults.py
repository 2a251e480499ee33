"""What may go wrong in a simulated world, and how often. Probabilities only; who suffers from them asks `World`.

Faults are drawn once a world (swarm testing, as FoundationDB does): many are switched off, so that whole worlds differ in character
and a combination of two rare faults is not drowned by all the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random

__all__ = ["NO_FAULTS", "Faults"]


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities per occasion, between 0 and 1. The field's name says what happens, its comment on which occasion."""

    # a coordinator, at every append
    crash_before_append: float = 0.0
    crash_after_append: float = 0.0  # written, not acknowledged
    crash_amid_commands: float = 0.0  # acknowledged, some commands carried out
    # a coordinator, at every heartbeat
    pause: float = 0.0
    frozen_clock: float = 0.0  # of those that pause: their clock stood still, so they go on acting as if nothing had been
    drain: float = 0.0
    renewal_lost: float = 0.0
    # the store, at every append
    request_lost: float = 0.0
    request_late: float = 0.0  # applied long after the client has given up and sent it again
    request_twice: float = 0.0
    answer_lost: float = 0.0  # timed out after having written
    # the store, once a world
    outage: float = 0.0
    failover: float = 0.0  # it comes back without its tail
    failover_at_claim: float = 0.0  # at every claim: what is lost begins with it
    crash_at_failover: float = 0.0  # each coordinator: the room lost its power
    # a worker or a verifier, at every call
    worker_lost: float = 0.0
    reply_late: float = 0.0
    reply_twice: float = 0.0
    never_returns: float = 0.0
    step_raises: float = 0.0
    bad_output: float = 0.0
    same_bad_again: float = 0.0  # of the bad outputs: the very bytes that were rejected
    verdict_fault: float = 0.0
    verdict_abstains: float = 0.0
    verdict_wrong: float = 0.0
    blame: float = 0.0  # of the rejections
    suspect_falls: float = 0.0  # of the suspects that are judged again, whatever they are worth
    verdict_lost: float = 0.0
    # the breaker, at every request
    permit_lost: float = 0.0
    permit_twice: float = 0.0
    # people, at every visit
    late_command: float = 0.0  # about another output or an earlier lineage
    denial: float = 0.0
    cancel: float = 0.0
    parked_run_moved: float = 0.0  # resumed by another coordinator while its owner lives and waits
    verdict_names_a_time: float = 0.0  # of the faults: the verifier says when it wants to be asked again

    @classmethod
    def drawn(cls, rng: Random) -> Faults:
        """The faults of one world: most are off in about half of the worlds, else up to their ceiling."""
        return cls(
            **{one.name: rng.random() * _CEILINGS[one.name] if rng.random() < _OFTEN.get(one.name, 0.5) else 0.0 for one in fields(cls)}
        )


_CEILINGS = {
    "crash_before_append": 0.08,
    "crash_after_append": 0.08,
    "crash_amid_commands": 0.08,
    "pause": 0.08,
    "frozen_clock": 1.0,
    "drain": 0.05,
    "renewal_lost": 0.9,
    "request_lost": 0.2,
    "request_late": 0.3,
    "request_twice": 0.3,
    "answer_lost": 0.3,
    "outage": 0.5,
    "failover": 1.0,
    "failover_at_claim": 0.1,
    "crash_at_failover": 1.0,
    "worker_lost": 0.5,
    "reply_late": 0.25,
    "reply_twice": 0.3,
    "never_returns": 0.3,
    "step_raises": 0.25,
    "bad_output": 0.6,
    "same_bad_again": 0.8,
    "verdict_fault": 0.3,
    "verdict_abstains": 0.15,
    "verdict_wrong": 0.3,
    "blame": 1.0,
    "verdict_lost": 0.2,
    "suspect_falls": 1.0,
    "permit_lost": 0.3,
    "permit_twice": 0.3,
    "late_command": 0.2,
    "denial": 0.4,
    "cancel": 0.01,
    "parked_run_moved": 0.5,
    "verdict_names_a_time": 1.0,
}

_OFTEN = {"bad_output": 0.8, "blame": 0.8, "suspect_falls": 0.8, "frozen_clock": 0.7}

NO_FAULTS = Faults()
