"""The JSON schema of a verdict, in the form that every provider's strict mode takes: all properties required, nothing else allowed.

What is said here to a provider, `parse` demands again of whatever comes back.
"""

from __future__ import annotations

import json
from typing import Any

from agentraft_ray.errors import ErrorType

__all__ = ["VERDICT_NAME", "VERDICT_PURPOSE", "VERDICT_SCHEMA", "VERDICT_SCHEMA_JSON"]

VERDICT_NAME = "verdict"
VERDICT_PURPOSE = "Give your verdict about the output."

VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["PASS", *(kind.value for kind in ErrorType if kind is not ErrorType.NONE)]},
        "confidence": {"type": "number", "description": "from 0 to 1"},
        "hint": {"type": ["string", "null"]},
        "reasoning": {"type": "string"},
        "blame": {"type": ["string", "null"]},
    },
    "required": ["verdict", "confidence", "hint", "reasoning", "blame"],
    "additionalProperties": False,
}
VERDICT_SCHEMA_JSON = json.dumps(VERDICT_SCHEMA)
