"""What src/observe/metrics.rs says of each metric, for the scripts that write or check dashboards, alerts and text.

It reads the declarations as text, so that nothing has to be built. What it cannot read it refuses: a metric that
was passed over would be one that nothing checks.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "observe" / "metrics.rs"
DECLARATION = re.compile(r'^ *([A-Z_]+) = "(\w+)", (Counter|Gauge|Histogram), (Count|Bytes|Seconds), "(.*)";$')
# A label is a word in backticks; a list of its values may follow in parentheses.
LABEL = re.compile(r"`([a-z_]+)`(?: \(([^()]*)\))?")
HISTOGRAM_ENDINGS = ("_bucket", "_sum", "_count")


@dataclass
class Metric:
    name: str
    type: str
    unit: str
    meaning: str
    section: int
    # By label: the values that it can have, or None where they are open.
    labels: dict = field(default_factory=dict)


def closed(values):
    """`a, b, c` is all there is; anything wordier, such as `a, or the problem's`, is not."""
    listed = [value.strip() for value in (values or "").split(",")]
    return set(listed) if all(re.fullmatch(r"[a-z0-9_]+", value) for value in listed) else None


def read(source=SOURCE):
    """Metrics by name, in the order of their declaration; blank lines divide sections."""
    lines = source.read_text().split("\nmetrics! {\n", 1)[1].split("\n}\n", 1)[0].splitlines()
    metrics, section = {}, 0
    for line in lines:
        if not line.strip():
            section += 1
            continue
        declared = DECLARATION.match(line)
        if not declared:
            raise ValueError(f"{source}: this declaration is not understood: {line.strip()}")
        _, name, kind, unit, meaning = declared.groups()
        labels = {label: closed(values) for label, values in LABEL.findall(meaning)}
        metrics[name] = Metric(name, kind, unit, meaning, section, labels)
    if not metrics:
        raise ValueError(f"{source}: no metric is declared")
    return metrics


def of_series(series, metrics):
    """The metric that a series belongs to, or None: `…_bucket` belongs to its histogram."""
    if series in metrics:
        # A histogram's own name is no series.
        return None if metrics[series].type == "Histogram" else metrics[series]
    for ending in HISTOGRAM_ENDINGS:
        metric = metrics.get(series.removesuffix(ending)) if series.endswith(ending) else None
        if metric and metric.type == "Histogram":
            return metric
    return None
