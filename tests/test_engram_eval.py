"""Jobs that are done once, the choice of rates, and the page of the evaluation."""

import json
import shutil
from importlib import import_module

import numpy as np
import pytest

from shared.errors import UserError

comparison = import_module("sprints.04_engram.code.study.comparison")
evaluate = import_module("sprints.04_engram.code.evaluate")
findings = import_module("sprints.04_engram.code.study.findings")
jobs = import_module("sprints.04_engram.code.study.jobs")
patterns = import_module("sprints.04_engram.code.patterns")
report_page = import_module("sprints.04_engram.code.study.report_page")
significance = import_module("sprints.04_engram.code.study.significance")
training = import_module("sprints.04_engram.code.teaching.training")
trial = import_module("sprints.04_engram.code.study.trial")
RESULTS = evaluate.DATA.parent / "results"


def holm(name, *p):
    return jobs.Job(name, significance.holm, {"p": list(p)})


def test_a_job_is_done_once(tmp_path):
    asked = [holm("a", 0.01, 0.5), holm("b", 0.2)]
    found = jobs.run_jobs(asked, tmp_path, processes=1)
    assert found == {"a": [0.02, 0.5], "b": [0.2]}
    for path in tmp_path.glob("*.json"):  # what is kept is what is given, until something that decides it changes
        path.write_text(json.dumps({"name": "x", "result": "kept"}))
    assert jobs.run_jobs(asked, tmp_path, processes=1) == {"a": "kept", "b": "kept"}
    assert jobs.run_jobs([holm("a", 0.01)], tmp_path, processes=1) == {"a": [0.01]}


def test_what_was_done_before_a_job_failed_is_kept(tmp_path):
    good = holm("good", 0.3)
    with pytest.raises(TypeError):
        jobs.run_jobs([good, jobs.Job("bad", significance.holm, {"q": 1})], tmp_path, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{good.key}.json"]


def test_two_processes_give_what_one_gives(tmp_path):
    assert jobs.run_jobs([holm("a", 0.3), holm("b", 0.01, 0.5)], tmp_path, processes=2) == {"a": [0.3], "b": [0.02, 0.5]}


def test_two_jobs_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one name"):
        jobs.run_jobs([holm("a", 0.1), holm("a", 0.2)], tmp_path, processes=1)


def test_the_key_holds_the_code_but_not_its_comments(tmp_path, monkeypatch):
    known = jobs.modules("study.trial")
    assert {"study.trial", "study.scores", "study.baselines", "teaching.training", "teaching.lora", "patterns"} <= known
    assert {"engram.memory", "engram.adapter", "engram.guard", "engram.hashing"} <= known
    assert not {"study.findings", "study.figures", "evaluate", "study.report_page"} & known
    shutil.copytree(jobs.CODE / "study", tmp_path / "study")

    def code(text):
        (tmp_path / "study" / "significance.py").write_text(text)
        jobs._code.cache_clear()
        return jobs._code("study.significance")

    text = (jobs.CODE / "study" / "significance.py").read_text()
    monkeypatch.setattr(jobs, "CODE", tmp_path)
    assert code(text) == code(f"# a comment\n{text}") != code(text.replace("10_000", "20_000"))
    jobs._code.cache_clear()


def result(recall, ratio):
    """A result with that share of right rows and that perplexity ratio."""
    exact = [n < round(100 * recall) for n in range(100)]
    kept = {"nll": [float(np.log(ratio))] * 4, "base_nll": [0.0] * 4}
    return {"parts": {"S1": {"exact": exact}, "S2": {"exact": exact}}, "retention": {"unrelated": kept}}


def test_rate_with_the_best_recall_and_among_equals_the_one_that_forgets_least():
    found = {1e-3: [result(0.5, 1.1)], 3e-3: [result(0.99, 2), result(0.99, 2)], 1e-2: [result(1, 9)], 3e-2: [result(0.9, 1)]}
    assert comparison.best_rate(found) == 3e-3
    assert comparison.best_rate(found | {1e-2: [result(1, 1.5)]}) == 1e-2
    assert comparison.recall(result(0.25, 1)) == 0.25


def test_a_grid_grows_at_its_edges_only():
    assert comparison.beyond([4, 5, 6, 7], 4) == [3] and comparison.beyond([4, 5, 6, 7], 7) == [8]
    assert comparison.beyond([4, 5, 6, 7], 5) == []
    for method in comparison.METHODS:
        assert bool(method.start) != bool(method.like), "a method has a grid, or takes the rate of another"
        if method.start:
            lowest = comparison.RATES.index(method.start)
            assert comparison.GROWTH <= lowest <= len(comparison.RATES) - comparison.GRID - comparison.GROWTH


def test_recipes_survive_json():
    recipe = training.Recipe("engram", rate=1e-2, seed=3)
    fields = json.loads(json.dumps(comparison.job(evaluate.Args(), recipe, "dev").arguments))["recipe"]
    assert trial.recipe_of(fields) == recipe


def test_trained_methods_share_steps_batch_and_budget():
    recipes = [comparison.recipe(evaluate.Args(), method, 1e-3) for method in comparison.METHODS]
    assert {(recipe.steps, recipe.batch, recipe.budget) for recipe in recipes} == {(evaluate.Args().steps, 16, None)}
    assert {recipe.rank for recipe in recipes if recipe.method != "lora"} == {8}


@pytest.fixture(scope="module")
def outcomes():
    """Two methods with three seeds, and a base, on a few real patterns."""
    few = trial.subset(patterns.load())
    generator = np.random.default_rng(0)

    def measured(share):
        parts = {}
        for part in trial.PARTS:
            exact = generator.random(len(few.rows(part))) < share
            departure = np.where(exact, -1, generator.integers(0, 2, len(exact)))
            parts[part] = {
                "exact": exact.tolist(),
                "begins": exact.tolist(),
                "nll": (1 - exact).tolist(),
                "departure": departure.tolist(),
            }
        return {"parts": parts, "over": parts["S5"]["exact"]}

    results = {"base": [measured(0)], "lora": [measured(0.7) for _ in range(3)], "engram": [measured(1) for _ in range(3)]}
    return findings.Outcomes(results, {}, few)


def test_outcomes_per_pattern(outcomes):
    whole = findings.units(outcomes, "engram", findings.RECALL)
    assert whole.shape == (len(outcomes.patterns.test), 3) and (whole == 1).all()
    assert findings.units(outcomes, "base", ()).shape == (len(outcomes.patterns.test), 1)
    assert (findings.agreeing(outcomes, "engram") == 1).all()
    named, values = outcomes.matrix("lora", ("S1", "S2"))
    first = [right for name, right in zip(named, values[:, 0], strict=True) if name == outcomes.patterns.test[0].id]
    assert findings.units(outcomes, "lora", findings.RECALL)[0, 0] == np.mean(first)
    difference, low, high = findings.gain(outcomes, "engram", "lora", findings.RECALL)
    assert 0 < low <= difference <= high <= 1


def test_bad_flags_are_one_line():
    for args, message in (
        (evaluate.Args(only=("plots",)), "there is no plots"),
        (evaluate.Args(seeds=(1,)), "two different seeds"),
        (evaluate.Args(seeds=(1, 1)), "two different seeds"),
        (evaluate.Args(steps=0), "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main(args)


def test_page_says_what_was_not_run():
    assert "not run here" in report_page.page({}, comparison.LABELS)


@pytest.mark.skipif(not (RESULTS / "evaluation_report.md").is_file(), reason="the evaluation has not been published yet")
def test_committed_page_is_that_of_the_committed_reports():
    assert (RESULTS / "evaluation_report.md").read_text(encoding="utf-8") == evaluate.page_of(RESULTS)


def test_a_rate_that_is_too_high_loses_and_stops_nothing():
    recipe = {"method": "full", "rate": 1e30, "steps": 3, "batch": 2}
    lost = trial.measure(recipe, "dev", toy=True)
    assert comparison.recall(lost) == 0 and comparison.log_ratio(lost).mean() > 0.5
    with pytest.raises(UserError, match="lower rate"):
        trial.measure(recipe, "test", toy=True)
    kept = trial.baseline("base", "dev", toy=True)
    assert (comparison.log_ratio(kept) == 0).all(), "the base is what it was"
