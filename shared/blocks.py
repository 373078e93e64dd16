"""The blocks that shared/docs.py puts into documents: tables, figures and lines of Markdown made of reports."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from shared.demo_steps import SECONDS
from shared.report import AIM, AIMS, NOT_RUN, VERDICTS, Reports, difference, fill, interval, shown, value
from shared.sprints import Sprint


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in [header, ["---"] * len(header), *cells]) if cells else ""


def metrics(report: dict, _link: str = "") -> str:
    rows = [
        [metric["meaning"], value(metric, "unit"), interval(metric), str(metric["n"]), f"`{key}`"]
        for key, metric in report["metrics"].items()
    ]
    return table(["what", "mean", "95 % interval", "n", "key"], rows)


def comparisons(report: dict, _link: str = "") -> str:
    rows = []
    for c in map(shown, report["comparisons"]):
        mean, p = difference(c)
        rows.append([c["key"].replace("_", " "), c["a"], c["b"], mean, interval(c), p, str(c["n"])])
    return table(["what", "a", "b", "a - b", "95 % interval", "p (paired or corrected t)", "n"], rows)


def figures(report: dict, link: str) -> str:
    return "".join(f"![{f['shows']}]({link}/{f['file']})\n\n*{f['shows']} {f['matters']}*\n\n" for f in report["figures"])


def provenance(report: dict, _link: str = "") -> str:
    machine, seeds = report["machine"], report["seeds"]
    seeds_text = f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else f"seed {seeds[0]}" if seeds else "no seed"
    packages = ", ".join(f"{name} {report['versions'][name]}" for name in ("numpy", "scikit-learn", "torch"))
    return (
        f"`{report['command']}`, {seeds_text}, {report['seconds']:.1f} s, {report['peak_memory_mib'] or 0:.0f} MiB at peak, device "
        f"{report['device']['kind']}; {describe(machine)}; {packages}; commit `{report['git']}`, {report['started'][:10]}\n"
    )


def describe(machine: dict) -> str:
    return (
        f"{machine['cpu']}, {machine['logical_cores']} cores, {machine['memory_gib'] or 0:.0f} GiB, {machine['os'].split('-')[0]}"
    )


def claims(found: Reports, results: str) -> str:
    rows = [
        [
            c["claim"],
            f"**{c['verdict']}**",
            c["ours"],
            c["honest"],
            c["protocol"],
            c["source"],
            f"[{experiment}]({results}/{experiment}/report.json)",
        ]
        for experiment, r in found.items()
        for c in r["claims"]
    ]
    return table(
        ["claim", "verdict", "ours, their protocol", "ours, honest protocol", "their protocol", "source", "report"],
        rows,
    )


PER_EXPERIMENT = {"metrics": metrics, "comparisons": comparisons, "figures": figures, "provenance": provenance}


def sprint_list(sprints: Sequence[Sprint]) -> str:
    """The question of each sprint and what came out."""
    return "\n".join(
        f"- **[{sprint.folder.name[:2]} {sprint.title}](sprints/{sprint.folder.name}/README.md)**: *{sprint.question}*\n"
        f"  {fill(sprint.answer, [sprint.reports()])}\n"
        for sprint in sprints
    )


def recorded_demo(sprint: Sprint) -> dict:
    """Machine and seconds of each step when `make demo` was recorded; nothing where it never was."""
    path = sprint.folder / "results" / SECONDS
    return json.loads(path.read_text(encoding="utf-8")).get("demo", {}) if path.is_file() else {}


def demo(sprints: Sequence[Sprint]) -> str:
    """How long `make demo` took when it was recorded."""
    found = [one for one in map(recorded_demo, sprints) if one]
    minutes, seconds = divmod(round(sum(sum(one["seconds"].values()) for one in found)), 60)
    machines = " and ".join(sorted({one["machine"] for one in found}))
    return f"The steps of `make demo` took {minutes}:{seconds:02d} minutes, on {machines}.\n" if found else f"{NOT_RUN}\n"


def demo_steps(sprints: Sequence[Sprint]) -> str:
    """The commands of `make demo`, with the time that each sprint took when it was recorded."""
    rows = []
    for sprint in (one for one in sprints if one.demo):
        flags = [(step, f' ARGS="{" ".join(own)}"' if own else "") for step, own in sprint.demo_steps()]
        seconds = recorded_demo(sprint).get("seconds")
        commands = ", ".join(f"`make {sprint.name}-{step}{own}`" for step, own in flags)
        rows.append([sprint.folder.name[:2], commands, f"{sum(seconds.values()):.0f} s" if seconds else NOT_RUN])
    return table(["sprint", "commands", "time"], rows)


def told(sprints: Sequence[Sprint]) -> tuple[list[tuple[str, dict]], list[tuple[str, dict]]]:
    """(number of the sprint, claim) of the claims of the originals, and of our own aims among them."""
    every = [(sprint.folder.name[:2], c) for sprint in sprints for r in sprint.reports().values() for c in r["claims"]]
    return [one for one in every if one[1]["source"] != AIM], [one for one in every if one[1]["source"] == AIM]


def verdicts(sprints: Sequence[Sprint]) -> str:
    """What the claims of the originals came to."""
    theirs, _ = told(sprints)
    found = Counter(c["verdict"] for _, c in theirs)
    return f"{found.total()} claims: " + ", ".join(f"{found[one]} {one}" for one in VERDICTS if found[one]) + ".\n"


def at_a_glance(sprints: Sequence[Sprint]) -> str:
    """The claims of the originals by verdict, then our own aims among them."""
    theirs, ours = told(sprints)
    text = verdicts(sprints)
    for kind, group in (("", theirs), ("Our own aims, ", ours)):
        for verdict in VERDICTS:
            lines = [f"- {number}: {c['claim']}\n" for number, c in group if c["verdict"] == verdict]
            title = f"{kind}{AIMS[verdict]}" if kind else verdict.capitalize()
            text += f"\n**{title}**\n\n{''.join(lines)}" if lines else ""
    return text + "\nThese are the aims that were put as a claim; READMEs name others.\n" * bool(ours)


OF_ALL = {"sprints": sprint_list, "verdicts": verdicts, "demo": demo, "demo_steps": demo_steps}
