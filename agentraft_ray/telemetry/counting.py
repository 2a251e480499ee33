"""From what happens to the runs of one pipeline to its metrics."""

from __future__ import annotations

from agentraft_ray.protocol.plan import Plan
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    CostBooked,
    Record,
    RolledBack,
    RunFinished,
    RunParked,
    StepCommitted,
    SuspectCleared,
)
from agentraft_ray.protocol.state import RunState
from agentraft_ray.taxonomy import Cost, VerificationResult
from agentraft_ray.telemetry import metrics
from agentraft_ray.telemetry.registry import Distribution, Meter, Series, collecting

__all__ = ["PipelineCounter", "counter_of"]


def counter_of(plan: Plan) -> PipelineCounter | None:
    """What counts the runs of a plan in this process, if that collects metrics."""
    meter = collecting()
    return None if meter is None else PipelineCounter(meter, plan)


class PipelineCounter:
    """Counts for the runs of one pipeline in one process. What happens at every step is counted in series that are kept at hand."""

    def __init__(self, meter: Meter, plan: Plan) -> None:
        self._meter = meter
        self._pipeline = plan.spec.name
        self._labels = tuple((plan.spec.name, step.name) for step in plan.spec.block)
        self._width = plan.width
        self._committed: list[Series | None] = [None] * plan.width
        self._passed: list[Series | None] = [None] * plan.width
        self._step_seconds: list[Distribution | None] = [None] * plan.width
        self._verdict_seconds: list[Distribution | None] = [None] * plan.width

    def note(self, state: RunState, record: Record) -> None:
        """A record has come to stand in the log of a run; `state` is that of the run by now."""
        if type(record) is StepCommitted:  # most are
            step = record.certificate.step % self._width
            series = self._committed[step]
            if series is None:
                series = self._committed[step] = self._meter.series(metrics.STEPS_COMMITTED, *self._labels[step])
            series.value += 1
            self._bill(record.cost)
            return
        meter, pipeline = self._meter, self._pipeline
        match record:
            case AttemptRejected():
                labels = self._labels[record.certificate.step % self._width]
                meter.add(metrics.ATTEMPTS_REJECTED, 1, *labels, record.certificate.error_type)
                self._bill(record.cost)
            case AttemptFailed():
                meter.add(metrics.ATTEMPTS_FAILED, 1, *self._labels[record.step % self._width], record.cause)
                self._bill(record.cost)
            case RolledBack():
                meter.add(metrics.ROLLBACKS, 1, pipeline)
                self._bill(record.cost)
            case SuspectCleared():
                meter.add(metrics.SUSPECTS_CLEARED, 1, pipeline)
                self._bill(record.cost)
            case CostBooked():
                self._bill(record.cost)
            case RunParked():
                for kind in sorted({reason.partition(":")[0] for reason in record.reasons}):
                    meter.add(metrics.RUNS_PARKED, 1, pipeline, kind)
            case RunFinished():
                meter.add(metrics.RUNS_FINISHED, 1, pipeline, record.outcome)
                meter.distribution(metrics.RUN_SECONDS, pipeline, record.outcome).observe(max(0.0, record.at - state.admitted_at))
                self._bill(record.late)
            case _:
                pass

    def began(self) -> None:
        """A life of a run has begun here."""
        self._meter.add(metrics.RUNS_STARTED, 1, self._pipeline)

    def ran(self, step: int, seconds: float) -> None:
        """A step function has run."""
        step %= self._width
        found = self._step_seconds[step]
        if found is None:
            found = self._step_seconds[step] = self._meter.distribution(metrics.STEP_SECONDS, *self._labels[step])
        found.observe(seconds)

    def judged(self, step: int, result: VerificationResult | None) -> None:
        """A verdict has come; None is that of a second opinion which there is not."""
        step %= self._width
        if result is None or result.kind is None:
            return
        if result.passed:
            series = self._passed[step]
            if series is None:
                series = self._passed[step] = self._meter.series(metrics.VERDICTS, *self._labels[step], result.kind.value)
            series.value += 1
        else:
            self._meter.add(metrics.VERDICTS, 1, *self._labels[step], result.kind.value)

    def took(self, step: int, seconds: float) -> None:
        """A verifier has been at work for so long."""
        step %= self._width
        found = self._verdict_seconds[step]
        if found is None:
            found = self._verdict_seconds[step] = self._meter.distribution(metrics.VERDICT_SECONDS, *self._labels[step])
        found.observe(seconds)

    def _bill(self, cost: Cost) -> None:
        if cost.tokens:
            self._meter.add(metrics.TOKENS, cost.tokens, self._pipeline)
        if cost.usd:
            self._meter.add(metrics.USD, cost.usd, self._pipeline)
