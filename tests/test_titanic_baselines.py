"""The baselines and the protocol: folds, anchors, rules, rows that run where their packages are, what is recorded."""

import sys
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import RepeatedStratifiedKFold

from shared import runlog

SPRINT = "sprints.03_titanic_torch_voyage.code"
preprocess = import_module(f"{SPRINT}.preprocess_data")
features = import_module(f"{SPRINT}.features")
baselines = import_module(f"{SPRINT}.baselines")
protocol = import_module(f"{SPRINT}.protocol")
classifiers = import_module(f"{SPRINT}.classifiers")
blends = import_module(f"{SPRINT}.mean_logit")
eda = import_module(f"{SPRINT}.eda")

PLAIN, Y = preprocess.embedded()
FARES = pd.factorize(PLAIN["fare"].astype(str) + PLAIN["port"].fillna("?").astype(str), sort=True)[0]
TICKETED = PLAIN.assign(ticket=[f"PC {100 + 3 * fare}" for fare in FARES])  # invented: whoever paid the same at the same port
TABLES = {"without tickets": PLAIN, "with tickets": TICKETED}
HALF = np.arange(0, 891, 2), np.arange(1, 891, 2)
tables = pytest.mark.parametrize("X", TABLES.values(), ids=list(TABLES))


def model(level="tickets"):
    return baselines.baseline("logistic_regression", level, C=0.1)


def test_folds_are_those_of_the_protocol():
    ours = protocol.folds(Y)
    theirs = RepeatedStratifiedKFold(n_splits=5, n_repeats=5, random_state=42).split(PLAIN, Y)
    assert len(ours) == 25 and all(np.array_equal(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))


@tables
def test_family_folds_part_no_companions(X):
    P, ids = features.people(X), protocol.families(X)
    near = features.companions(P, P)
    for train, test in protocol.family_folds(X, Y, repeats=2):
        assert not near[np.ix_(test, train)].any() and not set(ids[train]) & set(ids[test])
        assert abs(Y[test].mean() - Y.mean()) < 0.1


def test_logistic_regression_on_the_raw_facts_is_the_known_anchor():
    """The same folds elsewhere: accuracy .802, ROC-AUC .856, log-loss .447."""
    result = protocol.evaluate(baselines.published()["logistic_regression_raw"], PLAIN, Y, protocol.folds(Y))
    assert result.scores["accuracy"].mean() == pytest.approx(0.802, abs=0.002)
    assert result.scores["roc_auc"].mean() == pytest.approx(0.8557, abs=0.002)
    assert result.scores["log_loss"].mean() == pytest.approx(0.4466, abs=0.002)
    low, high = result.interval(result.scores["accuracy"])
    narrow = 2.06 * result.scores["accuracy"].std(ddof=1) / 5  # were the folds independent
    assert (high - low) / 2 > 2 * narrow
    y, p = result.pooled()
    assert p.shape == (5 * 891,) and ((p > 0) & (p < 1)).all() and y.sum() == 5 * Y.sum()
    mean, lived, rows, error = protocol.reliability(y, p)
    assert rows.sum() == len(p) and error == pytest.approx(np.abs(mean - lived) @ rows / len(p)) and error < 0.08
    women = (PLAIN["sex"] == "female").to_numpy()
    share = np.array([women[test].mean() for _, test in result.splits])
    parts = share * result.accuracy_of(women) + (1 - share) * result.accuracy_of(~women)
    np.testing.assert_allclose(parts, result.scores["accuracy"])
    assert not len(result.accuracy_of(np.zeros(891, dtype=bool)))


def test_rules():
    sex = baselines.rule("raw", "male").fit(PLAIN, Y)
    assert ((PLAIN["sex"] == "female") == sex.predict(PLAIN)).all()
    assert sex.predict_proba(PLAIN.head(1))[0, 1] == pytest.approx((109 + 1) / (577 + 2))
    groups = baselines.published()["woman_child_group_rule"].fit(PLAIN, Y)
    assert (groups.predict(PLAIN) == Y).mean() > (sex.predict(PLAIN) == Y).mean() + 0.03


@pytest.mark.parametrize("name", [name for name in baselines.published() if "tuned" not in name or "logistic" in name])
def test_every_baseline_fits_and_predicts(name):
    rows = np.arange(0, 300)
    result = protocol.evaluate(baselines.published()[name], TICKETED, Y, [(rows, np.arange(300, 400))])
    assert 0.7 < result.scores["roc_auc"][0] < 0.97 and result.p[0].shape == (100,)


@pytest.mark.parametrize(("package", "kind"), [("tabpfn", "TabPFNClassifier"), ("tabicl", "TabICLClassifier")])
def test_pretrained_nets_take_part_where_their_weights_are_at_hand(package, kind, tmp_path, monkeypatch):
    """The package here is a stand-in: logistic regression that wants what the real ones want."""
    (tmp_path / f"{package}.py").write_text(
        "from pathlib import Path\nfrom sklearn.linear_model import LogisticRegression\n"
        f"class {kind}:\n"
        "    def __init__(self, model_path, device, random_state, allow_auto_download=False):\n"
        "        assert Path(model_path).read_text() == 'weights' and not allow_auto_download\n"
        "    def fit(self, X, y):\n        return LogisticRegression(max_iter=5000).fit(X, y)\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("SPRINTS_DATA", str(tmp_path))
    monkeypatch.setenv("SPRINTS_CACHE", str(tmp_path / "cache"))
    row, name = f"{package}_tickets", classifiers.FOUNDATIONS[package][0]
    assert row not in baselines.published() and name in baselines.absent()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert row not in baselines.published(), "without weights it would download them"
    (tmp_path / "titanic").mkdir()
    (tmp_path / "titanic" / f"{package}.ckpt").write_text("weights", encoding="utf-8")
    assert name not in baselines.absent()
    result = protocol.evaluate(baselines.published()[row], TICKETED, Y, [(np.arange(0, 300), np.arange(300, 400))])
    assert 0.7 < result.scores["roc_auc"][0] < 0.97
    monkeypatch.delitem(sys.modules, package)


def test_what_is_not_installed_is_said():
    assert set(baselines.missing()) <= {"xgboost", "lightgbm", "catboost"}
    names = set(baselines.published())
    assert ("blend_of_trees" in names) == ("catboost" not in baselines.missing())
    assert "blend_of_scikit_learn_trees" in names
    assert not any(name.startswith(package) for name in names for package in baselines.missing())


def test_mean_logit_of_members():
    p = np.array([[0.9, 0.0], [0.5, 0.5]])
    assert blends.mean_logit(p) == pytest.approx([0.75, 1 / (1 + np.sqrt((1 - 1e-4) / 1e-4))])
    one = blends.MeanLogit({"a": model("raw"), "b": model("raw")}).fit(PLAIN, Y)
    np.testing.assert_allclose(one.predict_proba(PLAIN), model("raw").fit(PLAIN, Y).predict_proba(PLAIN))


def test_results_are_recorded_and_compared(tmp_path):
    splits = protocol.folds(Y, repeats=1)
    results = {
        name: protocol.evaluate(baselines.published()[name], PLAIN, Y, splits) for name in ("sex_rule", "logistic_regression_raw")
    }
    with runlog.Run(
        eda.Args(out=tmp_path, mlflow=False), str(eda.__file__), "test", title="t", objective="o", setup={"Data": "embedded"}
    ) as run:
        for name, result in results.items():
            protocol.record(run, name, name, result)
        protocol.compare(run, results, "logistic_regression_raw", "sex_rule")
    metrics, (first, *_) = run.report["metrics"], run.report["comparisons"]
    assert len(metrics["sex_rule_log_loss"]["values"]) == 5 and metrics["sex_rule_log_loss"]["higher_is_better"] is False
    assert first["key"] == "accuracy_logistic_regression_raw_minus_sex_rule" and len(run.report["comparisons"]) == 4
    other = protocol.evaluate(baselines.published()["sex_rule"], PLAIN, Y, protocol.folds(Y, seed=1, repeats=1))
    with pytest.raises(ValueError, match="not scored on the same folds"):
        protocol.compare(run, results | {"other": other}, "other", "sex_rule")


def test_one_shot_and_subgroups():
    train, test = (preprocess.Table(TICKETED.iloc[rows], Y[rows]) for rows in HALF)
    result = protocol.one_shot(model(), train, test)
    direct = model().fit(train.X, train.y).predict_proba(test.X)[:, 1]
    np.testing.assert_array_equal(result.p[0], direct)
    groups = protocol.subgroups(PLAIN)
    assert sum(mask.sum() for name, mask in groups.items() if name != "children") == 891
    assert groups["children"].sum() == (PLAIN["age"] < 14).sum()
