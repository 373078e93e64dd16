"""Logistic regression against scikit-learn, torch and exact values; its limits, its refusals, and the sprint's own problems."""

import tracemalloc
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as ScikitLearn
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

estimator = import_module("sprints.06_logistic_regression.code.logistic_regression")
objective = import_module("sprints.06_logistic_regression.code.objective")
solvers = import_module("sprints.06_logistic_regression.code.solvers")
problems = import_module("sprints.06_logistic_regression.code.problems")
experiments_real = import_module("sprints.06_logistic_regression.code.experiments_real")

LogisticRegression, Objective, BOTH = estimator.LogisticRegression, objective.Objective, ("newton", "lbfgs")
SOLVERS = ("auto", *BOTH, "gd", "momentum", "nesterov", "sgd")
X, Y = problems.Blobs(0.7).sample(200, np.random.default_rng(0))  # they overlap: the optimum exists
Y3, ALTERNATE = np.where(np.random.default_rng(1).random(400) < 0.3, 2, Y), np.arange(400) % 2 * 1.0
BLOBS, WIDE = problems.separable(50, 0.5, np.random.default_rng(0)), (np.random.default_rng(0).random((30, 80)) - 0.5, Y3[185:215])
LARGE_X, LARGE_Y = problems.large(130_048, 4, 1, np.random.default_rng(0))  # newton samples every 64th and 16th row
two_and_three_classes = pytest.mark.parametrize("y", [Y, Y3], ids=["two", "three"])
REFUSED = {
    "one class": lambda: LogisticRegression().fit(X, np.ones(400)),
    "Expected 2D array": lambda: LogisticRegression().fit(X[:, 0], Y),
    "400 rows and y has 399": lambda: LogisticRegression().fit(X, Y[1:]),
    "label type: continuous": lambda: LogisticRegression().fit(X, Y + 0.5),
    "solver must be one of .*'adam'": lambda: LogisticRegression("adam").fit(X, Y),
    "l2 must": lambda: LogisticRegression(l2=-1.0).fit(X, Y),
    "learning_rate must": lambda: LogisticRegression(learning_rate=0.0).fit(X, Y),
    "non-zero": lambda: LogisticRegression().fit(X, Y, np.zeros(400)),
    "Negative": lambda: LogisticRegression().fit(X, Y, -ALTERNATE),
    "not fitted yet": lambda: LogisticRegression().predict(X),
    "3 features": lambda: LogisticRegression().fit(X, Y).predict_proba(np.column_stack([X, Y])),
    "classes must be given": lambda: LogisticRegression().partial_fit(X, Y),
    "not in classes.*2": lambda: LogisticRegression().partial_fit(X, Y, classes=[0, 1]).partial_fit(X, Y + 1),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_scikit_learns_own_checks_pass(solver):
    """For sgd a row of weight 2 is not the row twice (other batches): scikit-learn lists its SGDClassifier with the same failure."""
    known = {"check_sample_weight_equivalence_on_dense_data": "mini-batches"} if solver == "sgd" else {}
    results = check_estimator(LogisticRegression(solver), expected_failed_checks=known)  # raises at any other failure
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(known)


@pytest.mark.parametrize(("fit_intercept", "weighted"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_coefficients_and_loss_are_scikit_learns_on_real_data(name, fit_intercept, weighted):
    A, y, _ = problems.real(name)
    A, s = StandardScaler().fit_transform(A), np.random.default_rng(0).uniform(0.1, 2, len(y)) if weighted else np.ones(len(y))
    twin = ScikitLearn(C=1, solver="newton-cholesky", tol=1e-13, max_iter=1000, fit_intercept=fit_intercept).fit(A, y, s)
    loss = (0.5 * (twin.coef_**2).sum() - s @ twin.predict_log_proba(A)[np.arange(len(y)), y]) / s.sum()
    for solver in BOTH:
        model = LogisticRegression(solver, l2=1.0, tol=1e-11, fit_intercept=fit_intercept).fit(A, y, s if weighted else None)
        assert np.linalg.norm(model.coef_ - twin.coef_) < 1e-6 * np.linalg.norm(twin.coef_)
        assert model.loss_ == pytest.approx(loss, rel=1e-10)
        np.testing.assert_allclose(model.predict_proba(A), twin.predict_proba(A), atol=1e-6)


@settings(max_examples=60, derandomize=True, database=None)
@given(st.tuples(st.integers(5, 40), st.integers(1, 4)), st.integers(2, 5), st.booleans(), st.booleans(), st.sampled_from([0, 9]))
def test_derivatives_are_those_of_autograd_and_of_finite_differences(shape, classes, weighted, fit_intercept, l2):
    rng = np.random.default_rng(shape)
    y, weights = rng.permutation(np.arange(shape[0]) % classes), rng.uniform(0, 3, shape[0]) if weighted else None
    made = Objective(rng.standard_normal(shape), y, classes, weights=weights, l2=l2, fit_intercept=fit_intercept)

    def twin(theta: torch.Tensor) -> torch.Tensor:
        table = theta.reshape(made.K, -1)
        z = torch.from_numpy(made.X) @ table[:, : made.d].T + (table[:, made.d] if fit_intercept else 0)
        z = torch.cat([torch.zeros_like(z), z], dim=1) if classes == 2 else z
        losses = torch.nn.functional.cross_entropy(z, torch.from_numpy(y), reduction="none")
        s = torch.ones_like(losses) if weights is None else torch.from_numpy(weights)
        return (s @ losses + l2 / 2 * table[:, : made.d].square().sum()) / s.sum()

    theta = rng.standard_normal(made.size)
    _, gradient, hessian = ours = made.loss_gradient_hessian(theta)
    for value, exact in zip(ours, (twin, torch.func.grad(twin), torch.func.hessian(twin)), strict=True):
        np.testing.assert_allclose(value, exact(torch.from_numpy(theta)).numpy(), rtol=1e-10, atol=1e-12)
    moves = [(made.loss_gradient(theta + step), made.loss_gradient(theta - step)) for step in 1e-5 * np.eye(made.size)]
    np.testing.assert_allclose([(up[0] - down[0]) / 2e-5 for up, down in moves], gradient, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose([(up[1] - down[1]) / 2e-5 for up, down in moves], hessian, rtol=1e-6, atol=1e-8)
    curvatures = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=1e-15 * curvatures[-1])
    assert -1e-12 * curvatures[-1] < curvatures[0] and curvatures[-1] <= made.lipschitz() * (1 + 1e-12)


@pytest.mark.parametrize(("classes", "weighted"), [(2, False), (2, True), (3, False), (3, True)])
@pytest.mark.parametrize(("rows", "threads"), [(32, 1), (33, 2), (501, 2)])
def test_chunks_and_threads_change_nothing(monkeypatch, rows, threads, classes, weighted):
    rng, results = np.random.default_rng(0), []
    A, y, weights = rng.standard_normal((1003, 5)), np.arange(1003) % classes, rng.random(1003) if weighted else None
    for chunk, workers in [(1003, 1), (rows, threads), (rows, threads)]:
        monkeypatch.setattr(objective, "CHUNK_BYTES", chunk * A.shape[1] * A.itemsize)
        with Objective(A, y, classes, weights=weights, l2=1.0, threads=workers) as made:
            assert (made.chunk, made.threads) == (chunk, workers)
            results.append([*made.loss_gradient_hessian(np.linspace(-1, 1, made.size)), made.lipschitz()])
    for whole, pieces, again in zip(*results, strict=True):
        np.testing.assert_allclose(pieces, whole, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(pieces, again)  # threads or not, a run repeats to the last bit


@pytest.mark.parametrize("solver", BOTH)
def test_a_fit_allocates_less_than_a_fifth_of_its_data(solver):
    A, y = problems.large(200_000, 16, 1, np.random.default_rng(0))
    model = LogisticRegression(solver, l2=1.0, threads=1).fit(A, y)
    tracemalloc.start()
    model.fit(A, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / A.nbytes < 0.2


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-4)])
@pytest.mark.parametrize("kind", [3, 1e4, "huge", "losses of 1e-20", "one large loss"])
def test_loss_and_derivatives_are_exact_for_margins_of_any_size(kind, dtype, tolerance, classes):
    tiny = {"losses of 1e-20": np.linspace(46, 50, 999), "one large loss": np.append(np.full(998, 36.5), -1.0)}
    size = np.finfo(dtype).max ** 0.9 if kind == "huge" else kind  # 1e277, or 7e34 in float32
    margins = (tiny[kind] if kind in tiny else np.linspace(-1, 1.1, 999) * size).astype(dtype)
    m, truth, rest = margins.astype(float), np.eye(classes)[np.arange(999) % classes], np.log(classes - 1)
    wrong = np.exp(-np.logaddexp(0, m - rest))  # 1 - p of the true class: its logit is m, the others' are 0
    if classes == 2:
        A, theta, gradient = (m * (2 * truth[:, 1] - 1))[:, None], np.ones(1), np.array([-(wrong * m).mean()])
    else:
        A, theta = m[:, None] * truth, np.eye(classes).ravel()
        gradient = ((wrong[:, None] * ((1 - truth) / (classes - 1) - truth)).T @ A / 999).ravel()
    made = Objective(A.astype(margins.dtype), truth.argmax(axis=1), classes, fit_intercept=False)
    loss, ours, hessian = made.loss_gradient_hessian(theta)
    assert loss == pytest.approx(np.logaddexp(0, rest - m).mean(), rel=tolerance, abs=0)
    np.testing.assert_allclose(ours, gradient, rtol=tolerance, atol=tolerance * np.abs(gradient).max())
    assert np.isfinite(hessian).all() or kind == "huge"  # there the Hessian itself is out of range


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e4, 1e300])
@two_and_three_classes
def test_probabilities_of_huge_logits_are_finite_and_sum_to_one(y, scale):
    model = LogisticRegression(l2=1.0).fit(X, y)
    p, log_p = model.predict_proba(scale * X), model.predict_log_proba(scale * X)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert np.isfinite(log_p).all() and log_p.min() < -0.1 * scale
    np.testing.assert_array_equal(model.predict(scale * X), model.classes_[log_p.argmax(axis=1)])


@pytest.mark.filterwarnings("error", "ignore:solver 'sgd'")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("y", "l2"), [(Y, 1.0), (Y3, 1.0), (Y, 2e3)], ids=["two", "three", "strong penalty"])
def test_every_solver_reaches_the_same_optimum(solver, y, l2):
    optimum = ScikitLearn(C=1 / l2, solver="newton-cholesky", tol=1e-13).fit(X, y)
    budget = {"lbfgs": 25, "nesterov": 60, "gd": 300, "momentum": 400, "sgd": 100}.get(solver, 10)  # nesterov below what gd needs
    model = LogisticRegression(solver, l2=l2, max_iter=budget, batch_size=16, random_state=0).fit(X, y)
    distance = 0.05 if solver == "sgd" else 1e-5
    np.testing.assert_allclose(model.coef_, optimum.coef_, atol=distance)
    np.testing.assert_allclose(model.predict_proba(X), optimum.predict_proba(X), atol=distance)
    assert len({len(values) for values in model.history_.values()}) == 1 and model.history_["loss"][-1] == model.loss_


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["plain", "softmax", "periodic class", "rare class", "rare column", "few weights"])
def test_large_data_is_read_seldom_and_a_misleading_sample_survived(kind):
    rows, rare = np.arange(len(LARGE_X)), np.arange(len(LARGE_X)) % 16_384 == 1
    labels = {"rare class": 1 * rare, "softmax": LARGE_Y + (rows % 3 == 0), "periodic class": LARGE_Y | (rows % 16 == 0)}
    A, y, l2, tol = 10 * LARGE_X, labels.get(kind, LARGE_Y), 1e5 * (kind == "softmax"), 1e-8 if kind == "plain" else 1e-10
    A[:, 2] *= rare | (kind != "rare column")  # an indicator that a sample hardly sees
    weights = 1.0 * (rows % 4096 == 1) if kind == "few weights" else None
    twin = ScikitLearn(C=1 / l2 if l2 else np.inf, solver="newton-cholesky", tol=1e-10).fit(A, y, weights).coef_
    for solve, reads in ((solvers.newton, 7 if kind == "plain" else 20), (solvers.lbfgs, 20)):
        with Objective(A, y, y.max() + 1, weights=weights, l2=l2) as made:
            solution = solve(made, np.zeros(made.size), tol=tol)
        assert solution.converged and np.linalg.norm(made.unpack(solution.theta)[0] - twin) < 1e-6 * np.linalg.norm(twin)
        assert kind not in ("plain", "softmax") or made.bytes_read["full"] <= reads * A.nbytes


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["double", "collinear", "constant", "zero", "units"])
@two_and_three_classes
def test_newton_solves_degenerate_columns(kind, y):
    added = {"double": X + 1e-9 * np.sin(1e3 * X), "collinear": X @ [1, 2], "constant": np.full(400, 5.0), "zero": np.zeros(400)}
    A = X * [1e-9, 1e6] if kind == "units" else np.column_stack([X, added[kind]])
    model, plain = LogisticRegression("newton").fit(A, y), LogisticRegression("newton", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(model.predict_log_proba(A), plain.predict_log_proba(X), atol=1e-6)
    assert np.abs(model.coef_ * np.where(A.any(axis=0), np.abs(A).max(axis=0), 1)).max() < 100  # no column runs away


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("data", [BLOBS, (*BLOBS, np.ones(100)), WIDE], ids=["blobs", "weighted", "wide"])
@pytest.mark.parametrize("solver", SOLVERS[:-1])
def test_separable_classes_warn_without_penalty_and_only_then(solver, data):
    assert LogisticRegression(solver, l2=1.0, tol=1e-6).fit(*data).converged_ and LogisticRegression(l2=1e-3).fit(*data).converged_
    with pytest.warns(estimator.SeparationWarning, match="l2"):
        assert LogisticRegression(solver).fit(*data).score(*data) == 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_stopping_early_warns_and_counts_the_iterations(solver):
    with pytest.warns(ConvergenceWarning, match="max_iter") as caught:
        model = LogisticRegression(solver, max_iter=2).fit(X, Y)
    assert [w.category for w in caught] == [ConvergenceWarning] and model.n_iter_ == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_float32_stops_where_rounding_ends_the_progress():
    model = LogisticRegression("lbfgs").fit(X.astype(np.float32), Y)
    np.testing.assert_allclose(model.coef_, LogisticRegression("newton").fit(X, Y).coef_, rtol=1e-5)
    assert model.n_iter_ < 100


@two_and_three_classes
def test_gradient_descent_just_below_its_bound_never_goes_up(y):
    bound = 2 / Objective(X, y, len(set(y)), weights=1 + ALTERNATE).lipschitz()
    model = LogisticRegression("gd", learning_rate=0.99 * bound).fit(X, y, 1 + ALTERNATE)
    assert model.converged_ and np.diff(model.history_["loss"]).max() <= 1e-15


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", ["gd", "momentum", "nesterov"])
def test_a_far_too_large_rate_shows(solver):
    model = LogisticRegression(solver, learning_rate=1e2, max_iter=300).fit(X, Y)
    assert model.loss_ > LogisticRegression().fit(X, Y).loss_ + 0.1 and np.isfinite(model.coef_).all() and not model.converged_
    with pytest.raises(ValueError, match="learning rate is far too large"):
        LogisticRegression(solver, learning_rate=1e300).fit(X, Y)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_stream_of_pieces_approaches_the_batch_optimum(dtype):
    A, y = problems.Blobs(0.7).sample(10_000, np.random.default_rng(0))
    model, whole, excess = LogisticRegression(l2=20.0, batch_size=32, random_state=0), Objective(A, y, 2, l2=20.0), []
    optimum = solvers.newton(whole, np.zeros(3)).loss[-1]
    for piece in np.array_split(np.random.default_rng(0).permutation(20_000), 20):
        model.partial_fit(A[piece].astype(dtype), y[piece], classes=[0, 1])
        excess.append(whole.loss_gradient(whole.pack(model.coef_, model.intercept_))[0] - optimum)
    assert model.coef_.dtype == dtype and 0 <= excess[-1] < 3e-4 and excess[-1] < excess[0] / 50


def test_partial_fit_continues_from_the_latest_fit():
    model = LogisticRegression(random_state=0).partial_fit(X, 1 - Y, classes=[0, 1])  # an earlier stream, upside down
    fitted = model.fit(X, Y).coef_.copy()
    assert 0 < np.abs(model.partial_fit(X, Y).coef_ - fitted).max() < 0.1 * np.abs(fitted).max()


def test_a_refused_fit_does_not_block_a_later_stream():
    model = LogisticRegression()
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(X, np.nan), Y)
    assert model.partial_fit(X, Y, classes=[0, 1]).score(X, Y) > 0.7


@pytest.mark.filterwarnings("ignore:solver 'sgd'")
def test_sgd_passes_over_batches_without_weight():
    model = LogisticRegression("sgd", batch_size=1, max_iter=5, random_state=0)
    assert model.fit(X, Y, ALTERNATE).partial_fit(X, Y, sample_weight=ALTERNATE).score(X, Y) > 0.7


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "X contains NaN"), (np.inf, "X contains infinity"), (-np.inf, "X contains inf")]
)
@pytest.mark.parametrize("solver", [*SOLVERS, "newton, in a row outside its sample", "partial_fit"])
def test_nan_and_infinity_are_refused_by_every_solver(solver, value, word):
    A, y = (X.copy(), Y) if "," not in solver else (LARGE_X.copy(), LARGE_Y)
    A[1, 1] = value
    model = LogisticRegression("sgd" if solver == "partial_fit" else solver.split(",")[0])
    with pytest.raises(ValueError, match=word):
        _ = model.partial_fit(A, y, classes=[0, 1]) if solver == "partial_fit" else model.fit(A, y)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_done_is_refused_with_its_reason(reason):
    with pytest.raises(ValueError, match=reason):
        REFUSED[reason]()


@pytest.mark.parametrize("accuracy", [0.5, 0.75, 0.95, 0.999])
@pytest.mark.parametrize(("coef", "intercept"), [([1, 1], 0), ([1, 0], 0.5), ([-2, 1], -1), ([1, 3], 4)])
def test_exact_accuracy_agrees_with_counting_and_the_bayes_rule_attains_the_wanted_one(accuracy, coef, intercept):
    blobs = problems.Blobs.with_bayes_accuracy(accuracy)
    A, y = blobs.sample(100_000, np.random.default_rng(0))
    exact, counted = blobs.accuracy(np.array(coef), intercept), np.mean((A @ coef + intercept > 0) == y)
    assert abs(exact - counted) < 4 * np.sqrt(exact * (1 - exact) / 200_000)
    assert blobs.bayes_accuracy == pytest.approx(accuracy, abs=1e-12) == blobs.accuracy(np.ones(2), 0.0)


def test_separable_blobs_keep_their_margin_and_their_size():
    A, y = problems.separable(200, 2.0, np.random.default_rng(0))
    assert 2 <= (A.sum(axis=1) / np.sqrt(2) * (2 * y - 1)).min() < 2.05 and np.bincount(y).tolist() == [200, 200]


@pytest.mark.parametrize(("p", "y", "error"), [([0.5, 0.5], [0, 1], 0), ([0.02, 0.08, 0.92, 1, 1], [0, 1, 1, 1, 0], 0.364)])
def test_expected_calibration_error_of_cases_worked_by_hand(p, y, error):
    assert experiments_real.expected_calibration_error(np.array(p), np.array(y)) == pytest.approx(error, abs=1e-12)
