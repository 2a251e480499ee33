"""What spans and their attributes are called: every name of ours and of OpenTelemetry's GenAI conventions, and nothing else.

The GenAI conventions are in development and move (in 2026 they left OpenTelemetry's own repository, and the constants of its Python
package are deprecated), so the names that we use are written down here, and only here: those of semantic-conventions-genai 0.1.0.

No span carries what a user wrote or a model made: no goal, input, output, hint, reasoning or evidence.
"""

from __future__ import annotations

from typing import Final

__all__ = ["provider_and_model"]

INSTRUMENTATION: Final = "agentraft_ray"
"""The name of the tracer."""

# --- spans. What follows the blank is a name from the pipeline, so that span names are few.

SUBMIT: Final = "submit {pipeline}"
"""A run is admitted, durably. The parent of all that follows in its trace; a child of the caller's span, where there is one."""
FORK: Final = "fork {pipeline}"
"""The same for a fork; linked to the trace that it was forked from."""
RUN: Final = "invoke_workflow {pipeline}"
"""A stretch of a run: from its claim, or from when it goes on, until it has ended, waits for something outside, or is given up.
Linked to the stretch before."""
STEP: Final = "step {step}"
"""A step within a stretch, over all of its attempts. Linked to the span of the same step before, after a rollback or a wait."""
ATTEMPT: Final = "invoke_agent {step}"
"""One attempt at a step: from its dispatch until what became of it stands in the log."""
EXECUTE: Final = "execute {step}"
"""The step function itself, in the process of a worker."""
VERDICT: Final = "evaluate {step}"
"""One verdict about an output."""
JUDGE: Final = "judge {step}"
"""The verifier itself, in the process of a verifier actor."""

# --- GenAI conventions

OPERATION: Final = "gen_ai.operation.name"
INVOKE_WORKFLOW: Final = "invoke_workflow"
INVOKE_AGENT: Final = "invoke_agent"
AGENT: Final = "gen_ai.agent.name"  # of a workflow too
PROVIDER: Final = "gen_ai.provider.name"
MODEL: Final = "gen_ai.request.model"
EVALUATION: Final = "gen_ai.evaluation.name"
EVALUATION_LABEL: Final = "gen_ai.evaluation.score.label"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
ERROR_TYPE: Final = "error.type"  # of the general conventions

_PROVIDERS = {"anthropic": "anthropic", "bedrock": "aws.bedrock", "gemini": "gcp.gemini", "openai": "openai"}

# --- ours

RUN_ID: Final = "agentraft.run.id"
EPOCH: Final = "agentraft.run.epoch"
OUTCOME: Final = "agentraft.run.outcome"
WAITING_FOR: Final = "agentraft.run.waiting_for"
STEP_NAME: Final = "agentraft.step.name"
STEP_INDEX: Final = "agentraft.step.index"
CRITICALITY: Final = "agentraft.step.criticality"
LINEAGE: Final = "agentraft.step.lineage"
ATTEMPT_NUMBER: Final = "agentraft.attempt.number"
SAMPLE: Final = "agentraft.attempt.sample"
HINTED: Final = "agentraft.attempt.hinted"
RESULT: Final = "agentraft.result"
"""What became of a step or an attempt: committed, rejected, failed, or one of the three below."""
WAITING, ABANDONED, REMOVED = "waiting", "abandoned", "removed"
VERDICT_KIND: Final = "agentraft.verdict.kind"
SUSPECT: Final = "agentraft.verdict.suspect"
COST_TOKENS: Final = "agentraft.cost.tokens"
COST_USD: Final = "agentraft.cost.usd"
COST_SECONDS: Final = "agentraft.cost.seconds"
LINK: Final = "agentraft.link"
"""Why a span is linked: continues (an earlier stretch, or an earlier span of the same step), forked."""
CONTINUES, FORKED = "continues", "forked"

# --- events of spans

ROLLED_BACK: Final = "rolled_back"
CLEARED: Final = "suspect_cleared"
WORKER_LOST: Final = "worker_lost"
STEPS_REMOVED: Final = "agentraft.steps.removed"
ACCUSER: Final = "agentraft.accuser"


def provider_and_model(verifier: str) -> tuple[str, str] | None:
    """The GenAI names of the provider and the model that a verifier's name tells of; None where it tells of none.

    >>> provider_and_model("llm-bedrock:amazon.nova-lite-v1:0")
    ('aws.bedrock', 'amazon.nova-lite-v1:0')
    """
    kind, _, model = verifier.partition(":")
    if not kind.startswith("llm-") or not model:
        return None
    provider = kind.removeprefix("llm-")
    return _PROVIDERS.get(provider, provider), model
