"""Which model the environment offers. Reads variables and looks for packages; no network, no SDK is imported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import NamedTuple

from agentraft_ray.errors import VerifierUnavailable
from agentraft_ray.verifier.providers import PROVIDERS

__all__ = ["LOCAL", "MODEL_VARIABLE", "PROVIDER_VARIABLE", "Found", "choose", "find"]

PROVIDER_VARIABLE = "AGENTRAFT_VERIFIER_PROVIDER"
MODEL_VARIABLE = "AGENTRAFT_VERIFIER_MODEL"
LOCAL = "local"
"""The provider that is a model of one's own, served by vLLM; it is never chosen unless it is named."""

_RULES_ONLY = ("none", "rules")
_warned: set[str] = set()


class Found(NamedTuple):
    """A provider, and the model and region where the environment names them."""

    provider: str
    model: str | None = None
    region: str | None = None


def find(environ: Mapping[str, str]) -> Found | None:
    """The provider that `environ` asks for or offers and whose package is installed, or None; see `verifier.detection.detect`.

    Raises VerifierUnavailable for a forced provider that could not be asked.
    """
    forced = _forced_name(environ)
    if forced in _RULES_ONLY:
        return None
    if forced == LOCAL:
        return _found(LOCAL, environ)
    if forced:
        _check_forced(forced, environ)
        return _found(forced, environ)
    name = _with_credentials(environ)
    if name is None:
        return None
    if not PROVIDERS[name].is_installed():
        _warn_once(name)
        return None
    return _found(name, environ)


def choose(environ: Mapping[str, str]) -> Found:
    """The provider that `environ` names, installed or not. Raises VerifierUnavailable where it names none."""
    forced = _forced_name(environ)
    name = forced if forced in PROVIDERS else None if forced else _with_credentials(environ)
    if name is None:
        known = ", ".join(PROVIDERS)
        raise VerifierUnavailable(f"which model is to judge? Pass provider= ({known}) or complete_fn=, or set {PROVIDER_VARIABLE}")
    return _found(name, environ)


def _forced_name(environ: Mapping[str, str]) -> str:
    return environ.get(PROVIDER_VARIABLE, "").strip().casefold()


def _with_credentials(environ: Mapping[str, str]) -> str | None:
    return next((name for name, provider in PROVIDERS.items() if provider.has_credentials(environ)), None)


def _found(name: str, environ: Mapping[str, str]) -> Found:
    region = (environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or None) if name == "bedrock" else None
    return Found(name, environ.get(MODEL_VARIABLE, "").strip() or None, region)


def _check_forced(name: str, environ: Mapping[str, str]) -> None:
    """Raises VerifierUnavailable where the forced provider could not be asked."""
    asked = f"{PROVIDER_VARIABLE}={name}"
    provider = PROVIDERS.get(name)
    if provider is None:
        problem = f"is unknown: use one of {', '.join(PROVIDERS)}, local for a model of your own, or none for rules only"
    else:
        problem = provider.missing(environ)
    if not problem:
        return
    raise VerifierUnavailable(f"{asked} {problem}", provider=name)


def _warn_once(name: str) -> None:
    if name in _warned:
        return
    _warned.add(name)
    provider = PROVIDERS[name]
    warnings.warn(
        f"credentials for {name} are set but the package {provider.package} is missing, so outputs are judged by rules only;"
        f" {provider.install_hint()}, or set {PROVIDER_VARIABLE}=none to say that rules are enough",
        RuntimeWarning,
        stacklevel=5,
    )
