"""Five agents write a memo; the third one drifts off its goal, is caught, rolled back, and recovers on a typed hint.

``python -m examples.document_workflow`` is scripted: no key, no server. ``--live`` asks the LLM verifier of the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
from collections.abc import Sequence

from agentraft_ray import (
    Criticality,
    ErrorType,
    Event,
    EventType,
    MockVerifier,
    Pipeline,
    Step,
    StepContext,
    Task,
    TieredVerifier,
    Verifier,
    VerifierUnavailable,
    wrap,
)
from agentraft_ray.verifier import detect

__all__ = ["Trace", "main", "pipeline"]

_NO_MODEL = (
    "--live needs an LLM verifier and the environment offers none: set AWS credentials, OPENAI_API_KEY, ANTHROPIC_API_KEY or "
    "GOOGLE_API_KEY, with that provider's package installed, or force a provider with AGENTRAFT_VERIFIER_PROVIDER."
)


def research_agent(ctx: StepContext) -> str:
    return (
        f"Sources for: {ctx.task.goal}. (1) Q3 ledger: revenue 4.2M, up from 3.9M in Q2. (2) Support desk: 312 tickets, 41 "
        "of them about exports. (3) Hiring plan: two engineers start in October."
    )


def analysis_agent(_: StepContext) -> str:
    return (
        "Revenue rose from 3.9M to 4.2M. Exports cause 41 of 312 tickets, the largest single topic. "
        "The two engineers who start in October can take the export work."
    )


def draft_agent(ctx: StepContext) -> str:
    if ctx.hint is None:
        # What a tired model does: it writes fluently about something else.
        return "Our summer party was a success! Everybody loved the band, and next year we should book the lake house again."
    return (
        "Q3 board memo. Revenue: 4.2M, up from 3.9M in Q2. Risk: exports cause 41 of 312 support tickets. "
        "Decision asked for: give the export work to the two engineers who start in October."
    )


def review_agent(ctx: StepContext) -> str:
    return f"Reviewed: figures match the sources, the tone fits a board memo.\n\n{ctx.outputs['draft_agent']}"


def publish_agent(ctx: StepContext) -> str:
    return f"Published the memo to the board folder.\n\n{ctx.outputs['draft_agent']}"


pipeline = Pipeline(
    [
        Step("research_agent", research_agent, goal="Gather sources for the memo"),
        Step("analysis_agent", analysis_agent, goal="Say what the sources mean"),
        Step("draft_agent", draft_agent, goal="Write an on-topic Q3 board memo", criticality=Criticality.HIGH),
        Step("review_agent", review_agent, goal="Check accuracy and tone of the memo"),
        Step("publish_agent", publish_agent, goal="Hand the memo over"),
    ],
    name="document_workflow",
)


class Trace:
    """Prints a run line by line from its events."""

    def __init__(self) -> None:
        self.checkpoints = 0

    def __call__(self, event: Event) -> None:
        line = self.line(event)
        if line:
            print(line, flush=True)

    def line(self, event: Event) -> str | None:
        """The line for an event, or None."""
        match event.type:
            case EventType.STEP_START if event.step_index == 0 and event.attempt == 0:
                return f"▶ {event.step_name}"
            case EventType.STEP_COMMITTED:
                self.checkpoints += 1
                return f"✓ {event.step_name} COMMITTED"
            case EventType.STEP_FAILED:
                verdict = event.verification
                return f"✗ {event.step_name} {verdict.error_type if verdict else event.detail}"
            case EventType.STEP_ROLLBACK:
                return f"↺ {event.step_name} rollback → checkpoint_{self.checkpoints}"
            case EventType.STEP_RETRY:
                return f"⟳ {event.step_name} retry with hint"
        return None


async def run(verifier: Verifier) -> int:
    """Run the pipeline once; the exit code."""
    result = await wrap(pipeline, verifier=verifier, store="memory", on_event=Trace()).run(Task(goal="Write the Q3 board memo"))
    summary = result.summary()
    end = "🎉 run_success" if result.success else "✗ run_failed"
    print(f"{end} verified {summary['verified']} · rollbacks {summary['rollbacks']} · reliability {summary['reliability']}")
    if result.error:
        print(result.error, file=sys.stderr)
    return 0 if result.success else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.document_workflow", description=__doc__.partition("\n")[0])
    parser.add_argument("--live", action="store_true", help="judge with the LLM verifier that the environment names")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ✓ shows ? instead
    verifier: Verifier = MockVerifier({"draft_agent": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    if options.live:
        try:
            model = detect(os.environ)
        except VerifierUnavailable as reason:
            print(reason, file=sys.stderr)
            return 2
        if model is None:
            print(_NO_MODEL, file=sys.stderr)
            return 2
        verifier = TieredVerifier(l2=model)
    return asyncio.run(run(verifier))


if __name__ == "__main__":
    sys.exit(main())
