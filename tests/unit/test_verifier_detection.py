"""Which model the environment offers, and what is said when it cannot be asked."""

import warnings

import pytest

from agentraft_ray.errors import VerifierUnavailable
from agentraft_ray.verifier import DEFAULT_MODELS, detect
from agentraft_ray.verifier.providers import environment

AWS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


@pytest.fixture
def installed(monkeypatch):
    """Says which packages there are; all of them at first."""
    found = {"boto3", "openai", "anthropic", "google.genai"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name in found else None)
    monkeypatch.setattr(environment, "_warned", set())
    return found


@pytest.mark.parametrize(
    ("environ", "provider"),
    [
        ({}, None),
        ({"HOME": "/root", "AWS_REGION": "eu-west-1", "OPENAI_API_KEY": ""}, None),
        ({"AWS_ACCESS_KEY_ID": "a"}, None),
        ({**AWS, "OPENAI_API_KEY": "k"}, "bedrock"),
        ({"AWS_PROFILE": "dev"}, "bedrock"),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, "openai"),
        ({"ANTHROPIC_API_KEY": "k", "GOOGLE_API_KEY": "k"}, "anthropic"),
        ({"GOOGLE_API_KEY": "k"}, "gemini"),
        ({"GEMINI_API_KEY": "k"}, "gemini"),
        ({**AWS, "ANTHROPIC_API_KEY": "k", "AGENTRAFT_VERIFIER_PROVIDER": "anthropic"}, "anthropic"),
        ({"AGENTRAFT_VERIFIER_PROVIDER": " Bedrock "}, "bedrock"),
        ({**AWS, "AGENTRAFT_VERIFIER_PROVIDER": "none"}, None),
        ({**AWS, "AGENTRAFT_VERIFIER_PROVIDER": ""}, "bedrock"),
    ],
)
def test_the_first_provider_with_credentials_is_taken_or_the_forced_one(installed, environ, provider):
    found = detect(environ)
    assert (found.provider if found else None) == provider
    if found:
        assert found.model == DEFAULT_MODELS[provider]


def test_model_and_region_come_from_the_environment(installed):
    found = detect({**AWS, "AWS_DEFAULT_REGION": "eu-west-1", "AGENTRAFT_VERIFIER_MODEL": "amazon.nova-lite-v1:0"})
    assert (found.model, found.region) == ("amazon.nova-lite-v1:0", "eu-west-1")


def test_a_missing_package_warns_once_and_leaves_the_rules(installed):
    installed.clear()
    with pytest.warns(RuntimeWarning, match=r"agentraft-ray\[openai\]"):
        assert detect({"OPENAI_API_KEY": "k"}) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detect({"OPENAI_API_KEY": "k"}) is None


@pytest.mark.parametrize("name", ["bedrock", "openai", "anthropic", "gemini"])
def test_a_forced_provider_without_its_package_is_refused(installed, name):
    installed.clear()
    with pytest.raises(VerifierUnavailable, match="pip install"):
        detect({"AGENTRAFT_VERIFIER_PROVIDER": name, "OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "GOOGLE_API_KEY": "k"})


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_a_forced_provider_without_credentials_is_refused(installed, name):
    with pytest.raises(VerifierUnavailable, match="has no credentials"):
        detect({"AGENTRAFT_VERIFIER_PROVIDER": name})


def test_an_unknown_provider_is_refused(installed):
    with pytest.raises(VerifierUnavailable, match="nobody"):
        detect({"AGENTRAFT_VERIFIER_PROVIDER": "nobody"})
