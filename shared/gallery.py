"""One HTML page of every sprint's question, answer and main figure, and of all experiments; made from reports, readable offline.

The page is one file beside the figures: gallery.css and gallery.js stand in it. Without the script only the search is missing.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import product
from pathlib import Path

from shared.report import AIM, AIMS, NOT_RUN, VERDICTS, Reports, difference, fill, interval, shown, value, write_atomically
from shared.sprints import Sprint, discover

HERE = Path(__file__).parent
PURPOSE = "Machine-learning sprints, one question each, answered by controlled comparisons that one command repeats."
SIGNS = (("yes", "✓", "reproduced"), ("part", "◐", "partly"), ("no", "✗", "not"), ("open", "–", NOT_RUN))
MARKS = dict(zip(VERDICTS, SIGNS, strict=True))  # verdict -> its class, its sign, its word on a card
MACHINES = {"NVIDIA GPU": ("cuda",), "Apple silicon": ("mlx", "mps"), "CPU": ("cpu",)}  # and the DEVICE of each, best first
SAMPLES = 6  # texts of a sheet that stand on the page


def page(sprints: Sequence[Sprint], found: Mapping[str, Reports], link: Callable[[str], str], folder: Path | None = None) -> str:
    """The page for `found` (sprint folder -> experiment -> report); `link` gives the folder of a sprint's results, as seen from
    `folder`, in which the page will lie. With it the page shows samples and knows the size of every figure."""
    toy = any(report["smoke"] for reports in found.values() for report in reports.values())
    banner = '<p class="toy">Made with --smoke: toy size, the numbers mean nothing.</p>\n' if toy else ""
    every = [(sprint, name, report) for sprint in sprints for name, report in found[sprint.folder.name].items()]
    links = "".join(f'<li><a href="#{sprint.name}">{escape(sprint.title)}</a></li>' for sprint in sprints)
    ledger = _ledger(every)
    ends = [("claims", "Claims")] * bool(ledger) + [("log", "Log")]
    links += "".join(
        f'<li{" class=page-end" * (not at)}><a href="#{name}">{title}</a></li>' for at, (name, title) in enumerate(ends)
    )
    cards = ""
    for sprint in sprints:
        base = link(sprint.folder.name)
        cards += _card(sprint, found[sprint.folder.name], base, folder and folder / base)
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("gallery.css", "gallery.js"))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, '
        f'initial-scale=1">\n<title>sprintlab: results</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        f'<a class="skip" href="#main">Skip to the sprints</a>\n<header class="page head">\n<h1>sprintlab</h1>\n'
        f"<p>{PURPOSE}</p>\n{_facts(sprints, [report for *_, report in every])}</header>\n"
        f'<nav aria-label="Sprints"><ul class="page">{links}</ul></nav>\n'
        f'<main id="main" class="page">\n{banner}{cards}{ledger}{_log(every)}</main>\n'
        f'<footer class="page">Rendered from the sprints\' reports.</footer>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def write(out: Path, found: Mapping[str, Reports]) -> Path:
    """Write index.html into `out`, which holds a folder of reports per sprint."""
    sprints = [sprint for sprint in discover() if sprint.folder.name in found]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "index.html", page(sprints, found, lambda sprint: sprint, out).encode())
    return out / "index.html"


def main_figure(sprint: Sprint, reports: Reports) -> tuple[str, dict] | None:
    """The experiment and the figure for the card: what `figure` in sprint.toml names; else, or where that is not there, the first
    of the report from which the answer takes most of its numbers."""
    drawn = [(name, figure) for name, report in reports.items() for figure in report["figures"]]
    keys = set(re.findall(r"\{([\w.-]+)", sprint.answer))
    named = [(name, figure) for name, figure in drawn if f"{name}/{figure['file']}" == sprint.figure]
    return max(named or drawn, key=lambda found: len(keys & set(reports[found[0]]["metrics"])), default=None)


# -- a card -------------------------------------------------------------------------------------------------------------------


def _card(sprint: Sprint, reports: Reports, base: str, folder: Path | None) -> str:
    main, name = main_figure(sprint, reports), sprint.name
    text = f'<section class="card" id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title"><span class="number">'
    text += f"{sprint.folder.name[:2]}</span> {escape(sprint.title)}</h2>\n"
    text += f'<p class="question">{escape(sprint.question)}</p>\n<div class="halves{"" if main else " single"}">\n<div>\n'
    text += f"{_answer(sprint, reports)}{_verdicts(reports.values())}</div>\n"
    if main:
        text += f'<div class="main">{_figure(*main, base, folder, lazy=False)}</div>\n'
    text += f"</div>\n{_run(sprint, reports)}"
    if folder and "generate" in sprint.steps:
        for path in sorted([*folder.glob("*.md"), *folder.glob("samples/*.md")]):
            text += _sheet(path.read_text(encoding="utf-8"), f"{base}/{path.relative_to(folder).as_posix()}")
    if reports:
        text += f'<details><summary>{_count(len(reports), "experiment")} <span class="hint">with all figures, numbers, claims and '
        text += "how each was made</span></summary>\n"
        text += "".join(_experiment(name, experiment, report, base, folder) for experiment, report in reports.items())
        text += "</details>\n"
    return text + "</section>\n"


def _answer(sprint: Sprint, reports: Reports) -> str:
    told = fill(sprint.answer + sprint.baseline, [reports])
    said = sprint.reports() if not reports or NOT_RUN in told else reports  # a demonstration has not run everything
    if not said:
        return f"<h3>Answer</h3>\n<p>{escape(told)}</p>\n"
    whose = "Answer of the published runs" if said != reports else "Answer"
    points = "".join(f"<li>{_filled(part.rstrip(';.'), said)}</li>" for part in re.split(r"(?<=[;.]) ", sprint.answer))
    return (
        f'<h3>{whose} <span class="hint">[95 % interval]</span></h3>\n<ul class="answer">{points}</ul>\n'
        f'<p class="baseline"><b>Measured against:</b> {_filled(sprint.baseline, said)}</p>\n'
    )


def _filled(template: str, reports: Reports) -> str:
    """A sentence of sprint.toml with its numbers set apart from their intervals."""

    def apart(match: re.Match) -> str:
        mean, bracket, bounds = fill(match[0], [reports]).partition(" [")
        return f"<b>{escape(mean)}</b>" + (f' <span class="interval">{escape(bracket[1:] + bounds)}</span>' if bracket else "")

    return re.sub(r"\{[\w.:-]+\}", apart, _prose(template))


def _verdicts(reports: Iterable[dict]) -> str:
    claims = (claim for report in reports if not report["smoke"] for claim in report["claims"])
    counts = Counter(claim["verdict"] for claim in claims if claim["source"] != AIM)
    chips = [
        f'<span class="verdict {kind}"><span aria-hidden="true">{sign}</span> {counts[verdict]} {word}</span>'
        for verdict, (kind, sign, word) in MARKS.items()
        if counts[verdict]
    ]
    return f'<p class="verdicts">Claims: {" ".join(chips)}</p>\n' if chips else ""


def _run(sprint: Sprint, reports: Reports) -> str:
    commands = "".join(f"<li><code>make {sprint.name}-{step}</code></li>" for step in sprint.steps)
    text = f'<div class="run">\n<div><h3>Run it</h3>\n<ul aria-label="Steps">{commands}</ul></div>\n'
    text += "<div><h3>On your machine</h3>\n<dl>"
    first = f"make {sprint.name}-{'train' if 'train' in sprint.steps else next(iter(sprint.steps))}"
    used = {report["device"]["kind"] for report in reports.values()}
    for machine, kinds in MACHINES.items():
        usable = [kind for kind in kinds if kind in sprint.devices]
        how = " or ".join(f"<code>{first} DEVICE={kind}</code>" for kind in usable) or "computes on its CPU"
        note = f" <small>{NOT_RUN}</small>" if usable and reports and not used & set(usable) else ""
        text += f"<dt>{machine}</dt><dd>{how}{note}</dd>"
    return text + "</dl></div>\n</div>\n"


def _sheet(text: str, link: str) -> str:
    """The first texts of a page of samples (shared.report.quoted): headings, quotations, lists, paragraphs."""
    blocks, quotes = [], 0
    for block in re.split(r"\n{2,}", text.strip()):
        lines = [line.rstrip() for line in block.splitlines()]
        if block.startswith("# "):
            continue
        if all(line.startswith(">") for line in lines):
            quotes += 1
            if quotes > SAMPLES:
                break
            blocks.append(f"<blockquote>{'<br>'.join(_prose(line[1:].strip()) for line in lines)}</blockquote>")
        elif block.startswith("## "):
            blocks.append(f"<h4>{_prose(lines[0][3:])}</h4>")
        elif block.startswith("- "):
            blocks.append("<ul>" + "".join(f"<li>{_prose(line[2:])}</li>" for line in lines) + "</ul>")
        else:
            blocks.append(f"<p>{_prose(' '.join(lines))}</p>")
    while blocks and not blocks[-1].startswith(("<blockquote", "<ul")):  # a heading whose text is left out
        blocks.pop()
    more = f'<p class="soft"><a href="{escape(link)}">the whole sheet</a></p>'
    hint = '<span class="hint">as they came</span>'
    return f'<details><summary>Samples, {hint}</summary>\n<div class="sheet">{"".join(blocks)}</div>{more}</details>\n'


# -- an experiment ------------------------------------------------------------------------------------------------------------


def _experiment(sprint: str, name: str, report: dict, base: str, folder: Path | None) -> str:
    figures = "".join(_figure(name, figure, base, folder) for figure in report["figures"])
    text = f'<article class="experiment" id="{sprint}-{name}">\n<h3>{escape(report["title"])}</h3>\n'
    text += f'<p class="soft">{_prose(report["objective"])}</p>\n<p class="takeaway">{_prose(report["conclusion"])}</p>\n'
    text += f'<div class="figures">{figures}</div>\n' if figures else ""
    text += f"<ul>{''.join(f'<li>{_prose(line)}</li>' for line in report['observations'])}</ul>\n" if report["observations"] else ""
    text += _claims(report) + _metrics(report) + _comparisons(report) + _provenance(report, f"{base}/{name}/report.json")
    return text + "</article>\n"


def _figure(name: str, figure: dict, base: str, folder: Path | None, *, lazy: bool = True) -> str:
    place, size = f"{name}/{figure['file']}", ""
    if folder and (folder / place).is_file():
        head = (folder / place).read_bytes()[:24]  # of a PNG: the first chunk holds width and height
        size = ' width="{}" height="{}"'.format(*(int.from_bytes(head[at : at + 4]) for at in (16, 20)))
    how = ' loading="lazy"' if lazy else ""
    source, shows = escape(f"{base}/{place}"), escape(figure["shows"])
    picture = f'<img{how}{size} src="{source}" alt="{shows}">'
    return f'<figure><a href="{source}">{picture}</a><figcaption>{shows} {escape(figure["matters"])}</figcaption></figure>\n'


def _claims(report: dict) -> str:
    text = ""
    for claim in report["claims"] if not report["smoke"] else []:  # a toy run proves and refutes nothing
        kind, sign, _ = MARKS[claim["verdict"]]
        text += f'<li><p><span class="verdict {kind}"><span aria-hidden="true">{sign}</span> {claim["verdict"]}:</span> '
        text += f'{_prose(claim["claim"])}</p><p class="soft">{_outcome(claim)} ({_prose(claim["source"])})</p></li>\n'
    return f'<ul class="claims">{text}</ul>\n' if text else ""


def _metrics(report: dict) -> str:
    rows = [[metric["meaning"], value(metric, "unit"), interval(metric), str(metric["n"])] for metric in report["metrics"].values()]
    return _table(f"all {len(rows)} numbers", ["what", "mean", "95 % interval", "n"], rows)


def _comparisons(report: dict) -> str:
    rows = []
    for found in map(shown, report["comparisons"]):
        names = f"{found['key'].replace('_', ' ')}: {found['a']} - {found['b']}"
        mean, p = difference(found)
        rows.append([names, mean, interval(found), p])
    return _table(_count(len(rows), "paired difference"), ["difference", "mean", "95 % interval", "p"], rows) if rows else ""


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<details><summary>{title}</summary>\n<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></details>\n"


def _provenance(report: dict, link: str) -> str:
    setup = "".join(f"<li>{escape(name)}: {_prose(str(what))}</li>" for name, what in report["setup"].items())
    seeds = report["seeds"]
    drawn = f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else f"seed {seeds[0]}" if seeds else "no seed"
    machine = report["machine"]
    made = f"<code>{escape(report['command'])}</code>, {drawn}, {report['seconds']:.0f} s on {escape(report['device']['kind'])} "
    made += f"({escape(machine['cpu'])}, {machine['logical_cores']} cores), commit {escape(report['git'])}, "
    made += f'{report["started"][:10]}; <a href="{escape(link)}">its report</a>'
    return f"<details><summary>how it was made</summary>\n<ul>{setup}<li>{made}</li></ul></details>\n"


# -- the page around the cards ----------------------------------------------------------------------------------------------------


def _facts(sprints: Sequence[Sprint], reports: Sequence[dict]) -> str:
    checked = sum(claim["source"] != AIM for report in reports if not report["smoke"] for claim in report["claims"])
    numbers = sum(len(report["metrics"]) for report in reports)
    counts = {"sprint": len(sprints), "experiment": len(reports), "measured number": numbers, "checked claim": checked}
    facts = [_count(count, name).split(" ", 1) for name, count in counts.items() if count]
    return '<ul class="facts">' + "".join(f"<li><b>{count}</b> {name}</li>" for count, name in facts) + "</ul>\n"


def _outcome(claim: dict) -> str:
    if claim["source"] == AIM:
        return f"Measured: {_prose(claim['honest'])}."
    return f"Under its protocol: {_prose(claim['ours'])}. Under an honest one: {_prose(claim['honest'])}."


def _ledger(every: Iterable[tuple[Sprint, str, dict]]) -> str:
    """All claims on one page, by what became of them."""
    found = [(sprint, name, claim) for sprint, name, report in every if not report["smoke"] for claim in report["claims"]]
    text = ""
    for own, (verdict, (kind, sign, _)) in product((False, True), MARKS.items()):
        listed = ""
        for sprint, name, claim in found:
            if claim["verdict"] == verdict and (claim["source"] == AIM) == own:
                link = f'<a href="#{sprint.name}-{name}">{_prose(claim["claim"])}</a>'
                listed += f'<li>{link} <span class="soft">{escape(sprint.title)}</span><p>{_outcome(claim)}</p></li>\n'
        if listed:
            title = f"Aims of our own: {AIMS[verdict]}" if own else verdict.capitalize()
            text += f'<h3 class="verdict {kind}"><span aria-hidden="true">{sign}</span> {title}</h3>\n<ol>\n{listed}</ol>\n'
    return text and (
        '<section class="log" id="claims" aria-labelledby="claims-title">\n<h2 id="claims-title">Claims</h2>\n'
        "<p>What the public projects claim that these sprints repeat, and what an honest protocol says of it.</p>\n"
        f"{text}</section>\n"
    )


def _log(every: Iterable[tuple[Sprint, str, dict]]) -> str:
    entries = ""
    for sprint, name, report in sorted(every, key=lambda entry: entry[2]["started"], reverse=True):
        entries += f'<li><a href="#{sprint.name}-{name}">{escape(report["title"])}</a> <span class="soft">{escape(sprint.title)}, '
        entries += f"{report['started'][:10]}</span><p>{_prose(report['conclusion'])}</p></li>\n"
    return (
        '<section class="log" id="log" aria-labelledby="log-title">\n<h2 id="log-title">Experiment log</h2>\n'
        "<p>Every recorded experiment, newest first, with what it showed.</p>\n"
        '<form class="find" role="search" hidden><label for="search">Find experiments</label>'
        '<input id="search" type="search" placeholder="words, such as: sparsity bundle" autocomplete="off">'
        "<output></output></form>\n"
        f"<ol>\n{entries}</ol>\n</section>\n"
    )


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' if number != 1 else ''}"


def _prose(text: str) -> str:
    """A sentence as HTML; Markdown's `code` and **bold** are kept."""
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))
