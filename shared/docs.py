"""Render what reports say into the documents, so that no number in them is typed by hand.

    python -m shared.docs            render every block (`make docs`)
    python -m shared.docs --check    exit 1 and name what is stale

In README.md, sprints/*/README.md and sprints/*/docs/*.md two kinds of places are rendered, everything else is written by hand:

    <!-- begin: KIND ARGUMENT -->...<!-- end: KIND -->   claims | metrics E | comparisons E | figures E | provenance E
    <!-- value: KEY -->1.23<!-- /value -->                one number in a sentence (KEY:unit|interval|low|median|raw|n)

with E an experiment of that sprint; in any document also sprints | verdicts | demo | demo_steps, which are of all sprints.
PROGRESS.md, docs/experiments.md and docs/claims.md are rendered as a whole.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from shared import gallery
from shared.blocks import OF_ALL, PER_EXPERIMENT, at_a_glance, claims, comparisons, metrics, provenance
from shared.demo_steps import SECONDS
from shared.report import NOT_RUN, fill, lookup, write_atomically
from shared.sprints import ROOT, Sprint, discover

BLOCK = re.compile(r"(<!-- begin: (\w+)(?: ([\w.-]+))? -->\n)(.*?)(<!-- end: \2 -->)", re.S)
VALUE = re.compile(r"(<!-- value: ([\w.-]+)(?::(\w+))? -->)([^<]*?)(<!-- /value -->)")


def render(text: str, sprints: Sequence[Sprint], here: Path) -> str:
    """`text` of the document `here` with every block and value rendered anew; raises ValueError for an unknown one."""
    own = [sprint.reports() for sprint in sprints if here.is_relative_to(sprint.folder)]
    sources = own or [sprint.reports() for sprint in sprints]

    def block(match: re.Match) -> str:
        kind, argument = match[2], match[3]
        if kind in OF_ALL:
            body = OF_ALL[kind](sprints)
        elif kind == "claims" and own:
            body = claims(own[0], "results")
        elif kind not in PER_EXPERIMENT or not own:
            raise ValueError(f"{here}: there is no block '{kind} {argument or ''}'")
        elif argument in own[0]:
            body = PER_EXPERIMENT[kind](own[0][argument], f"{'../' * (here.parent.name == 'docs')}results/{argument}")
        else:
            body = f"{NOT_RUN}: no report of the experiment `{argument}`\n"
        return match[1] + body + match[5]

    text = BLOCK.sub(block, text)
    for mark, whole in (("<!-- begin:", BLOCK), ("<!-- value:", VALUE)):
        if text.count(mark) != len(whole.findall(text)):
            raise ValueError(f"{here}: a '{mark}' is not closed as it should be")
    return VALUE.sub(lambda m: m[1] + lookup(m[2], m[3], sources) + m[5], text)


# -- whole documents ------------------------------------------------------------------------------------------------------------

MADE = "<!-- Rendered by `make docs` from sprints/*/sprint.toml, docs/learnings.md and results/*/report.json: do not edit. -->\n\n"


def progress(sprints: Sequence[Sprint]) -> str:
    text = "# Progress log\n\n" + MADE + "Goal, outcome, key learnings and artifacts of each sprint, by its newest reports.\n"
    for sprint in sprints:
        found, base = sprint.reports(), f"sprints/{sprint.folder.name}"
        notes = sprint.folder / "docs" / "learnings.md"
        learnings = (
            re.sub(r"(?s)<!--.*?-->", "", render(notes.read_text(encoding="utf-8"), sprints, notes)).split("\n", 1)[1].strip()
        )
        text += f"\n---\n\n## Sprint {sprint.folder.name[:2]}: {sprint.title}\n\n- **Goal:** {sprint.goal}\n"
        text += f"- **Outcome:** {fill(sprint.answer, [found])}\n- **Baseline:** {fill(sprint.baseline, [found])}\n"
        text += "- **Key learnings:**\n" + "".join(f"  {line}\n" if line else "\n" for line in learnings.splitlines())
        programs = {step: f"{program.replace('.', '/')}.py" for step, program in sprint.steps.items()}
        others = [path.relative_to(sprint.folder).as_posix() for path in other_results(sprint.folder / "results")]
        kinds = {
            "Start here": [f"[README]({base}/README.md)", f"[code]({base}/code)"],
            "Programs": [f"[{sprint.name}-{step}]({base}/code/{program})" for step, program in programs.items()],
            "Reports": [f"[{r['title']}]({base}/results/{name}/report.json)" for name, r in found.items()],
            "Also made": [f"[{name.removeprefix('results/')}]({base}/{name})" for name in others],
            "Documents": [f"[{path.stem}]({base}/docs/{path.name})" for path in sorted((sprint.folder / "docs").glob("*.md"))],
        }
        text += "- **Artifacts:**\n" + "".join(f"  - {kind}: {', '.join(links)}\n" for kind, links in kinds.items() if links)
    return text


def other_results(results: Path) -> list[Path]:
    """What stands in results/ beside reports, figures and the times of the demo; a model's folder as a whole."""
    models = {path.parent for path in results.rglob("model.safetensors")}
    files = {path for path in results.rglob("[!.]*.*") if path.parent not in models and path.suffix != ".png"}
    return sorted(models | {path for path in files if path.name not in ("report.json", SECONDS)})


def experiments(sprints: Sequence[Sprint]) -> str:
    text = (
        "# Experiment log\n\n"
        + MADE
        + "Every recorded experiment, newest first: how it was set up, what came out, what it shows.\n"
    )
    entries = [(r["started"], sprint, r) for sprint in sprints for r in sprint.reports().values()]
    for _, sprint, r in sorted(entries, key=lambda entry: entry[0], reverse=True):
        text += f"\n## Experiment: {r['title']}\n\n**Date:** {r['started'][:10]}  \n**Milestone:** {sprint.milestone}  \n"
        text += f"**Objective:** {r['objective']}\n\n### Setup\n\n"
        text += "".join(f"- {name}: {what}\n" for name, what in r["setup"].items())
        text += f"- Hardware and run: {provenance(r)}"
        text += "".join(
            f"- Data `{name}`: {d['rows']} rows, {d['source']}, sha256 `{d['sha256'][:16]}`\n" for name, d in r["data"].items()
        )
        text += "\n### Metrics\n\n" + metrics(r)
        if r["comparisons"]:
            text += "\n" + comparisons(r)
        text += "\n### Observations\n\n" + "".join(f"- {line}\n" for line in r["observations"])
        text += "\n### Visualization\n\n"
        text += (
            "".join(
                f"- Path: [`{f['file']}`](../sprints/{r['sprint']}/results/{r['experiment']}/{f['file']})  \n"
                f"  Description: {f['shows']} {f['matters']}\n"
                for f in r["figures"]
            )
            or "- none\n"
        )
        text += f"\n### Conclusion\n\n- {r['conclusion']}\n"
    return text


def claims_page(sprints: Sequence[Sprint]) -> str:
    text = f"# Claims of the originals, and what we measured\n\n{MADE}Each headline of the projects these sprints come from, "
    text += "repeated under their own protocol, as far as there is one, and under an honest one. Where the originals tuned\n"
    text += "billions of parameters, ours are six million, unless a row says otherwise. *Not run here*: it needs a machine, a\n"
    text += f"model or data that were not at hand.\n\n## At a glance\n\n{at_a_glance(sprints)}"
    for sprint in sprints:
        folder = f"sprints/{sprint.folder.name}"
        rows = claims(sprint.reports(), f"../{folder}/results")
        original = f"The original: <{sprint.original}>.\n\n" if sprint.original else ""
        text += f"\n## [{sprint.title}](../{folder}/README.md)\n\n{original}{rows}" if rows else ""
    return text


def documents(root: Path = ROOT) -> dict[Path, str]:
    """Every rendered document with the content it should have now."""
    sprints = discover(root)
    result = {
        root / "PROGRESS.md": progress(sprints),
        root / "docs" / "experiments.md": experiments(sprints),
        root / "docs" / "claims.md": claims_page(sprints),
    }
    for path in [
        root / "README.md",
        *sorted(root.glob("sprints/*/README.md")),
        *sorted(root.glob("sprints/*/docs/*.md")),
    ]:
        result[path] = render(path.read_text(encoding="utf-8"), sprints, path)
    place, found = root / "docs" / "gallery", {s.folder.name: s.reports() for s in sprints}
    result[place / "index.html"] = gallery.page(sprints, found, lambda sprint: f"../../sprints/{sprint}/results", place)
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shared.docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name what is stale")
    check = parser.parse_args(argv).check
    stale = []
    for path, text in documents().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text.encode())
    for path in stale:
        print(f"{'stale' if check else 'rendered'}: {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
