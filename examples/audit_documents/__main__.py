"""The command line of the audit: starts it, shows it, resumes it, and says where the report is."""

from __future__ import annotations

import argparse
import asyncio
import io
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentraft_ray import AgentRaftError, Coordinator, RunResult, wrap
from agentraft_ray.errors import FingerprintMismatch, InvalidConfig, RunExpired, RunNotFound
from examples.audit_documents import report
from examples.audit_documents.checks import audit_verifier
from examples.audit_documents.corpus import NoDocuments
from examples.audit_documents.pipeline import Audit, audit_of
from examples.audit_documents.progress import Progress, ending

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_PATIENCE_S = 1.5
_PROGRAM = "python -m examples.audit_documents"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; the exit code: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ✓ shows ? instead
    try:
        audit = audit_of(options.directory, options.out)
        Path(audit.task.inputs["out"]).mkdir(parents=True, exist_ok=True)
    except (NoDocuments, OSError) as reason:
        print(f"audit_documents: {reason}", file=sys.stderr)
        return USAGE
    try:
        return asyncio.run(_audit(audit, options))
    except InvalidConfig as reason:
        print(f"audit_documents: {reason}", file=sys.stderr)
        return USAGE
    except FingerprintMismatch as reason:
        print(f"audit_documents: {reason}; or start over with --fresh", file=sys.stderr)
        return FAILED
    except AgentRaftError as reason:
        print(f"audit_documents: {reason}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Reads text documents, compares them with each other and writes a report in which every figure is counted "
        "twice and every quotation is looked up in its source. Interrupt it and run it again: it goes on where it was.",
    )
    parser.add_argument("directory", nargs="?", help="the documents (default: this project's docs and the installed packages' papers)")
    parser.add_argument("--out", metavar="DIR", help="where report.md goes (default: a folder in .agentraft/reports)")
    parser.add_argument("--in-process", action="store_true", help="run in this process, without a Ray cluster of its own")
    parser.add_argument(
        "--store", default="embedded", help="embedded (default, durable), the URL of a Redis server, or memory (in process)"
    )
    parser.add_argument("--fresh", action="store_true", help="audit again, even if these very documents were audited before")
    return parser


async def _audit(audit: Audit, options: argparse.Namespace) -> int:
    """Find the run that these documents had before, if any; start, resume or show it."""
    progress = Progress(len(audit.pipeline))
    async with _coordinator(audit, options, progress) as coordinator:
        audit, before = await _latest(coordinator, audit, fresh=options.fresh)
        run_id, steps = audit.task.id, len(audit.pipeline)
        where = "this process" if _is_in_process(options) else "a Ray cluster on this machine"
        print(f"{audit.documents:,} documents, {steps} steps, run {run_id}, in {where}, store {options.store}", flush=True)
        if before is not None and before.success:
            print("the very same documents were audited before; --fresh audits them again")
            return _show(before, audit)
        if before is not None:
            progress.committed = before.verified_count
            print(f"resuming run {run_id} from checkpoint {before.verified_count} of {steps}", flush=True)
        result = await _until_interrupted(coordinator.run(audit.task), progress)
        if result is None:
            print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            return INTERRUPTED
        print(ending(result))
        return _show(result, audit)


@asynccontextmanager
async def _coordinator(audit: Audit, options: argparse.Namespace, progress: Progress) -> AsyncIterator[Coordinator]:
    """The same pipeline with the same verifier, in one process or on a cluster."""
    settings: dict[str, Any] = {"verifier": audit_verifier(), "on_event": progress, "on_open": "fail"}
    if _is_in_process(options):
        async with wrap(audit.pipeline, store=options.store, **settings) as coordinator:
            yield coordinator
        return
    from agentraft_ray.cluster import Cluster  # noqa: PLC0415 - Ray only where it is used

    print("starting a Ray cluster on this machine (some seconds; --in-process does without) ...", flush=True)
    cluster = Cluster.launch(store=options.store, workers=2, log_to_driver=False)
    async with cluster, wrap(audit.pipeline, cluster=cluster, **settings) as coordinator:
        progress.restart_clock()
        yield coordinator


def _is_in_process(options: argparse.Namespace) -> bool:
    return bool(options.in_process or options.store == "memory")


async def _latest(coordinator: Coordinator, audit: Audit, *, fresh: bool) -> tuple[Audit, RunResult | None]:
    """The run to work on and how it stands: None for a new one. A run that failed stays as it is, the next one starts anew."""
    generation, last = 0, None
    while (found := await _result(coordinator, audit.again(generation).task.id)) is not None:
        generation, last = generation + 1, found
    if fresh or last is None or last.status not in ("waiting", "running", "succeeded"):
        return audit.again(generation), None
    return audit.again(generation - 1), last


async def _result(coordinator: Coordinator, run_id: str) -> RunResult | None:
    try:
        return await coordinator.result(run_id)
    except RunNotFound:
        return None
    except RunExpired:
        return RunResult(run_id, success=False, status="failed")


async def _until_interrupted(work: Coroutine[None, None, RunResult], progress: Progress) -> RunResult | None:
    """The result, or None when Ctrl-C or a TERM signal came first: what is committed by then stays committed."""
    running = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    patience = loop.call_later(_PATIENCE_S, progress.explain_silence)

    def stop() -> None:
        progress.announce_stop()
        running.cancel()

    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stop)
    try:
        return await running
    except asyncio.CancelledError:
        return None
    finally:
        patience.cancel()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(one)


def _show(result: RunResult, audit: Audit) -> int:
    if not result.success:
        print(f"audit_documents: {result.error}", file=sys.stderr)
        return FAILED
    draft = next(step.output for step in result.steps if step.name == "draft")
    for claim in draft["Summary"]:
        print(f"  {claim['text']}")
    path = Path(report.path_in(audit.task.inputs["out"]))
    if not path.is_file():
        # A finished run does not publish again; its log still holds what it published.
        report.publish(str(path.parent), report.render(draft, audit.task.id), audit.task.id)
    print(f"report: {path}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
