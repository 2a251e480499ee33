"""The settings of a server: where it listens, what may be run through it, and what one client may ask of it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from agentraft_ray.cluster.offers import budget_of
from agentraft_ray.cluster.serve.tokens import Tokens, read_tokens
from agentraft_ray.cluster.sources import Sourced
from agentraft_ray.config import OnOpen, RetryPolicy
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.runtime.blueprint import RunSettings

__all__ = ["PipelineSettings", "ServeSettings", "is_loopback", "refuse_open_door", "tokens_of"]


class PipelineSettings(BaseModel):
    """A pipeline that may be submitted: where it is imported from, and the settings of `wrap` for its runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    verifier: str = ""
    max_retries: int = Field(2, ge=0)
    failure_threshold: int = Field(5, ge=1)
    cooldown_seconds: float = Field(30.0, ge=0)
    on_open: OnOpen = "park"
    require_model: bool = False
    budget: dict[str, float] = {}

    def run_settings(self) -> RunSettings:
        """As `wrap` has them. Raises InvalidConfig."""
        return RunSettings(
            retry=RetryPolicy(max_retries=self.max_retries),
            failure_threshold=self.failure_threshold,
            cooldown_seconds=self.cooldown_seconds,
            on_open=self.on_open,
            budget=budget_of(self.budget),
            require_model=self.require_model,
        )


class ServeSettings(Sourced):
    """Each can be given as an argument, as ``AGENTRAFT_SERVE_PORT=8700``, under ``[serve]`` in ``agentraft.toml``, or under
    ``[tool.agentraft.serve]`` in ``pyproject.toml``; the first of these wins."""

    model_config = SettingsConfigDict(env_prefix="AGENTRAFT_SERVE_", extra="forbid", frozen=True)
    table: ClassVar[str] = "serve"
    what: ClassVar[str] = "server settings"

    host: str = Field("127.0.0.1", description="where to listen; beyond loopback only with tokens")
    port: int = Field(8700, ge=0, le=65535, description="the port; 0 takes one that is free")
    pipelines: dict[str, PipelineSettings] = Field(
        {}, description="what may be submitted: a name for each 'package.module:attribute', or a list of these; nothing else is imported"
    )
    tokens_file: Path | None = Field(None, description="a file with a line 'NAME SCOPES SHA256' for every token")
    tokens: SecretStr | None = Field(None, description="such lines, separated by ';', instead of a file")
    allowed_hosts: tuple[str, ...] = Field((), description="names under which the server is reached besides its own (Host headers)")
    body_bytes_max: int = Field(1024 * 1024, ge=1, description="of one request")
    body_s: float = Field(30.0, gt=0, description="how long a request may take to arrive")
    requests_per_s: float = Field(100.0, gt=0, description="of one client, in the long run")
    requests_burst: int = Field(200, ge=1, description="of one client, at once")
    streams_max: int = Field(1_000, ge=1, description="event streams that are open at a time")
    heartbeat_s: float = Field(15.0, gt=0, description="a silent event stream says that it is still there")
    runs_max: int = Field(20_000, ge=1, description="runs that are driven here at a time; further submissions are put off")
    adopt_s: float = Field(15.0, gt=0, description="how often runs that nobody drives are looked for and gone on with")

    @field_validator("pipelines", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            return {path: {"path": path} for path in given}
        if isinstance(given, dict):
            return {name: {"path": one} if isinstance(one, str) else one for name, one in given.items()}
        return given


def tokens_of(settings: ServeSettings) -> Tokens:
    """The tokens that the settings name. Raises InvalidConfig."""
    if settings.tokens is not None:
        return read_tokens(settings.tokens.get_secret_value().replace(";", "\n"), "AGENTRAFT_SERVE_TOKENS")
    if settings.tokens_file is None:
        return Tokens(())
    try:
        return read_tokens(settings.tokens_file.read_text(), str(settings.tokens_file))
    except OSError as error:
        raise InvalidConfig(f"the file of tokens {settings.tokens_file} cannot be read: {error.strerror}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_open_door(host: str, tokens: Tokens) -> None:
    """Raise InvalidConfig for a server that others than this machine could reach, and that asks nobody who he is."""
    if not tokens and not is_loopback(host):
        raise InvalidConfig(
            f"a server on {host} would do for anybody whatever they ask: make a token with `agentraft serve --new-token NAME`, name its "
            "file by --tokens-file, or listen on 127.0.0.1"
        )
