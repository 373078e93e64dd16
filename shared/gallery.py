"""One HTML page with every sprint's question, answer and figures; made from reports alone, readable offline and on a phone."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from shared.report import fill, interval, value, write_atomically
from shared.sprints import Sprint, discover

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #00795c; --bad: #c04a00 }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 1.2rem }
p, h2, h3 { overflow-wrap: anywhere } h1 { margin: .2em 0 } h2 { margin: 0 } h3 { margin: 1.6em 0 .3em } a { color: inherit }
section { border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem; margin: 1.4rem 0; background: var(--soft) }
.question { font-style: italic; font-size: 1.1rem } .answer { font-size: 1.1rem; font-weight: 600 }
.small { opacity: .75; font-size: .9rem }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 1rem }
figure { margin: 0 } figure:only-child { grid-column: 1 / -1 }
img { width: 100%; border-radius: 6px; background: #fff } figcaption { font-size: .85rem; opacity: .85 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; width: 100% }
td, th { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums }
.reproduced { color: var(--good) } .not { color: var(--bad) }
.toy { border: 3px solid var(--bad); border-radius: 12px; padding: .6rem 1rem; font-weight: 600 }
@media print { section { break-inside: avoid; background: none } }
"""


def page(sprints: Sequence[Sprint], found: Mapping[str, Mapping[str, dict]], link: Callable[[str], str]) -> str:
    """The page for `found` (sprint folder -> experiment -> report); `link` gives the folder of a sprint's results."""
    toy = any(report["smoke"] for reports in found.values() for report in reports.values())
    banner = '<p class="toy">Made with --smoke: toy size, the numbers mean nothing.</p>\n' if toy else ""
    cards = "".join(_card(sprint, found[sprint.folder.name], link(sprint.folder.name)) for sprint in sprints)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, '
        f'initial-scale=1">\n<title>sprintlab: results</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>sprintlab</h1>\n'
        f"<p>Every number and picture below comes from a recorded run.</p>\n{banner}{cards}</body>\n</html>\n"
    )


def write(out: Path, found: Mapping[str, Mapping[str, dict]]) -> Path:
    """Write index.html into `out`, which holds a folder of reports per sprint."""
    sprints = [sprint for sprint in discover() if sprint.folder.name in found]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "index.html", page(sprints, found, lambda sprint: sprint).encode())
    return out / "index.html"


def _card(sprint: Sprint, reports: Mapping[str, dict], base: str) -> str:
    text = f'<section id="{sprint.name}">\n<h2>{escape(sprint.title)}</h2>\n<p class="question">{escape(sprint.question)}</p>\n'
    text += f'<p class="answer">{escape(fill(sprint.answer, [reports]))}</p>\n'
    text += f'<p class="small">Baseline: {escape(fill(sprint.baseline, [reports]))}</p>\n'
    for name, report in reports.items():
        text += f'<h3>{escape(report["title"])}</h3>\n<p>{escape(report["conclusion"])}</p>\n<div class="figures">\n'
        for figure in report["figures"]:
            text += (
                f'<figure><a href="{base}/{name}/{figure["file"]}"><img loading="lazy" src="{base}/{name}/{figure["file"]}" '
                f'alt="{escape(figure["shows"])}"></a><figcaption>{escape(figure["shows"])}</figcaption></figure>\n'
            )
        text += f"</div>\n{_metrics(report)}{_claims(report)}"
        text += f'<p class="small"><code>{escape(report["command"])}</code>, {report["seconds"]:.0f} s, '
        text += f"{escape(report['machine']['cpu'])}</p>\n"
    return text + "</section>\n"


def _metrics(report: dict) -> str:
    rows = ""
    for metric in report["metrics"].values():
        cells = [value(metric, "unit"), interval(metric), str(metric["n"])]
        rows += f"<tr><td>{escape(metric['meaning'])}</td>"
        rows += "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells) + "</tr>\n"
    header = "<tr><th>what</th><th>mean</th><th>95 % interval</th><th>n</th></tr>\n"
    return f'<details><summary>all numbers</summary><div class="wide"><table>{header}{rows}</table></div></details>\n'


def _claims(report: dict) -> str:
    rows = ""
    for claim in report["claims"] if not report["smoke"] else []:  # a toy run proves and refutes nothing
        kind = {"reproduced": "reproduced", "not reproduced": "not"}.get(claim["verdict"], "")
        rows += f'<tr><td>{escape(claim["claim"])}</td><td class="{kind}"><b>{escape(claim["verdict"])}</b></td>'
        rows += f"<td>{escape(claim['ours'])}</td><td>{escape(claim['honest'])}</td></tr>\n"
    header = "<tr><th>claim of the original</th><th>verdict</th><th>under its protocol</th><th>under an honest one</th></tr>\n"
    return f'<div class="wide"><table>{header}{rows}</table></div>\n' if rows else ""
