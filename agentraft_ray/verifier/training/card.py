"""The model card: what was trained on what, what it reaches, where it ends. Written from figures alone, never by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentraft_ray.verifier.classifier import Scoring
from agentraft_ray.verifier.classifier.model_directory import Manifest
from agentraft_ray.verifier.training.report import family_rows, fold_rows, table

__all__ = ["model_card"]

_LIMITS = """\
- It was trained and measured on short requests and short answers of small models, in English. On anything else, measure it before you
  rely on it (`python -m agentraft_ray.verifier.training eval --model DIRECTORY --cases YOURS.jsonl`); published small verifiers are at
  chance on agents that they were not tuned for.
- It reads the request, the output and marks that are computed from the two. It knows no facts of the world, does no arithmetic beyond
  the relations that the marks name, and sees nothing that was not given to it.
- A score within a family tells more than one over all of them: pooled figures flatter, since they reward knowing which tasks are hard.
- It is one mechanism. Put deterministic checks before it; let any of them veto."""


def model_card(manifest: Manifest, scoring: Scoring, told: Mapping[str, Any]) -> str:
    """The card of an exported verifier, in Markdown."""
    return "\n".join(_lines(manifest, scoring, told)) + "\n"


def _lines(manifest: Manifest, scoring: Scoring, told: Mapping[str, Any]) -> Iterator[str]:
    size = sum(size for size, _ in manifest.files.values())
    yield from ("# A verifier of agents' outputs", "")
    yield f"Says of an output that answers a request whether it is right, and if not, of which class it is: {', '.join(manifest.labels)}."
    yield from ("", "## Model", "")
    yield f"- base: `{manifest.base}`" + (f" (sha256 of its archive {manifest.base_sha256[:16]})" if manifest.base_sha256 else "")
    yield f"- {manifest.kind}, {size:,} bytes; rendering {manifest.rendering}, at most {manifest.tokens_max} tokens"
    yield f"- temperature {scoring.temperature:.3f}, rejected from P(wrong) = {scoring.threshold:.3f} on: {scoring.chosen or 'the default'}"
    for title, key in (("Training", "training"), ("Data", "data"), ("Cost", "cost")):
        if told.get(key):
            yield from ("", f"## {title}", "")
            yield from (f"- {name.replace('_', ' ')}: {value}" for name, value in told[key].items())
    for name, found in (told.get("sets") or {}).items():
        yield from ("", f"## Measured on {name}", "")
        yield from table(family_rows(found)).splitlines()
    if told.get("study"):
        yield from ("", "## Measured by models that never saw what they were tested on", "")
        yield from table(fold_rows(told["study"])).splitlines()
    yield from ("", "## Limits", "", _LIMITS)
