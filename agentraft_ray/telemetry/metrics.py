"""The table of all metrics: what each is called, what it counts, and by which labels. Nothing measures what does not stand here.

Labels are few by nature: the pipeline, the step of its block (the repeats of a block share it), why something failed. Never a run's id.
On Ray every name gets the prefix ``ray_``, counters the suffix ``_total``, and every metric the label `deployment`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["METRICS", "Metric", "exported_names"]

Kind = Literal["counter", "gauge", "histogram"]

_SECONDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Buckets for what takes from a millisecond (rules) over seconds (models) to a quarter of an hour (agents)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `figure` = (role, name) of the figure of an actor (`stats`) that it shows, where it is one of those.

    `about` is the text for people. `buckets` are upper bounds, for histograms alone.
    """

    name: str
    kind: Kind
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    figure: tuple[str, str] | None = None


def _counter(name: str, about: str, *labels: str) -> Metric:
    return Metric(f"agentraft_{name}", "counter", about, labels)


def _seconds(name: str, about: str, *labels: str) -> Metric:
    return Metric(f"agentraft_{name}_seconds", "histogram", about, labels, _SECONDS)


def _figure(kind: Kind, name: str, role: str, figure: str, about: str) -> Metric:
    return Metric(f"agentraft_{name}", kind, about, figure=(role, figure))


# From what has come to stand in the logs, by whoever appended it.
RUNS_STARTED = _counter("runs_started", "lives of runs that began here: new runs, and runs that were taken over", "pipeline")
RUNS_FINISHED = _counter("runs_finished", "runs that ended, by outcome: succeeded, failed, cancelled", "pipeline", "outcome")
RUNS_PARKED = _counter("runs_parked", "times that a run began to wait, by what for: approval, breaker, verifier ...", "pipeline", "reason")
STEPS_COMMITTED = _counter("steps_committed", "outputs that were verified and stand in a log", "pipeline", "step")
ATTEMPTS_REJECTED = _counter("attempts_rejected", "outputs that were judged bad, by error class", "pipeline", "step", "error_class")
ATTEMPTS_FAILED = _counter("attempts_failed", "attempts without an output, by cause: raised, timed_out ...", "pipeline", "step", "cause")
ROLLBACKS = _counter("rollbacks", "committed steps that fell with all that depended on them", "pipeline")
SUSPECTS_CLEARED = _counter("suspects_cleared", "accused steps that stood when they were judged again", "pipeline")
TOKENS = _counter("tokens", "model tokens that were booked", "pipeline")
USD = _counter("usd", "US dollars that were booked, where prices are known", "pipeline")

# Where it happens.
VERDICTS = _counter("verdicts", "verdicts, by kind: pass, reject, abstain, fault", "pipeline", "step", "verdict")
RUN_SECONDS = _seconds("run", "from a run's admission to its end, waiting included", "pipeline", "outcome")
STEP_SECONDS = _seconds("step", "time in a step function", "pipeline", "step")
VERDICT_SECONDS = _seconds("verdict", "time that a verifier took; on a cluster without rules that take none", "pipeline", "step")
RESTARTS = _counter("actor_restarts", "actors that came back after they had died, by role", "role")

# What the actors of a cluster say about themselves.
FIGURES: Final = (
    _figure("gauge", "runs_live", "coordinator", "runs", "runs that a coordinator holds"),
    _figure("gauge", "runs_waiting", "coordinator", "waiting", "of them, runs that wait for something outside"),
    _figure("gauge", "runs_arriving", "coordinator", "arriving", "runs whose logs are being read"),
    _figure("gauge", "runs_stuck", "coordinator", "stuck", "runs whose pipeline is not known"),
    _figure("gauge", "requests_open", "coordinator", "open_requests", "steps and verdicts that are with others or wait for them"),
    _figure("gauge", "appends_waiting", "coordinator", "waiting_appends", "runs whose next append waits to be sent"),
    _figure("gauge", "worker_queued", "worker", "queued", "steps that wait in a worker"),
    _figure("gauge", "worker_running", "worker", "running", "steps that run in a worker"),
    _figure("gauge", "worker_overdue_threads", "worker", "overdue_threads", "threads that hang in steps that were given up"),
    _figure("gauge", "verifier_queued", "verifier", "queued", "verdicts that wait in a verifier"),
    _figure("gauge", "verifier_running", "verifier", "running", "verdicts that are being made"),
    _figure("counter", "store_appends", "store", "entries", "appends that the store actor was given"),
    _figure("counter", "store_batches", "store", "batches", "scripts that carried them to the server"),
    _figure("counter", "store_refused", "store", "refused", "appends, admissions and calls that were refused"),
    _figure("counter", "store_sent_bytes", "store", "sent_bytes", "bytes sent to the server"),
    _figure("counter", "store_server_seconds", "store", "server_s", "time that the server took for batches, added up"),
    _figure("gauge", "breaker_scopes_open", "breaker", "scopes_open", "breakers that are open or half-open"),
    _figure("counter", "breaker_outcomes", "breaker", "outcomes", "outcomes of attempts that breakers counted"),
    _figure("counter", "breaker_store_failures", "breaker", "store_failures", "times that the breakers' memory could not be kept"),
    *(
        _figure("gauge", f"{role}_lag_seconds", role, "lag_s", f"how late the event loop of a {role} is")
        for role in ("coordinator", "worker", "verifier", "store")
    ),
)

METRICS: Final[tuple[Metric, ...]] = (
    RUNS_STARTED,
    RUNS_FINISHED,
    RUNS_PARKED,
    STEPS_COMMITTED,
    ATTEMPTS_REJECTED,
    ATTEMPTS_FAILED,
    ROLLBACKS,
    SUSPECTS_CLEARED,
    TOKENS,
    USD,
    VERDICTS,
    RUN_SECONDS,
    STEP_SECONDS,
    VERDICT_SECONDS,
    RESTARTS,
    *FIGURES,
)
"""Every metric that there is."""


def exported_names(metric: Metric, prefix: str = "ray_") -> tuple[str, ...]:
    """The names of the series that Prometheus gets of a metric."""
    name = prefix + metric.name
    if metric.kind == "counter":
        return (f"{name}_total",)
    return (f"{name}_bucket", f"{name}_sum", f"{name}_count") if metric.kind == "histogram" else (name,)
