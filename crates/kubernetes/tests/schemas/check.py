"""Checks manifests against the schemas of several Kubernetes versions.

Arguments: a file with manifests (a JSON list), the folder of the Helm chart. What the chart becomes for some
values is rendered by Helm itself. Prints how many manifests there were, or what is wrong.
"""

import copy
import json
import os
import shutil
import sys
import tempfile

import helm_python
import kubernetes_validate
import yaml

VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]

# The defaults, as little as possible, and everything that can be switched on beside etcd.
VALUES = [
    {},
    {
        "pools": {"enabled": False},
        "persistence": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
    {
        "image": {"repository": "example.com/bugle", "tag": "1", "pullSecrets": ["login"]},
        "config": {"scheduler": {"idle_seconds": 5}},
        "persistence": {"enabled": True, "size": "1Gi", "storageClass": "fast"},
        "pools": {"enabled": True, "hostPaths": ["/data"]},
        "serviceAccount": {"annotations": {"a": "b"}},
        "networkPolicy": {
            "enabled": True,
            "gatewayFrom": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "controlFrom": [{"namespaceSelector": {}}],
        },
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
        ],
    },
]

# Several gateways on one etcd.
SEVERAL = {
    "replicas": 3,
    "config": {
        "store": {"kind": "etcd"},
        "etcd": {"endpoints": ["https://etcd:2379"], "ca_file": "/etc/bugle-etcd/ca.crt"},
    },
    "etcd": {"secret": "etcd-client"},
    "environmentKey": {"secret": "bugle-environment"},
}
VALUES.append(SEVERAL)
VALUES.append({**SEVERAL, "replicas": 0, "pools": {"enabled": False}})

# Values that the chart's schema has to refuse.
REFUSED = [
    {"image": {"repository": ""}},
    {"ports": {"gateway": 80, "control": 31182}},
    {"pools": {"enabled": True, "hostPaths": ["relative"]}},
    {"replicas": -1},
    {"etcd": {"secret": "No Name"}},
    {"unknown": 1},
]

# Values that contradict each other, and what is said about them.
CONTRADICTIONS = [
    ({"replicas": 2}, "config.store.kind is not etcd"),
    ({**SEVERAL, "environmentKey": {"secret": ""}}, "environmentKey.secret is empty"),
]

# A template that stands for a release that runs: with so many gateways, of that image.
RUNNING = """
{{- $template := dict "spec" (dict "containers" (list (dict "image" "%s"))) }}
{{- $running := dict "spec" (dict "replicas" %d "template" $template) }}
{{- include "bugle.oneBuild" (dict "root" . "running" $running) }}
"""


def refusal(chart_folder, values):
    """Why the chart does not become anything; none if it does."""
    try:
        helm_python.Chart.load(chart_folder).render(values, name="r", namespace="n")
    except helm_python.HelmError as error:
        return str(error)
    return None


def check_refusals(chart_folder):
    for values, said in CONTRADICTIONS:
        refused = refusal(chart_folder, values)
        if said not in (refused or ""):
            sys.exit(f"of the values {values} the chart says: {refused}")
    own = "bugle:0.1.0"
    for image, count, wanted, refused in [
        (own, 3, 5, False),
        ("bugle:0.0.9", 0, 3, False),
        ("bugle:0.0.9", 3, 0, False),
        ("bugle:0.0.9", 1, 1, False),
        ("bugle:0.0.9", 3, 3, True),
        ("bugle:0.0.9", 1, 3, True),
    ]:
        values = copy.deepcopy(SEVERAL)
        values["replicas"] = wanted
        with tempfile.TemporaryDirectory() as folder:
            chart = os.path.join(folder, "bugle")
            shutil.copytree(chart_folder, chart)
            with open(os.path.join(chart, "templates", "running.yaml"), "w", encoding="utf-8") as file:
                file.write(RUNNING % (image, count))
            said = refusal(chart, values) or ""
        if ("gateways of two builds" in said) != refused or (said and not refused):
            sys.exit(f"from {count} of {image} to {wanted} of {own} the chart says: {said}")


def check_several(manifests):
    """What several gateways need, beyond what any schema knows."""
    by_kind = {}
    for manifest in manifests:
        by_kind.setdefault(manifest["kind"], []).append(manifest)
    spec = by_kind["StatefulSet"][0]["spec"]
    assert spec["replicas"] == 3 and spec["podManagementPolicy"] == "Parallel"
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["BUGLE_CLUSTER__ADVERTISE"] == "$(POD_IP):31184"
    assert environment["BUGLE_NODES__ADVERTISE"] == "$(POD_IP):31183"
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] > 0
    assert len(pod["topologySpreadConstraints"]) == 2
    assert pod["initContainers"][0]["volumeMounts"][0]["name"] == "key"
    config = by_kind["ConfigMap"][0]["data"]["bugle.toml"]
    assert 'listen = "0.0.0.0:31184"' in config and 'kind = "etcd"' in config, config
    assert "-nodes.n.svc:31183" in config, config
    policy = next(one for one in by_kind["NetworkPolicy"] if not one["metadata"]["name"].endswith("-workers"))
    ports = [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"]]
    assert ports == ["nodes", "gateways"], ports
    assert by_kind["PodDisruptionBudget"][0]["spec"]["maxUnavailable"] == 1


def rendered(chart_folder):
    chart = helm_python.Chart.load(chart_folder)
    for values in VALUES:
        helm_python.lint(chart_folder, values, strict=True)
        manifests = []
        for text in chart.render(values, name="r", namespace="n").values():
            manifests += filter(None, yaml.safe_load_all(text))
        if values is SEVERAL:
            check_several(manifests)
        yield from manifests
    for values in REFUSED:
        try:
            chart.validate_schema(values)
        except helm_python.HelmError:
            continue
        sys.exit(f"the chart takes the values {values}")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        manifests = json.load(file)
    manifests += rendered(sys.argv[2])
    check_refusals(sys.argv[2])
    count = 0
    for manifest in manifests:
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # of an operator, in no version of Kubernetes
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
        count += 1
    print(count)


main()
