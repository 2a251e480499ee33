"""The audit as a pipeline and a task: the graph of steps, the size of its shards, the id of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from agentraft_ray import Pipeline, Step, Task
from agentraft_ray.checkpoint.embedded import default_directory
from examples.audit_documents import corpus, report, steps

__all__ = ["Audit", "audit_of"]

AUDIT_VERSION = "1"  # part of the run id: change it when a step changes its meaning
_SHARD_DOCUMENTS = 250  # at the most, so that a shard's facts stay far below the store's limit for one output
_SHARDS_WANTED = 4
_SHARD_DOCUMENTS_MIN = 20  # fewer are not worth a step of their own


@dataclass(frozen=True, slots=True)
class Audit:
    """A pipeline and the task for one directory as it is now."""

    pipeline: Pipeline
    task: Task
    documents: int

    def again(self, generation: int) -> Audit:
        """The same audit as another run; generation 0 has the plain id."""
        plain = self.task.id.partition(".")[0]
        return replace(self, task=replace(self.task, id=f"{plain}.{generation}" if generation else plain))


def audit_of(directory: str | None, out: str | None = None) -> Audit:
    """The audit of `directory` (None: the project and its packages) with its report in the folder `out`.

    The run id follows from the documents' names and contents, so that the same audit is the same run. Raises NoDocuments.
    """
    where = None if directory is None else str(Path(directory).resolve())
    documents = corpus.collect(where, without=out and report.path_in(out))
    digest = corpus.corpus_digest(documents)
    folder = str(Path(out or default_directory() / "reports" / f"{Path(where or 'project').name}-{digest[:8]}").resolve())
    shards = _shards(len(documents))
    inputs = {"directory": where, "out": folder, "corpus": digest, "shards": shards}
    key = hashlib.sha256("\n".join((AUDIT_VERSION, str(where), folder, digest)).encode("utf-8", "surrogateescape")).hexdigest()
    goal = "Report what these documents state, and where they contradict each other"
    task = Task(goal, inputs, id=f"audit-{key[:16]}")
    return Audit(_pipeline(shards), task, len(documents))


def _pipeline(shards: int) -> Pipeline:
    extracts = [f"extract_{shard}" for shard in range(shards)]
    return Pipeline(
        [
            Step("survey", steps.survey, goal="List the documents of the task"),
            *(Step(name, steps.extract, goal="Read every document of the shard", after="survey") for name in extracts),
            Step("cross_check", steps.compare, goal="Find contradictions between the documents", after=extracts),
            Step("draft", steps.draft, goal="Write a complete report in which every figure and quotation has a source"),
            Step("review", steps.review, goal="Recount and look up every quotation again"),
            Step("publish", steps.publish, goal="Write the reviewed report to its place"),
        ],
        name="audit_documents",
    )


def _shards(documents: int) -> int:
    wanted = min(_SHARDS_WANTED, documents // _SHARD_DOCUMENTS_MIN)
    return max(1, wanted, -(-documents // _SHARD_DOCUMENTS))
