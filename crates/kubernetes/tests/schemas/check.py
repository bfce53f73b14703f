"""Checks manifests against the schemas of several Kubernetes versions.

Arguments: a file with manifests (a JSON list), the folder of the Helm chart. What the chart becomes for some
values is rendered by Helm itself. Prints how many manifests there were, or what is wrong.
"""

import json
import sys

import helm_python
import kubernetes_validate
import yaml

VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]

# The defaults, as little as possible, and everything that can be switched on.
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
    },
]

# Values that the chart's schema has to refuse.
REFUSED = [
    {"image": {"repository": ""}},
    {"ports": {"gateway": 80, "control": 31182}},
    {"pools": {"enabled": True, "hostPaths": ["relative"]}},
    {"unknown": 1},
]


def rendered(chart_folder):
    chart = helm_python.Chart.load(chart_folder)
    for values in VALUES:
        helm_python.lint(chart_folder, values, strict=True)
        for text in chart.render(values, name="r", namespace="n").values():
            yield from filter(None, yaml.safe_load_all(text))
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
    count = 0
    for manifest in manifests:
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # of an operator, in no version of Kubernetes
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
        count += 1
    print(count)


main()
