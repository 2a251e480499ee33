"""The part of KubeRay's API (ray.io/v1) that our manifests use, as a JSON schema of our own.

KubeRay publishes its CRDs in its repository and Helm chart alone; no package of a registry that these tests reach carries them. So this
was written by hand from its documented types, with the fields that we use and nothing else: it catches a field that is misspelled, in
the wrong place or of the wrong type, not one that a later KubeRay has changed. Pod templates inside are checked by Kubernetes' own
schemas.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMAS", "pod_templates"]

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_TEMPLATE: Schema = {"type": "object", "required": ["spec"]}  # see `pod_templates`


def _object(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": fields}


_SECRET_VALUE = _object(("valueFrom",), valueFrom=_object(("secretKeyRef",), secretKeyRef=_object(("name", "key"), name=_TEXT, key=_TEXT)))

_WORKER_GROUP = _object(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT,
    rayStartParams=_TEXTS,
    template=_TEMPLATE,
)

_CLUSTER = _object(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    authOptions=_object(("mode",), mode={"enum": ["token", "disabled"]}, secretName=_TEXT),
    gcsFaultToleranceOptions=_object(("redisAddress",), redisAddress=_TEXT, redisPassword=_SECRET_VALUE),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_object(
        idleTimeoutSeconds=_COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, resources={"type": "object"}
    ),
    headGroupSpec=_object(
        ("rayStartParams", "template"),
        rayStartParams=_TEXTS,
        template=_TEMPLATE,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    ),
    workerGroupSpecs={"type": "array", "items": _WORKER_GROUP},
)

_JOB = _object(
    ("entrypoint",),
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    rayClusterSpec=_CLUSTER,
    clusterSelector=_TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    submitterPodTemplate=_TEMPLATE,
    submitterConfig=_object(backoffLimit=_COUNT),
    backoffLimit=_COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_COUNT,
)

_SERVICE = _object(("serveConfigV2", "rayClusterConfig"), serveConfigV2=_TEXT, rayClusterConfig=_CLUSTER)

_METADATA = _object(("name", "namespace"), name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS)

SCHEMAS = {
    kind: _object(("apiVersion", "kind", "metadata", "spec"), apiVersion={"const": "ray.io/v1"}, kind={}, metadata=_METADATA, spec=spec)
    for kind, spec in (("RayCluster", _CLUSTER), ("RayJob", _JOB), ("RayService", _SERVICE))
}
"""Kind -> schema of the whole document."""


def pod_templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod template inside a document, of whatever kind."""
    found: list[dict[str, Any]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name in {"template", "submitterPodTemplate"} and isinstance(inner, dict) and "spec" in inner:
                    found.append(inner)
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(document)
    return found
