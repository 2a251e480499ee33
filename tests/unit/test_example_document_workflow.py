"""The example that prints the seed's trace."""

from __future__ import annotations

import pytest

from agentraft_ray import StepContext, Task
from examples import document_workflow

SEED_TRACE = """\
▶ research_agent
✓ research_agent COMMITTED
✓ analysis_agent COMMITTED
✗ draft_agent GOAL_DRIFT
↺ draft_agent rollback → checkpoint_2
⟳ draft_agent retry with hint
✓ draft_agent COMMITTED
✓ review_agent COMMITTED
✓ publish_agent COMMITTED
🎉 run_success verified 5/5 · rollbacks 1 · reliability 1.0
"""
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY", "AGENTRAFT_VERIFIER_PROVIDER")
_AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK")


def test_it_prints_the_seeds_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert document_workflow.main([]) == 0
    assert capsys.readouterr().out == SEED_TRACE


def test_live_without_a_provider_says_what_to_set(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_KEYS, *_AWS_KEYS):
        monkeypatch.delenv(name, raising=False)
    assert document_workflow.main(["--live"]) == 2
    told = capsys.readouterr()
    assert "OPENAI_API_KEY" in told.err
    assert not told.out


def test_the_draft_leaves_its_goal_until_it_gets_a_hint() -> None:
    task = Task("Write the Q3 board memo")
    assert "party" in document_workflow.draft_agent(StepContext(task))
    assert "Q3 board memo" in document_workflow.draft_agent(StepContext(task, attempt=1, hint="Re-read the goal"))
