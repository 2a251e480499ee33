"""The network side of judging models: per provider one module with a client over the official SDK, imported late.

Zero retries and explicit time-outs everywhere: the coordinator is the one owner of retries. Whatever a provider does comes back as
a `Completion` or a `VerifierFault`.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentraft_ray.config import ProviderLimits
from agentraft_ray.errors import InvalidConfig, VerifierUnavailable
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.asking import describe, in_thread
from agentraft_ray.verifier.providers.completion import Completion, StopReason
from agentraft_ray.verifier.providers.connections import Connections, current_visit
from agentraft_ray.verifier.providers.models import DEFAULT_MODELS, Manner, accepts_temperature, adapted, manner_of
from agentraft_ray.verifier.providers.settings import ProviderConfig

__all__ = [
    "DEFAULT_MODELS",
    "PROVIDERS",
    "Completion",
    "Provider",
    "ProviderConfig",
    "ProviderLimits",
    "StopReason",
    "accepts_temperature",
    "complete",
]


class Provider(NamedTuple):
    """How a provider is reached: its module here, the package it needs, our extra that brings it, and what shows credentials.

    `credentials` lists alternatives; each is the environment variables that must all be set. `ambient`: they may also come from
    files, or from the machine itself.
    """

    module: str
    package: str
    extra: str
    credentials: tuple[tuple[str, ...], ...]
    ambient: bool = False

    def is_installed(self) -> bool:
        """Whether the package can be imported; does not import it (a namespace package above it aside)."""
        try:
            return importlib.util.find_spec(self.package) is not None
        except ModuleNotFoundError:
            return False

    def has_credentials(self, environ: Mapping[str, str]) -> bool:
        """Whether the environment names credentials of this provider."""
        return any(all(environ.get(name) for name in names) for names in self.credentials)

    def missing(self, environ: Mapping[str, str], *, has_key: bool = False) -> str:
        """What stands in the way of asking it, with what to install or set; "" for nothing that shows."""
        if not self.is_installed():
            return f"needs the package {self.package}: {self.install_hint()}"
        if not has_key and not self.ambient and not self.has_credentials(environ):
            return f"has no credentials: set {' or '.join(' and '.join(names) for names in self.credentials)}"
        return ""

    def install_hint(self) -> str:
        """The command that installs what is missing."""
        return f"pip install 'agentraft-ray[{self.extra}]'"


# In the order in which the environment is searched.
PROVIDERS: dict[str, Provider] = {
    "bedrock": Provider(
        "bedrock",
        "boto3",
        "bedrock",
        (
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ("AWS_PROFILE",),
            ("AWS_BEARER_TOKEN_BEDROCK",),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI",),
        ),
        ambient=True,
    ),
    "openai": Provider("openai", "openai", "openai", (("OPENAI_API_KEY",),)),
    "anthropic": Provider("anthropic", "anthropic", "anthropic", (("ANTHROPIC_API_KEY",),)),
    "gemini": Provider("gemini", "google.genai", "google", (("GOOGLE_API_KEY",), ("GEMINI_API_KEY",))),
}


async def complete(config: ProviderConfig, system: str, user: str, left_s: float) -> Completion | VerifierFault:
    """One request to a model, through its lane, answered within `left_s` seconds. Never raises but for a cancellation.

    What a server says that it does not know is left out, and remembered; that takes another request at once.
    """
    known = PROVIDERS.get(config.provider)
    if known is None:
        raise InvalidConfig(f"unknown provider {config.provider!r}: use one of {', '.join(PROVIDERS)}, or pass complete_fn=")
    visit = current_visit()
    connections = visit.connections
    started = time.monotonic()
    with visit.waiting():
        try:
            client = await connections.client(config.client_key, lambda: _open(known, config))
        except Exception as error:  # noqa: BLE001 - the boundary: an SDK refuses what it was made with
            return VerifierFault(FaultKind.UNAVAILABLE, describe(error), config.lane)
        lane = connections.lane(config.lane, config.limits)

        async def send(timeout_s: float) -> Completion | VerifierFault:
            return await _send(client, connections, config, system, user, timeout_s)

        return await lane.ask(connections.guard, send, max(0.0, left_s - (time.monotonic() - started)))


async def _send(
    client: Any, connections: Connections, config: ProviderConfig, system: str, user: str, timeout_s: float
) -> Completion | VerifierFault:
    answer: Completion | VerifierFault
    for _ in range(config.limits.adaptations_max + 1):
        manner = _manner(connections, config)
        answer = await client.send(config, manner, system, user, timeout_s)
        if not isinstance(answer, VerifierFault) or answer.kind is not FaultKind.BAD_REQUEST:
            break
        other = adapted(config.provider, manner, answer.message)
        if other is None:
            break
        connections.manners[config.lane] = other
    return answer


def _manner(connections: Connections, config: ProviderConfig) -> Manner:
    found = connections.manners.get(config.lane)
    if found is None:
        found = connections.manners[config.lane] = manner_of(config.provider, config.model, compatible=config.base_url is not None)
    return found


async def _open(known: Provider, config: ProviderConfig) -> Any:
    if not known.is_installed():
        raise VerifierUnavailable(
            f"the {config.provider} verifier needs {known.package}: {known.install_hint()}, or pass complete_fn=",
            provider=config.provider,
        )
    await in_thread(importlib.import_module, known.package)  # for seconds, in which others go on
    module = importlib.import_module(f"{__name__}.{known.module}")
    return await module.open_client(config)
