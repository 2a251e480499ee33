"""What actors of the telemetry tests call once: spans of this process go to a file of the Ray session, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import ray
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


def folder() -> Path:
    """Where the spans of this Ray session are."""
    made = Path(ray._private.worker._global_node.get_session_dir_path()) / "spans"
    made.mkdir(exist_ok=True)
    return made


class FileExporter(SpanExporter):
    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a") as file:
            file.writelines(json.dumps(json.loads(span.to_json())) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


def set_up() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(folder() / f"{os.getpid()}.jsonl")))
    trace.set_tracer_provider(provider)
