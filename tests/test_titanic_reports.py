"""What the programs report: the hold-out, claims, rivals on the same folds, what is refused."""

from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from shared import runlog
from shared.errors import UserError

SPRINT = "sprints.03_titanic_torch_voyage.code"
preprocess = import_module(f"{SPRINT}.preprocess_data")
train = import_module(f"{SPRINT}.train")
evaluate = import_module(f"{SPRINT}.evaluate")
claims = import_module(f"{SPRINT}.claims")
holding = import_module(f"{SPRINT}.hold_out")
protocol = import_module(f"{SPRINT}.protocol")
baselines = import_module(f"{SPRINT}.baselines")
cross_validation = import_module(f"{SPRINT}.cross_validation")

PLAIN, Y = preprocess.embedded()
TICKETED = PLAIN.assign(ticket=[f"PC {100 + 3 * i}" for i in pd.factorize(PLAIN["fare"], sort=True)[0]])  # invented


# -- the hold-out ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shot(tmp_path_factory):
    """The report of a hold-out of 150 and 60 passengers."""
    train_table, test_table = (preprocess.Table(TICKETED.iloc[rows], Y[rows]) for rows in (slice(0, 150), slice(150, 210)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module(f"{SPRINT}.titanic3"), "hold_out", lambda: (train_table, test_table))
        return train.main(train.Args(only=("hold_out",), smoke=True, mlflow=False, out=tmp_path_factory.mktemp("shot")))["hold_out"]


def test_the_report_of_the_hold_out_does_not_spell_out_the_labels(shot):
    for key, metric in shot["metrics"].items():
        assert metric["values"] == sorted(metric["values"]), f"{key} says of each passenger whether the answer is right"
    accuracy = shot["metrics"]["hold_out_accuracy"]
    assert accuracy["n"] == 1 and accuracy["ci95"][0] < accuracy["mean"] < accuracy["ci95"][1]


def test_rivals_take_part_in_the_shot(shot):
    for rival in ("logistic_regression_raw", *(["blend_of_trees"] if "blend_of_trees" in baselines.published() else [])):
        net, other, gap = (shot["metrics"][f"hold_out_{key}log_loss"]["mean"] for key in ("", f"{rival}_", f"net_minus_{rival}_"))
        assert gap == pytest.approx(net - other, abs=1e-5)
    assert "hold_out_sex_rule_accuracy" in shot["metrics"]


def test_a_bootstrap_of_families_is_wider_where_families_share_their_fate():
    y = np.repeat(np.random.default_rng(1).integers(0, 2, 60), 5)
    p = np.where(np.repeat(np.random.default_rng(2).random(60), 5) < 0.7, 0.4, 0.6)
    spread = [
        holding.rescored(y, p, holding.redrawn(families, 200))["accuracy"].std()
        for families in (np.arange(300), np.repeat(np.arange(60), 5))
    ]
    assert spread[1] > 1.6 * spread[0], "five who end alike are one observation"
    rows = holding.redrawn(np.array([0, 0, 1]), 20)
    assert all(np.sum(sample == 0) == np.sum(sample == 1) for sample in rows)


# -- the net and its rivals --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return train.main(train.Args(smoke=True, mlflow=False, out=tmp_path_factory.mktemp("scored")))["embedded"]


def test_rivals_are_scored_where_the_net_is_scored(scored):
    compared = {entry["key"] for entry in scored["comparisons"]}
    for label in ("fresh", "cold"):
        assert f"logistic_regression_raw_{label}_log_loss_embedded" in scored["metrics"]
        assert f"log_loss_net_{label}_minus_logistic_regression_raw_{label}" in compared
    assert {"catboost_engineered", "blend_of_trees"} < set(train.PEERS)


def test_what_sixteen_nets_do_is_said_with_its_sign(scored):
    one, many = (scored["metrics"][f"{name}_log_loss_embedded"]["mean"] for name in ("one_net", "embedding_nets"))
    said = next(text for text in scored["observations"] if text.startswith("Sixteen nets"))
    assert f" {train.changed(one - many)} " in said and "by -" not in said
    assert (train.changed(0.1), train.changed(-0.1)) == ("lower", "raise")


def test_full_tables_are_not_compared_without_catboost(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "missing", lambda: ["catboost"])
    with pytest.raises(UserError, match="CatBoost, which is not installed"):
        evaluate.main(evaluate.Args(only=("k891",), out=tmp_path))


def test_the_net_is_compared_with_those_that_know_the_same(monkeypatch, tmp_path):
    small = preprocess.Table(TICKETED.iloc[:200], Y[:200])
    monkeypatch.setattr(evaluate, "passengers_of", lambda name, toy: small)
    cross_validation.table.cache_clear()
    monkeypatch.setitem(cross_validation.TABLES, "embedded", lambda: small)
    monkeypatch.setattr(evaluate, "TOYS", (*evaluate.TOYS, "logistic_regression_tickets_by_hand"))
    report = evaluate.baselines(evaluate.Args(smoke=True, mlflow=False, out=tmp_path), "embedded")
    cross_validation.table.cache_clear()
    gap = report["metrics"]["net_minus_logreg_tickets_log_loss_embedded"]
    pair = ("net", "logistic_regression_tickets_by_hand")
    (entry,) = (one for one in report["comparisons"] if one["key"].startswith("log_loss") and (one["a"], one["b"]) == pair)
    assert gap["higher_is_better"] is False and gap["mean"] == pytest.approx(entry["difference"])


def test_trees_are_tuned_with_tickets_too():
    known = baselines.published()
    for kind in baselines.TUNED_WITH_TICKETS:
        assert kind in baselines.missing() or f"{kind}_tickets_tuned" in known
    names = [name for name, _ in known["extra_trees_tickets_tuned"].estimator["features"]["features"].transformer_list]
    assert names[-1] == "tickets"


def test_the_ablation_leaves_the_tickets_out():
    for part in cross_validation.BLENDS["net_groups"]:
        model = cross_validation.model(part)
        whole = cross_validation.model(part.removesuffix("_groups"))
        changed = {name for name, value in model.get_params().items() if value != whole.get_params()[name]}
        assert model.level == "groups" and changed <= {"level", "amplitude"}
    assert cross_validation.model("gaussian_process_groups").amplitude == 0 and "net_groups" in train.NAMES


def test_a_temperature_has_its_calibration_error(tmp_path):
    split = [(np.arange(100), np.arange(100, 200))]
    result = protocol.evaluate(baselines.published()["sex_rule"], PLAIN, Y, split)
    with runlog.Run(train.Args(smoke=True, out=tmp_path), str(train.__file__), "c", title="t", objective="o", setup={}) as run:
        protocol.record_calibration(run, "net_tempered", result, "k891")
    error = protocol.reliability(*result.pooled())[3]
    assert run.report["metrics"]["net_tempered_calibration_error_k891"]["mean"] == pytest.approx(error, rel=1e-5)


def test_how_it_runs_makes_no_other_run(tmp_path):
    def folder(args):
        return runlog.Run(args, str(train.__file__), "somewhere", title="t", objective="o", setup={}).folder

    published = folder(train.Args())
    assert published.parts[-2:] == ("results", "somewhere")
    assert published == folder(train.Args(jobs=3, storage="postgresql://me@host/db")) == folder(evaluate.Args(jobs=2))
    assert folder(train.Args(repeats=1)) != published


# -- claims ------------------------------------------------------------------------------------------------------------------


def test_verdicts_of_claims():
    def found(accuracy, p_accuracy, loss, p_loss):
        return {"accuracy": {"difference": accuracy, "p": p_accuracy}, "log_loss": {"difference": loss, "p": p_loss}}

    assert claims.verdict(found(0.01, 0.02, -0.1, 0.02)) == "reproduced"
    assert claims.verdict(found(0.01, 0.03, -0.1, 0.02)) == "partly reproduced", "two looks"
    assert claims.verdict(found(-0.01, 0.001, 0.1, 0.001)) == "not reproduced", "surely worse"
    no = found(0.01, 0.2, -0.1, 0.2)
    assert claims.verdict(no) == "not reproduced" == claims.verdict(no, no)
    assert claims.verdict(no, found(0.01, 0.012, -0.1, 0.012)) == "partly reproduced", "four looks"
    assert claims.verdict(no, found(0.01, 0.013, -0.1, 0.013)) == "not reproduced"


def test_claims_are_decided_by_what_they_are_about(tmp_path):
    report = claims.claims(import_module(f"{SPRINT}.evaluate").Args(smoke=True, mlflow=False, out=tmp_path))
    compared = {entry["key"]: (entry["a"], entry["b"]) for entry in report["comparisons"]}
    assert compared["tuning_hist_gradient_boosting_log_loss"] == (
        "hist_gradient_boosting_groups_tuned",
        "hist_gradient_boosting_groups",
    )
    assert compared["same_information_log_loss"] == ("net", "logistic_regression_groups_by_hand")
    stated = {entry["claim"].split()[0]: entry for entry in report["claims"]}
    looks = {entry["key"]: entry for entry in report["comparisons"]}

    def sided(key):
        return {metric: looks[f"{key}_{metric}"] for metric in ("accuracy", "log_loss")}

    assert stated["Improved"]["verdict"] == claims.verdict(sided("their_net"))
    assert stated["Hyper-parameter"]["verdict"] == claims.verdict(sided("tuning_hist_gradient_boosting"))
    both = sided("preprocessing_for_nets"), sided("preprocessing_for_logistic_regression")
    assert stated["Preprocessing"]["verdict"] == claims.verdict(*both)
    assert "same information" in stated["Improved"]["honest"] and "hist gradient boosting" in stated["Hyper-parameter"]["honest"]
