"""The model verifier that the environment offers, if any."""

from __future__ import annotations

from collections.abc import Mapping

from agentraft_ray.verifier.base import Verifier
from agentraft_ray.verifier.llm import LLMVerifier
from agentraft_ray.verifier.providers.environment import LOCAL, find
from agentraft_ray.verifier.vllm import VLLMVerifier

__all__ = ["detect"]


def detect(environ: Mapping[str, str]) -> Verifier | None:
    """The model verifier that `environ` asks for or offers, or None for rules only. No network.

    ``AGENTRAFT_VERIFIER_PROVIDER`` forces a provider ("none": rules only; "local": a model of one's own under vLLM, by default the one
    that comes with this package), ``AGENTRAFT_VERIFIER_MODEL`` the model. Otherwise the
    first one with credentials is taken: Bedrock, OpenAI, Anthropic, Gemini. If its package is missing, a warning is given once
    per process and the answer is None: a verifier that cannot be asked would let no step pass.

    Raises VerifierUnavailable for a forced provider that is unknown, whose package is missing, or that has no credentials; InvalidConfig
    for a local model that is not there or not whole.
    """
    found = find(environ)
    if found is not None and found.provider == LOCAL:
        return VLLMVerifier(found.model)
    return None if found is None else LLMVerifier(provider=found.provider, model=found.model, region=found.region)
