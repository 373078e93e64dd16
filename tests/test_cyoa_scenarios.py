"""Sprint 05: the rules of the scenarios, their splits, their flat table, and lint."""

import copy
import csv
import io
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UserError

scenarios = import_module("sprints.05_cyoa.code.scenarios")
lint = import_module("sprints.05_cyoa.code.lint")


def raw(name: str = "one-bell", edges: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """A scenario as its file has it; `edges` gives the targets of each scene, an empty list an ending."""
    edges = edges or {"a": ["b", "c"], "b": ["d", "e"], "c": ["e", "f"], "d": ["a", "f"], "e": [], "f": []}
    scenes: dict[str, Any] = {}
    for scene, targets in edges.items():
        scenes[scene] = {"text": "You hear " + " ".join(f"{scene}{n} of {name}" for n in range(18))}
        if targets:
            scenes[scene]["choices"] = [{"text": f"Walk to {to} by way {n}", "to": to} for n, to in enumerate(targets)]
        else:
            scenes[scene]["ending"] = "triumph"
    person = {"name": f"Mika {name}", "pronouns": "she/her"}
    texts = dict(id=name, title=f"The {name}", family=name, genre="fantasy", rating="all", summary=f"A bell of {name}.")
    return {**texts, "hero": person, "cast": [person | {"name": f"Ren {name}", "role": "rival"}], "start": "a", "scenes": scenes}


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / f"{content['id']}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def build(name: str = "one-bell", edges: dict[str, list[str]] | None = None, **changed: Any) -> Any:
    return replace(scenarios._build(raw(name, edges)), **changed)


@st.composite
def graphs(draw) -> dict[str, list[str]]:
    names = [f"s{n}" for n in range(draw(st.integers(2, 8)))]
    names[0] = "a"
    targets = st.lists(st.sampled_from([*names, "nowhere"]), min_size=2, max_size=3, unique=True)
    return {name: draw(targets | st.just([])) for name in names}


@settings(max_examples=200)
@given(graphs())
def test_the_rules_of_the_graph_agree_with_powers_of_its_matrix(edges):
    names = list(edges)
    step = np.array([[b in edges[a] for b in names] for a in names])
    reach = np.linalg.matrix_power(np.eye(len(names)) + step, len(names)) > 0
    ends = np.array([not edges[name] for name in names])
    found = scenarios.check(build(edges=edges))

    def named(end: str) -> set[str]:
        return {problem.split()[1].rstrip(":") for problem in found if problem.endswith(end)}

    assert named("no choice leads to it") == {name for at, name in enumerate(names) if not reach[0, at]}
    assert named("no ending can be reached from it") == {name for at, name in enumerate(names) if not (reach[at] & ends).any()}
    assert named("which is no scene") == {name for name in names if "nowhere" in edges[name]}
    assert named("leads back to where it is") == {name for name in names if name in edges[name]}
    assert any("write at least 6" in problem for problem in found) == (len(names) < 6)
    assert any("write at least 2" in problem for problem in found) == (ends.sum() < 2)


@settings(max_examples=100)
@given(graphs())
def test_paths_go_from_the_start_to_an_ending_and_visit_no_scene_twice(edges):
    known = {name: [to for to in targets if to != "nowhere"] for name, targets in edges.items()}
    found = scenarios.paths(build(edges=known))
    assert len({tuple(step.scene.id for step in path) for path in found}) == len(found)
    for path in found:
        names = [step.scene.id for step in path]
        assert names[0] == "a" and len(set(names)) == len(names)
        assert path[-1].scene.ending and path[-1].choice is None
        assert [step.choice.to for step in path[:-1]] == names[1:]
    assert scenarios.paths(build(edges=known), 2) == found[:2]


def put(place: str, value: Any):
    """Set (or with None delete) the item at a place such as scenes.a.text."""

    def change(content: Any) -> None:
        *way, last = (int(key) if key.isdigit() else key for key in place.split("."))
        for key in way:
            content = content[key]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("title", None), "has no title"),
        (put("mood", "sad"), "unknown field mood"),
        (put("hero", "Mika"), "the hero must have the fields name, pronouns"),
        (put("hero.name", True), "the hero: its name is empty or no text"),
        (put("cast", {}), "its cast is no list"),
        (put("cast.0.role", None), "person 1 of the cast has no role"),
        (put("scenes", []), "it has no scenes"),
        (put("scenes.a.text", " "), "scene a: its text is empty"),
        (put("scenes.a.choices", []), "scene a: its choices are no list"),
        (put("scenes.a.choices.1", {"text": "Run", "away": None, "to": "b"}), "scene a, choice 2 has the unknown field away"),
        (put("scenes.b.choices.1.to", "z"), "leads to 'z', which is no scene"),
        (put("scenes.b.choices.1.to", "d"), "two of its choices lead to the same scene"),
        (put("scenes.b.choices.1.text", "walk TO d by way 0"), "two of its choices are the same"),
        (put("scenes.b.choices.1", None), "it has 1 choices: give it 2 or 3"),
        (put("scenes.b.ending", "loss"), "an ending has no choices"),
        (put("scenes.e.ending", "happy"), "unknown ending 'happy'"),
        (put("rating", "adult"), "unknown rating 'adult'"),
        (put("start", "z"), "its start 'z' is no scene"),
        (put("id", "Other Name"), "name the file"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_names_it(tmp_path, change, said):
    content = copy.deepcopy(raw())
    change(content)
    path = tmp_path / "one-bell.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(scenarios.ScenarioError) as caught:
        scenarios.read(path)
    wrong: Any = caught.value
    assert issubclass(scenarios.ScenarioError, UserError)
    assert any(said in problem for problem in wrong.problems), wrong.problems
    assert str(wrong).startswith("one-bell.yaml: ") and "\n" not in str(wrong)


@pytest.mark.parametrize("content", ["a: [", "\0", "- 1", "", "[" * 3000, "a: &a [*a]"])
def test_what_is_no_scenario_at_all_is_refused(tmp_path, content):
    (tmp_path / "x.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml"):
        scenarios.load(tmp_path)


def test_a_folder_loads_in_the_order_of_the_ids_and_an_empty_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="no scenario"):
        scenarios.load(tmp_path)
    for name in ("zoo", "apple"):
        write(tmp_path, raw(name))
    assert [scenario.id for scenario in scenarios.load(tmp_path)] == ["apple", "zoo"]
    assert scenarios.load(tmp_path)[1] == build("zoo")


@settings(max_examples=50)
@given(st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=20), st.integers(0, 3))
def test_a_family_stays_whole_and_never_moves_when_others_come(families, seed):
    one = build()
    both = [replace(one, id=f"{family}-{n}", family=family) for family in sorted(families) for n in range(2)]
    parts = scenarios.split(both, seed)
    assert sorted(s.id for part in parts for s in part) == sorted(s.id for s in both)
    held = [{s.family for s in part} for part in parts]
    assert sum(map(len, held)) == len(families)
    for part, fewer in zip(parts, scenarios.split(both[: len(both) // 2], seed), strict=True):
        assert {s.id for s in fewer} <= {s.id for s in part}


def test_the_flat_table_has_the_columns_of_the_original_and_a_row_per_choice():
    scenario = build()
    rows = list(csv.DictReader(io.StringIO(scenarios.flat_csv([scenario]), newline="")))
    assert tuple(rows[0]) == ("prompt", "response", "choice_a", "choice_b", "genre")
    assert rows == scenarios.flat_rows(scenario) and len(rows) == 1 + 8
    assert rows[0] == {
        "prompt": "A bell of one-bell.",
        "response": scenario.scenes["a"].text,
        "choice_a": "Walk to b by way 0",
        "choice_b": "Walk to c by way 1",
        "genre": "fantasy",
    }
    last = next(row for row in rows if row["prompt"].endswith("> Walk to e by way 1"))
    assert last["response"] == scenario.scenes["e"].text and last["choice_a"] == last["choice_b"] == ""


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.sampled_from("ab"), max_size=9).map(" ".join), min_size=2, max_size=5), st.sampled_from([0.3, 0.5, 1.0])
)
def test_near_duplicates_agree_with_comparing_all_pairs(texts, limit):
    def grams(text: str) -> set[tuple[str, ...]]:
        found = text.split()
        return {tuple(found[at : at + 3]) for at in range(len(found) - 2)}

    expected = set()
    for b, text in enumerate(texts):
        for a, other in enumerate(texts[:b]):
            x, y = grams(text), grams(other)
            if x & y and len(x & y) / len(x | y) >= limit:
                expected.add((str(a), str(b)))
    found = lint.near_duplicates({str(at): text for at, text in enumerate(texts)}, 3, limit)
    assert {pair[:2] for pair in found} == expected


@pytest.mark.parametrize(
    "spelling",
    ["magic school", "Magic_School", "magic-schools", "a magic school story", "magic school stories", "anime magic school"],
)
def test_spellings_of_one_genre_are_one(spelling):
    assert lint.genre_key(spelling) == lint.genre_key("magic school") != lint.genre_key("magic shop")
    assert len(lint.genres([build(), build(genre="magic school"), build(genre=spelling)])) == 2


def problems(folder: Path, *contents: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in lint.lint([write(folder, content) for content in contents])[1]]


def test_lint_names_what_scenarios_share(tmp_path):
    one, two = raw("one-bell"), raw("two-bell")
    two["scenes"]["a"]["text"] = "Then " + two["scenes"]["a"]["text"]
    assert problems(tmp_path, one, two) == []
    two["hero"]["name"] = one["hero"]["name"]
    two["genre"] = "fantasies"
    two["scenes"]["c"]["text"] = one["scenes"]["b"]["text"]
    found = problems(tmp_path, one, two)
    assert "warning: two-bell.yaml: it shares the name Mika one-bell with one-bell" in found
    assert any("error: two-bell.yaml: its genre 'fantasies' is 'fantasy' (one-bell) spelled otherwise" in line for line in found)
    assert any("error: two-bell.yaml: two-bell: c and one-bell: b share 100%" in line for line in found)
    two["family"] = "one-bell"  # then they may share their people
    assert not any("shares" in line for line in problems(tmp_path, one, two))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("scenes.a.text", "You " * 60 + "caf\u00e9"), r"scene a has '\xe9'"),
        (put("scenes.a.text", "You " * 60 + "<|end|>"), "scene a has '<' '>' '|'"),
        (put("scenes.a.text", "You run."), "error: one-bell.yaml: scene a has 2 words"),
        (put("scenes.a.text", "You " * 80), "warning: one-bell.yaml: scene a has 80 words"),
        (put("hero.pronouns", "she"), "the pronouns of Mika one-bell are 'she'"),
        (put("genre", "Fantasy"), "is not in plain lower case"),
        (put("scenes.a.choices.0.text", "Run"), "'Run' is too short or too long"),
        (put("scenes.a.choices.0.text", "Run to the hill."), "ends with a stop"),
    ],
)
def test_lint_names_what_is_wrong_with_the_words(tmp_path, change, said):
    content = copy.deepcopy(raw())
    change(content)
    assert any(said in line for line in problems(tmp_path, content))


def test_lint_of_a_file_exits_with_1_for_errors_only(tmp_path):
    good, bad = raw("good-bell"), raw("bad-bell")
    bad["scenes"]["b"]["choices"][0]["to"] = "nowhere"
    for content, code in ((good, 0), (bad, 1)):
        path = write(tmp_path, content)
        command = [sys.executable, "-m", "sprints.05_cyoa.code.lint", str(path)]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert ("leads to 'nowhere', which is no scene" in ran.stdout) == bool(code)


def test_the_shipped_scenarios_pass_and_are_as_many_as_promised():
    found, wrong = lint.lint(sorted(scenarios.DATA.glob("*.yaml")))
    assert not [str(problem) for problem in wrong if problem.fatal]
    assert len(found) >= 60 and len(lint.genres(found)) >= 50
    assert {"fantasy", "magic school", "slice of life", "gaming isekai", "time loop"} <= {scenario.genre for scenario in found}
    assert min(map(len, scenarios.split(found))) >= 4
