"""Trace contexts as text, for our own messages and logs: W3C's traceparent, and behind a comma its tracestate where there is one."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

__all__ = ["context_of", "current_trace", "span_context_of", "trace_text"]

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:,(.*))?")
_TEXT_CHARS_MAX = 600  # a tracestate may have 512 characters


def current_trace() -> str:
    """The context of the span that the caller is in, as text; "" without one, or without OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")  # who has not imported it has no spans
    return "" if trace is None else trace_text(trace.get_current_span().get_span_context())


def trace_text(context: SpanContext) -> str:
    """A span's context as text; "" for that of no span."""
    if not context.is_valid:
        return ""
    text = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return f"{text},{context.trace_state.to_header()}"[:_TEXT_CHARS_MAX] if context.trace_state else text


def span_context_of(text: str) -> SpanContext | None:
    """The context that a text says; None for one that says none. Needs OpenTelemetry."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState  # noqa: PLC0415 - only where somebody traces

    trace_id, span_id, flags, state = found.groups()
    context = SpanContext(
        int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), TraceState.from_header([state]) if state else None
    )
    return context if context.is_valid else None


def context_of(text: str) -> Context:
    """A context whose current span is the one that a text says; an empty one where it says none. Needs OpenTelemetry."""
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context  # noqa: PLC0415

    found = span_context_of(text)
    return Context() if found is None else set_span_in_context(NonRecordingSpan(found), Context())
