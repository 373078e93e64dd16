"""Rendering: what the documents show is what the reports say."""

import json
import shutil
import subprocess
import sys

import pytest

from shared import docs, report, sprints

ROOT = sprints.ROOT


@pytest.fixture
def root(tmp_path):
    """A repository of one sprint with one report."""
    folder = tmp_path / "sprints" / "00_trial"
    shutil.copytree(ROOT / "docs" / "sprint_template", folder)
    (folder / "sprint.toml").write_text((folder / "sprint.toml").read_text().replace("template_name", "trial"))
    (folder / "sprint.toml").write_text('original = "https://host/theirs"\n' + (folder / "sprint.toml").read_text())
    readme = (
        (folder / "README.md")
        .read_text()
        .replace("# Template_name\n", "# Trial\n\nIt scores <!-- value: score -->9<!-- /value -->.\n")
    )
    (folder / "README.md").write_text(readme)
    blocks = ("sprints", "verdicts", "demo", "demo_steps")
    (tmp_path / "README.md").write_text("".join(f"<!-- begin: {one} -->\n<!-- end: {one} -->\n" for one in blocks))
    write(tmp_path, score=0.5)
    return tmp_path


def write(root, **means):
    metrics = {key: {"mean": mean, "ci95": [mean - 0.1, mean + 0.1], "values": [mean], "n": 7, "unit": "points", "meaning": f"a <{key}>",
                     "higher_is_better": True} for key, mean in means.items()}  # fmt: skip
    machine = {"cpu": "a | cpu", "logical_cores": 2, "memory_gib": 24.0, "os": "Linux"}
    content = {
        "sprint": "00_trial", "experiment": "first", "title": "The first", "objective": "Why?", "setup": {"Model": "m"}, "command": "python -m x",
        "seeds": [0, 1], "device": {"kind": "cpu"}, "machine": machine, "versions": {"numpy": "2", "scikit-learn": "1", "torch": "2.13.0"},
        "git": "abc", "smoke": False, "started": "2026-01-02T03:04:05+00:00", "seconds": 3.2, "peak_memory_mib": 100.0, "data": {}, "metrics": metrics,
        "comparisons": [{"key": "d", "a": "us", "b": "them", "unit": "", "difference": 0.1, "ci95": [0.05, 0.15], "p": 0.003, "n": 7}],
        "claims": [{"claim": "99 %", "source": "s", "protocol": "p", "ours": "o", "honest": "h", "verdict": "not reproduced"},
                   {"claim": "90 %", "source": report.AIM, "protocol": "p", "ours": "o", "honest": "h", "verdict": "reproduced"}],
        "figures": [{"file": "line.png", "shows": "A line.", "matters": "It rises."}], "observations": ["seen"], "conclusion": "So.",
    }  # fmt: skip
    path = root / "sprints" / "00_trial" / "results" / "first" / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_every_kind_of_block(root):
    rendered = {path.relative_to(root).as_posix(): text for path, text in docs.documents(root).items()}
    readme = rendered["sprints/00_trial/README.md"]
    assert "It scores <!-- value: score -->0.50<!-- /value -->." in readme
    assert "| a <score> | 0.50 points | 0.40 to 0.60 | 7 | `score` |" in readme
    assert "| us | them | 0.100 | 0.050 to 0.150 | 0.003 | 7 |" in readme
    assert "![A line.](results/first/line.png)" in readme
    assert "`python -m x`, 2 seeds (0 to 1), 3.2 s" in readme
    assert "a \\| cpu" not in readme  # only cells of tables are escaped
    assert (
        "| 99 % | **not reproduced** | o | h | p | s | [first](../sprints/00_trial/results/first/report.json) |"
        in rendered["docs/claims.md"]
    )
    glance = rendered["docs/claims.md"].split("## At a glance\n\n")[1].split("\n## [")[0]
    assert glance == (
        "1 claims: 1 not reproduced.\n\n**Not reproduced**\n\n- 00: 99 %\n\n**Our own aims, met**\n\n- 00: 90 %\n\n"
        "These are the aims that were put as a claim; READMEs name others.\n"
    )
    assert "README.md)\n\nThe original: <https://host/theirs>.\n\n| claim |" in rendered["docs/claims.md"]
    log = rendered["docs/experiments.md"]
    for part in ("## Experiment: The first", "**Date:** 2026-01-02", "**Objective:** Why?", "### Setup", "- Model: m", "### Observations",
                 "- seen", "### Visualization", "line.png", "### Conclusion", "- So."):  # fmt: skip
        assert part in log
    assert "[00 Template_name](sprints/00_trial/README.md)" in rendered["README.md"]
    assert "1 claims: 1 not reproduced.\n" in rendered["README.md"]
    assert "| 00 | `make trial-train` | not run here |" in rendered["README.md"]
    assert "**Key learnings:**" in rendered["PROGRESS.md"]
    assert "a &lt;score&gt;" in rendered["docs/gallery/index.html"]


def test_what_is_of_all_sprints(root):
    (root / "README.md").write_text("<!-- begin: verdicts -->\n<!-- end: verdicts -->\n<!-- begin: demo -->\n<!-- end: demo -->\n")
    readme = docs.documents(root)[root / "README.md"]
    assert ": 1 not reproduced." in readme and "not run here" in readme
    results = root / "sprints" / "00_trial" / "results"
    recorded = {"machine": "a cpu, 2 cores", "seconds": {"train": 61.2, "eval": 4.1}}
    (results / "demo.json").write_text(json.dumps({"demo": recorded, "demo-smoke": recorded}))
    assert "`make demo` took 1:05 minutes, on a cpu, 2 cores." in docs.documents(root)[root / "README.md"]


def test_the_log_names_every_artifact(root):
    folder = root / "sprints" / "00_trial"
    (folder / "results" / "first" / "line.png").touch()
    (folder / "results" / "demo.json").write_text('{"demo": {"machine": "m", "seconds": {}}}')
    for name in ("model/model.safetensors", "model/config.json", "first/sheet.md", ".left.tmp"):
        (folder / "results" / name).parent.mkdir(exist_ok=True)
        (folder / "results" / name).touch()
    log = docs.documents(root)[root / "PROGRESS.md"]
    made = "[first/sheet.md](sprints/00_trial/results/first/sheet.md), [model](sprints/00_trial/results/model)"
    assert f"  - Also made: {made}\n" in log
    assert "  - Reports: [The first](sprints/00_trial/results/first/report.json)\n" in log
    assert "  - Programs: [trial-train](sprints/00_trial/code/train.py)\n" in log


def test_rendering_is_stable_and_follows_the_report(root):
    path = root / "sprints" / "00_trial" / "README.md"
    once = docs.documents(root)[path]
    path.write_text(once)
    assert docs.documents(root)[path] == once
    write(root, score=0.75)
    assert "<!-- value: score -->0.75<!-- /value -->" in docs.documents(root)[path] != once


@pytest.mark.parametrize("text", ["<!-- begin: pictures first -->\n<!-- end: pictures -->", "<!-- begin: sprintz -->\n<!-- end: sprintz -->",
                                  "<!-- value: score:mode -->1<!-- /value -->"])  # fmt: skip
def test_unknown_blocks_are_refused(root, text):
    path = root / "sprints" / "00_trial" / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="there is no"):
        docs.documents(root)


@pytest.mark.parametrize(
    "text", ["<!-- value: score --> my prose, and <!-- value: score -->1<!-- /value -->", "<!-- begin: metrics first -->\nmy prose"]
)
def test_a_forgotten_end_is_an_error_and_eats_nothing(root, text):
    path = root / "sprints" / "00_trial" / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="not closed"):
        docs.documents(root)


@pytest.mark.parametrize(
    ("mean", "ci95", "text"),
    [
        (0.827, [0.708, 0.946], "0.83 [0.71, 0.95]"),
        (0.8525, [0.8268, 0.8783], "0.853 [0.827, 0.878]"),
        (0.997418, [0.99738, 0.99744], "0.997418 [0.997380, 0.997440]"),
        (96.0, [92.8, 97.8], "96.0 [92.8, 97.8]"),
        (0.0, [0.0, 0.0038], "0 [0, 0.0038]"),
        (-0.0065, [-0.0128, -0.0002], "-0.0065 [-0.0128, -0.0002]"),
        (-0.5, [-1.0, 0.002], "-0.500 [-1.000, 0.002]"),  # on which side of zero an end lies is what readers look for
        (-0.5, [-1.0, 0.00001], "-0.50 [-1.00, 0.00]"),  # within reason
        (-0.0001, [-0.012, 0.013], "0.000 [-0.012, 0.013]"),  # no minus before nothing
        (2779.3, [2634.4, 2925.1], "2,779 [2,634, 2,925]"),
        (2.31e-7, [2.11e-7, 2.51e-7], "2.31e-07 [2.11e-07, 2.51e-07]"),
        (0.5, [0.5, 0.5], "0.5 [0.5, 0.5]"),
        (0.123456, None, "0.1235"),
        (64, None, "64"),
        (0.99998, None, "1.000"),  # not exactly one
    ],
)
def test_digits_follow_the_interval(mean, ci95, text):
    assert report.value({"mean": mean, "ci95": ci95, "unit": "", "n": 9}, "interval") == text


@pytest.mark.parametrize(
    ("ci95", "low"),
    [
        ([0.83891, 0.8783], "0.838"),
        ([29.99, 30.11], "29.990"),
        ([2634.4, 2925.1], "2634"),
        ([0.5, 0.5], "0.5"),
        ([-0.0012, 0.01], "-0.0012"),
    ],
)
def test_what_is_proven_is_not_rounded_up(ci95, low):
    assert report.value({"mean": 9, "ci95": ci95, "unit": "", "n": 9}, "low") == low


def test_other_forms_of_a_number():
    metric = {"mean": 0.8525, "ci95": None, "unit": "s", "n": 9, "median": 0.7, "median_ci95": [0.58, 0.82]}
    assert report.value(metric, "raw") == "0.8525" and report.value(metric, "unit") == "0.8525 s"
    assert report.value(metric, "median") == "0.70 s [0.58, 0.82]" and report.value(metric, "n") == "9"
    for form in ("low", "high"):
        with pytest.raises(ValueError, match=f"no KEY:{form}"):
            report.value(metric, form)


def test_fractions_are_shown_in_percent():
    metric = {"mean": 0.964, "ci95": [0.9506, 0.9739], "unit": "fraction", "n": 9}
    assert report.value(metric, "interval") == "96.4 % [95.1, 97.4]"
    assert report.value(metric) == "96.4 %" and report.value(metric, "low") == "95.0 %"
    assert report.interval(metric) == "95.1 to 97.4" and metric["mean"] == 0.964
    whole = {"mean": 1.0, "ci95": [0.9962, 1.0], "unit": "fraction", "n": 9}
    assert report.value(whole, "interval") == "100 % [99.62, 100]"
    assert report.value({"mean": 0.57, "ci95": None, "unit": "fraction", "n": 1}) == "57 %"  # 100 * 0.57 is a little less
    less = {"difference": -0.5, "ci95": [-0.6, -0.4], "unit": "fraction"}
    assert report.shown(less) == {"difference": -50, "ci95": [-60, -40], "unit": "points"}


def test_missing_reports_and_metrics_say_so(root):
    path = root / "sprints" / "00_trial" / "README.md"
    path.write_text("<!-- begin: metrics second -->\n<!-- end: metrics -->\n<!-- value: speed -->1<!-- /value -->")
    text = docs.documents(root)[path]
    assert "not run here: no report of the experiment `second`" in text
    assert "<!-- value: speed -->not run here<!-- /value -->" in text


def test_check_names_what_is_stale(root):
    """The command itself, on a copy of the repository with one number changed."""
    for name in ("shared", "docs/sprint_template"):
        shutil.copytree(ROOT / name, root / name, dirs_exist_ok=True)
    command = [sys.executable, "-m", "shared.docs"]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    assert subprocess.run(command, cwd=root, env=environment).returncode == 0
    assert subprocess.run([*command, "--check"], cwd=root, env=environment).returncode == 0
    readme = root / "sprints" / "00_trial" / "README.md"
    readme.write_text(readme.read_text().replace(">0.50<", ">0.9<"))
    ran = subprocess.run([*command, "--check"], cwd=root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stdout == "stale: sprints/00_trial/README.md\n"
    assert ">0.9<" in readme.read_text()  # --check writes nothing


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.00123456, "0.001235"),
        (123456.7, "123,457"),
        (1.5, "1.5"),
        (1.00004, "1.000"),
        (2779.3, "2,779"),
        (1e-9, "1e-09"),
        (0, "0"),
        (-2.25, "-2.25"),
    ],
)
def test_numbers_as_text(number, text):
    assert report.number(number) == text


def test_sprint_toml_mistakes_are_named(tmp_path):
    (tmp_path / "sprint.toml").write_text('name = "x"\ncolour = "red"\n')
    with pytest.raises(ValueError, match=r"sprint\.toml.*colour"):
        sprints.load(tmp_path)


@pytest.mark.parametrize(("words", "text"), [(["run", "nobody", "train"], "there is no sprint called nobody"),
                                             (["run", "logreg", "generate"], "logreg has no step generate; it has: train, eval, bench")])  # fmt: skip
def test_wrong_targets_are_one_line(words, text):
    ran = subprocess.run([sys.executable, "-m", "shared.sprints", *words], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1 and text in ran.stderr and ran.stderr.count("\n") == 1
