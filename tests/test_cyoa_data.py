"""Sprint 05: versions of the scenarios that no change escapes, their store in MLflow, and the step that logs them."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import runlog
from shared.data import digest
from shared.errors import UserError
from tests.test_cyoa_scenarios import build, raw, write

CODE = "sprints.05_cyoa.code"
prepare_data = import_module(f"{CODE}.prepare_data")
scenarios = import_module(f"{CODE}.scenarios")
versions = import_module(f"{CODE}.versions")
TWO = [build("one-bell"), build("two-bell")]
ROWS = [json.loads(line) for line in versions.canonical(TWO).splitlines()]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two versions, the second of which has another word in one choice."""
    folder = tmp_path_factory.mktemp("store")
    found = versions.Store(f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri())
    assert found.recall() is None
    for content in (TWO, changed("Run to d")):
        found.log(content, {"processed/rows.jsonl": b"{}\n"}, {"split_seed": 0}, {"scenarios": len(content)})
    return found


def changed(text: str) -> list:
    """TWO with another text in one choice."""
    scene = TWO[1].scenes["b"]
    choices = (replace(scene.choices[0], text=text), *scene.choices[1:])
    return [TWO[0], replace(TWO[1], scenes=TWO[1].scenes | {"b": replace(scene, choices=choices)})]


@settings(max_examples=200)
@given(st.data())
def test_one_changed_letter_in_any_cell_changes_the_version_and_is_named(data):
    rows = json.loads(json.dumps(ROWS))
    row = data.draw(st.sampled_from(rows))
    place = data.draw(
        st.sampled_from([name for name, text in versions.cells(row).items() if text[0] == '"' and text != '""' and name != "id"])
    )
    *way, last = place.split(".")
    cell = row
    for key in way:
        cell = cell[int(key) if key.isdigit() else key]
    kept = cell[last]
    at = data.draw(st.integers(0, len(kept) - 1))
    cell[last] = kept[:at] + data.draw(st.characters(codec="utf-8").filter(lambda letter: letter != kept[at])) + kept[at + 1 :]
    content = versions.encode(rows)
    assert digest(content) != versions.version(TWO)
    (line,) = versions.difference(versions.canonical(TWO), content)
    assert line.startswith(f"~ {row['id']} {place}: ") and len(line.splitlines()) == 1


def test_the_version_is_of_the_cells_not_of_the_files(tmp_path):
    assert versions.version(TWO) == versions.version(TWO[::-1]) != versions.version(TWO[:1])
    path = write(tmp_path, raw())
    before = versions.version([scenarios.read(path)])
    path.write_text("# a comment\n" + path.read_text().replace("summary: ", "summary:   "))
    assert versions.version([scenarios.read(path)]) == before
    assert versions.version(TWO) == digest(versions.canonical(TWO)) and len(versions.version(TWO)) == 64


def test_a_difference_names_what_came_what_went_and_what_changed():
    old, new = versions.canonical(TWO), versions.canonical([changed("Run to d")[1], build("zoo")])
    assert versions.difference(old, old) == []
    assert versions.difference(old, new) == [
        "- one-bell (6 scenes)",
        "+ zoo (6 scenes)",
        '~ two-bell scenes.b.choices.0.text: "Walk to d by way 0" -> "Run to d"',
    ]
    less = json.loads(old.splitlines()[0])
    del less["scenes"]["b"]["choices"][1]
    lines = versions.difference(old, versions.encode([less, ROWS[1]]))
    assert [line.split(": ")[1] for line in lines] == ["only before", "only before"]


def test_mlflows_own_digest_misses_lists_and_missing_values_and_ours_does_not():
    """The reason for versions of our own; when MLflow's digest sees everything, this fails and they can go."""
    ours, theirs = zip(*versions.changes_seen(TWO, 60, seed=0), strict=True)
    assert all(ours) and 0 < sum(theirs) < len(theirs)


def test_a_version_is_logged_with_its_whole_sha256_and_its_artifacts(store):
    sha256 = versions.version(TWO)
    (run,) = store.client.search_runs([store.experiment], f"tags.{versions.TAG} = '{sha256}'")
    (logged,) = run.inputs.dataset_inputs
    assert logged.dataset.name == versions.NAME and logged.dataset.digest == sha256[:36]
    assert {tag.key: tag.value for tag in logged.tags} == {"sha256": sha256, "mlflow.data.context": "training"}
    assert run.info.status == "FINISHED" and run.data.params == {"split_seed": "0"} and run.data.metrics == {"scenarios": 2}
    found = {file.path for folder in ("raw", "processed") for file in store.client.list_artifacts(run.info.run_id, folder)}
    assert found == {versions.RAW, "processed/rows.jsonl"}


def test_versions_are_recalled_by_their_beginning_and_the_newest_by_last(store):
    first, second = versions.version(TWO), versions.version(changed("Run to d"))
    training = store.client.create_run(store.experiment, run_name="full_1a2b3c4d", tags={versions.TAG: first}).info.run_id
    store.client.set_terminated(training)  # it names its data, but holds none
    assert store.recall("last") == (second, versions.canonical(changed("Run to d")))
    assert store.recall(first[:8]) == (first, versions.canonical(TWO))
    for reference in ("nothing", ""):
        with pytest.raises(UserError, match=f"versions begin with '{reference}': .* are {second[:12]}, {first[:12]}"):
            store.recall(reference)


def test_stored_bytes_that_are_not_those_of_their_version_are_not_trusted(store):
    spoiled = changed("Swim to d")
    run = store.log(spoiled, {}, {}, {})
    (path,) = Path(store.client.get_run(run).info.artifact_uri.removeprefix("file://")).glob("raw/*")
    path.write_bytes(path.read_bytes().replace(b"Swim", b"Sink"))
    with pytest.raises(UserError, match="another sha256"):
        store.recall(versions.version(spoiled)[:10])
    store.client.delete_run(run)


def test_a_store_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"^cannot use the MLflow store .*: set MLFLOW_TRACKING_URI, or pass --no-mlflow$"):
        versions.Store(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")


def remember(store, folder: Path, content: list, against: str = "last") -> None:
    args = prepare_data.Args(out=folder, against=against)
    run = runlog.Run(args, str(prepare_data.__file__), "data", title="t", objective="o", setup={})
    prepare_data.remember(run, args, content, {})


def test_the_step_prints_what_changed_and_logs_each_version_once(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    first = versions.version(TWO)
    remember(store, tmp_path, changed("Hop to d"))
    said = capsys.readouterr().out
    assert "1 changes since" in said and 'scenes.b.choices.0.text: "Run to d" -> "Hop to d"' in " ".join(said.split())
    assert "logged as run" in said
    remember(store, tmp_path, changed("Hop to d"))
    said = capsys.readouterr().out
    assert "no changes since" in said and "logged as run" not in said
    remember(store, tmp_path, changed("Hop to d"), against=first[:9])
    assert f"1 changes since {first[:12]}" in capsys.readouterr().out


def test_an_unknown_version_is_refused_before_anything_is_timed(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setattr(prepare_data, "DATA", tmp_path)
    write(tmp_path, raw("good-bell"))
    with pytest.raises(UserError, match="versions begin with 'nothing'"):
        prepare_data.main(prepare_data.Args(against="nothing", repeats=0, out=tmp_path / "out"))


def test_data_with_an_error_is_refused_and_each_file_is_named(tmp_path, capsys):
    good, bad, worse = raw("good-bell"), raw("bad-bell"), raw("worse-bell")
    bad["scenes"]["b"]["choices"][0]["to"] = "nowhere"
    del worse["hero"]
    files = [write(tmp_path, content) for content in (good, bad, worse)]
    with pytest.raises(UserError, match="2 files"):
        prepare_data.checked(files)
    said = capsys.readouterr().out
    assert "error: bad-bell.yaml: scene b: the choice" in said and "error: worse-bell.yaml: the scenario has no hero" in said
    assert prepare_data.checked(files[:1]) == [build("good-bell")]
    with pytest.raises(UserError, match="no scenario"):
        prepare_data.checked([])


def test_processing_gives_every_row_an_id_and_a_split(tmp_path):
    for path in sorted(scenarios.DATA.glob("*.yaml"))[:8]:
        shutil.copy(path, tmp_path)
    tables = prepare_data.process(sorted(tmp_path.glob("*.yaml")), 0)
    rows = [json.loads(line) for line in tables[prepare_data.ROWS].splitlines()]
    found = scenarios.load(tmp_path)
    assert len({row["id"] for row in rows}) == len(rows) == sum(len(scenarios.flat_rows(scenario)) for scenario in found)
    for name, part in zip(("train", "validation", "test"), scenarios.split(found), strict=True):
        assert {row["scenario"] for row in rows if row["split"] == name} == {scenario.id for scenario in part}
    assert tables[prepare_data.ORIGINAL].decode() == scenarios.flat_csv(found)
