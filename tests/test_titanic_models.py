"""The torch models: what all of them promise, trusted twins, finite differences, hidden companions, early stopping."""

from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

SPRINT = "sprints.03_titanic_torch_voyage.code"
preprocess = import_module(f"{SPRINT}.preprocess_data")
features = import_module(f"{SPRINT}.features")
gaussian = import_module(f"{SPRINT}.gaussian_process")
linear = import_module(f"{SPRINT}.linear_model")
nets = import_module(f"{SPRINT}.titanic_model")
protocol = import_module(f"{SPRINT}.protocol")

PLAIN, Y = preprocess.embedded()
FARES = pd.factorize(PLAIN["fare"].astype(str) + PLAIN["port"].fillna("?").astype(str), sort=True)[0]
TICKETED = PLAIN.assign(ticket=[f"PC {100 + 3 * fare}" for fare in FARES])  # invented
LEARN, TEST = np.arange(0, 240, 2), np.arange(1, 240, 2)
TOY = {"members": 2, "steps": 15}


def models() -> dict[str, Any]:
    return {
        "tabm": nets.tabm(**TOY),
        "separate nets": nets.embedding_nets(**TOY),
        "one-hot net": nets.EntityNet(embedding=0, **TOY),
        "Gaussian process": gaussian.GaussianProcess(steps=3),
        "linear model": linear.LinearModel(),
    }


each_model = pytest.mark.parametrize("name", models())


def copy(model: Any) -> Any:
    return clone(model)


def answers(model: Any, X=TICKETED, y=Y, learn=LEARN, test=TEST) -> np.ndarray:
    return copy(model).fit(X.iloc[learn], y[learn]).predict_proba(X.iloc[test])[:, 1]


# -- what all of them promise ------------------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("X", [PLAIN, TICKETED], ids=["without tickets", "with tickets"])
def test_equal_seeds_give_equal_answers_that_are_probabilities(name, X):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = answers(models()[name], X), answers(models()[name], X)
    np.testing.assert_array_equal(first, second)
    assert ((first > 0) & (first < 1)).all() and protocol.scores(Y[TEST], first)["roc_auc"] > 0.6
    assert torch.equal(before, torch.get_rng_state()), "torch's global generator is left alone"


def test_other_seeds_give_other_nets():
    assert not np.allclose(answers(nets.tabm(**TOY)), answers(nets.tabm(seed=1, **TOY)))


@each_model
def test_no_model_sees_a_test_label(name):
    flipped = Y.copy()
    flipped[TEST] = 1 - flipped[TEST]
    np.testing.assert_array_equal(answers(models()[name]), answers(models()[name], y=flipped))


@each_model
def test_an_answer_does_not_depend_on_the_other_rows_that_are_asked(name):
    model = copy(models()[name]).fit(TICKETED.iloc[LEARN], Y[LEARN])
    whole, alone = (model.predict_proba(TICKETED.iloc[rows])[:, 1] for rows in (TEST, TEST[:3]))
    np.testing.assert_allclose(whole[:3], alone, atol=1e-6)


@each_model
def test_shuffled_labels_cannot_be_foretold(name):
    found = []
    for seed in range(2):
        dealt = np.random.default_rng(seed).permutation(Y)
        p = answers(models()[name], y=dealt, learn=np.arange(0, 891, 3), test=np.arange(1, 891, 3))
        found.append(protocol.scores(dealt[1::3], p)["roc_auc"])
    assert abs(np.mean(found) - 0.5) < 0.1


@each_model
def test_passengers_of_whom_nothing_is_known_get_an_answer(name):
    model = copy(models()[name]).fit(TICKETED.iloc[LEARN], Y[LEARN])
    blank = pd.DataFrame([{}] * 2).reindex(columns=list(preprocess.FACTS))
    p = model.predict_proba(blank)[:, 1]
    assert np.isfinite(p).all() and p[0] == pytest.approx(p[1])


def test_labels_must_be_two_classes_one_per_row():
    for labels in (np.ones(120), Y[LEARN][:-1]):
        with pytest.raises(ValueError, match="one label for each row, and both 0 and 1"):
            nets.tabm(**TOY).fit(TICKETED.iloc[LEARN], labels)


# -- twins -------------------------------------------------------------------------------------------------------------------


def test_linear_model_is_scikit_learns():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6))
    y = (x @ random.normal(size=6) + random.normal(size=200) > 0).astype(float)
    ours = linear.newton_logistic(torch.tensor(x), torch.tensor(y), 0.1)
    theirs = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(ours[:-1], theirs.coef_[0], atol=1e-6)
    assert float(ours[-1]) == pytest.approx(theirs.intercept_[0], abs=1e-6)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = (torch.rand(30, generator=generator) > 0.5).double()
    return a @ a.T + torch.exp(-(torch.cdist(a, a) ** 2) / 2) + 1e-3 * torch.eye(30), y


def log_evidence(K, y):
    """Laplace's approximation of log P(y)."""
    f, factor, _ = gaussian.newton(K, y, torch.zeros_like(y), 20)
    fit = torch.nn.functional.logsigmoid((2 * y - 1) * f).sum()
    return fit - (y - torch.sigmoid(f)) @ f / 2 - torch.log(torch.diagonal(factor)).sum()


def test_slope_of_the_evidence_is_that_of_finite_differences(problem):
    K, y = problem
    mode = gaussian.newton(K, y, torch.zeros_like(y), 20)[0]
    slope = gaussian.evidence_slope(K, y, mode)[1]
    direction = torch.randn(30, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction, step = direction @ direction.T, 1e-5
    ends = [float(log_evidence(K + sign * step * direction, y)) for sign in (1, -1)]
    assert float((slope * direction).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_newton_ends_at_the_mode(problem):
    K, y = problem
    f = gaussian.newton(K, y, torch.zeros_like(y), 20)[0]
    np.testing.assert_allclose(f, K @ (y - torch.sigmoid(f)), atol=1e-8)  # the gradient of the posterior is zero there


def test_near_tickets_of_one_class_are_correlated():
    model = copy(gaussian.GaussianProcess(steps=1)).fit(TICKETED.iloc[LEARN], Y[LEARN])
    near = model._near(model.known_).numpy()
    number, rank = (model.known_[name].to_numpy() for name in ("ticket_number", "class"))
    expected = np.where(rank[:, None] == rank, np.exp(-np.abs(number[:, None] - number) / 30), 0)
    np.testing.assert_allclose(near, model.amplitude**2 * expected)
    assert np.linalg.eigvalsh(near).min() > -1e-9


def test_members_that_share_weights_are_nets_of_their_own_when_scales_are_folded_in():
    """A TabM layer (x * r) W * s + b is a plain layer with the matrix diag(r) W diag(s)."""
    torch.manual_seed(0)
    shared, x, codes = nets.Members(nets.EntityNet(members=3, depth=2), 5, [3]), torch.randn(7, 5), torch.randint(0, 3, (7, 1))
    apart = nets.Members(nets.EntityNet(members=3, depth=2, shared=False), 5, [3])
    with torch.no_grad():
        for scale in (*shared.scales_in, *shared.scales_out):
            scale.add_(0.3 * torch.randn_like(scale))
        for name in ("tables", "biases"):
            for ours, theirs in zip(getattr(apart, name), getattr(shared, name), strict=True):
                ours.copy_(theirs)
        for name in ("head", "bias", "skip"):
            getattr(apart, name).copy_(getattr(shared, name))
        for layer, weight in enumerate(apart.weights):
            weight.copy_(shared.scales_in[layer].transpose(1, 2) * shared.weights[layer] * shared.scales_out[layer])
    torch.testing.assert_close(shared.eval()(x, codes), apart.eval()(x, codes), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in apart.parameters())


@pytest.mark.parametrize("p", [0.1, 0.3, 0.75])
def test_dropout_drops_its_share_scales_the_rest_and_lets_no_slope_through_what_is_dropped(p):
    torch.manual_seed(3)
    z = torch.ones(7, 51, 333, requires_grad=True)  # a number of entries that four does not divide
    dropped = nets.dropout(z, p)
    dropped.sum().backward()
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()} and z.grad is not None
    assert torch.equal(z.grad, dropped)
    gone = (dropped == 0).float()
    error = (p * (1 - p) / gone.numel()) ** 0.5
    assert abs(gone.mean() - p) < 5 * error
    lanes = gone.flatten()[: gone.numel() // 4 * 4].view(-1, 4)
    assert torch.corrcoef(lanes.T).triu(1).abs().max() < 5 / len(lanes) ** 0.5, "what shares a random number is independent"


def test_members_weigh_the_rows_apart_and_a_net_of_one_weighs_them_alike():
    drawn = nets.EntityNet(members=3)._row_weights(50)
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(1), torch.ones(3))
    torch.testing.assert_close(nets.EntityNet(members=1)._row_weights(50), torch.ones(1, 50))


def test_hidden_companions_change_fate_and_nothing_else():
    fitted = features.features("tickets")
    table: Any = fitted.fit_transform(TICKETED, Y)
    P = features.people(TICKETED)
    views = features.hidden_companions(fitted, table, P, 0.5, seed=0, views=3)
    fate = {"women_children", "men", "verdict", "residual", "neighbourhood", "women_children_rate", "men_rate"}
    for view in views:
        changed = {name for name in table if not table[name].equals(view[name])}
        assert fate <= changed and not changed & {"male", "age", "title", "log_fare", "ticket_group"}
        assert (view["women_children"] <= table["women_children"]).all() and list(view) == list(table)
    pd.testing.assert_frame_equal(features.hidden_companions(fitted, table, P, 0.0, seed=0, views=1)[0], table)


def test_curve_ends_where_fit_does_and_stop_is_on_it():
    net = nets.tabm(members=2, steps=30)
    seen = copy(net).curve(TICKETED.iloc[LEARN], Y[LEARN], TICKETED.iloc[TEST])
    assert list(seen) == [10, 20, 30]
    np.testing.assert_allclose(seen[30], answers(net), atol=1e-6)
    np.testing.assert_allclose(seen[20], answers(copy(net).set_params(stop=20)), atol=1e-6)


def test_features_that_do_not_change_are_made_once(monkeypatch):
    made = []

    def noted(real):
        return lambda *a: made.append("near") or real(*a)

    for kind in (features.CompanionFate, features.TicketNeighbourhood):
        monkeypatch.setattr(kind, "near", noted(kind.near))
    transform = features.Party.transform
    monkeypatch.setattr(features.Party, "transform", lambda self, P: made.append(len(P)) or transform(self, P))
    nets.tabm(members=2, steps=30).curve(TICKETED.iloc[LEARN], Y[LEARN], TICKETED.iloc[TEST[:50]])
    assert made.count(50) == 1, "three looks, one table of the rows that are watched"
    assert made.count("near") == 8, "of each kind: two at fit, one for all hidden views, one for the rows that are watched"


def test_a_temperature_divides_logits():
    p = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(nets.tempered(p, 1.0), p)
    assert nets.tempered(p, 2.0)[2] == pytest.approx(1 / (1 + 1 / 3))
    model = nets.Tempered(linear.LinearModel(C=100.0), folds=2).fit(PLAIN.iloc[LEARN], Y[LEARN])
    assert model.temperature_ > 1, "a model without a penalty is too sure of itself"
    assert model.predict_proba(PLAIN.iloc[TEST]).shape == (120, 2)
