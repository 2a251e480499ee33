"""Planted bugs: known mistakes that the simulator must catch, each a context manager that breaks one rule while it is open.

Not for use outside tests. They patch the real classes, so that a rule that moves takes its bug along or fails loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from agentraft_ray.breaker import ScopedBreakers
from agentraft_ray.checkpoint.log_table import LogTable
from agentraft_ray.protocol import decide, dispatch, judgement
from agentraft_ray.protocol.attempt import Phase
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import PermitDenied, WorkerLost
from agentraft_ray.protocol.records import OwnerClaimed, RolledBack
from agentraft_ray.protocol.state import _APPLY, RunState, StepHistory
from agentraft_ray.testing import mistakes
from agentraft_ray.testing.host import Host

__all__ = ["BUGS"]

Bug = Callable[[], AbstractContextManager[None]]


@contextmanager
def _patched(*patches: tuple[Any, Any, mistakes.Make]) -> Iterator[None]:
    """(owner, name, make): `make` gets the present value and gives the broken one."""
    with ExitStack() as undo:
        for owner, name, make in patches:
            present = owner[name] if isinstance(owner, dict) else getattr(owner, name)
            if isinstance(owner, dict):
                undo.callback(owner.__setitem__, name, present)
                owner[name] = make(present)
            else:
                undo.callback(setattr, owner, name, present)
                setattr(owner, name, make(present))
        yield


def _bug(*patches: tuple[Any, Any, mistakes.Make]) -> Bug:
    return partial(_patched, *patches)


BUGS: dict[str, Bug] = {
    "act_before_persist": _bug((Host, "act_early", mistakes.acts_at_once)),
    "no_owner_check": _bug((LogTable, "refusal", mistakes.fences_nobody)),
    "owner_by_epoch_only": _bug((LogTable, "refusal", mistakes.compares_epochs), (RunMachine, "feed", mistakes.hears_equal_epochs)),
    "equal_epochs": _bug((Host, "next_epoch", mistakes.reuses_the_epoch)),
    "claim_over_a_lease": _bug((LogTable, "lease_alive", mistakes.always(False))),
    "late_owner_dispatches": _bug((Host, "is_late", lambda _: False)),
    "rewind_unnoticed": _bug((Host, "_notice_a_rewind", mistakes.always(None))),
    "no_append_id": _bug((LogTable, "is_duplicate", mistakes.always(False))),
    "retry_written_twice": _bug((LogTable, "append", mistakes.writes_a_retry_again)),
    "reply_of_an_earlier_life": _bug((RunMachine, "feed", mistakes.hears_everybody)),
    "commit_without_certificate": _bug((judgement, "reject", mistakes.commits_what_was_rejected)),
    "fault_is_a_pass": _bug((judgement, "verifier_failed", mistakes.fault_passes)),
    "named_time_not_heard": _bug((judgement, "verifier_failed", mistakes.forgets_the_time)),
    "late_verdict_after_rollback": _bug(
        (RunMachine, "abandon_calls", mistakes.remembers_closed_calls), (RunMachine, "feed", mistakes.takes_late_verdicts)
    ),
    "rollback_lists_too_little": _bug((RunState, "fallen_with", mistakes.forgets_a_dependent)),
    "rollback_keeps_a_dependent": _bug((_APPLY, RolledBack, mistakes.keeps_a_dependent)),
    "blame_is_believed": _bug((judgement, "recheck", mistakes.believes_blame)),
    "lineage_stays_after_rollback": _bug((StepHistory, "start_lineage", mistakes.same_lineage)),
    "attempts_restart_after_rollback": _bug((StepHistory, "start_lineage", mistakes.first_attempt_again)),
    "repeat_judged_alike": _bug((judgement, "judge", mistakes.judges_its_own_repeat)),
    "retries_without_end": _bug((RunState, "exhausted", mistakes.always(False))),
    "budget_starts_anew": _bug((_APPLY, OwnerClaimed, mistakes.starts_anew)),
    "reservations_refunded_on_claim": _bug((_APPLY, OwnerClaimed, mistakes.refunds_on_claim)),
    "poison_swallowed": _bug((_APPLY, OwnerClaimed, mistakes.forgets_claims)),
    "workers_without_end": _bug((decide.TABLE, (Phase.RUNNING, WorkerLost), mistakes.replaces_workers_for_ever)),
    "timeouts_refunded": _bug((RunState, "_keep_reserved", mistakes.always(None))),
    "dispatch_without_reservation": _bug((dispatch, "_send", mistakes.reserves_nothing)),
    "approval_of_another_output": _bug(
        (decide, "_is_about", mistakes.always(True)), (decide, "_decide_approval", mistakes.approves_anything)
    ),
    "gate_stands_open": _bug((dispatch, "start_step", mistakes.opens_every_gate)),
    "command_stays_in_the_inbox": _bug((decide, "take_command", mistakes.leaves_commands)),
    "cancel_goes_on": _bug((RunMachine, "finish", mistakes.ignores_cancel)),
    "resumed_in_silence": _bug((RunMachine, "persist", mistakes.resumes_in_silence)),
    "finished_twice": _bug((RunMachine, "finish", mistakes.finishes_twice)),
    "parked_for_ever": _bug((decide.TABLE, (Phase.PERMIT, PermitDenied), mistakes.parks_without_alarm)),
    "lost_verdict_waited_for": _bug((decide, "take_tick", mistakes.waits_for_ever)),
    "state_changed_behind_the_log": _bug((RunMachine, "feed", mistakes.changes_unpersisted)),
    "two_probes": _bug((ScopedBreakers, "_acquire_probe", mistakes.probes_for_all)),
    "permit_given_away": _bug((RunMachine, "permits", mistakes.gives_permits_away)),
}
"""Name -> a context manager inside which the bug is there."""
