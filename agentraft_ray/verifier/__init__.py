"""Verifiers: each judges one output and answers with a `VerificationResult`. No I/O but a model's call, and calibrations as files."""

from __future__ import annotations

from agentraft_ray.taxonomy import ErrorType, VerdictKind, VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.cached import CachedVerifier
from agentraft_ray.verifier.calibration import Calibration, LabelledCase, read_cases
from agentraft_ray.verifier.callable import CallableVerifier
from agentraft_ray.verifier.completeness import CompletenessVerifier
from agentraft_ray.verifier.detection import detect
from agentraft_ray.verifier.grounding import GroundingVerifier, given_to
from agentraft_ray.verifier.hedged import HedgedVerifier
from agentraft_ray.verifier.llm import DEFAULT_MODELS, Completion, LLMVerifier
from agentraft_ray.verifier.mock import MockVerifier
from agentraft_ray.verifier.prices import Price
from agentraft_ray.verifier.prompt import PROMPT_VERSION
from agentraft_ray.verifier.proportion import Proportion
from agentraft_ray.verifier.quorum import AllOf, QuorumVerifier
from agentraft_ray.verifier.recompute import NOT_COMPUTABLE, RecomputeVerifier
from agentraft_ray.verifier.rules import RulesVerifier
from agentraft_ray.verifier.schema import SchemaVerifier
from agentraft_ray.verifier.spending import Spending
from agentraft_ray.verifier.tiered import TieredVerifier
from agentraft_ray.verifier.vllm import VLLMVerifier

__all__ = [
    "DEFAULT_MODELS",
    "NOT_COMPUTABLE",
    "PROMPT_VERSION",
    "AllOf",
    "CachedVerifier",
    "Calibration",
    "CallableVerifier",
    "CompletenessVerifier",
    "Completion",
    "ErrorType",
    "GroundingVerifier",
    "HedgedVerifier",
    "LLMVerifier",
    "LabelledCase",
    "MockVerifier",
    "Price",
    "Proportion",
    "QuorumVerifier",
    "RecomputeVerifier",
    "RulesVerifier",
    "SchemaVerifier",
    "Spending",
    "TieredVerifier",
    "VLLMVerifier",
    "VerdictKind",
    "VerificationResult",
    "Verifier",
    "VerifyInput",
    "detect",
    "given_to",
    "read_cases",
]
