#!/usr/bin/env python3
"""Writes components/monitoring/prometheusrule.yaml: deploy/alerts.yaml as the Prometheus operator takes it.

    deploy/k8s/build.py            write it
    deploy/k8s/build.py --check    fail if it is not what would be written
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE / "components" / "monitoring" / "prometheusrule.yaml"
HEAD = """\
# Written by deploy/k8s/build.py from deploy/alerts.yaml: change it there, then run the script.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: streamer
  labels:
    app.kubernetes.io/name: streamer
spec:
"""


def rule():
    # Text, not YAML, so that comments and the writing of expressions stay.
    lines = (HERE.parent / "alerts.yaml").read_text().splitlines()
    lines = lines[lines.index("groups:"):]
    return HEAD + "".join(f"  {line}".rstrip() + "\n" for line in lines)


if sys.argv[1:] == ["--check"]:
    if not TARGET.exists() or TARGET.read_text() != rule():
        sys.exit("deploy/k8s: prometheusrule.yaml is not up to date: run deploy/k8s/build.py")
elif not sys.argv[1:]:
    TARGET.write_text(rule())
else:
    sys.exit(__doc__.strip())
