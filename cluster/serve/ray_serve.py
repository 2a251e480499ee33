"""The application on Ray Serve: replicas in front of a cluster that drives the runs. Ray Serve is on no run's path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from agentraft_ray.cluster.cluster import Cluster
from agentraft_ray.cluster.serve.app import create_app
from agentraft_ray.cluster.serve.cluster_host import opened_on_cluster
from agentraft_ray.cluster.serve.settings import ServeSettings, refuse_open_door, tokens_of
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.cluster.signals import until_told
from agentraft_ray.errors import InvalidConfig

__all__ = ["deployment", "run"]

_APPLICATION = "agentraft"


def deployment(settings: ServeSettings, place: ClusterSettings, *, replicas: int = 1) -> Any:
    """A Ray Serve application, for `serve.run` or a Serve configuration; its replicas join the deployment that `place` names.

    Raises InvalidConfig where Ray Serve is not installed, or for a server beyond loopback without tokens.
    """
    try:
        from ray import serve  # noqa: PLC0415 - an extra of Ray's
    except ImportError as error:
        raise InvalidConfig(f"Ray Serve lacks the package {error.name}: pip install 'ray[serve]'") from None
    refuse_open_door(settings.host, tokens_of(settings))

    def build() -> FastAPI:
        return create_app(settings, opened_on_cluster(settings, place))

    return serve.deployment(name=_APPLICATION, num_replicas=replicas, max_ongoing_requests=settings.streams_max)(
        serve.ingress(build)()
    ).bind()


def run(settings: ServeSettings, place: ClusterSettings, ready: Callable[[str], None]) -> None:
    """Serve on the cluster until Ctrl-C or SIGTERM; `ready` gets the URL. Raises as `deployment` and `Cluster.auto` do."""
    given = {name: getattr(place, name) for name in place.model_fields_set}
    with Cluster.auto(**given):
        application = deployment(settings, place)
        from ray import serve  # noqa: PLC0415

        serve.start(http_options={"host": settings.host, "port": settings.port})
        try:
            serve.run(application, name=_APPLICATION, route_prefix="/")
            ready(f"http://{settings.host}:{settings.port}")
            until_told()
        finally:
            serve.shutdown()
