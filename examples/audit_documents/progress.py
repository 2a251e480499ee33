"""What the audit shows while it runs: one line an event."""

from __future__ import annotations

import time

from agentraft_ray import Event, EventType, RunResult, VerificationResult
from agentraft_ray.errors import CORRECTION_HINTS

__all__ = ["Progress", "ending"]

_REASON_CHARS_MAX = 160


class Progress:
    """An `on_event` hook that prints the trace of a run of `total` steps. `committed`: how many of them are done already."""

    def __init__(self, total: int) -> None:
        self.committed = 0
        self._total = total
        self._started_s = time.monotonic()
        self._silent = True
        self._stopping = False

    def __call__(self, event: Event) -> None:
        self._silent = False
        for line in self.lines(event):
            print(line, flush=True)

    def restart_clock(self) -> None:
        """Count time from now on."""
        self._started_s = time.monotonic()

    def announce_stop(self) -> None:
        """Say that the run ends early, once."""
        if not self._stopping:
            print("stopping: steps under way are left, what is committed stays", flush=True)
        self._stopping = True

    def explain_silence(self) -> None:
        """Say why nothing has happened yet, if nothing has."""
        if self._silent:
            print("waiting: another process works on this run, or was killed a moment ago and still holds it for some seconds", flush=True)

    def lines(self, event: Event) -> list[str]:
        """The lines for an event; most have one, some none."""
        match event.type:
            case EventType.STEP_START:
                return [self._line("▶", event.step_name)]
            case EventType.STEP_COMMITTED:
                self.committed += 1
                return [self._line("✓", f"{event.step_name} COMMITTED", f"{self.committed}/{self._total}")]
            case EventType.STEP_FAILED if event.verification is not None:
                return [self._line("✗", f"{event.step_name} {event.verification.error_type}", _reason(event.verification))]
            case EventType.STEP_FAILED:
                return [self._line("✗", f"{event.step_name} FAILED", event.detail)]
            case EventType.STEP_ROLLBACK:
                return [self._line("↺", f"{event.step_name} rollback → {event.detail}")]
            case EventType.STEP_RETRY:
                return [self._line("⟳", f"{event.step_name} retry {event.detail}")]
            case EventType.RUN_PARKED if not self._stopping:
                return [self._line("⏸", f"waiting: {event.detail}")]
        return []

    def _line(self, mark: str, text: str, more: str = "") -> str:
        seconds = time.monotonic() - self._started_s
        return f"{seconds:6.1f} s  {mark} {text}{'  ' if more else ''}{more}".rstrip()


def ending(result: RunResult) -> str:
    """The last line of the trace."""
    summary = result.summary()
    mark = "🎉 run_success" if result.success else "✗ run_failed"
    return (
        f"{mark} verified {summary['verified']} · rollbacks {summary['rollbacks']} · reliability {summary['reliability']}"
        f" · {result.elapsed_ms / 1000:.1f} s"
    )


def _reason(verdict: VerificationResult) -> str:
    reason = (verdict.hint or "").removeprefix(CORRECTION_HINTS.get(verdict.error_type, "")).strip(" ()")
    return reason if len(reason) <= _REASON_CHARS_MAX else f"{reason[:_REASON_CHARS_MAX]}..."
