"""The settings of a cluster: arguments before environment before file before ``[tool.agentraft]`` of pyproject.toml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from agentraft_ray.cluster.sources import Sourced, made

__all__ = ["ClusterSettings", "settings_of"]


class ClusterSettings(Sourced):
    """Sizes and places of one deployment.

    Each can be given as an argument, as an environment variable (``AGENTRAFT_SHARDS=2``), in ``agentraft.toml`` (or the file that
    AGENTRAFT_CONFIG names), or under ``[tool.agentraft]`` in ``pyproject.toml`` of the working directory; the first of these wins.
    """

    model_config = SettingsConfigDict(env_prefix="AGENTRAFT_", extra="forbid", frozen=True)
    what: ClassVar[str] = "cluster settings"

    name: str = Field("default", description="of the deployment; several of them can share a Ray cluster")
    shards: int = Field(1, ge=1, le=256, description="coordinators; runs are spread over them by their ids")
    workers: int | None = Field(None, ge=1, description="workers for steps that ask for no resources; default: one per CPU, at most 8")
    worker_cpus: float = Field(0.5, ge=0, description="CPUs that each of those claims")
    group_workers: int = Field(1, ge=1, description="workers for each group of steps that ask for resources of their own, at the least")
    group_workers_max: int | None = Field(None, ge=1, description="as many of them at the most, while steps wait for one; default: no more")
    group_idle_s: float = Field(60.0, gt=0, description="workers beyond the least that were not needed for so long are ended")
    verifiers: int = Field(1, ge=1, description="verifier actors")
    verifier_cpus: float = Field(0.1, ge=0, description="CPUs that each of them claims")
    engines: int = Field(1, ge=1, description="engine actors for each model that a verifier of your own asks (vLLM)")
    engine_cpus: float = Field(0.5, ge=0, description="CPUs that each of them claims; without a GPU it computes with that many threads")
    store: str = Field("embedded", description="'embedded' (a server of our own on this machine) or the URL of a Redis or Valkey server")
    directory: Path | None = Field(None, description="data directory of the embedded store; default: AGENTRAFT_HOME or .agentraft")
    prefix: str = Field("agentraft", description="how the store's keys begin")
    durability: str = Field("fsync", description="what the store must promise: fsync, replicated(n), memory or trust-server")
    encryption_key: SecretStr | None = Field(None, description="32 bytes in base64; records and blobs are encrypted with it")
    lease_ttl_s: float = Field(10.0, gt=0, description="after so long without a sign of life another coordinator takes over")
    start_s: float = Field(120.0, gt=0, description="how long actors may take to be placed and to answer for the first time")
    hung_s: float = Field(30.0, gt=0, description="an actor that does not answer for so long is ended and started anew")
    worker_hung_s: float = Field(300.0, gt=0, description="the same for workers and verifiers, whose loops a step may block for a while")
    restarts_max: int = Field(10, ge=1, description="restarts of one actor in a minute; one that needs more is left alone for a while")
    runs_max: int = Field(20_000, ge=1, description="runs that one coordinator holds at a time; further ones wait to be admitted")
    control_here: bool = Field(
        True, description="keep the store actor, the breaker and the coordinators on the node of this program, with which they end anyway"
    )
    num_cpus: int | None = Field(None, ge=1, description="CPUs of a Ray that is started here; default: those of the machine")
    dashboard: bool = Field(False, description="start Ray's dashboard with a Ray that is started here")
    log_to_driver: bool = Field(True, description="show here what steps print and actors log on a Ray that is started here")
    metrics: bool = Field(True, description="export metrics through Ray, see docs/telemetry.md")
    json_logs: bool = Field(False, description="actors log one JSON object a line, with the ids of runs and steps")
    telemetry: str = Field(
        "", description="import path 'module:function' of what every actor calls once, to configure OpenTelemetry or its logs"
    )
    resume_all: bool = Field(False, description="at start, go on with every unfinished run of the store")

    @property
    def group_count_max(self) -> int:
        """Workers of a group with resources, at the most."""
        return max(self.group_workers, self.group_workers_max or 0)

    @property
    def worker_count(self) -> int:
        """Workers of the group without resources."""
        return self.workers or min(8, max(1, os.cpu_count() or 1))


def settings_of(**arguments: Any) -> ClusterSettings:
    """The settings with these arguments. Raises InvalidConfig that names each value that cannot be, and where it may come from."""
    return made(ClusterSettings, **arguments)
