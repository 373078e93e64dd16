"""Reports on disk, and the numbers in them as text. Only the standard library is used."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

Reports = Mapping[str, dict]  # experiment -> report
NOT_RUN = "not run here"


def read_all(folder: Path) -> dict[str, dict]:
    """The reports under `folder` (a sprint's results/, or its part of runs/demo), by experiment, in the order they were started."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/report.json")]
    return {report["experiment"]: report for report in sorted(found, key=lambda report: report["started"])}


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, then rename: a reader sees the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def number(value: float) -> str:
    """Four significant digits, without an exponent where a reader would not want one."""
    text = f"{value:.4g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e9 else text


def value(metric: dict, form: str | None = None) -> str:
    """A metric as text: its mean (form None), mean, unit and interval ("interval"), the same of its median ("median"), or "n"."""
    if form not in (None, "interval", "median", "n"):
        raise ValueError(f"a value is KEY, KEY:interval, KEY:median or KEY:n; there is no KEY:{form}")
    if form == "n":
        return f"{metric['n']:,}"
    unit = f" {metric['unit']}" if metric["unit"] else ""
    if form == "median" and "median" in metric:  # needs six values; below, the mean stands in
        low, high = metric["median_ci95"]
        return f"{number(metric['median'])}{unit} [{number(low)}, {number(high)}]"
    if form and metric["ci95"] is not None:
        low, high = metric["ci95"]
        return f"{number(metric['mean'])}{unit} [{number(low)}, {number(high)}]"
    return f"{number(metric['mean'])}{unit if form else ''}"


def lookup(key: str, form: str | None, sources: Iterable[Reports]) -> str:
    """The metric `key` of the first report that has it; "not run here" when none has."""
    for found in sources:
        for report in found.values():
            if key in report["metrics"]:
                return value(report["metrics"][key], form)
    return NOT_RUN


def fill(template: str, sources: Sequence[Reports]) -> str:
    """Replace each {key}, {key:median} of a sprint.toml sentence by the measured value with unit and interval."""
    return re.sub(r"\{([\w.-]+)(?::(\w+))?\}", lambda m: lookup(m[1], m[2] or "interval", sources), template)
