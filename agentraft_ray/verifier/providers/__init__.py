"""The network side of judging models: per provider one module with one `complete` function over the official SDK, imported late.

Zero retries and explicit time-outs everywhere: the coordinator is the one owner of retries.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agentraft_ray.errors import InvalidConfig, VerifierUnavailable
from agentraft_ray.verifier.providers.completion import Completion, StopReason

__all__ = ["DEFAULT_MODELS", "PROVIDERS", "Completion", "Provider", "ProviderConfig", "StopReason", "accepts_temperature", "complete"]


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One model at one provider. `timeout_s` bounds one call. `api_key` is never shown."""

    model: str
    api_key: str | None = field(default=None, repr=False)
    region: str | None = None
    temperature: float | None = 0.0
    max_tokens: int = 400
    timeout_s: float = 60.0


class Provider(NamedTuple):
    """How a provider is reached: its module here, the package it needs, our extra that brings it, and what shows credentials.

    `credentials` lists alternatives; each is the environment variables that must all be set.
    """

    module: str
    package: str
    extra: str
    default_model: str
    credentials: tuple[tuple[str, ...], ...]

    def is_installed(self) -> bool:
        """Whether the package can be imported; does not import it (a namespace package above it aside)."""
        try:
            return importlib.util.find_spec(self.package) is not None
        except ModuleNotFoundError:
            return False

    def has_credentials(self, environ: Mapping[str, str]) -> bool:
        """Whether the environment names credentials of this provider."""
        return any(all(environ.get(name) for name in names) for names in self.credentials)

    def install_hint(self) -> str:
        """The command that installs what is missing."""
        return f"pip install 'agentraft-ray[{self.extra}]'"


# In the order in which the environment is searched. Small, cheap models without a long reasoning phase.
PROVIDERS: dict[str, Provider] = {
    "bedrock": Provider(
        "bedrock",
        "boto3",
        "bedrock",
        "global.anthropic.claude-haiku-4-5-20251001-v1:0",
        (
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ("AWS_PROFILE",),
            ("AWS_BEARER_TOKEN_BEDROCK",),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI",),
        ),
    ),
    "openai": Provider("openai", "openai", "openai", "gpt-6-luna", (("OPENAI_API_KEY",),)),
    "anthropic": Provider("anthropic", "anthropic", "anthropic", "claude-haiku-4-5", (("ANTHROPIC_API_KEY",),)),
    "gemini": Provider("gemini", "google.genai", "google", "gemini-3.5-flash-lite", (("GOOGLE_API_KEY",), ("GEMINI_API_KEY",))),
}

DEFAULT_MODELS: dict[str, str] = {name: provider.default_model for name, provider in PROVIDERS.items()}
"""Provider name -> the model that is used when none is named."""

_CLAUDE_WITH_TEMPERATURE = re.compile(r"claude-(?:3|instant|v?2|(?:opus|sonnet)-4(?!-[7-9]|-\d\d(?!\d))|haiku-4)")
_GPT_REASONING = re.compile(r"(?:^|/)(?:gpt-(?:[5-9]|\d\d)|o\d)")
_GEMINI_WITH_TEMPERATURE = re.compile(r"gemini-[12](?:\.|-|$)")


def accepts_temperature(model: str) -> bool:
    """Whether the model takes a temperature: newer Claude, GPT and Gemini models answer 400 to one, or ignore it."""
    if "claude" in model:
        return bool(_CLAUDE_WITH_TEMPERATURE.search(model))
    if "gemini" in model:
        return bool(_GEMINI_WITH_TEMPERATURE.search(model))
    return not _GPT_REASONING.search(model)


async def complete(provider: str, config: ProviderConfig, system: str, user: str) -> Completion:
    """One call of the provider's model.

    Raises VerifierUnavailable when the package is missing, InvalidConfig for an unknown provider, and what the SDK raises.
    """
    known = PROVIDERS.get(provider)
    if known is None:
        raise InvalidConfig(f"unknown provider {provider!r}: use one of {', '.join(PROVIDERS)}, or pass complete_fn=")
    if not known.is_installed():
        raise VerifierUnavailable(
            f"the {provider} verifier needs {known.package}: {known.install_hint()}, or pass complete_fn=",
            provider=provider,
        )
    adapter = importlib.import_module(f"{__name__}.{known.module}")
    completion: Completion = await adapter.complete(config, system, user)
    return completion
