"""What is shipped to run the service: the manifest is valid, and the image's recipe keeps its promises."""

from pathlib import Path

import pytest

from vertebra.serve.server_settings import ServerSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest():
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))


def test_the_manifest_is_valid(manifest):
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in manifest:
        checker.validate(document, "1.31", strict=True)
    broken = {**manifest[0], "spec": {**manifest[0]["spec"], "replicas": "two"}}
    with pytest.raises(checker.ValidationError):
        checker.validate(broken, "1.31", strict=True)


def test_the_manifest_asks_where_the_server_answers(manifest, client):
    container = manifest[0]["spec"]["template"]["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert client.get(container[probe]["httpGet"]["path"]).status == 200
    secured = container["securityContext"]
    assert secured["readOnlyRootFilesystem"] and not secured["allowPrivilegeEscalation"]
    assert manifest[0]["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]


def test_pods_are_added_by_a_metric_of_the_server(manifest, client):
    kinds = {document["kind"]: document for document in manifest}
    deployment, scaler = kinds["Deployment"], kinds["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert {metric["type"] for metric in scaler["metrics"]} == {"Resource", "Pods"}
    (pods,) = (metric["pods"] for metric in scaler["metrics"] if metric["type"] == "Pods")
    text = client.get("/metrics").body.decode()
    assert f"\n{pods['metric']['name']}{{" in text
    # What waits before pods are added is less than what a server lets wait.
    assert 0 < int(pods["target"]["averageValue"]) < ServerSettings().queue / 2
    down = scaler["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 60 and down["policies"]
    budget = kinds["PodDisruptionBudget"]["spec"]
    assert budget["minAvailable"] < scaler["minReplicas"]
    assert budget["selector"] == deployment["spec"]["selector"]


def test_models_are_mounted_read_only(manifest):
    pod = manifest[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert container["args"][0].startswith(mounts["models"]["mountPath"] + "/")
    assert mounts["models"]["readOnly"] and volumes["models"]["persistentVolumeClaim"]["readOnly"]
    assert [name for name, mount in mounts.items() if not mount.get("readOnly")] == ["tmp"]


def test_who_scrapes_has_the_key(manifest, serving):
    yaml = pytest.importorskip("yaml")
    client = serving(api_key="correct-horse")
    assert client.get("/metrics").status == 401
    assert client.get("/metrics", Authorization="Bearer correct-horse").status == 200  # as Prometheus sends credentials
    template = manifest[0]["spec"]["template"]
    assert not any(name.startswith("prometheus.io/") for name in template["metadata"].get("annotations", ()))
    blocks = (ROOT / "docs/guides/serving.md").read_text().split("```yaml\n")[1:]
    prometheus, monitor = (yaml.safe_load(block.partition("```")[0]) for block in blocks)
    (job,) = prometheus["scrape_configs"]
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    labels = template["metadata"]["labels"]
    assert job["authorization"].keys() == {"credentials_file"}
    assert job["relabel_configs"][0]["regex"] == f"{labels['app.kubernetes.io/name']};{port['name']}"
    assert monitor["spec"]["selector"]["matchLabels"] == labels
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == port["name"]
    (key,) = (entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if entry["name"] == "VERTEBRA_API_KEY")
    assert endpoint["authorization"]["credentials"] == key


def test_the_image_is_not_root_s_and_has_no_torch():
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM"))
    assert any(line.startswith("USER 10001") for line in lines[last:])
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert "torch" not in "\n".join(line for line in lines if line.startswith(("RUN", " &&")))
