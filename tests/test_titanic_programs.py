"""Around the torch models: checkpoints, tuning, folds that are kept, explanations, what the programs say."""

from importlib import import_module
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from shared import runlog
from shared.data import DataError
from shared.errors import UserError

SPRINT = "sprints.03_titanic_torch_voyage.code"
preprocess = import_module(f"{SPRINT}.preprocess_data")
features = import_module(f"{SPRINT}.features")
encoding = import_module(f"{SPRINT}.encoding")
linear = import_module(f"{SPRINT}.linear_model")
nets = import_module(f"{SPRINT}.titanic_model")
checkpoint = import_module(f"{SPRINT}.checkpoint")
cross_validation = import_module(f"{SPRINT}.cross_validation")
tuning = import_module(f"{SPRINT}.tuning")
explain = import_module(f"{SPRINT}.explain")
predict = import_module(f"{SPRINT}.predict")
train = import_module(f"{SPRINT}.train")
claims = import_module(f"{SPRINT}.claims")
effects = import_module(f"{SPRINT}.effects")
blends = import_module(f"{SPRINT}.mean_logit")
protocol = import_module(f"{SPRINT}.protocol")

PLAIN, Y = preprocess.embedded()
TICKETED = PLAIN.assign(ticket=[f"PC {100 + 3 * i}" for i in pd.factorize(PLAIN["fare"], sort=True)[0]])  # invented
LEARN, TEST = np.arange(0, 240, 2), np.arange(1, 240, 2)
TOY = {"members": 2, "steps": 15}


def answers(model: Any, X: pd.DataFrame) -> np.ndarray:
    fresh: Any = clone(model)
    return fresh.fit(X.iloc[LEARN], Y[LEARN]).predict_proba(X.iloc[TEST])[:, 1]


class Quiet:
    def track(self, items, label, total=None):
        return items


# -- checkpoints -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    model = nets.voyage(**TOY).fit(TICKETED.iloc[LEARN], Y[LEARN])
    path = tmp_path_factory.mktemp("kept") / "voyage.safetensors"
    checkpoint.write(path, model, TICKETED.iloc[LEARN], Y[LEARN])
    return model, path


def test_a_checkpoint_gives_the_same_answers(kept):
    model, path = kept
    again, X, y = checkpoint.read(path)
    np.testing.assert_allclose(again.predict_proba(TICKETED.iloc[TEST]), model.predict_proba(TICKETED.iloc[TEST]), atol=1e-6)
    np.testing.assert_array_equal(y, Y[LEARN])
    pd.testing.assert_frame_equal(X, TICKETED.iloc[LEARN].reset_index(drop=True), check_dtype=False)
    assert path.stat().st_size < 1_000_000


def test_an_encoding_may_differ_by_rounding_and_no_more():
    state = encoding.Encoding().fit(features.features("tickets").fit_transform(TICKETED, Y)).state
    other = {**state, "mean": {name: value * (1 + 1e-14) for name, value in state["mean"].items()}}
    assert encoding._alike(state, other) and not encoding._alike(state, {**state, "mean": {**state["mean"], "age": 30.0}})
    assert not encoding._alike(state, {**state, "categories": {}})


def test_a_checkpoint_in_which_one_byte_has_changed_is_refused(kept, tmp_path):
    written = bytearray(kept[1].read_bytes())
    written[-9] ^= 1  # in the last tensor
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(written)
    with pytest.raises(DataError, match="it is damaged: make one with"):
        checkpoint.read(damaged)


def test_what_is_no_checkpoint_is_refused(kept, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no checkpoint .*nowhere"):
        checkpoint.read(tmp_path / "nowhere")
    bad = tmp_path / "bad.safetensors"
    for content in (b"", b"text", kept[1].read_bytes()[:-40]):
        bad.write_bytes(content)
        with pytest.raises(DataError, match="no checkpoint of this sprint"):
            checkpoint.read(bad)
    monkeypatch.setattr(import_module(f"{SPRINT}.people"), "CHILD", 18)
    monkeypatch.setattr(encoding, "BINS", 5)
    with pytest.raises(DataError, match="other features than today's"):
        checkpoint.read(kept[1])


# -- tuning ------------------------------------------------------------------------------------------------------------------


def test_a_search_goes_on_where_it_was_and_is_mirrored_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    net = tuning.TunedNet(trials=1, folds=2, storage=url, toy=True).fit(PLAIN.iloc[LEARN], Y[LEARN])
    more = tuning.TunedNet(trials=2, folds=2, storage=url, toy=True).fit(PLAIN.iloc[LEARN], Y[LEARN])
    assert [trial.number for trial in more.study_.trials] == [0, 1] and net.study_.study_name == more.study_.study_name
    assert more.study_.best_trial.user_attrs["stop"] in (10, 20) and more.model_.stop in (10, 20)
    other = tuning.TunedNet(trials=1, folds=2, storage=url, toy=True).fit(PLAIN.iloc[TEST], Y[TEST])
    assert other.study_.study_name != net.study_.study_name, "a study belongs to its training rows"
    assert len(optuna.get_all_study_summaries(url)) == 2
    tracker = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert [tuning.mirror(url, tracker, "trials") for _ in range(2)] == [3, 0]


def test_a_search_that_was_cut_off_draws_what_it_would_have_drawn(tmp_path):
    def drawn(url, *trials):
        nets = [tuning.TunedNet(trials=n, folds=2, storage=url, toy=True).fit(PLAIN.iloc[LEARN], Y[LEARN]) for n in trials]
        return [trial.params for trial in nets[-1].study_.trials]

    whole, resumed = drawn(None, 3), drawn(f"sqlite:///{tmp_path / 'trials.db'}", 1, 3)
    assert whole == resumed and len({str(params) for params in whole}) == 3


def test_a_search_of_other_code_is_another_study(monkeypatch):
    rows, net = (PLAIN.iloc[LEARN], Y[LEARN]), tuning.TunedNet()
    before = net._name(*rows)
    assert before == tuning.TunedNet(trials=99)._name(*rows) and before != tuning.TunedNet(seed=1)._name(*rows)
    monkeypatch.setattr(tuning, "recipe", lambda *_: "other code")
    assert before != net._name(*rows)


def test_the_embedded_table_is_tuned_by_fewer_trials():
    brief, whole = (cross_validation.model(name) for name in ("tabm_tuned_briefly", "tabm_tuned"))
    assert (brief.trials, whole.trials) == (6, 12)
    assert brief._name(PLAIN, Y) == whole._name(PLAIN, Y), "the brief search is the beginning of the long one"
    assert cross_validation.model("tabm_tuned_briefly", storage="sqlite:///x.db").storage == "sqlite:///x.db"


def test_a_password_stays_out_of_reports():
    with pytest.raises(UserError, match="leave the password out"):
        train.main(train.Args(storage="postgresql://me:secret@host/db"))
    assert train.storage_of("postgresql://me@host:5432/db") == "postgresql://me@host:5432/db"


def test_a_storage_out_of_reach_is_one_line():
    with pytest.raises(UserError, match="the trials cannot be kept there"):
        cross_validation.cross_validate(Quiet(), "embedded", ["tabm_tuned"], [(LEARN, TEST)], storage="sqlite:////nowhere/x.db")


# -- what is scored ---------------------------------------------------------------------------------------------------------


def test_each_pair_of_the_claims_differs_in_one_thing():
    for key in ("embeddings", "preprocessing_for_nets", "groups"):
        first, second = (cross_validation.model(name).get_params() for name in claims.PAIRS[key])
        assert [name for name in first if first[name] != second[name]] == ["embedding" if key == "embeddings" else "level"]


@pytest.fixture
def threads(monkeypatch):
    """A model that notes on how many threads it is fitted, on a machine that gives it three."""
    seen: list[int] = []

    class Noting(linear.LinearModel):
        def fit(self, X, y):
            seen.append(torch.get_num_threads())
            return super().fit(X, y)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield Noting, seen
    assert torch.get_num_threads() == 3, "the caller's number is given back"
    torch.set_num_threads(before)


def test_one_thread_wherever_a_published_number_is_made(threads, monkeypatch, tmp_path):
    noting, seen = threads
    small = preprocess.Table(PLAIN.iloc[LEARN], Y[LEARN])
    protocol.evaluate(noting(), *small, [(np.arange(60), np.arange(60, 120))])
    for module in (train, effects, predict):
        monkeypatch.setattr(module, "voyage", lambda **_: blends.MeanLogit({"linear_model": noting()}))
    with runlog.Run(
        train.Args(smoke=True, mlflow=False, out=tmp_path), str(train.__file__), "kept", title="t", objective="o", setup={}
    ) as run:
        train.keep(run, train.Args(smoke=True), small)
    effects.effects(import_module(f"{SPRINT}.evaluate").Args(smoke=True, mlflow=False, out=tmp_path))
    monkeypatch.setattr(predict.submission, "write", lambda model, _: model.fit(*small) and pd.DataFrame({"Survived": [0, 1]}))
    predict.submit(predict.Args(smoke=True, mlflow=False, out=tmp_path))
    assert len(seen) >= 5 and set(seen) == {1}


def test_one_net_is_one_of_the_sixteen():
    one, many = (cross_validation.model(name).get_params() for name in ("one_net", "embedding_nets"))
    assert [name for name in one if one[name] != many[name]] == ["members"] and one["members"] == 1


def test_the_published_net_is_the_blend_of_its_parts():
    split = (LEARN, TEST)
    blend = cross_validation.cross_validate(Quiet(), "embedded", ["net"], [split], toy=True)["net"]
    model = nets.voyage(**cross_validation.TOY)
    model.members["gaussian_process"].set_params(steps=2)
    np.testing.assert_allclose(blend.p[0], answers(model, PLAIN), atol=1e-6)
    assert set(cross_validation.BLENDS["net"]) == set(model.members)


def test_each_name_of_the_programs_is_a_model():
    known = {*cross_validation.nets(), *cross_validation.BLENDS, *import_module(f"{SPRINT}.baselines").published()}
    evaluate = import_module(f"{SPRINT}.evaluate")
    assert set(train.NAMES) <= known and {name for pair in claims.PAIRS.values() for name in pair} <= known
    optional = {name for name in evaluate.LIGHT if any(p in name for p in ("catboost", "xgboost", "lightgbm", "blend_of_trees"))}
    assert set(evaluate.LIGHT) - optional <= known


# -- explanations ------------------------------------------------------------------------------------------------------------


class BySex:
    def predict_proba(self, X):
        p = np.where(features.people(X)["male"], 0.2, 0.8)
        return np.column_stack([1 - p, p])


def test_explanations_find_what_a_known_model_depends_on():
    random = np.random.default_rng(0)
    rises = explain.importance(BySex(), PLAIN, Y, random, repeats=2)
    assert rises["sex"] > 0.1 and all(rise == 0 for what, rise in rises.items() if what != "sex")
    hangs = explain.influence(BySex(), PLAIN.iloc[[0]], PLAIN, random, 50)
    assert next(iter(hangs)) == "sex" and 0.05 < hangs["sex"] < 0.5 and hangs["age"] == 0
    assert explain.curve(BySex(), PLAIN.iloc[:5], "sex", ["male", "female"]) == pytest.approx([0.2, 0.8])


def test_a_passenger_of_the_training_rows_never_becomes_the_own_companion():
    fitted, family = features.features("groups").fit(PLAIN, Y), [7, 16, 43]  # known, with relatives aboard
    X, before = PLAIN.iloc[family], fitted.transform(PLAIN.iloc[family])
    others = PLAIN.iloc[[0, 1, 2]].assign(age=[41.0, 42.5, 43.5], sex=["female", "male", "male"])
    for what in ("age", "sex"):
        made = fitted.transform(explain.swap(explain.swap(X, what, others), "deck", others))
        assert (made[["women_children", "men"]] == before[["women_children", "men"]]).all().all(), what


def test_a_swap_keeps_what_hangs_together():
    X = pd.DataFrame(
        {"name": ["Quill, Mr. Tom", "Quill, Mrs. Ada (Bee)", None], "sex": ["male", "female", None], "age": [5.0, 30, 1]}
    )
    other = X.assign(sex=["female", "male", "male"])
    assert explain.swap(X, "sex", other)["name"].tolist()[:2] == ["Quill, Miss. Tom", "Quill, Mr. Ada (Bee)"]
    moved = explain.swap(X, "companions", X.assign(name=["Vane, Mr. X", None, "Y, Mr. Z"]))
    assert moved["name"].tolist()[:2] == ["Vane, Mr. Tom", "Quill, Mrs. Ada (Bee)"]


def test_predict_reads_a_file_and_says_what_to_do_without_a_model(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('name,sex\n"Doe, Miss. Jane",female\n,\n', encoding="utf-8")
    report = predict.main(predict.Args(file=path, smoke=True, out=tmp_path / "out", mlflow=False))["passengers"]
    assert len([key for key in report["metrics"] if key.startswith("p_survived")]) == 2
    X = PLAIN.head(1)
    path.write_text(f'name,age\n"{X["name"][0]}",{X["age"][0]}\n', encoding="utf-8")
    report = predict.main(predict.Args(file=path, smoke=True, out=tmp_path / "out", mlflow=False))["passengers"]
    assert any("it has seen how that ended" in said for said in report["observations"])
    with pytest.raises(DataError, match="is a folder"):
        predict.main(predict.Args(file=tmp_path, smoke=True, out=tmp_path / "out", mlflow=False))
    with pytest.raises(DataError, match="make titanic-train"):
        predict.main(predict.Args(model=tmp_path / "none.safetensors", out=tmp_path / "out", mlflow=False))
    path.write_text("name,sex\n", encoding="utf-8")
    with pytest.raises(UserError, match="no passengers"):
        predict.main(predict.Args(file=path, smoke=True, out=tmp_path / "out", mlflow=False))


def test_wrong_flags_are_one_line(tmp_path):
    for program in (train, predict, import_module(f"{SPRINT}.evaluate")):
        with pytest.raises(UserError, match="there is no nonsense; there is"):
            program.main(program.Args(only=("nonsense",), out=tmp_path))
