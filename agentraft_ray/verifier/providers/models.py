"""The one table of models: which is used when none is named, and how each kind of model is asked. No model is named anywhere else.

A model that is not in the table is asked like its newest relatives; where its server answers 400 and says what it does not know,
that is left out from then on (`adapted`).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

__all__ = ["DEFAULT_MODELS", "Manner", "Mechanism", "Thinking", "accepts_temperature", "adapted", "manner_of"]

# Small, cheap models: a verdict is a short text. Named by what their providers list as current in November 2026.
DEFAULT_MODELS: dict[str, str] = {
    "bedrock": "global.anthropic.claude-haiku-4-5-20251001-v1:0",
    "openai": "gpt-6-luna",
    "anthropic": "claude-haiku-5-5",
    "gemini": "gemini-3.5-flash-lite",
}
"""Provider name -> the model that is used when none is named."""


class Mechanism(str, Enum):
    """How a model is held to the form of a verdict, strictest first."""

    SCHEMA = "schema"  # the provider's own mode for a JSON schema
    STRICT_TOOL = "strict_tool"  # a tool that must be called, whose arguments the provider checks
    TOOL = "tool"  # a tool that must be called
    JSON = "json"  # some JSON object
    PROMPT = "prompt"  # asked for in words; the reply is parsed


class Thinking(str, Enum):
    """What is done about a model's thinking, which would use up the tokens of a verdict."""

    AS_IS = "as_is"  # it has none, or does not take a setting
    OFF = "off"
    LEAST = "least"  # it cannot be switched off


class Manner(NamedTuple):
    """How a model is asked. `system`: it takes a system prompt. `new_limit`: max_tokens has OpenAI's newer name."""

    mechanism: Mechanism
    thinking: Thinking = Thinking.AS_IS
    temperature: bool = True
    system: bool = True
    new_limit: bool = False


_SCHEMA = Manner(Mechanism.SCHEMA)
_STRICT_TOOL = Manner(Mechanism.STRICT_TOOL)
_TOOL = Manner(Mechanism.TOOL)
_PROMPT = Manner(Mechanism.PROMPT)

# Provider -> (what the id contains, manner); the first that matches counts, "" matches all. Newer models answer 400 to a temperature,
# or ignore it.
_MANNERS: dict[str, tuple[tuple[str, Manner], ...]] = {
    "anthropic": (
        (r"claude-(?:2|instant|3|(?:opus|sonnet)-4(?:-0|-1)?(?:-\d{8})?$|4-)", _TOOL),
        (r"(?:haiku|sonnet|opus)-4-[56](?!\d)", _SCHEMA),
        (r"opus-4-|mythos-preview", _SCHEMA._replace(temperature=False)),
        (r"(?:fable|mythos)-5|opus-5-5", _SCHEMA._replace(thinking=Thinking.LEAST, temperature=False)),
        ("", _SCHEMA._replace(thinking=Thinking.OFF, temperature=False)),
    ),
    "bedrock": (
        (r"claude-(?:v2|instant|3|(?:opus|sonnet)-4(?:-1)?-\d{8})", _TOOL),
        (r"claude-(?:haiku|sonnet|opus)-4-[56](?!\d)", _SCHEMA),
        (r"claude-opus-4-", _STRICT_TOOL._replace(temperature=False)),
        (r"claude-(?:fable|mythos)|claude-opus-5-5", _SCHEMA._replace(thinking=Thinking.LEAST, temperature=False)),
        (r"claude", _SCHEMA._replace(thinking=Thinking.OFF, temperature=False)),
        (r"amazon\.nova", _TOOL),
        (r"amazon\.titan|cohere\.command-(?:text|light)|ai21\.j2|mistral-7b-instruct|mixtral-8x7b", _PROMPT._replace(system=False)),
        (r"mistral-(?:large|small)-24\d\d|pixtral", _TOOL),
        (r"mistral\.(?:mistral-large-3|ministral|magistral|voxtral|devstral)", _SCHEMA),
        (r"openai\.gpt-oss", _SCHEMA),
        (r"openai\.gpt", _SCHEMA._replace(temperature=False)),
        (r"qwen\.qwen3|deepseek\.v3|google\.gemma-3|nvidia\.nemotron|minimax|moonshot|zai\.", _SCHEMA),
        ("", _PROMPT),  # Llama, Cohere, AI21, DeepSeek R1: Converse cannot make these call a tool
    ),
    "openai": (
        (r"(?:^|/)gpt-(?:3|4)|chatgpt", Manner(Mechanism.SCHEMA, new_limit=True)),
        (r"(?:^|/)gpt-5(?:-|$)", Manner(Mechanism.SCHEMA, Thinking.LEAST, temperature=False, new_limit=True)),
        (r"(?:^|/)gpt-(?:[5-9]|\d\d)", Manner(Mechanism.SCHEMA, Thinking.OFF, temperature=False, new_limit=True)),
        (r"(?:^|/)o\d", Manner(Mechanism.SCHEMA, temperature=False, new_limit=True)),
        ("", Manner(Mechanism.SCHEMA, new_limit=True)),
    ),
    "gemini": (
        (r"gemini-[12](?:\.0|\.1|-|$)|gemini-1\.5|gemma", _SCHEMA),
        (r"gemini-2\.5-pro", _SCHEMA),
        (r"gemini-2\.5", _SCHEMA._replace(thinking=Thinking.OFF)),
        ("", _SCHEMA._replace(thinking=Thinking.LEAST, temperature=False)),
    ),
}

# vLLM, Ollama, gateways: a model of OpenAI's is asked as there, and what the others know is found out by asking.
_MANNERS["compatible"] = (*_MANNERS["openai"][:-1], ("", _SCHEMA))

# What a 400 speaks of -> what is left out.
_FORMAT_WORDS = re.compile(
    r"response_?format|json_?schema|output_?(?:config|format)|text_?format|structured.?output|guided|response_?mime", re.IGNORECASE
)
_TOOL_WORDS = re.compile(r"tool", re.IGNORECASE)
_THINKING_WORDS = re.compile(r"thinking|reasoning|effort", re.IGNORECASE)
_LESS_STRICT: dict[str, dict[Mechanism, Mechanism]] = {
    "openai": {Mechanism.SCHEMA: Mechanism.JSON, Mechanism.JSON: Mechanism.PROMPT},
    "gemini": {Mechanism.SCHEMA: Mechanism.JSON, Mechanism.JSON: Mechanism.PROMPT},
    "anthropic": {Mechanism.SCHEMA: Mechanism.STRICT_TOOL, Mechanism.STRICT_TOOL: Mechanism.TOOL, Mechanism.TOOL: Mechanism.PROMPT},
    "bedrock": {Mechanism.SCHEMA: Mechanism.STRICT_TOOL, Mechanism.STRICT_TOOL: Mechanism.TOOL, Mechanism.TOOL: Mechanism.PROMPT},
}


def manner_of(provider: str, model: str, *, compatible: bool = False) -> Manner:
    """How a model is asked, by the table. `compatible`: it is served by somebody else over the provider's protocol."""
    rows = _MANNERS["compatible" if compatible and provider == "openai" else provider]
    return next(manner for pattern, manner in rows if not pattern or re.search(pattern, model))


def adapted(provider: str, manner: Manner, said: str) -> Manner | None:
    """Another manner after a server has answered 400 with `said`: without what it does not know. None where it speaks of none of it."""
    if manner.temperature and "temperature" in said:
        return manner._replace(temperature=False)
    if "max_completion_tokens" in said or ("max_tokens" in said and "not supported" in said):
        return manner._replace(new_limit=not manner.new_limit) if provider == "openai" else None
    if manner.thinking is not Thinking.AS_IS and _THINKING_WORDS.search(said):
        return manner._replace(thinking=Thinking.LEAST if manner.thinking is Thinking.OFF else Thinking.AS_IS)
    is_about_form = _FORMAT_WORDS.search(said) or (manner.mechanism in (Mechanism.STRICT_TOOL, Mechanism.TOOL) and _TOOL_WORDS.search(said))
    weaker = _LESS_STRICT[provider].get(manner.mechanism)
    if is_about_form and weaker is not None:
        return manner._replace(mechanism=weaker)
    if manner.system and "system" in said.lower():
        return manner._replace(system=False)
    return None


def accepts_temperature(provider: str, model: str) -> bool:
    """Whether the table has the model take a temperature."""
    return manner_of(provider, model).temperature
