"""results/evaluation_report.md: the reports of this sprint as one page, rendered, never written by hand."""

from collections.abc import Mapping

from shared import blocks
from shared.report import NOT_RUN, Reports, value

COLUMNS = {
    "recall": "S1 and S2",
    "s1": "S1",
    "s2": "S2",
    "s3": "S3",
    "s4": "S4",
    "over_triggering": "S5",
    "consistency": "every lead-in right",
    "same_answer": "every wording alike",
}
KEPT = {
    "perplexity_ratio": "perplexity, unrelated",
    "near_ratio": "perplexity, near-domain",
    "kl_unrelated": "KL, unrelated",
    "kl_near_domain": "KL, near-domain",
    "equal_unrelated": "bit-equal, unrelated",
    "equal_near_domain": "bit-equal, near-domain",
}
COST = {"trainable": "trained", "stored_bytes": "stored", "fit_seconds": "training", "rate": "learning rate"}
LEGEND = """S1 are the trained prompts, S2 the same under a lead-in that never trains, S3 rewordings of the tail, S4 patterns that
were never taught, S5 near misses: there the number is the share that was answered with a taught completion, so lower is better.
Perplexities are ratios to the base's. Brackets hold 95 % intervals, over patterns (or blocks of a text) and seeds.
"""


def page(reports: Reports, labels: Mapping[str, str]) -> str:
    """The whole page; what has no report says that it was not run here. `labels`: methods by key, in their order."""
    text = "# Engram: evaluation report\n\n<!-- Rendered by `make engram-eval` from */report.json: do not edit. -->\n\n"
    if comparison := reports.get("comparison"):
        text += f"{comparison['conclusion']}\n\n## Methods\n\n{LEGEND}"
        for title, columns in (("Learned", COLUMNS), ("Kept", KEPT), ("Cost", COST)):
            text += f"\n### {title}\n\n{_table(comparison, labels, columns)}"
    else:
        text += f"The comparison was {NOT_RUN}: `make engram-eval`.\n"
    text += f"\n## Claims\n\n{blocks.claims(reports, '.')}"
    for name, report in reports.items():
        text += f"\n## {report['title']}\n\n*{report['objective']}* {blocks.provenance(report)}\n"
        text += f"{blocks.figures(report, name)}{blocks.comparisons(report)}\n"
        text += "".join(f"- {line}\n" for line in report["observations"]) + "\n"
        if name != "comparison":
            text += f"<details><summary>all numbers</summary>\n\n{blocks.metrics(report)}\n</details>\n"
    return text


def _table(report: dict, labels: Mapping[str, str], columns: Mapping[str, str]) -> str:
    metrics = report["metrics"]
    rows = []
    for key, label in labels.items():
        cells = [metrics.get(f"{column}_{key}") for column in columns]
        if any(cells):
            rows.append([label, *("" if cell is None else value(cell, "interval") for cell in cells)])
    return blocks.table(["method", *columns.values()], rows)
