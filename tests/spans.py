"""What a test sees of the spans that were made: OpenTelemetry's own SDK with an exporter in memory, and questions about the traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

__all__ = ["Spans", "recorded"]


class Spans:
    """The spans that have ended by now."""

    def __init__(self, exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
        self._exporter = exporter
        self.tracer = provider.get_tracer("test")

    def all(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found

    def parent(self, span: ReadableSpan) -> ReadableSpan | None:
        """The span that a span is a child of; None for a root. Fails where there is none of that id."""
        if span.parent is None:
            return None
        (found,) = (one for one in self.all() if one.context.span_id == span.parent.span_id)
        return found

    def path(self, span: ReadableSpan) -> list[str]:
        """The names from the root down to a span."""
        above = self.parent(span)
        return [*(self.path(above) if above is not None else []), span.name]

    def check_one_trace(self) -> None:
        """All spans belong to one trace, whose spans hang together under one root."""
        spans = self.all()
        assert len({span.context.trace_id for span in spans}) == 1
        assert len({self.path(span)[0] for span in spans}) == 1
        assert sum(span.parent is None for span in spans) == 1
        for span in spans:
            parent = self.parent(span)
            assert parent is None or parent.start_time <= span.start_time, f"{span.name} began before {parent.name}"

    def links(self, span: ReadableSpan) -> list[tuple[str, str]]:
        """(why, name of the span that it leads to) of every link."""
        by_id = {one.context.span_id: one.name for one in self.all()}
        return [(link.attributes["agentraft.link"], by_id.get(link.context.span_id, "?")) for link in span.links]


@contextmanager
def recorded(**words: Any) -> Iterator[Spans]:
    """Tracing is configured in here. OpenTelemetry takes one provider a process, so it is put where that stands."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **words)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = provider
    try:
        yield Spans(exporter, provider)
    finally:
        trace._TRACER_PROVIDER = before
        provider.shutdown()
