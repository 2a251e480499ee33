"""Settings: every limit has a name here, every default its reason. No I/O; environment variables are read by `api`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.taxonomy import FREE, Cost

if TYPE_CHECKING:
    from agentraft_ray.breaker import CircuitBreaker
    from agentraft_ray.checkpoint.base import CheckpointStore
    from agentraft_ray.verifier.base import Verifier

__all__ = ["AgentRaftConfig", "Budget", "FreshCalibration", "Limits", "OnOpen", "ProviderLimits", "RetryPolicy"]

OnOpen = Literal["park", "fail"]


@dataclass(frozen=True)
class RetryPolicy:
    """How often a step is tried again, and after what delay (seconds).

    The default is 2 retries, 3 is the advised maximum: retries never lower the share of wrong outputs among what is committed.
    """

    max_retries: int = 2
    base_delay: float = 0.0
    max_delay: float = 8.0

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.base_delay < 0 or self.max_delay < 0:
            raise InvalidConfig(f"a retry policy takes numbers from 0 up, not {self!r}")

    def delay_for(self, attempt: int) -> float:
        """Seconds to wait before `attempt`: 0 for attempt 0, then base_delay * 2^(attempt-1), capped at max_delay."""
        if attempt <= 0 or self.base_delay == 0:
            return 0.0
        return min(self.max_delay, self.base_delay * 2.0 ** min(attempt - 1, 62))


@dataclass(frozen=True)
class Budget:
    """What one run may use over all its attempts, verdicts, crashes and resumes; None = not limited.

    `seconds` counts from admission, less the time in which the run was parked. `reserve` is what an attempt and its verdicts may
    cost at the most; it is set aside before each dispatch, so that a crash cannot hide spending. Tokens and money overshoot only
    by what an attempt costs beyond its reserve.
    """

    attempts: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    reserve: Cost = FREE

    def __post_init__(self) -> None:
        for name in ("attempts", "tokens", "usd", "seconds"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidConfig(f"budget {name}={value} is negative; leave it out for no limit")
        if self.usd is not None and self.reserve.usd is None:
            raise InvalidConfig("a budget in usd needs a reserve whose price is known: Budget(usd=..., reserve=Cost(usd=...))")


@dataclass(frozen=True)
class FreshCalibration:
    """What the calibration of a model must be for its word to count about HIGH steps; see `wrap(require_calibration=)`.

    `recall_min` is what the lower bound of the measured recall must reach.
    """

    max_age_days: float = 30.0
    cases_min: int = 200
    recall_min: float = 0.0

    def __post_init__(self) -> None:
        if self.max_age_days <= 0 or self.cases_min < 1 or not 0 <= self.recall_min <= 1:
            raise InvalidConfig(f"a calibration has an age and cases over 0 and a recall from 0 to 1, not {self!r}")


@dataclass(frozen=True)
class Limits:
    """Every bound in the system, with its unit last."""

    inline_bytes_max: int = 64 * 1024  # an output over this goes to a blob, its digest to the record
    payload_bytes_max: int = 8 * 1024 * 1024  # an output over this is refused: one big value stalls a Redis server for all
    batch_runs_max: int = 256  # runs in one group commit: while the server works on one, the runs of the last work on their next steps
    queued_appends_max: int = 10_000  # appends that wait for a group commit; further ones wait for room
    batch_bytes_max: int = 4 * 1024 * 1024  # bytes in one group commit
    worker_losses_max: int = 3  # free re-dispatches of an attempt, then a lost worker counts as a failure of the step
    claims_max: int = 3  # claims of a run without progress, then it is parked as poisoned
    verifier_faults_max: int = 3  # faults in a row about one output, then the run is parked
    rollbacks_max: int = 8  # deep rollbacks in one run
    hint_chars_max: int = 2_000  # of a verdict's hint and of its reasoning
    evidence_max: int = 16
    evidence_chars_max: int = 500
    cached_verdicts_max: int = 4_096  # that one `CachedVerifier` remembers in one process; the one used longest ago goes first
    cached_history_max: int = 256  # earlier outputs, all of which are read for the key; a verdict about more is not remembered
    inbox_max: int = 1_000
    verifier_retry_delay_s: float = 0.5
    verifier_timeout_s: float = 120.0
    verifier_hold_s: float = 5.0  # a verifier that wants to be asked again within this is waited for without a word in the log
    verifier_wait_s: float = 120.0  # `run` waits so long for a verifier that has named a time; one that takes longer gives it back
    verifier_park_retry_s: float = 30.0  # a submitted run that waits for a verifier asks it again after this
    store_wait_s: float = 30.0  # how long a run waits for a store that does not answer
    lease_ttl_s: float = 10.0
    lease_revoked_s: float = 24 * 3600  # how long an owner that was declared dead cannot bring its lease back; an hour at least
    document_bytes_max: int = 1024 * 1024  # of one named document: a breaker's snapshot, a pipeline's definition
    drain_s: float = 5.0  # how long a cancelled run may take to leave its log in good order
    inbox_poll_s: float = 0.25
    retention_s: int = 7 * 24 * 3600  # finished runs stay this long
    idempotency_ttl_s: int = 30 * 24 * 3600  # their tombstones stay this long
    result_steps_max: int = 10_000  # a result holds the steps of a pipeline up to this length, beyond it reads them from the log
    step_threads_max: int = 32  # threads for sync steps; one that hangs keeps its place
    remembered_runs_max: int = 10_000  # unfinished runs of which a coordinator knows how far their logs had come
    mirror_wait_s: float = 5.0  # how long a user's own checkpoint store may take to follow one append
    cached_outputs_bytes_max: int = 1024 * 1024  # outputs of one run kept in memory; older ones are read from the store


@dataclass(frozen=True)
class ProviderLimits:
    """Of the requests that one process sends to one model of one provider, and of the breaker that all processes share for it."""

    concurrency_max: int = 64  # requests under way; as many threads, where the provider's package blocks
    waiting_max: int = 2_000  # requests that wait for room; further ones are refused
    call_timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    thread_idle_s: float = 1.0  # a thread without work ends after this: a run leaves none behind
    grace_s: float = 2.0  # what may be sent again within this is waited for; what takes longer parks the step
    busy_retry_s: float = 5.0  # a request that found no room comes back after this
    rate_limit_pause_s: float = 2.0  # where the provider names no time; doubled every time
    rate_limit_pause_s_max: float = 60.0
    quota_pause_s: float = 300.0  # where the provider names no time
    retry_after_s_max: float = 24 * 3600.0  # what a provider may ask for
    thinking_tokens: int = 2_000  # on top of max_tokens, for a model whose thinking cannot be switched off
    adaptations_max: int = 6  # things that a server turned out not to know, and that are left out from then on
    failure_threshold: int = 5  # failures in a row that open the breaker of a model, from however many runs
    cooldown_s: float = 30.0
    probe_ttl_s: float = 90.0  # longer than a call may take

    def __post_init__(self) -> None:
        whole = (self.concurrency_max, self.waiting_max, self.failure_threshold)
        if min(whole) < 1 or min(self.call_timeout_s, self.connect_timeout_s, self.thread_idle_s, self.cooldown_s) <= 0:
            raise InvalidConfig(f"limits of a provider take numbers over 0, not {self!r}")


@dataclass
class AgentRaftConfig:
    """All settings of a coordinator in one value, as in the seed. None means the default of `wrap`."""

    verifier: Verifier | None = None
    store: CheckpointStore | str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: CircuitBreaker | None = None
    on_event: Callable[[Any], Awaitable[None] | None] | None = None
    rollback_on_failure: bool = True
    limits: Limits = field(default_factory=Limits)
