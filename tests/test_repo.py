"""The rules of the repository, and every sprint at smoke size. Sprints are discovered, never listed."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import pytest
import tyro
from packaging.requirements import Requirement

from shared import docs, runlog, sprints
from shared.report import read_all
from tests import warm

ROOT = sprints.ROOT
SPRINTS = sprints.discover()
PROGRAMS = [pytest.param(sprint, step, id=f"{sprint.folder.name}-{step}") for sprint in SPRINTS for step in sprint.steps]
REPORTS = [pytest.param(path, id="/".join(path.parts[-4:-1])) for path in sorted(ROOT.glob("sprints/*/results/*/report.json"))]
CODE = (".py", ".cpp", ".h", ".js", ".css")
HEADINGS = ["Question", "Results", "Run it", "How it works", "What did not work", "What this is not", "Files", "Sources"]
LARGE_FILES = ("sprints/00_pocket_brain/results/model/", "sprints/05_cyoa/results/model/")  # may be above 1 MB
PROSE = [ROOT / "README.md", *sorted(ROOT.glob("sprints/*/README.md")), *sorted(ROOT.glob("sprints/*/docs/*.md"))]


def files(*folders: str, suffix: str = "") -> list[Path]:
    """The files of the repository (in these folders): what git tracks or would track; without git, what stands in the known places."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        places = [ROOT, *(ROOT / name for name in ("shared", "sprints", "tests", "docs"))]
        found = [path for place in places for path in (place.glob("*") if place == ROOT else place.rglob("*"))]
        listed = [path.relative_to(ROOT).as_posix() for path in found if path.suffix not in (".pyc", ".db")]
    wanted = [
        name for name in listed if name.endswith(suffix) and (not folders or name.startswith(tuple(f"{f}/" for f in folders)))
    ]
    return [ROOT / name for name in wanted if (ROOT / name).is_file()]


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, relative imports resolved by dots only (".x" stays inside the sprint)."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def test_shared_knows_no_sprint_and_sprints_do_not_know_each_other():
    for path in files("shared", suffix=".py"):
        assert not [name for name in imports(path) if name.startswith("sprints")], path
    for path in files("sprints", suffix=".py"):
        out_of_code = "." * (len(path.relative_to(ROOT).parts) - 2)  # of sprints/NN_name/code/x.py: ".."
        assert not [name for name in imports(path) if name.startswith(("sprints", out_of_code, "tests"))], path


def test_names():
    for path in files("sprints", "shared", "tests", suffix=".py"):
        assert path.name != "__init__.py" or path.parent == ROOT / "shared", f"{path}: would shadow the standard library's `code`"
        assert path.stem not in sys.stdlib_module_names, f"{path} bears the name of a standard module"
        assert path.stem not in ("utils", "helpers", "misc"), f"{path}: name the file by what it does"
    for sprint in SPRINTS:
        assert re.fullmatch(r"\d\d_[a-z0-9_]+", sprint.folder.name)
    assert len({sprint.name for sprint in SPRINTS}) == len(SPRINTS)


def test_files_are_short_small_and_free_of_foreign_paths():
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        assert path.stat().st_size <= 1_000_000 or name.startswith(LARGE_FILES), f"{name} is above 1 MB"
        if path.suffix in (*CODE, ".md", ".toml", ".json", ".yml", ".yaml", ".html", ""):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.])/(?:home|root|Users|work)/\w", text), f"{name} holds a path of one machine"
            if path.suffix in CODE:
                assert text.count("\n") <= 300, f"{name} is longer than 300 lines"


def test_nothing_is_unpickled():
    """Weights come from safetensors; pickle runs whatever a file's author wanted."""
    for path in files("shared", "sprints", suffix=".py"):
        assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve"} & imports(path), path
        assert not re.search(r"\btorch\.load\(|allow_pickle=True", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("sprint", SPRINTS, ids=lambda sprint: sprint.folder.name)
def test_sprint_is_complete(sprint):
    readme = (sprint.folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", readme, re.M) == HEADINGS
    assert sprint.question in readme.replace("\n", " "), "the README asks the question of sprint.toml"
    for folder in ("code", "results", "docs"):
        assert (sprint.folder / folder).is_dir()
    for step, program in sprint.steps.items():
        assert step in sprints.STEPS
        assert (sprint.folder / "code" / f"{program.replace('.', '/')}.py").is_file()
    assert {step for step, _ in sprint.demo_steps()} <= set(sprint.steps)
    listed = re.search(r"## Files\n+```\n(.*?)```", readme, re.S)
    assert listed, "the README lists its files"
    missing = [path.name for path in (sprint.folder / "code").glob("*.py") if path.name not in listed[1]]
    assert not missing, f"not in the README's list of files: {missing}"


@pytest.mark.parametrize(("sprint", "step"), PROGRAMS)
def test_program_explains_itself(sprint, step, monkeypatch, capsys):
    program = import_module(sprint.module(step))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", [step, "--help"])
    with pytest.raises(SystemExit) as ended:
        runlog.launch(program.main, program.Args)
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "--smoke" in shown and f"make {sprint.name}-{step}" in shown


@pytest.mark.parametrize(("sprint", "step"), PROGRAMS)
def test_program_runs_at_smoke_size(sprint, step, tmp_path, monkeypatch):
    for name, value in warm.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    ended = warm.run(sprint.module(step), "--smoke", "--out", str(tmp_path), log=tmp_path / "log")
    assert ended == 0, (tmp_path / "log").read_text()[-6000:]
    written = list(tmp_path.glob("*/*/report.json"))
    assert written
    for path in written:
        check_report(path)


@pytest.mark.parametrize("path", REPORTS)
def test_recorded_report_is_complete(path):
    report = check_report(path)
    assert not report["smoke"]
    assert report["conclusion"] and report["observations"]
    assert report["experiment"] == path.parent.name and report["sprint"] == path.parents[2].name
    program = import_module(report["command"].split()[2])
    published = json.loads(json.dumps(runlog._plain(asdict(program.Args()))))
    aside = {*asdict(runlog.Args()), "only", *program.Args.aside}  # device and the like; `only` picks experiments and changes none
    assert {k: v for k, v in report["args"].items() if k not in aside} == {k: v for k, v in published.items() if k not in aside}


def check_report(path: Path) -> dict:
    report = json.loads(path.read_text(encoding="utf-8"))
    fields = "sprint experiment title objective setup command args seeds device machine versions git started smoke data metrics "
    fields += "comparisons claims figures observations conclusion seconds peak_memory_mib"
    assert set(fields.split()) == set(report)
    assert report["metrics"]
    for key, metric in report["metrics"].items():
        assert {"mean", "ci95", "values", "n", "unit", "higher_is_better", "meaning"} <= set(metric), key
        assert metric["meaning"], key
        assert metric["ci95"] is None or metric["ci95"][0] <= metric["mean"] <= metric["ci95"][1], key
    for figure in report["figures"]:
        assert (path.parent / figure["file"]).read_bytes().startswith(b"\x89PNG")
        assert figure["shows"] and figure["matters"]
    assert {f["file"] for f in report["figures"]} == {p.name for p in path.parent.glob("*.png")}
    return report


def test_each_metric_key_stands_in_one_report():
    seen: dict[str, Path] = {}
    for path in sorted(ROOT.glob("sprints/*/results/*/report.json")):
        for key in json.loads(path.read_text(encoding="utf-8"))["metrics"]:
            assert key not in seen, f"{key} stands in {path} and in {seen[key]}"
            seen[key] = path


@pytest.mark.parametrize("sprint", SPRINTS, ids=lambda sprint: sprint.folder.name)
def test_headlines_are_recorded(sprint):
    """The metrics a sprint answers for stand in its reports (a sprint without any report yet has none)."""
    found = read_all(sprint.folder / "results")
    keys = {key for report in found.values() for key in report["metrics"]}
    assert not found or set(sprint.headlines) <= keys, f"missing: {set(sprint.headlines) - keys}"
    assert sprint.headlines


def test_only_what_changed_results_is_followed_by_a_rendering(tmp_path, monkeypatch):
    sprint, called = replace(SPRINTS[0], folder=tmp_path), []
    (tmp_path / "results" / "x").mkdir(parents=True)

    def call(command: list[str]) -> int:
        called.append(command)
        if "--record" in command:
            (tmp_path / "results" / "x" / "report.json").write_text("{}")
        return 0

    monkeypatch.setattr(sprints, "call", call)
    step = next(iter(sprint.steps))
    for argument, count in (("--help", 1), ("--record", 2)):
        called.clear()
        assert sprints.run(sprint, step, [argument]) == 0 and len(called) == count
    assert called[-1][-1] == "shared.docs"


def test_rendered_documents_are_fresh():
    stale = [str(path.relative_to(ROOT)) for path, text in docs.documents().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"stale: {', '.join(stale)}; run `make docs`"


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_number_in_prose_is_rendered(path):
    """A measured number stands in a rendered block or value, a setting in backticks, somebody else's claim in double quotes."""
    text = path.read_text(encoding="utf-8")
    for rendered in (docs.BLOCK, docs.VALUE):
        text = rendered.sub("", text)
    exempt = [
        "```.*?```",
        "`[^`\n]*`",
        '"[^"\n]*"',
        r"\$[^$]*\$",
        "^    .*?$",
        "<!--.*?-->",
        r"\]\([^)]*\)",
        r"https?://\S+",
        r"arXiv:\S+",
    ]
    text = re.sub("|".join(exempt), "", text, flags=re.S | re.M)
    typed = re.findall(r"\d+\.\d+|\d+ ?%|\d+ ?(?:x|×|ms|s|seconds|minutes|MB|GB|MiB|points|percent|times|passes)\b", text)
    assert not typed, f"typed by hand: {typed}"


@pytest.mark.parametrize("path", files(suffix=".md"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_commands_in_documents_exist(path):
    text = path.read_text(encoding="utf-8")
    here = path.parent if "sprint_template" not in path.parts else ROOT / "sprints" / "NN"
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (here / link).exists(), f"{path.name}: {link} does not exist"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    targets |= {f"{sprint.name}-{step}" for sprint in SPRINTS for step in sprint.steps}
    named = set(re.findall(r"^ *\$? ?make ((?:(?!ARGS|DEVICE)[a-z0-9_-]+ ?)+)", text, re.M)) | set(
        re.findall(r"`make ([a-z0-9_-]+)", text)
    )
    for name, step, line in re.findall(
        rf'make ([a-z0-9_]+)-({"|".join(sprints.STEPS)}) ARGS="?([^"\n#]*?)"?(?:\s{{2,}}|`|$)', text, re.M
    ):
        if sprint := next((sprint for sprint in SPRINTS if sprint.name == name), None):
            tyro.cli(import_module(sprint.module(step)).Args, args=shlex.split(line))  # exits, that is fails, on a wrong flag
    for words in named:
        for target in words.split():
            known = target in targets or target.startswith(("template_name-", "my_sprint-"))
            assert known, f"{path.name}: there is no `make {target}`"


def test_lock_pins_what_pyproject_asks():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if line and line[0] not in "# "]
    pins: dict[str, list[str]] = {}
    for pin in map(Requirement, lines):
        (exact,) = pin.specifier
        assert exact.operator == "==", f"{pin} is not pinned exactly"
        pins.setdefault(pin.name.lower().replace("_", "-"), []).append(exact.version)
    asked = [Requirement(text) for group in [project["dependencies"], *project["optional-dependencies"].values()] for text in group]
    for requirement in asked:
        versions = pins.get(requirement.name.lower().replace("_", "-"), [])
        assert versions, f"{requirement.name} is not in requirements.lock: run `make lock`"
        assert all(version in requirement.specifier for version in versions), f"{requirement} against {versions}: run `make lock`"
    assert pins["torch"] == ["2.13.0"], "by exact name, no +cpu: then every platform resolves it"


def test_new_sprint_passes_these_tests(tmp_path):
    """`make new-sprint` gives a folder that is complete, runs, and renders."""
    for path in files():
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    folder = sprints.new("my_sprint", tmp_path)
    assert folder.name == f"{int(SPRINTS[-1].folder.name[:2]) + 1:02d}_my_sprint"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "shared.docs"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_repo.py", "tests/test_my_sprint.py", "-k"]
    command += [
        "my_sprint or names or fresh or shared_knows or key_stands",
        "--deselect",
        "tests/test_repo.py::test_new_sprint_passes_these_tests",
    ]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]
    with pytest.raises(SystemExit, match="taken"):
        sprints.new("my_sprint", tmp_path)
    with pytest.raises(SystemExit, match="taken"):  # its test would overwrite this file
        sprints.new("repo", tmp_path)
    with pytest.raises(SystemExit, match="lower-case"):
        sprints.new("../escape", tmp_path)
