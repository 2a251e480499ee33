"""Which model the environment offers. Reads variables and looks for packages; no network, no SDK is imported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from agentraft_ray.errors import VerifierUnavailable
from agentraft_ray.verifier.llm import LLMVerifier
from agentraft_ray.verifier.providers import PROVIDERS

__all__ = ["MODEL_VARIABLE", "PROVIDER_VARIABLE", "choose", "detect"]

PROVIDER_VARIABLE = "AGENTRAFT_VERIFIER_PROVIDER"
MODEL_VARIABLE = "AGENTRAFT_VERIFIER_MODEL"
_RULES_ONLY = ("none", "rules")
_warned: set[str] = set()


def detect(environ: Mapping[str, str]) -> LLMVerifier | None:
    """The model verifier that `environ` asks for or offers, or None for rules only.

    ``AGENTRAFT_VERIFIER_PROVIDER`` forces a provider ("none" forces rules only), ``AGENTRAFT_VERIFIER_MODEL`` the model. Otherwise
    the first provider with credentials is taken: Bedrock, OpenAI, Anthropic, Gemini. If its package is missing, a warning is given
    once per process and the answer is None: a verifier that cannot be asked would let no step pass.

    Raises VerifierUnavailable for a forced provider that is unknown, whose package is missing, or that has no credentials.
    """
    forced = environ.get(PROVIDER_VARIABLE, "").strip().casefold()
    model = environ.get(MODEL_VARIABLE, "").strip() or None
    if forced in _RULES_ONLY:
        return None
    if forced:
        return _forced(forced, model, environ)
    name = next((name for name, provider in PROVIDERS.items() if provider.has_credentials(environ)), None)
    if name is None:
        return None
    if not PROVIDERS[name].is_installed():
        _warn_once(name)
        return None
    return _built(name, model, environ)


def choose(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """(provider, model or None) that `environ` names, installed or not. Raises VerifierUnavailable where it names none."""
    model = environ.get(MODEL_VARIABLE, "").strip() or None
    forced = environ.get(PROVIDER_VARIABLE, "").strip().casefold()
    if forced in PROVIDERS:
        return forced, model
    name = next((name for name, provider in PROVIDERS.items() if provider.has_credentials(environ)), None)
    if forced or name is None:
        raise VerifierUnavailable(
            f"no provider for the LLM verifier: pass provider= ({', '.join(PROVIDERS)}) or complete_fn=, or set {PROVIDER_VARIABLE}"
        )
    return name, model


def _forced(name: str, model: str | None, environ: Mapping[str, str]) -> LLMVerifier:
    if name == "local":
        raise VerifierUnavailable(
            f"{PROVIDER_VARIABLE}=local needs a vLLM verifier, which is not chosen by the environment; pass verifier= to wrap",
            provider=name,
        )
    provider = PROVIDERS.get(name)
    if provider is None:
        raise VerifierUnavailable(
            f"{PROVIDER_VARIABLE}={name!r} is unknown: use one of {', '.join(PROVIDERS)}, or none for rules only", provider=name
        )
    if not provider.is_installed():
        raise VerifierUnavailable(
            f"{PROVIDER_VARIABLE}={name} needs the package {provider.package}: {provider.install_hint()}", provider=name
        )
    # AWS credentials may come from files or the machine itself, which only a call can tell.
    if name != "bedrock" and not provider.has_credentials(environ):
        wanted = " or ".join(" and ".join(names) for names in provider.credentials)
        raise VerifierUnavailable(f"{PROVIDER_VARIABLE}={name} has no credentials: set {wanted}", provider=name)
    return _built(name, model, environ)


def _built(name: str, model: str | None, environ: Mapping[str, str]) -> LLMVerifier:
    region = (environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")) if name == "bedrock" else None
    return LLMVerifier(provider=name, model=model, region=region)


def _warn_once(name: str) -> None:
    if name in _warned:
        return
    _warned.add(name)
    provider = PROVIDERS[name]
    warnings.warn(
        f"credentials for {name} are set but the package {provider.package} is missing, so outputs are judged by rules only;"
        f" {provider.install_hint()}, or set {PROVIDER_VARIABLE}=none to say that rules are enough",
        RuntimeWarning,
        stacklevel=3,
    )
