"""Reports on disk, and the numbers in them as text. Only the standard library is used."""

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path

from shared.errors import UserError

Reports = Mapping[str, dict]  # experiment -> report
NOT_RUN = "not run here"
VERDICTS = ("reproduced", "partly reproduced", "not reproduced", NOT_RUN)  # on a claim
AIMS = dict(zip(VERDICTS, ("met", "partly met", "missed", NOT_RUN), strict=True))  # the same on an aim of our own
AIM = "our aim"  # as the source of a claim: no original makes it
OF_THE_RUN = ("command", "device", "machine", "versions", "git", "started", "seconds", "peak_memory_mib")


def read_all(folder: Path) -> dict[str, dict]:
    """The reports under `folder` (a sprint's results/, or its part of runs/demo), by experiment."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/report.json"))]
    return {report["experiment"]: report for report in found}


def same_result(one: dict, other: dict) -> bool:
    """Whether two reports say the same, whenever, wherever and by whatever commit they were made."""
    return {**one, **dict.fromkeys(OF_THE_RUN)} == {**other, **dict.fromkeys(OF_THE_RUN)}


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, then rename: a reader sees the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_run(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a run into `folder` in their order, the report last: it speaks of the others; older figures go."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    for path in folder.glob("*.png"):
        if path.name not in files:
            path.unlink()


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder to write into; it takes the place of `folder` when the block ends well.

    Whatever goes wrong, Ctrl-C included, a reader sees the old folder or the new, whole, or for a moment none. What a killed
    process left beside it is put back or removed by the next one, so a folder has one writer at a time.
    """
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))

    def tidy() -> None:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)

    tidy()
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        tidy()


def refuse_foreign(folder: Path, mark: str, what: str) -> None:
    """Raises UserError where `folder` is there and is neither empty nor `what`, which has a file called `mark`."""
    if folder.exists() and not (folder.is_dir() and ((folder / mark).is_file() or not any(folder.iterdir()))):
        raise UserError(f"{folder} holds something else than {what}: choose another folder")


def verdict(*held: bool) -> str:
    """On a claim, by its parts: reproduced where all of them hold, partly where some do."""
    return VERDICTS[0] if all(held) else VERDICTS[1] if any(held) else VERDICTS[2]


def quoted(text: str) -> str:
    """A text as a Markdown quotation that keeps its lines apart."""
    return "\n".join(f"> {line}".rstrip() + ("  " if line else "") for line in (text or "(nothing)").split("\n"))


def number(value: float) -> str:
    """Four significant digits, without an exponent where a reader would not want one; zeros at the end say that it was rounded."""
    if 1000 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    exact = math.isclose(float(text), value, rel_tol=1e-9)  # the last bits of 100 times a fraction are not
    return text if exact else f"{value:#.4g}".removesuffix(".")


def places(ci95: Sequence[float] | None) -> int | None:
    """Decimal places that show two digits of half an interval's width [low, high], and never less than whole numbers; up to two
    more so that no end that is not zero reads as zero. None where there is no width.

    After the Particle Data Group (Review of Particle Physics, Introduction, section 5.3), who keep one digit of widths that
    begin with 355 to 949; two are kept here, because readers compare values.
    """
    if ci95 is None or not 0 < (half := (ci95[1] - ci95[0]) / 2) < math.inf:
        return None
    least = max(1 - int(f"{half:.1e}".split("e")[1]), 0)
    return next((least + more for more in (0, 1, 2) if all(round(end, least + more) for end in ci95 if end)), least)


def measured(value: float, ci95: Sequence[float] | None, unit: str = "") -> str:
    """A number to the decimal place that its interval supports, see `places`; to four significant digits without one."""
    digits = places(ci95)
    if ci95 is None or digits is None:
        return number(value)
    if value == 0 or (unit == "%" and value == 100):  # nothing and all of it are exact
        return f"{abs(value):.0f}"
    if (largest := max(map(abs, ci95))) < 1e-4:  # too many zeros to count
        return f"{value:.{max(math.floor(math.log10(largest)) + digits, 0)}e}"
    return f"{value:z,.{digits}f}"


def difference(found: dict) -> tuple[str, str]:
    """A comparison's difference with its unit, and its p, as text; `found` as `shown` gives it."""
    text = f"{measured(found['difference'], found['ci95'])} {found['unit']}".strip()
    return text, f"{found['p']:.2g}" if found["p"] >= 1e-4 else "< 0.0001"


def shown(found: dict) -> dict:
    """A metric or a comparison as readers see it: fractions in percent, differences of them in percentage points."""
    if found["unit"] != "fraction":
        return found
    numbers = {key: 100 * found[key] for key in ("mean", "median", "difference") if key in found}
    ranges = {key: [100 * bound for bound in found[key]] for key in ("ci95", "median_ci95") if found.get(key)}
    return found | numbers | ranges | {"unit": "points" if "difference" in found else "%"}


def interval(metric: dict) -> str:
    """The 95 % interval, "low to high"; empty when there is none."""
    metric = shown(metric)
    return "" if (ends := metric["ci95"]) is None else " to ".join(measured(end, ends, metric["unit"]) for end in ends)


def value(metric: dict, form: str | None = None) -> str:
    """A metric as text: its mean (form None), with its "unit", with unit and "interval", the interval's "low" end, rounded down,
    the "median" with its interval, "raw" (four significant digits, for what is held against an aim, or against another value on
    the same folds), or "n"."""
    if form not in (None, "unit", "interval", "low", "median", "raw", "n"):
        known = "KEY:unit, KEY:interval, KEY:low, KEY:median, KEY:raw and KEY:n"
        raise ValueError(f"there is no KEY:{form}; there is KEY, {known}")
    if form == "n":
        return f"{metric['n']:,}"
    metric = shown(metric)
    unit = f" {metric['unit']}" if metric["unit"] and (form not in (None, "raw") or metric["unit"] == "%") else ""
    if form == "raw":
        return number(metric["mean"]) + unit
    mean, ends = metric["mean"], metric["ci95"]
    if form == "low":
        return rounded_down(ends) + unit
    if form == "median" and "median" in metric:  # needs six values; below, the mean stands in
        mean, ends = metric["median"], metric["median_ci95"]
    text = measured(mean, ends, metric["unit"]) + unit
    if form not in ("interval", "median") or not ends:
        return text
    return "{} [{}, {}]".format(text, *(measured(end, ends, metric["unit"]) for end in ends))


def rounded_down(ci95: Sequence[float] | None) -> str:
    """The low end of an interval: what is proven is not rounded up. Raises ValueError where there is no interval."""
    if ci95 is None:
        raise ValueError("there is no KEY:low without an interval")
    if (digits := places(ci95)) is None:
        return number(ci95[0])
    return str(Decimal(repr(ci95[0])).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def lookup(key: str, form: str | None, sources: Iterable[Reports]) -> str:
    """The metric `key` of the first report that has it; "not run here" when none has."""
    for found in sources:
        for report in found.values():
            if key in report["metrics"]:
                return value(report["metrics"][key], form)
    return NOT_RUN


def fill(template: str, sources: Sequence[Reports]) -> str:
    """Replace each {key}, {key:median} of a sprint.toml sentence by the measured value with unit and interval.

    Before the first report there is nothing to say: the sentence would be made of holes.
    """
    if not any(sources):
        return "No published run yet."
    return re.sub(r"\{([\w.-]+)(?::(\w+))?\}", lambda m: lookup(m[1], m[2] or "interval", sources), template)
