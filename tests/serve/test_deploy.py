"""What is shipped to run the service: the manifest is valid, and the image's recipe keeps its promises."""

from pathlib import Path

import pytest

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
