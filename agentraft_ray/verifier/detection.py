"""The model verifier that the environment offers, if any."""

from __future__ import annotations

from collections.abc import Mapping

from agentraft_ray.verifier.llm import LLMVerifier
from agentraft_ray.verifier.providers.environment import find

__all__ = ["detect"]


def detect(environ: Mapping[str, str]) -> LLMVerifier | None:
    """The model verifier that `environ` asks for or offers, or None for rules only. No network.

    ``AGENTRAFT_VERIFIER_PROVIDER`` forces a provider ("none": rules only), ``AGENTRAFT_VERIFIER_MODEL`` the model. Otherwise the
    first one with credentials is taken: Bedrock, OpenAI, Anthropic, Gemini. If its package is missing, a warning is given once
    per process and the answer is None: a verifier that cannot be asked would let no step pass.

    Raises VerifierUnavailable for a forced provider that is unknown, whose package is missing, or that has no credentials.
    """
    found = find(environ)
    return None if found is None else LLMVerifier(provider=found.provider, model=found.model, region=found.region)
