"""The second run of everything, and what is said of its numbers."""

import time

import pytest

from shared import reproduce
from shared.environment import git_commit
from shared.sprints import discover


def metric(mean, ci95=None, unit="nats", meaning="loss"):
    return {"mean": mean, "ci95": ci95, "unit": unit, "meaning": meaning, "n": 5, "values": [mean]}


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (metric(1.0, [0.9, 1.1]), "same"),
        (metric(1.05, [0.99, 1.15]), "inside"),
        (metric(1.3, [1.05, 1.5]), "inside"),
        (metric(1.3), "outside"),
        (metric(0.5, [0.4, 0.6]), "outside"),
        (None, "not run"),
    ],
)
def test_verdict_of_a_second_measurement(new, said):
    assert reproduce.verdict(metric(1.0, [0.9, 1.1]), new) == said


def test_without_an_interval_a_thousandth_will_do_and_a_clock_is_forgiven():
    assert reproduce.verdict(metric(2.0), metric(2.0)) == "same"
    assert reproduce.verdict(metric(2.0), metric(2.001)) == "inside"
    assert reproduce.verdict(metric(2.0), metric(2.01)) == "outside"
    assert reproduce.verdict(metric(2.0, unit="s"), metric(2.01, unit="s")) == "clock"


def test_of_the_ratios_those_of_times_are_forgiven_and_no_others():
    headlines = {
        key: metric
        for sprint in discover()
        for report in sprint.reports().values()
        for key, metric in report["metrics"].items()
        if key in sprint.headlines
    }
    ratios = {key: reproduce.timed(metric) for key, metric in headlines.items() if metric["unit"] == "x" or "ratio" in key}
    assert len(ratios) > 8 and ratios == {key: "perplexity" not in key for key in ratios}
    others = {key for key, metric in headlines.items() if reproduce.timed(metric)} - set(ratios)
    assert all("seconds" in key for key in others)


def test_a_table_of_two_sittings_names_both_commits():
    made = [
        {"machine": {"cpu": "a CPU"}, "git": commit, "started": f"2026-01-0{day}T10:00:00"} for day, commit in enumerate("aab", 1)
    ]
    row = ("Cats", "loss", "1", "1", "same")
    assert reproduce.table([row], []).endswith("| Cats | loss | 1 | 1 | same |\n")
    text = reproduce.table([row, row, ("Cats", "speed", "1", "", "not run")], [])
    assert text.startswith("2 of 3 headlines have a second run: 2 same, 1 not run.\n\n| sprint |")
    assert reproduce.table([], []).startswith("| sprint |")
    text = reproduce.table([row], [*made, *made])
    assert text.endswith("\nMade on a CPU, commit `a`, 2026-01-01; a CPU, commit `a`, 2026-01-02; a CPU, commit `b`, 2026-01-03.\n")


def test_every_recorded_command_names_a_program_that_is_there():
    for sprint in discover():
        for command, experiments in reproduce.commands(sprint.reports()).items():
            python, flag, module, *_ = command.split()
            assert (python, flag) == ("python", "-m") and experiments
            assert module.startswith(f"sprints.{sprint.folder.name}.")
            assert (sprint.folder.parents[1] / f"{module.replace('.', '/')}.py").is_file(), command


@pytest.mark.skipif(git_commit() == "unknown", reason="this is no git repository: nothing can be cloned")
def test_the_quickest_command_runs_again_in_a_clone_and_the_rest_is_said_not_to_have_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "TREE", tmp_path / "tree")
    assert reproduce.main(["--only", "titanic", "--at-most", "0.02"]) == 0
    assert [path.parent.name for path in tmp_path.glob("tree/runs/again/*/*/report.json")] == ["data_report"]
    assert "| not run |" in capsys.readouterr().out and "| not run |" in (tmp_path / "tree.md").read_text()
    assert "| Logistic regression from scratch |" in (tmp_path / "tree.md").read_text()  # not only what was asked for
    monkeypatch.setattr(reproduce, "repeat", None)  # nothing runs a second time
    assert reproduce.main(["--only", "titanic", "--at-most", "0.02"]) == 0


def test_a_command_that_takes_longer_than_was_asked_for_is_stopped_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "TREE", tmp_path)
    monkeypatch.setattr(reproduce, "START", 0.0)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    start = time.perf_counter()
    assert reproduce.repeat("python -m slow", "cpu", 0.01) and time.perf_counter() - start < 30
    (tmp_path / "wrong.py").write_text("raise SystemExit(3)\n")
    assert not reproduce.repeat("python -m wrong", "cpu", float("inf"))
