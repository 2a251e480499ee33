"""The laws of DESIGN.md, as checks of one record, one execution or one write against the log so far and the tally.

A law returns what is wrong, or None. It never asks a machine, a state or a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    Certificate,
    CommandTaken,
    OutputProposed,
    Record,
    RolledBack,
    RunFinished,
    RunParked,
    StepCommitted,
    SuspectCleared,
)
from agentraft_ray.testing.log_model import LogModel
from agentraft_ray.testing.scenario import STEP_TOKENS_MAX
from agentraft_ray.testing.tally import Execution, Tally

__all__ = ["EXECUTION_LAWS", "OUTSIDE_CONDITIONS", "RECORD_LAWS"]

OUTSIDE_CONDITIONS = ("approval:", "breaker:", "verifier:", "poisoned:", "rewound:", "drained")
_SECONDS_SLACK = 60.0  # an append may wait that long for a store before what it allowed is begun


# --- about records: (the log before it, the record, the tally) ---------------------------------------------------------------


def nothing_follows_the_end(log: LogModel, record: Record, tally: Tally) -> str | None:
    return "a record follows the end of the run" if log.finished is not None else None


def commit_is_certified(log: LogModel, record: Record, tally: Tally) -> str | None:
    """Law 2: a commit carries a verdict that a verifier really gave about exactly this output, or a person's approval of it."""
    if not isinstance(record, StepCommitted):
        return None
    certificate = record.certificate
    step = certificate.step
    if record.output.digest != certificate.output:
        return f"step {step} commits {record.output.digest.hex()[:8]} on a verdict about {certificate.output.hex()[:8]}"
    approved = (step, certificate.lineage, certificate.output) in log.approvals
    if log.spec(step).needs_approval and not approved:
        return f"step {step} is committed and nobody approved this output"
    if certificate.kind != "pass" and not (certificate.kind == "abstain" and approved):
        return f"step {step} is committed on a verdict of kind {certificate.kind}"
    return _certificate_is_true(log, certificate, tally) or _output_was_made(log, certificate, tally)


def rejection_is_certified(log: LogModel, record: Record, tally: Tally) -> str | None:
    """A rejection is a verdict that somebody gave: a verifier, a person, or the memory of an earlier rejection."""
    if not isinstance(record, AttemptRejected):
        return None
    certificate = record.certificate
    if certificate.kind != "reject":
        return f"step {certificate.step} is rejected by a verdict of kind {certificate.kind}"
    if certificate.verifier == "memory":
        known = (certificate.step, certificate.inputs, certificate.output) in log.judges
        return None if known else f"step {certificate.step}: this output was never rejected before"
    if certificate.verifier.startswith("human:"):
        denials = [one for (run, _), one in tally.commands.items() if run == log.run and one.kind == "deny"]
        known = (certificate.step, certificate.lineage, certificate.output) in [(d.step, d.lineage, d.output) for d in denials]
        return None if known else f"step {certificate.step}: no person denied this output"
    return _certificate_is_true(log, certificate, tally) or _output_was_made(log, certificate, tally)


def proposal_is_true(log: LogModel, record: Record, tally: Tally) -> str | None:
    """A proposed output was made by exactly this attempt, on the parents' present outputs."""
    if not isinstance(record, OutputProposed):
        return None
    if record.certificate is not None:
        return _certificate_is_true(log, record.certificate, tally)
    made = tally.outputs_of(log.run, record.step, record.lineage, record.attempt, record.inputs)
    return None if record.output.digest in made else f"step {record.step}: no attempt {record.attempt} made the proposed output"


def repeated_output_needs_another_judge(log: LogModel, record: Record, tally: Tally) -> str | None:
    """What was rejected once may only pass by another mechanism than the one that rejected it."""
    if not isinstance(record, StepCommitted):
        return None
    certificate = record.certificate
    judge = log.judges.get((certificate.step, certificate.inputs, certificate.output))
    if judge is None or judge.startswith("human:") or judge != certificate.verifier:
        return None
    return f"step {certificate.step}: {judge} rejected this output before and passes it now"


def committed_once(log: LogModel, record: Record, tally: Tally) -> str | None:
    """Laws 4 and 7: a commit stays until a rollback; attempt numbers never restart."""
    if isinstance(record, StepCommitted):
        step, attempt = record.certificate.step, record.certificate.attempt
        if step in log.commits:
            return f"step {step} is committed twice in lineage {log.lineage[step]}"
    elif isinstance(record, AttemptRejected):
        step, attempt = record.certificate.step, record.certificate.attempt
    elif isinstance(record, AttemptFailed):
        step, attempt = record.step, record.attempt
    else:
        return None
    if attempt <= max(log.closed.get(step, [-1])):
        return f"step {step}: attempt {attempt} ends after attempts {log.closed[step]} have ended"
    return None


def rollback_is_whole(log: LogModel, record: Record, tally: Tally) -> str | None:
    """Law 7: a rollback removes the suspect with all its committed dependents and nothing else, after a verdict against it."""
    if not isinstance(record, RolledBack):
        return None
    fallen = {record.suspect} | log.dependents(record.suspect)
    expected = tuple((step, log.commits[step].position) for step in sorted(fallen) if step in log.commits)
    if record.suspect not in log.commits or record.removed != expected:
        return f"the rollback of step {record.suspect} removes {record.removed}, its committed dependents are {expected}"
    policies = log.plan.policies
    depth = log.distance(record.accuser, record.suspect)
    if record.accuser not in log.accusers or not depth:
        return f"step {record.accuser} accuses {record.suspect} without a rejection or without depending on it"
    if depth > policies.max_rollback_depth or log.rollbacks >= policies.rollbacks_max or not policies.rollback_on_failure:
        return (
            f"rollback {log.rollbacks + 1} goes {depth} steps back; allowed are {policies.rollbacks_max} of {policies.max_rollback_depth}"
        )
    return _suspect_was_judged(log, record.certificate, record.suspect, ("reject",), tally)


def clearing_is_true(log: LogModel, record: Record, tally: Tally) -> str | None:
    """A suspect is cleared only by a verdict about its committed output."""
    if not isinstance(record, SuspectCleared):
        return None
    if record.suspect not in log.commits or record.position != log.commits[record.suspect].position:
        return f"step {record.suspect} is cleared and is not committed at {record.position}"
    return _suspect_was_judged(log, record.certificate, record.suspect, ("pass", "abstain"), tally)


def command_was_given(log: LogModel, record: Record, tally: Tally) -> str | None:
    """A command is taken once, and as the person gave it."""
    if not isinstance(record, CommandTaken):
        return None
    if record.id in log.commands:
        return f"command {record.id} is taken twice"
    given = tally.commands.get((log.run, record.id))
    if given is None:
        return f"nobody gave command {record.id}"
    taken = (record.kind, record.step, record.lineage, record.output, record.by)
    if taken != (given.kind, given.step, given.lineage, given.output, given.by):
        return f"command {record.id} was given as {given} and taken as {record}"
    if record.applied and record.kind not in {"approve", "deny", "cancel"}:
        return f"a command of kind {record.kind!r} had an effect"
    return None


def retries_are_bounded(log: LogModel, record: Record, tally: Tally) -> str | None:
    """Law 5: no step fails more often in a lineage than its retries allow."""
    if not isinstance(record, AttemptRejected | AttemptFailed):
        return None
    step = record.certificate.step if isinstance(record, AttemptRejected) else record.step
    return None if log.retries_left(step) else f"step {step} fails once more than its retries allow"


def end_is_true(log: LogModel, record: Record, tally: Tally) -> str | None:
    """A run succeeds with every step committed, is cancelled only by a command, and fails for a reason that the log shows."""
    if not isinstance(record, RunFinished):
        return None
    missing = [step for step in range(len(log.parents)) if step not in log.commits]
    if record.outcome == "succeeded":
        return f"the run succeeds without steps {missing}" if missing else None
    if (record.outcome == "cancelled") != log.cancelled:
        return f"the run ends as {record.outcome}; cancelled by a person: {log.cancelled}"
    if record.outcome == "failed" and record.error is not None and record.error.kind == "MaxRetriesExceeded":
        out = [step for step in missing if not log.retries_left(step) or log.errors[step, log.lineage[step]]]
        return None if out else "the run fails for lack of retries, and every open step has some left"
    return None


def parked_on_the_outside(log: LogModel, record: Record, tally: Tally) -> str | None:
    """Law 6: a run waits only for outside conditions that have a name."""
    if not isinstance(record, RunParked):
        return None
    bad = [reason for reason in record.reasons if not reason.startswith(OUTSIDE_CONDITIONS)]
    return f"parked on {record.reasons}" if bad or not record.reasons else None


def _certificate_is_true(log: LogModel, certificate: Certificate, tally: Tally) -> str | None:
    step = certificate.step
    if certificate.run != log.run or certificate.lineage != log.lineage[step]:
        return f"step {step}: the verdict is about {certificate.run}/{certificate.lineage}, not {log.run}/{log.lineage[step]}"
    inputs = log.inputs(step)
    if certificate.inputs != inputs:
        return f"step {step}: the verdict was made on other inputs than the parents' present commits"
    if certificate.parents != tuple(log.commits[parent].position for parent in log.parents[step]):
        return f"step {step}: the verdict names parents at {certificate.parents}"
    found = tally.judgements.get(certificate.prompt)
    if found is None:
        return f"step {step}: no verifier gave verdict {certificate.prompt!r}"
    really = (found.run, found.step, found.attempt, found.inputs, found.output, found.position)
    says = (log.run, step, certificate.attempt, certificate.inputs, certificate.output, -1)
    if really != says or found.lineage not in {None, certificate.lineage}:
        return f"step {step}: verdict {found.id} was about {found}, the certificate says {certificate}"
    return _same_words(certificate, found)


def _same_words(certificate: Certificate, found: Any) -> str | None:
    says = (certificate.kind, certificate.verifier, certificate.error_type, certificate.confidence)
    if says != (found.kind, found.verifier, found.error_type, found.confidence):
        return f"verdict {found.id} was {found.kind} by {found.verifier}, the certificate says {says}"
    return None


def _suspect_was_judged(log: LogModel, certificate: Certificate, suspect: int, kinds: tuple[str, ...], tally: Tally) -> str | None:
    commit, found = log.commits[suspect], tally.judgements.get(certificate.prompt)
    if found is None or certificate.kind not in kinds:
        return f"suspect {suspect}: verdict {certificate.prompt!r} of kind {certificate.kind} was not given or is not enough"
    really = (found.run, found.step, found.position, found.output)
    if really != (log.run, suspect, commit.position, commit.output) or certificate.output != commit.output:
        return f"suspect {suspect}: verdict {found.id} was about {found}"
    return _same_words(certificate, found)


def _output_was_made(log: LogModel, certificate: Certificate, tally: Tally) -> str | None:
    made = tally.outputs_of(log.run, certificate.step, certificate.lineage, certificate.attempt, certificate.inputs)
    if certificate.output in made:
        return None
    return f"step {certificate.step}: attempt {certificate.attempt} of lineage {certificate.lineage} never made this output"


RecordLaw = Callable[[LogModel, Record, Tally], str | None]

RECORD_LAWS: tuple[RecordLaw, ...] = (
    nothing_follows_the_end,
    commit_is_certified,
    rejection_is_certified,
    proposal_is_true,
    repeated_output_needs_another_judge,
    committed_once,
    rollback_is_whole,
    clearing_is_true,
    command_was_given,
    retries_are_bounded,
    end_is_true,
    parked_on_the_outside,
)


# --- about executions: (the log when a worker begins, the execution, the tally) ----------------------------------------------


def runs_what_is_open(log: LogModel, new: Execution, tally: Tally) -> Iterator[str]:
    """Law 4, and persist before act: what is begun is open in the log, on inputs that stand in it."""
    step = new.step
    if log.finished is not None:
        yield f"step {step} runs after the end of its run"
    if log.parked is not None:
        yield f"step {step} runs while the log says that the run is parked, so that anybody may take it over"
    if step in log.commits:
        yield f"step {step} runs again in lineage {new.lineage}, where it is committed"
    if new.lineage != log.lineage[step]:
        yield f"step {step} runs in lineage {new.lineage}; rollbacks removed it {log.lineage[step]} times"
    if new.attempt <= max(log.closed.get(step, [-1])):
        yield f"step {step} runs attempt {new.attempt}; attempts {log.closed[step]} have ended"
    if new.inputs != log.inputs(step):
        yield f"step {step} runs on inputs that do not stand in the log"
    if not log.retries_left(step):
        yield f"step {step} runs without a retry left"
    if log.spec(step).approve_before and (step, new.lineage, b"") not in log.approvals:
        yield f"step {step} runs before a person let it"


def repeats_have_an_end(log: LogModel, new: Execution, tally: Tally) -> Iterator[str]:
    """Lost workers are replaced free of charge only so often, votes have a last sample, and a poisoned run is left alone."""
    policies, spec = log.plan.policies, log.spec(new.step)
    alike = [one for one in tally.executed(log.run) if (one.step, one.attempt, one.token) == (new.step, new.attempt, new.token)]
    again = sum(one.sample == new.sample for one in alike)
    if again > policies.worker_losses_max:
        yield f"step {new.step}: sample {new.sample} of attempt {new.attempt} begins for the {again + 1}th time under one owner"
    if new.sample >= max(1, spec.samples_max):
        yield f"step {new.step}: sample {new.sample} begins of at most {spec.samples_max}"
    if log.claims > policies.claims_max:
        yield f"the run goes on after {log.claims} claims without progress"


def stays_in_budget(log: LogModel, new: Execution, tally: Tally) -> Iterator[str]:
    """Law 5: attempts, tokens and time across retries, crashes and resumes."""
    budget = log.plan.policies.budget
    if budget is None:
        return
    done = [one for one in tally.executed(log.run) if one is not new]
    began = len(done) + 1 - log.executions_forgiven
    if began > log.started:
        yield f"execution {began} begins and the log reserves for {log.started}"
    if budget.attempts is not None and began > budget.attempts:
        yield f"execution {began} begins under a budget of {budget.attempts}"
    if budget.tokens is not None and not log.executions_forgiven:
        spent = tally.tokens_spent(log.run, new)
        if spent + STEP_TOKENS_MAX > budget.tokens:
            yield f"an execution begins with {spent} of {budget.tokens} tokens spent and up to {STEP_TOKENS_MAX} needed"
    if budget.seconds is not None and log.elapsed_s(new.asked_at) > budget.seconds + _SECONDS_SLACK:
        yield f"an execution begins {log.elapsed_s(new.asked_at):.0f} s after admission, allowed are {budget.seconds}"


ExecutionLaw = Callable[[LogModel, Execution, Tally], Iterator[str]]

EXECUTION_LAWS: tuple[ExecutionLaw, ...] = (runs_what_is_open, repeats_have_an_end, stays_in_budget)
