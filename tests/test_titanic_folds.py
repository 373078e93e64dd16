"""Folds that are kept: in parallel, found again, computed again when what decides them changes, and only then."""

import ast
import shutil
from importlib import import_module

import numpy as np
import pytest

from shared import processes

SPRINT = "sprints.03_titanic_torch_voyage.code"
preprocess = import_module(f"{SPRINT}.preprocess_data")
cross_validation = import_module(f"{SPRINT}.cross_validation")
recipes = import_module(f"{SPRINT}.recipe")
tuning = import_module(f"{SPRINT}.tuning")
protocol = import_module(f"{SPRINT}.protocol")

Y = preprocess.embedded().y
LEARN, TEST = np.arange(0, 240, 2), np.arange(1, 240, 2)
KINDS = ("tabm", "gaussian_process", "linear_model", "net_tempered", "tabm_tuned", "sex_rule", "logistic_regression_raw")
KINDS += ("logistic_regression_groups_tuned", "extra_trees_tickets_by_hand", "blend_of_scikit_learn_trees")


class Quiet:
    def track(self, items, label, total=None):
        return items


def test_folds_are_kept_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validation, "FOLDS", tmp_path)
    splits = protocol.folds(Y, repeats=1)[:2]
    first = cross_validation.cross_validate(Quiet(), "embedded", ["linear_model"], splits, jobs=1)["linear_model"]
    assert len(list(tmp_path.glob("embedded/linear_model/*.json"))) == 2
    monkeypatch.setattr(cross_validation, "score_fold", lambda *_: pytest.fail("it was computed again"))
    again = cross_validation.cross_validate(Quiet(), "embedded", ["linear_model"], splits, jobs=1)["linear_model"]
    for a, b in zip(first.p, again.p, strict=True):
        np.testing.assert_array_equal(a, b)
    monkeypatch.setattr(cross_validation, "recipe", lambda *_: "other")
    with pytest.raises(BaseException, match="computed again"):
        cross_validation.cross_validate(Quiet(), "embedded", ["linear_model"], splits, jobs=1)


def test_folds_in_processes_are_those_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validation, "FOLDS", tmp_path)
    splits = protocol.folds(Y, repeats=1)[:2]
    apart = cross_validation.cross_validate(Quiet(), "embedded", ["sex_rule"], splits, jobs=2)["sex_rule"]
    alone = cross_validation.cross_validate(Quiet(), "embedded", ["sex_rule"], splits, toy=True)["sex_rule"]
    for a, b in zip(apart.p, alone.p, strict=True):
        np.testing.assert_array_equal(a, b)
    ladder = import_module(f"{SPRINT}.leak_ladder")
    jobs = {what: (what, "logistic regression", True) for what in ladder.HONEST}
    found = dict(processes.spread(ladder.climb, jobs, 2))
    np.testing.assert_array_equal(found["honest"].p[0], ladder.climb("honest", "logistic regression", True).p[0])


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the sprint's code that a test may edit: code(module, old, new) -> the kinds of model that are another thing now."""
    folder = tmp_path / "code"
    shutil.copytree(recipes.CODE, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def keys():
        recipes._names.cache_clear()
        return {kind: recipes.recipe(cross_validation.model(kind), protocol.fit_predict) for kind in KINDS}

    before = keys()
    monkeypatch.setattr(recipes, "CODE", folder)
    assert keys() == before, "where the code lies is no part of it"

    def edited(module, old, new):
        path = folder / f"{module}.py"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        return {kind for kind, key in keys().items() if key != before[kind]}

    yield edited
    recipes._names.cache_clear()


TORCH = {"tabm", "gaussian_process", "linear_model", "net_tempered", "tabm_tuned"}
EDITS = {
    "a comment": ("features", "LEAN = (", "# a remark\nLEAN = (", set()),
    "a docstring": ("gaussian_process", "P(survived) from facts; see", "See", set()),
    "an error message of a loader": ("preprocess_data", "is not a number", "should be a number", set()),
    "a metric": ("protocol", "CLIP = 1e-6", "CLIP = 1e-7", set()),
    "the mirror of the trials": ("tuning", '"inner_log_loss"', '"log_loss"', set()),
    "what fits": ("protocol", "fresh: Any = clone(model)", "fresh: Any = model", set(KINDS)),
    "what a title means": ("people", '"Mlle", ', "", set(KINDS)),
    "an encoding": ("encoding", "ONE_HOT = 0.7", "ONE_HOT = 1.0", TORCH),
    "the Gaussian process": ("gaussian_process", "JITTER = 1e-4", "JITTER = 1e-3", {"gaussian_process", "net_tempered"}),
    "a setting of the net": ("titanic_model", "WARMUP = 10", "WARMUP = 20", {"tabm", "tabm_tuned", "net_tempered"}),
    "the search space": ("tuning", "0.1, 0.6", "0.1, 0.5", {"tabm_tuned"}),
    "a rule": ("classifiers", "(sum(labels) + 1)", "(sum(labels) + 2)", {"sex_rule"}),
    "the blend": (
        "mean_logit",
        "CLIP = 1e-4",
        "CLIP = 1e-3",
        TORCH & {"net_tempered", "tabm_tuned"} | {"blend_of_scikit_learn_trees"},
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_renews_what_it_decides_and_nothing_else(what, code):
    module, old, new, renewed = EDITS[what]
    assert code(module, old, new) == renewed


def test_settings_and_packages_are_part_of_a_recipe(monkeypatch):
    def of(name, **settings):
        return recipes.recipe(cross_validation.model(name).set_params(**settings))

    assert of("gaussian_process") == of("gaussian_process") != of("gaussian_process", steps=31)
    assert of("extra_trees_groups_tuned") != of("extra_trees_groups_tuned", n_iter=99)
    assert of("logistic_regression_raw") != of("logistic_regression_engineered")
    before = {name: of(name) for name in KINDS}
    real = recipes.versions
    monkeypatch.setattr(recipes, "versions", lambda packages: real(packages) | ({"torch": "0"} if "torch" in packages else {}))
    assert {name for name in KINDS if of(name) != before[name]} == TORCH
    monkeypatch.setattr(recipes, "versions", lambda packages: real(packages) | ({"optuna": "0"} if "optuna" in packages else {}))
    assert {name for name in KINDS if of(name) != before[name]} == {"tabm_tuned"}


def test_a_recipe_is_the_same_in_every_process():
    made = dict(processes.spread(recipes.recipe, {i: (cross_validation.model("net_tempered"),) for i in range(2)}, 2))
    assert set(made.values()) == {recipes.recipe(cross_validation.model("net_tempered"))}


def test_what_is_reached_is_known():
    """A model's code borrows names, not modules: `from . import x` would hide what it uses of x."""
    for kind in KINDS:
        places = set()
        recipes.describe(cross_validation.model(kind), places)
        for text in recipes.code_behind(places)[0]:
            module = text.split(".")[0]
            tree = ast.parse((recipes.CODE / f"{module}.py").read_text(encoding="utf-8"))
            hidden = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level and not node.module]
            assert not hidden or module in ("cross_validation",), module
