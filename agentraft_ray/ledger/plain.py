"""From values of the protocol to values that JSON can hold and people can read."""

from __future__ import annotations

import base64
import math
from typing import Any

from agentraft_ray.ledger.views import CostView, VerdictView
from agentraft_ray.protocol.records import Certificate
from agentraft_ray.taxonomy import Cost

__all__ = ["cost_view", "json_value", "verdict_view"]


def json_value(value: Any) -> Any:
    """Plain data as JSON can hold it: bytes become ``{"base64": ...}``, keys text, numbers that are not finite their names."""
    match value:
        case dict():
            return {str(key): json_value(one) for key, one in value.items()}
        case list() | tuple():
            return [json_value(one) for one in value]
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case float() if not math.isfinite(value):
            return str(value)
        case _:
            return value


def cost_view(cost: Cost) -> CostView:
    """A cost."""
    return CostView(cost.tokens, cost.usd, cost.seconds)


def verdict_view(certificate: Certificate, hint: str = "", reasoning: str = "", evidence: tuple[str, ...] = ()) -> VerdictView:
    """A verdict, with what its record says beside the certificate."""
    return VerdictView(
        kind=certificate.kind,
        error_type=certificate.error_type,
        confidence=certificate.confidence,
        verifier=certificate.verifier,
        prompt=certificate.prompt,
        calibration=certificate.calibration,
        hint=hint,
        reasoning=reasoning,
        evidence=evidence,
    )
