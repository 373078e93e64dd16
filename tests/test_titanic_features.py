"""Features against a row-by-row twin, leaks that must not be there and planted ones that must be found."""

from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from tests.titanic_leaks import label_effect, own_label_effect, row_effect, shuffled_auc

SPRINT = "sprints.03_titanic_torch_voyage.code"
preprocess = import_module(f"{SPRINT}.preprocess_data")
features = import_module(f"{SPRINT}.features")
baselines = import_module(f"{SPRINT}.baselines")
leaks = import_module(f"{SPRINT}.leaks")

PLAIN, Y = preprocess.embedded()
FARES = pd.factorize(PLAIN["fare"].astype(str) + PLAIN["port"].fillna("?").astype(str), sort=True)[0]
TICKETED = PLAIN.assign(ticket=[f"PC {100 + 3 * fare}" for fare in FARES])  # invented: whoever paid the same at the same port
TABLES = {"without tickets": PLAIN, "with tickets": TICKETED}
HALF = np.arange(0, 891, 2), np.arange(1, 891, 2)
tables = pytest.mark.parametrize("X", TABLES.values(), ids=list(TABLES))


def model(level="tickets"):
    return baselines.baseline("logistic_regression", level, C=0.1)


def fitted(X, level="tickets"):
    return features.features(level).fit(X.iloc[HALF[0]], Y[HALF[0]])


# -- values ------------------------------------------------------------------------------------------------------------------


@tables
def test_fate_and_neighbourhood_are_those_of_a_row_by_row_twin(X):
    made, people = fitted(X).transform(X), features.people(X).to_dict("records")
    known, expected = HALF[0], {}
    for sex in (False, True):
        for rank in (1, 2, 3):
            cell = [j for j in known if people[j]["male"] == sex and people[j]["class"] == rank]
            expected |= dict.fromkeys(cell, (Y[cell].sum() + 1) / (len(cell) + 2))
    mean = Y[[j for j in known if people[j]["woman_child"]]].mean()
    for i in range(0, 891, 7):
        one, row = people[i], made.loc[i]
        others = [j for j in known if j != i]
        near = [j for j in others if any(isinstance(one[by], str) and people[j][by] == one[by] for by in ("ticket", "relatives"))]
        weak = [j for j in near if people[j]["woman_child"]]
        lived = Y[weak].sum()
        assert row["women_children"] == len(weak) and row["men"] == len(near) - len(weak)
        assert row["verdict"] == (0 if not weak else 1 if lived == len(weak) else -1 if lived == 0 else 0)
        assert row["residual"] == pytest.approx(sum(Y[j] - expected[j] for j in near) / (len(near) + 1))
        assert row["women_children_rate"] == pytest.approx((lived + mean) / (len(weak) + 1) - mean)
        if "ticket" in X:
            cabin = [j for j in others if people[j]["class"] == one["class"]]
            weights = {j: np.exp(-abs(one["ticket_number"] - people[j]["ticket_number"]) / 30) for j in cabin}
            total = sum(weight * (Y[j] - expected[j]) for j, weight in weights.items())
            assert row["neighbourhood"] == pytest.approx(total / (1 + sum(weights.values())))
            assert row["ticket_group"] == 1 + sum(people[j]["ticket"] == one["ticket"] for j in others)


def test_row_facts():
    names = {
        "Fortune, Miss. Mabel": ("Miss", False, True),
        "Rothes, the Countess. of (Lucy)": ("Mrs", False, True),
        "Leader, Dr. Alice (Farnham)": ("Mrs", False, True),
        "Byles, Rev. Thomas": ("Officer", True, False),
        "Rice, Master. Eugene": ("Master", True, True),
        "Oliva y Ocana, Dona. Fermina": ("Mrs", False, True),
        "no title": ("Mr", True, False),
    }
    sex = ["female" if not male else "male" for _, male, _ in names.values()]
    P = features.people(pd.DataFrame({"name": list(names), "sex": sex}))
    assert list(zip(P["title"], P["male"], P["woman_child"], strict=True)) == list(names.values())
    P = features.people(
        pd.DataFrame({"name": ["A, Mrs. B", None, None], "age": [np.nan, 5, np.nan], "ticket": ["A/5. 21171", "LINE", None]})
    )
    assert P["male"].tolist() == [False, True, True] and P["title"].tolist() == ["Mrs", "Master", "Mr"]
    assert P["ticket"].tolist()[:2] == ["A/521171", "LINE"]
    assert P["ticket_number"].tolist()[0] == 521171 and P["ticket_number"].isna().tolist() == [False, True, True]


@tables
def test_what_is_unknown_is_filled_from_the_training_rows(X):
    made = fitted(X).transform(X)
    assert not made.isna().any().any()
    known = X.iloc[HALF[0]]
    P = features.people(known)
    row = next(i for i in range(891) if np.isnan(X["age"][i]) and features.people(X)["title"][i] == "Mr" and X["class"][i] == 3)
    assert made["age"][row] == known["age"][((P["title"] == "Mr") & (P["class"] == 3)).to_numpy()].median()
    assert made["age_unknown"].sum() == 177
    blank = fitted(X).transform(pd.DataFrame({"name": [None]}))
    assert not blank.isna().any().any() and blank["class"][0] == 3 and blank["women_children"][0] == 0


def test_a_value_that_the_schema_does_not_have_is_unknown():
    row = {"name": "Quill, Mr. Tom", "class": 3.0, "age": 30.0, "fare": 8.0}
    odd = pd.DataFrame([row | {"sex": "Male", "port": "Belfast", "deck": "Z"}]).reindex(columns=list(preprocess.FACTS))
    blank = pd.DataFrame([row]).reindex(columns=list(preprocess.FACTS))
    made = [fitted(PLAIN).transform(X) for X in (odd, blank)]
    pd.testing.assert_frame_equal(*made)
    assert made[0]["male"][0] == 1 and made[0]["port"][0] == "Southampton" and made[0]["deck"][0] == "unknown"
    assert features.people(odd)["port"].isna().all()


def test_ticket_features_switch_themselves_off():
    with_, without = (set(fitted(X).transform(X)) for X in (TICKETED, PLAIN))
    assert with_ - without == {"ticket_group", "group", "neighbourhood", "neighbourhood_men"} and without <= with_
    pd.testing.assert_frame_equal(
        fitted(PLAIN).transform(TICKETED), fitted(PLAIN).transform(PLAIN)
    )  # learned without, used without
    levels = [set(fitted(TICKETED, level).transform(TICKETED)) for level in ("raw", "engineered", "groups", "tickets")]
    assert all(smaller < larger for smaller, larger in pairwise(levels))


@tables
def test_nobody_is_their_own_companion(X):
    whole: Any = features.features("tickets")
    pd.testing.assert_frame_equal(whole.fit(X, Y).transform(X), features.features("tickets").fit_transform(X, Y))
    P = features.people(X)
    assert not features.companions(P, P).diagonal().any()
    twice = pd.concat([X, X.iloc[:50]], ignore_index=True)
    made = features.CompanionFate().fit(features.people(twice), np.append(Y, Y[:50])).transform(features.people(twice))
    pd.testing.assert_frame_equal(made.iloc[:50], made.iloc[891:].set_axis(range(50)))
    alone = P.index[(P["family"] == 1) & P["ticket"].isna()]
    assert "ticket" in X or (made.loc[alone[alone < 50], ["women_children", "men"]] == 0).all().all()


def test_transformers_compose_with_scikit_learn():
    grid = {"features__features__tickets__length": [5.0, 30.0], "model__C": [0.1]}
    search = GridSearchCV(model(), grid, scoring="neg_log_loss", cv=3).fit(TICKETED, Y)
    assert np.isfinite(search.best_score_)
    assert make_pipeline(features.features("groups"), features.encode(), LogisticRegression()).fit(PLAIN, Y).score(PLAIN, Y) > 0.8
    shuffled = np.random.default_rng(0).permutation(891)
    pd.testing.assert_frame_equal(
        fitted(TICKETED).transform(TICKETED.iloc[shuffled]).sort_index(), fitted(TICKETED).transform(TICKETED)
    )


def test_outcomes_and_labels_are_refused_as_features():
    for name in ("boat", "body", "alive", "survived", "Boat"):
        with pytest.raises(preprocess.LeakError, match=name):
            model("raw").fit(PLAIN.assign(**{name: Y}), Y)
    with pytest.raises(TypeError, match="DataFrame"):
        model("raw").fit(PLAIN.to_numpy(), Y)
    with pytest.raises(ValueError, match="one label of 0 or 1 for each of the 891"):
        features.features("groups").fit(PLAIN, Y + 1)
    with pytest.raises(ValueError, match="one label"):
        features.features("groups").fit(PLAIN)


# -- leaks -------------------------------------------------------------------------------------------------------------------


@tables
def test_there_is_no_leak(X):
    recipe = leaks.honest(model())
    assert abs(shuffled_auc(recipe, X, Y) - 0.5) < 0.05
    assert label_effect(recipe, X, Y, HALF) == 0
    assert row_effect(recipe, X, Y, HALF) == 0
    assert own_label_effect(recipe, X, Y, range(0, 60, 6)) < 0.05


FOUND_BY = {
    "own label in a group rate over all rows": {"shuffled", "label", "row", "own"},
    "group rate of the others over all rows": {"label", "row"},
    "own label kept in the training feature": {"own"},
    "group sizes over all rows, no labels": {"row"},
    "medians, sizes and scalers over all rows, no labels": {"row"},
}


@tables
@pytest.mark.parametrize("name", FOUND_BY)
def test_a_planted_leak_is_found(name, X):
    recipe = leaks.PLANTED[name](LogisticRegression(max_iter=500))
    found = {
        "shuffled": shuffled_auc(recipe, X, Y, seeds=range(1)) > 0.6,
        "label": label_effect(recipe, X, Y, HALF) > 0.01,
        "row": row_effect(recipe, X, Y, HALF) > 0.01,
        "own": own_label_effect(recipe, X, Y, range(0, 60, 20)) > 0.05,
    }
    assert {check for check, alarm in found.items() if alarm} == FOUND_BY[name]


def test_every_planted_leak_is_tested():
    assert set(FOUND_BY) == set(leaks.PLANTED)
