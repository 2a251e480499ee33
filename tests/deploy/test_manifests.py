"""The manifests say what Kubernetes, KubeRay and Ray understand, name settings that exist, and keep their own promises."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from agentraft_ray import Task, wrap
from agentraft_ray.cluster.settings import ClusterSettings
from tests.deploy.kuberay import SCHEMAS, pod_templates

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    (f"{file.name}:{document['kind']}/{document['metadata']['name']}", document)
    for file in FILES
    for document in yaml.safe_load_all(file.read_text())
]
KUBERNETES = "1.34"
RAY_VERSION = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)  # type: ignore[union-attr]
NOT_SETTINGS = {"AGENTRAFT_CONFIG", "AGENTRAFT_HOME", "AGENTRAFT_VERIFIER_PROVIDER", "AGENTRAFT_VERIFIER_MODEL"}


def documents(kind: str) -> list[dict[str, Any]]:
    return [document for _, document in DOCUMENTS if document["kind"] == kind]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (document for document in documents(kind) if document["metadata"]["name"] == name)
    return found


TEMPLATES = [(f"{name}#{number}", one) for name, document in DOCUMENTS for number, one in enumerate(pod_templates(document))]
CONTAINERS = [(f"{name}/{one['name']}", one) for name, template in TEMPLATES for one in template["spec"]["containers"]]


@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=[name for name, _ in DOCUMENTS])
def test_every_document_is_one_that_its_api_takes(name: str, document: dict[str, Any]) -> None:
    if document["kind"] in SCHEMAS:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "template"), TEMPLATES, ids=[name for name, _ in TEMPLATES])
def test_every_pod_template_is_one_that_kubernetes_takes(name: str, template: dict[str, Any]) -> None:
    document = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "checked"}, "template": template}
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    cluster = json.loads(json.dumps(named("RayCluster", "agentraft")))
    cluster["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(cluster, SCHEMAS["RayCluster"])
    policy = json.loads(json.dumps(named("NetworkPolicy", "log-store")))
    policy["spec"]["ingres"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="ingres"):
        kubernetes_validate.validate(policy, KUBERNETES, strict=True)


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one for one in container.get("env", [])}


def test_variables_of_ours_are_settings_that_exist() -> None:
    known = {f"AGENTRAFT_{name.upper()}" for name in ClusterSettings.model_fields} | NOT_SETTINGS
    texts = [file.read_text() for file in [*FILES, DEPLOY / "ray-up.yaml", DEPLOY / "Dockerfile"]]
    used = {name for text in texts for name in re.findall(r"\bAGENTRAFT_[A-Z_]+\b", text)}
    assert used
    assert used - known == set()


def test_values_of_settings_are_ones_that_they_take() -> None:
    for name, container in CONTAINERS:
        given = {one.removeprefix("AGENTRAFT_").lower(): it["value"] for one, it in variables(container).items() if "value" in it}
        ClusterSettings(**{field: value for field, value in given.items() if field in ClusterSettings.model_fields}), name


def test_every_secret_and_key_that_is_used_is_in_the_template_of_secrets() -> None:
    secrets = {document["metadata"]["name"]: set(document["stringData"]) for document in documents("Secret")}
    text = "\n".join(json.dumps(document) for _, document in DOCUMENTS)
    references = re.findall(r'"secretKeyRef": \{"name": "([^"]+)", "key": "([^"]+)"\}', text)
    assert references
    assert [one for one in references if one[1] not in secrets.get(one[0], set())] == []
    assert set(re.findall(r'"(?:secretName|secretRef": \{"name)": "([^"]+)"', text)) <= set(secrets)
    assert named("Secret", "agentraft-ray-token")["stringData"].keys() == {"auth_token"}, "the key that KubeRay looks for"


def test_no_secret_has_a_value_that_works() -> None:
    for document in documents("Secret"):
        for key, value in document["stringData"].items():
            assert "REPLACE-WITH-" in value, f"{document['metadata']['name']}: {key}"


@pytest.mark.parametrize(("name", "container"), CONTAINERS, ids=[name for name, _ in CONTAINERS])
def test_containers_have_bounds_and_no_privileges(name: str, container: dict[str, Any]) -> None:
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"], "Ray divides what it may use"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert ":" in container["image"]
    assert not container["image"].endswith(":latest")


@pytest.mark.parametrize(("name", "template"), TEMPLATES, ids=[name for name, _ in TEMPLATES])
def test_pods_run_as_an_ordinary_user_without_a_token_of_the_cluster(name: str, template: dict[str, Any]) -> None:
    security = template["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert template["spec"]["automountServiceAccountToken"] is False


def test_all_nodes_run_the_ray_of_the_constraints_with_its_token() -> None:
    for kind, path in (("RayCluster", "spec"), ("RayService", "rayClusterConfig")):
        for document in documents(kind):
            spec = document["spec"] if path == "spec" else document["spec"][path]
            assert spec["rayVersion"] == RAY_VERSION
            assert spec["authOptions"] == {"mode": "token", "secretName": "agentraft-ray-token"}
            assert spec["enableInTreeAutoscaling"] is True
            groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
            (gpu,) = groups["gpu"]["template"]["spec"]["containers"]
            assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
            assert gpu["image"].endswith("-gpu")
            assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_service_runs_on_a_cluster_like_that_of_jobs() -> None:
    (cluster,) = documents("RayCluster")
    for service in documents("RayService"):
        assert service["spec"]["rayClusterConfig"] == cluster["spec"]


def test_a_job_selects_a_cluster_that_exists_and_mounts_its_program() -> None:
    (job,) = documents("RayJob")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": documents("RayCluster")[0]["metadata"]["name"]}


async def test_the_program_of_the_job_is_one_that_runs() -> None:
    source = named("ConfigMap", "agentraft-nightly")["data"]["nightly.py"]
    namespace: dict[str, Any] = {"__name__": "nightly"}
    exec(compile(source, "nightly.py", "exec"), namespace)
    steps = [namespace["Step"](name, namespace[name]) for name in ("collect", "report")]
    result = await wrap(namespace["Pipeline"](steps, "nightly"), store="memory").run(Task("sales"))
    assert result.output == "A report: Findings about sales."
    settings = {word.arg for call in ast.walk(ast.parse(source)) if isinstance(call, ast.Call) and ast.unparse(call.func) == "Cluster.auto"
                for word in call.keywords}  # fmt: skip
    assert settings <= set(ClusterSettings.model_fields)


def test_only_those_who_need_a_server_reach_it() -> None:
    for policy in documents("NetworkPolicy"):
        assert "Ingress" in policy["spec"]["policyTypes"]
    (everything,) = (policy for policy in documents("NetworkPolicy") if policy["spec"]["podSelector"] == {})
    assert not everything["spec"].get("ingress"), "what no other policy lets in stays out"
    for name, app in (("log-store", "agentraft-log"), ("gcs-store", "agentraft-gcs")):
        policy = named("NetworkPolicy", name)["spec"]
        assert policy["podSelector"]["matchLabels"] == {"app": app}
        assert policy["egress"] == []
        assert all("namespaceSelector" not in peer for rule in policy["ingress"] for peer in rule["from"])
    labels = {template["metadata"]["labels"]["app"] for name, template in TEMPLATES if "labels" in template.get("metadata", {})}
    selected = {policy["spec"]["podSelector"].get("matchLabels", {}).get("app") for policy in documents("NetworkPolicy")}
    assert labels <= selected


def test_the_configuration_for_ray_up_is_one_that_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((DEPLOY / "ray-up.yaml").read_text())
    validate_config(prepare_config(json.loads(json.dumps(config))))
    assert all("RAY_AUTH_MODE=token" in command for command in _starts(config))
    assert config["provider"]["use_internal_ips"] is True


def _starts(config: dict[str, Any]) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]
