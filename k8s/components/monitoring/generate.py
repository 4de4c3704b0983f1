"""Writes prometheusrule.yaml, what the Prometheus operator takes, from the plain rules.yaml.

python k8s/components/monitoring/generate.py           write it
python k8s/components/monitoring/generate.py --check   exit 1 when it is not fresh
"""

import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """\
# GENERATED from rules.yaml by generate.py. Do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: efficientfrontier
  namespace: efficientfrontier
  labels: {app: efficientfrontier}
spec:
"""


def main() -> None:
    """Writes the file, or checks that it is fresh."""
    rules = (HERE / "rules.yaml").read_text()
    text = HEAD + textwrap.indent(rules[rules.index("groups:") :], "  ")
    target = HERE / "prometheusrule.yaml"
    if "--check" not in sys.argv[1:]:
        target.write_text(text)
    elif target.read_text() != text:
        sys.exit(f"{target} is not fresh. Run: python k8s/components/monitoring/generate.py")


if __name__ == "__main__":
    main()
