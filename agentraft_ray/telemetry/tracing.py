"""Spans of runs, where the process has OpenTelemetry configured: without that, `tracing` is None and nothing else here is loaded.

A host tells a `RunTrace` what the machine has asked for and what has come to stand in the log; a span ends when the log says what
became of it, never before. So a trace never shows a commit that is not durable. Like everything volatile, open spans are lost when
their process dies: what the next owner does stands in the same trace, linked to the life before.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentraft_ray.protocol.messages import RunStep, VerdictReturned, Verify
from agentraft_ray.protocol.plan import Plan
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    Record,
    RolledBack,
    RunFinished,
    RunParked,
    StepCommitted,
    SuspectCleared,
)
from agentraft_ray.taxonomy import Cost, VerdictKind
from agentraft_ray.telemetry import semantics as names
from agentraft_ray.telemetry.context import context_of, span_context_of, trace_text

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

__all__ = ["Admission", "RunTrace", "Tracing", "traced", "tracing"]

T = TypeVar("T")

_REMEMBERED_STEPS_MAX = 1_000  # of a run: its last steps, whose spans the next ones of the same steps are linked to


def tracing() -> Tracing | None:
    """What makes spans; None unless this process has a tracer provider, which it has once somebody has set one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)) else Tracing(trace, provider)


def traced(plan: Plan, run_id: str, root: str) -> RunTrace | None:
    """The spans of a life of a run that begins now, where somebody traces; `root` = the trace that it was admitted with."""
    spans = tracing()
    return None if spans is None else spans.run(plan, run_id, root)


class Tracing:
    """Makes spans by one tracer provider. `api` = the module `opentelemetry.trace`."""

    def __init__(self, api: Any, provider: Any) -> None:
        self._api = api
        self._tracer: Tracer = provider.get_tracer(names.INSTRUMENTATION)

    def admission(self, plan: Plan, run_id: str, caller: str, *, forked_from: str | None = None) -> Admission:
        """Begin the span that admits a run: a child of the caller's span. `forked_from` = the trace of the run that it is forked from."""
        name = names.SUBMIT if forked_from is None else names.FORK
        attributes = {names.RUN_ID: run_id, names.AGENT: plan.spec.name}
        links = _links(self._api, span_context_of(forked_from or ""), names.FORKED)
        span = self._tracer.start_span(name.format(pipeline=plan.spec.name), context_of(caller), attributes=attributes, links=links)
        return Admission(span)

    def run(self, plan: Plan, run_id: str, root: str) -> RunTrace:
        """Begin with the spans of a life of a run. `root` = the trace that it was admitted with."""
        return RunTrace(self._api, self._tracer, plan, run_id, root)

    async def within(self, name: str, parent: str, attributes: dict[str, Any], work: Awaitable[T], flaw: Callable[[T], str]) -> T:
        """Do `work` in a span of its own, which is the current one there: spans that it makes itself become its children.

        `flaw` says what was wrong with the result, "" for nothing."""
        kind = self._api.SpanKind.CONSUMER
        with self._tracer.start_as_current_span(
            name, context_of(parent), kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            done = await work
            wrong = flaw(done)
            if wrong:
                _fail(self._api, span, wrong)
            return done


class Admission:
    """The span of an admission that is under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def context(self) -> str:
        """What the log remembers of it: the trace that all lives of the run belong to."""
        return trace_text(self._span.get_span_context())

    def end(self) -> None:
        """The run stands in the store, made by this call. One that was there before makes no span: it has a trace already."""
        self._span.end()


class RunTrace:
    """The spans of one life of one run."""

    def __init__(self, api: Any, tracer: Tracer, plan: Plan, run_id: str, root: str) -> None:
        self._api = api
        self._tracer = tracer
        self._plan = plan
        self._run_id = run_id
        self._root = context_of(root)
        self._stretch: Span | None = None
        self._within: Context = self._root
        self._steps: dict[int, Span] = {}
        self._attempts: dict[int, Span] = {}
        self._verdicts: dict[int, Span] = {}  # by the number of the call
        self._before: dict[int, SpanContext] = {}  # of steps whose span has ended: what the next one of the same step is linked to
        self._last: SpanContext | None = None  # the stretch before
        self._epoch = 0

    # --- for the host --------------------------------------------------------------------------------------------------------

    @property
    def context(self) -> str:
        """The present stretch as the claim of this life remembers it."""
        return trace_text(self._begun().get_span_context())

    def follow(self, epoch: int, earlier: str) -> None:
        """The claim stands: `epoch` is that of this life, `earlier` the stretch of the life before, "" for none."""
        self._epoch = epoch
        span = self._begun()
        span.set_attribute(names.EPOCH, epoch)
        context = span_context_of(earlier)
        if context is not None:
            span.add_link(context, {names.LINK: names.CONTINUES})

    def dispatched(self, command: RunStep) -> str:
        """A step is about to run: the context of its attempt's span."""
        return trace_text(self._attempt(command).get_span_context())

    def asked(self, command: Verify) -> str:
        """A verdict is about to be asked for: the context of its span."""
        step = command.step
        parent = None if command.output is None else self._attempts.get(step)
        attributes = {names.STEP_INDEX: step, names.ATTEMPT_NUMBER: command.attempt}
        if command.output is None:
            attributes[names.SUSPECT] = True
        span = self._start(names.VERDICT, step, parent, attributes)
        self._verdicts[command.call.number] = span
        return trace_text(span.get_span_context())

    def judged(self, event: VerdictReturned) -> None:
        """A verdict has come."""
        span = self._verdicts.pop(event.call.number, None)
        result = event.result
        if span is None or result is None:
            if span is not None:
                span.end()
            return
        label = result.error_type.value if result.kind is VerdictKind.REJECT else str(result.kind.value if result.kind else "")
        span.set_attributes({names.VERDICT_KIND: str(result.kind.value if result.kind else ""), names.EVALUATION: result.verifier})
        span.set_attributes({names.EVALUATION_LABEL: label, names.EVALUATION_SCORE: result.confidence})
        known = names.provider_and_model(result.verifier)
        if known is not None:
            span.set_attributes({names.PROVIDER: known[0], names.MODEL: known[1]})
        _bill(span, event.cost)
        if result.kind is VerdictKind.FAULT:
            _fail(self._api, span, "verifier_fault")
        span.end()

    def lost(self, step: int) -> None:
        """Whoever ran this step, or judged its output, is gone; it is asked of others."""
        span = self._attempts.get(step) or self._stretch
        if span is not None:
            span.add_event(names.WORKER_LOST)

    async def within(self, command: RunStep | Verify, work: Awaitable[T]) -> T:
        """Do the work of a command here, with its span as the current one."""
        span = self._verdicts.get(command.call.number) if isinstance(command, Verify) else self._attempts.get(command.step)
        if span is None:
            return await work
        with self._api.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            return await work

    def stands(self, records: Sequence[Record]) -> None:
        """These records are in the log. A run that parks in the middle of them has not waited."""
        for record in records:
            match record:
                case StepCommitted(certificate=certificate):
                    self._settle(certificate.step, "committed", record.cost)
                    self._step(certificate.step, certificate.lineage)  # there is none of a step that a person approved after a wait
                    self._close_step(certificate.step, "committed")
                case AttemptRejected(certificate=certificate):
                    self._settle(certificate.step, "rejected", record.cost, certificate.error_type)
                case AttemptFailed():
                    self._settle(record.step, "failed", record.cost, record.cause)
                case RolledBack():
                    self._rolled_back(record)
                case SuspectCleared():
                    self._begun().add_event(names.CLEARED, self._about(record.suspect, record.accuser))
                case RunParked(reasons=reasons) if record is records[-1]:
                    self._begun().set_attribute(names.WAITING_FOR, [reason.partition(":")[0] for reason in reasons])
                    self._rest(names.WAITING)
                case RunFinished():
                    self._finished(record)
                case _:
                    pass

    def end(self) -> None:
        """This life is over: its run has ended, waits, or belongs to somebody else."""
        if self._stretch is not None:
            self._rest(names.ABANDONED)

    # --- spans ---------------------------------------------------------------------------------------------------------------

    def _begun(self) -> Span:
        """The span of the present stretch, which begins when there is something to tell."""
        if self._stretch is None:
            plan = self._plan
            attributes: dict[str, Any] = {
                names.OPERATION: names.INVOKE_WORKFLOW,
                names.AGENT: plan.spec.name,
                names.RUN_ID: self._run_id,
            }
            if self._epoch:
                attributes[names.EPOCH] = self._epoch
            self._stretch = self._tracer.start_span(
                names.RUN.format(pipeline=plan.spec.name),
                self._root,
                attributes=attributes,
                links=_links(self._api, self._last, names.CONTINUES),
            )
            self._within = self._api.set_span_in_context(self._stretch, self._root)
        return self._stretch

    def _start(self, name: str, step: int, parent: Span | None, attributes: dict[str, Any], links: list[Link] | None = None) -> Span:
        self._begun()
        context = self._within if parent is None else self._api.set_span_in_context(parent, self._root)
        kind = self._plan.step(step).name  # not `name`, which counts the repeats of a block
        attributes[names.STEP_NAME] = self._plan.name(step)
        return self._tracer.start_span(name.format(step=kind), context, attributes=attributes, links=links)

    def _step(self, step: int, lineage: int | None = None) -> Span:
        span = self._steps.get(step)
        if span is None:
            attributes: dict[str, Any] = {names.STEP_INDEX: step, names.CRITICALITY: self._plan.step(step).criticality}
            if lineage is not None:
                attributes[names.LINEAGE] = lineage
            links = _links(self._api, self._before.pop(step, None), names.CONTINUES)
            span = self._steps[step] = self._start(names.STEP, step, None, attributes, links)
        return span

    def _attempt(self, command: RunStep) -> Span:
        span = self._attempts.get(command.step)
        if span is None:
            attributes = {
                names.OPERATION: names.INVOKE_AGENT,
                names.AGENT: self._plan.step(command.step).name,
                names.STEP_INDEX: command.step,
                names.ATTEMPT_NUMBER: command.attempt,
                names.HINTED: command.hint is not None,
            }
            span = self._start(names.ATTEMPT, command.step, self._step(command.step, command.lineage), attributes)
            self._attempts[command.step] = span
        return span

    def _settle(self, step: int, result: str, cost: Cost, error: str = "") -> None:
        """End the attempt that is open for a step."""
        span = self._attempts.pop(step, None)
        if span is None:
            return
        span.set_attribute(names.RESULT, result)
        _bill(span, cost)
        if error:
            _fail(self._api, span, error)
        span.end()

    def _close_step(self, step: int, result: str) -> None:
        span = self._steps.pop(step)
        span.set_attribute(names.RESULT, result)
        span.end()
        self._before[step] = span.get_span_context()
        if len(self._before) > _REMEMBERED_STEPS_MAX:
            del self._before[next(iter(self._before))]

    def _rolled_back(self, record: RolledBack) -> None:
        removed = {step for step, _ in record.removed}
        named = [self._plan.name(step) for step in sorted(removed)]
        self._begun().add_event(names.ROLLED_BACK, self._about(record.suspect, record.accuser) | {names.STEPS_REMOVED: named})
        for step in [step for step in self._steps if step in removed or removed.intersection(self._plan.parents(step))]:
            self._drop_step(step, names.REMOVED)

    def _about(self, suspect: int, accuser: int) -> dict[str, Any]:
        return {names.STEP_NAME: self._plan.name(suspect), names.ACCUSER: self._plan.name(accuser)}

    def _drop_step(self, step: int, result: str) -> None:
        attempt = self._attempts.pop(step, None)
        if attempt is not None:
            attempt.set_attribute(names.RESULT, result)
            attempt.end()
        self._close_step(step, result)

    def _finished(self, record: RunFinished) -> None:
        span = self._begun()
        span.set_attribute(names.OUTCOME, record.outcome)
        if record.outcome != "succeeded":
            _fail(self._api, span, record.error.kind if record.error is not None else record.outcome)
        self._rest("failed" if record.outcome == "failed" else names.ABANDONED)

    def _rest(self, result: str) -> None:
        """End all that is open, and the stretch."""
        for verdict in self._verdicts.values():
            verdict.end()
        self._verdicts.clear()
        for step in list(self._steps):
            self._drop_step(step, result)
        stretch = self._begun()
        stretch.end()
        self._last, self._stretch = stretch.get_span_context(), None


def _links(api: Any, context: SpanContext | None, why: str) -> list[Link]:
    return [] if context is None else [api.Link(context, {names.LINK: why})]


def _fail(api: Any, span: Span, error: str) -> None:
    span.set_attribute(names.ERROR_TYPE, error)
    span.set_status(api.StatusCode.ERROR, error)


def _bill(span: Span, cost: Cost) -> None:
    span.set_attribute(names.COST_SECONDS, cost.seconds)
    if cost.tokens:
        span.set_attribute(names.COST_TOKENS, cost.tokens)
    if cost.usd:
        span.set_attribute(names.COST_USD, cost.usd)
