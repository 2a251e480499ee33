"""A Ray session for a benchmark: the one that runs, or a small one that only this machine can reach."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ray_session", "worker_environment"]

_ROOT = Path(__file__).resolve().parents[1]

# Read when `ray` is imported. Without the first one Ray turns 127.0.0.1 into the machine's address and listens to everybody.
_SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_OBJECT_STORE_BYTES = 100_000_000  # everything that these benchmarks send travels inside the messages


@contextmanager
def ray_session(cpus: int = 2) -> Iterator[Any]:
    """The `ray` module with a session: joins the one of this process, else starts a local one and stops it at the end."""
    loaded = sys.modules.get("ray")
    if loaded is not None and loaded.is_initialized():  # its settings were read long ago; others would only spoil the next session
        yield loaded
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray = importlib.import_module("ray")
    ray.init(
        address="local",  # never the bare call: it joins whatever cluster the machine's last user left recorded
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield ray
    finally:
        ray.shutdown()


def worker_environment() -> dict[str, dict[str, str]]:
    """The `runtime_env` with which a Ray worker finds this repository's packages, wherever the driver was started from.

    Ray itself puts only the driver's working directory on the path of its workers.
    """
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}}
