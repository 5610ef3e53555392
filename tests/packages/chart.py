#!/usr/bin/env python3
"""Checks the Helm chart: lint, rendering, Kubernetes' schemas, and the configuration that a pod would read.

    pip install helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 pyyaml
    tests/packages/chart.py BINARY      BINARY is a tickgate of this version

The first package is Helm itself as a library, the second one has Kubernetes' schemas.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy/helm/tickgate"
# The oldest version that the chart supports, and the newest one whose schemas the package has.
KUBERNETES = ["1.30", "1.37"]

# Values that must render, by name.
GOOD = {
    "default": {},
    "everything": {
        "replicas": 3,
        "autoscaling": {"enabled": True},
        "ingress": {"enabled": True, "tlsSecret": "tls"},
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "env": [{"name": "TICKGATE_LOG__LEVEL", "value": "debug"}],
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "edge",
        "podLabels": {"team": "edge"},
    },
    "persistence": {"persistence": {"enabled": True, "storageClass": "fast"}},
    "a broker": {
        "replicas": 3,
        "config": '''
            [[auth.key]]
            algorithm = "HS256"
            secret_file = "/etc/tickgate/secrets/jwt-secret"
            [admin]
            key_file = "/etc/tickgate/secrets/admin-key"
            [broker]
            kind = "nats"
            url = "nats://nats:4222"
            user = "gateway"
            password_file = "/etc/tickgate/secrets/nats-password"
        ''',
    },
    "a long drain, no wait before it": {"rollout": {"drainSeconds": 600, "preStopSeconds": 0}},
}

# Values that must be refused, with a part of the message.
BAD = [
    ({"replica": 2}, "replica"),
    ({"replicas": "2"}, "replicas"),
    ({"rollout": {"drainSeconds": -1}}, "drainSeconds"),
    ({"rollout": {"reserveSeconds": 0}}, "reserveSeconds"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"existingSecret": ""}, "existingSecret"),
    ({"ingress": {"paths": ["ws"]}}, "paths"),
    ({"persistence": {"enabled": True}, "replicas": 2}, "replicas must be 1"),
    ({"persistence": {"enabled": True}, "autoscaling": {"enabled": True}}, "autoscaling.enabled false"),
    ({"autoscaling": {"enabled": True, "minReplicas": 9}}, "minReplicas must be at most"),
]


def rendered(chart, values):
    """The objects by kind and name. Each fits Kubernetes' schemas."""
    chart.validate_schema(values)
    objects = {}
    for template, text in chart.render(values, name="edge", namespace="prod").items():
        if template.endswith("NOTES.txt"):
            continue
        for document in filter(None, yaml.safe_load_all(text)):
            for version in KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)
            objects[document["kind"], document["metadata"]["name"]] = document
    return objects


def check_pod(objects, merged):
    deployment = objects["Deployment", "edge-tickgate"]["spec"]
    pod = deployment["template"]["spec"]
    container = pod["containers"][0]
    rollout = merged["rollout"]
    slack = pod["terminationGracePeriodSeconds"] - rollout["drainSeconds"] - rollout["preStopSeconds"]
    assert slack >= 5, f"a pod would be killed {slack} s after its drain"
    if merged["persistence"]["enabled"]:
        assert deployment["strategy"] == {"type": "Recreate"}
    else:
        assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert ("replicas" in deployment) != merged["autoscaling"]["enabled"]
    assert (("HorizontalPodAutoscaler", "edge-tickgate") in objects) == merged["autoscaling"]["enabled"]
    assert ("PodDisruptionBudget", "edge-tickgate") in objects
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    if merged["ingress"]["enabled"]:
        rules = objects["Ingress", "edge-tickgate"]["spec"]["rules"]
        assert [path["path"] for path in rules[0]["http"]["paths"]] == merged["ingress"]["paths"]
    selector = deployment["selector"]["matchLabels"]
    labels = deployment["template"]["metadata"]["labels"]
    for (kind, name), found in objects.items():
        if kind == "Service":
            assert found["spec"]["selector"].items() <= labels.items(), name
    assert selector.items() <= labels.items()
    return container


def check_configuration(objects, container, binary):
    """`tickgate check` with the file, the secrets and the variables of a pod."""
    with tempfile.TemporaryDirectory() as folder:
        text = objects["ConfigMap", "edge-tickgate"]["data"]["tickgate.toml"].replace("/etc/tickgate", folder)
        os.mkdir(f"{folder}/secrets")
        for name in ["jwt-secret", "admin-key", "nats-password"]:
            Path(folder, "secrets", name).write_text("0123456789abcdef" * 4)
            os.chmod(f"{folder}/secrets/{name}", 0o440)
        Path(folder, "tickgate.toml").write_text(text)
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        variables["TICKGATE_CONFIG"] = f"{folder}/tickgate.toml"
        if "TICKGATE_STATE__SNAPSHOT" in variables:
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert str(Path(variables["TICKGATE_STATE__SNAPSHOT"]).parent) in mounts
            variables["TICKGATE_STATE__SNAPSHOT"] = f"{folder}/state"
        checked = subprocess.run([binary, "check"], env=variables, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert "warning" not in checked.stderr, checked.stderr
        server = tomllib.loads(checked.stdout)["server"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert server["listen"] == [f"0.0.0.0:{ports['public']}"]
        assert server["admin_listen"] == f"0.0.0.0:{ports['admin']}"
        return server["drain"]


def main(binary):
    report = helm_python.lint(CHART, strict=True)
    problems = [message for message in report["messages"] if message["severity"] > 1]
    assert not problems and not report["errors"], report
    with helm_python.Chart.load(CHART) as chart:
        for name, values in GOOD.items():
            objects = rendered(chart, values)
            merged = chart.merge_values(values)
            container = check_pod(objects, merged)
            drain = check_configuration(objects, container, binary)
            assert drain in (f"{merged['rollout']['drainSeconds']}s", f"{merged['rollout']['drainSeconds'] // 60}m")
            print(f"chart with {name}: {len(objects)} objects are valid for Kubernetes {' and '.join(KUBERNETES)}")
        for values, reason in BAD:
            try:
                rendered(chart, values)
            except helm_python.HelmError as error:
                assert reason in str(error), f"{values}: {error}"
            else:
                raise AssertionError(f"not refused: {values}")
        print(f"chart: {len(BAD)} sets of wrong values are refused")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]))
