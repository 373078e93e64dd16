"""A scikit-learn compatible logistic regression whose every solver is written out in `solvers.py` and `descent.py`.

from sprints... import LogisticRegression       (import_module("sprints.06_logistic_regression.code.logistic_regression"))
model = LogisticRegression(solver="newton", l2=1.0).fit(X, y)
model.history_["loss"], model.history_["gradient_norm"]
"""

import warnings
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, assert_all_finite, check_is_fitted, validate_data

from .descent import AveragedSGD, averaged_sgd, gradient_descent, sgd_epoch
from .objective import Array, Objective
from .solvers import Solution, lbfgs, newton

Solver = Literal["auto", "newton", "lbfgs", "gd", "momentum", "nesterov", "sgd"]
NEWTON_PARAMETERS = 300  # up to here "auto" means newton; beyond, its Hessian costs more than lbfgs's extra passes


class SeparationWarning(ConvergenceWarning):
    """The classes can be separated by a plane and l2 is 0: no optimum exists, the coefficients grow for as long as one iterates."""


class LogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression for two (sigmoid) or more (softmax) classes.

    Minimises  sum_i weight_i * loss_i + l2 / 2 * ||coef||^2  (the intercept is free); scikit-learn's C is 1 / l2.

    solver: "newton" (few columns), "lbfgs" (many), "auto" picks between them; "gd", "momentum", "nesterov" (full batch);
        "sgd" (averaged mini-batches; also `partial_fit` for streams).
    tol: stop when the 2-norm of the gradient of the mean objective is at most this.
    max_iter: iterations (epochs for sgd).  learning_rate: step of gd, momentum, nesterov (default 1 / L) and sgd.
    sgd is meant for streams: scale the columns, and do not expect it to reach the default tol.
    momentum: of solver "momentum".  batch_size, random_state: of sgd.  threads: default all cores of this process.

    After fit: classes_, coef_ (1 or K, d), intercept_ (1 or K,), n_iter_, loss_ (mean objective), converged_,
    history_ (dict of lists: loss, gradient_norm, coef_norm, seconds).  float32 input is computed in float32, all else in float64.
    """

    def __init__(
        self,
        solver: Solver = "auto",
        *,
        l2: float = 0.0,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 1000,
        learning_rate: float | None = None,
        momentum: float = 0.9,
        batch_size: int = 256,
        random_state: int | np.random.RandomState | None = None,
        threads: int | None = None,
    ):
        self.solver = solver
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.batch_size = batch_size
        self.random_state = random_state
        self.threads = threads

    def fit(self, X, y, sample_weight=None):
        """Fit to rows X (n, d) and labels y (n,); raises ValueError for NaN, one class, wrong shapes or continuous labels."""
        self._check_parameters()
        X, codes, weights = self._validate(X, y, sample_weight, classes=None)
        with self._objective(X, codes, weights) as objective:
            try:
                solution = self._solve(objective)
            except FloatingPointError as error:
                # Looking for NaN costs a pass over X, so it is done only once there is a sign of it.
                assert_all_finite(X, input_name="X", estimator_name=type(self).__name__)
                raise ValueError(str(error)) from None
            self._keep(objective, solution)
            self.__dict__.pop("_stream", None)  # partial_fit continues from here, not from an earlier stream
            self._warn(objective, solution)
        return self

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """One pass of averaged SGD, whatever `solver` says, over these rows, for data that arrives in pieces; scale the columns.

        Continues from the present coefficients.

        `classes` (all labels that will ever arrive) is needed when there was no call of fit or partial_fit before.
        """
        self._check_parameters()
        known = self.classes_ if hasattr(self, "coef_") else None
        if known is None and classes is None:
            raise ValueError("classes must be given at the first call of partial_fit: all labels that will ever arrive")
        first = known is None
        X, codes, weights = self._validate(X, y, sample_weight, np.unique(np.asarray(classes)) if first else known, reset=first)
        assert_all_finite(X, input_name="X", estimator_name=type(self).__name__)
        with self._objective(X, codes, weights) as objective:
            if not hasattr(self, "_stream"):
                start = np.zeros(objective.size) if first else objective.pack(self.coef_, self.intercept_)
                self._stream = AveragedSGD(start, self.learning_rate)
            self._stream.rows += objective.n
            objective.l2 *= objective.n / self._stream.rows  # l2 counts once for all rows so far, however they are cut into pieces
            sgd_epoch(objective, self._stream, self.batch_size, check_random_state(self.random_state))
            self._set_coefficients(objective, self._stream.average)
        for told in ("converged_", "n_iter_", "loss_", "history_"):  # of an earlier fit: no longer true
            self.__dict__.pop(told, None)
        return self

    def decision_function(self, X: Any):
        """Logits: (n,) of the second class for two classes, (n, K) for more."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        z = X @ self.coef_.T + self.intercept_
        return z.ravel() if len(self.classes_) == 2 else z

    def predict_log_proba(self, X):
        """Log-probabilities (n, K), finite for logits of any size."""
        z = self.decision_function(X)
        if z.ndim == 1:
            return np.column_stack([-np.logaddexp(0, z), -np.logaddexp(0, -z)])
        return z - np.logaddexp.reduce(z, axis=1, keepdims=True)

    def predict_proba(self, X):
        """Probabilities (n, K), rows sum to 1."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X):
        """The most probable class of each row (n,); a tie goes to the first class."""
        z = self.decision_function(X)
        return self.classes_[(z > 0).astype(int) if z.ndim == 1 else z.argmax(axis=1)]

    # -- inside ---------------------------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver must be one of {', '.join(get_args(Solver))}; got {self.solver!r}")
        for name, minimum in (("l2", 0), ("tol", 0), ("max_iter", 1), ("batch_size", 1)):
            if not isinstance(getattr(self, name), Real) or not minimum <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be at least {minimum} and finite; got {getattr(self, name)!r}")
        if self.learning_rate is not None and not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, or None; got {self.learning_rate!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); got {self.momentum!r}")

    def _validate(self, X: Any, y: Any, sample_weight, classes, reset: bool = True):
        """Checked X (finiteness is left to the solver), class codes and weights; sets classes_."""
        X = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], order="C", ensure_all_finite=False)
        y = column_or_1d(y, warn=True)
        if len(y) != len(X):
            raise ValueError(f"X has {len(X)} rows and y has {len(y)}: Found input variables with inconsistent numbers of samples")
        self.classes_, codes = _encode(y, classes)
        if len(self.classes_) < 2:
            raise ValueError(f"logistic regression needs at least two classes; the data has only one class: {self.classes_[0]!r}")
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        return X, codes, weights

    def _objective(self, X: Array, codes: Array, weights: Array | None) -> Objective:
        return Objective(
            X, codes, len(self.classes_), weights=weights, l2=self.l2, fit_intercept=self.fit_intercept, threads=self.threads
        )

    def _solve(self, objective: Objective) -> Solution:
        start, limits = np.zeros(objective.size), {"max_iter": self.max_iter, "tol": self.tol}
        solver = self.solver
        if solver == "auto":
            solver = "newton" if objective.size <= NEWTON_PARAMETERS else "lbfgs"
        if solver == "newton":
            return newton(objective, start, **limits)
        if solver == "lbfgs":
            return lbfgs(objective, start, **limits)
        if solver == "sgd":
            return averaged_sgd(
                objective,
                AveragedSGD(start, self.learning_rate),
                batch_size=self.batch_size,
                rng=check_random_state(self.random_state),
                **limits,
            )
        return gradient_descent(objective, start, method=solver, learning_rate=self.learning_rate, momentum=self.momentum, **limits)

    def _keep(self, objective: Objective, solution: Solution) -> None:
        self._set_coefficients(objective, solution.theta)
        self.converged_, self.n_iter_, self.loss_ = (
            solution.converged,
            max(1, solution.iterations),
            solution.loss[-1],
        )
        self.history_ = {name: getattr(solution, name) for name in ("loss", "gradient_norm", "coef_norm", "seconds")}

    def _set_coefficients(self, objective: Objective, theta: Array) -> None:
        coef, intercept = objective.unpack(theta)
        self.coef_, self.intercept_ = coef.astype(objective.X.dtype), intercept.astype(objective.X.dtype)

    def _warn(self, objective: Objective, solution: Solution) -> None:
        # A sum of losses below log 2 proves that every row is on its side of the plane: separable, without another pass. (With
        # weights: a sum below the least of them times log 2.)
        least = 1.0 if objective.weights is None else float(objective.weights[objective.weights > 0].min())
        if self.l2 == 0 and solution.loss[-1] * objective.total < least * np.log(2):
            warnings.warn(
                "the classes are separable, so without a penalty the loss has no minimum and the coefficients are only "
                f"where {type(self).__name__} stopped: set l2 > 0",
                SeparationWarning,
                stacklevel=3,
            )
        elif not solution.converged:
            warnings.warn(
                f"solver {self.solver!r} did not converge: {solution.message} after {self.n_iter_} iterations; raise "
                "max_iter, scale the columns, or use solver='auto'",
                ConvergenceWarning,
                stacklevel=3,
            )


def _encode(y: Array, classes: Array | None) -> tuple[Array, Array]:
    """Sorted classes and the code of each label; two numeric classes are told apart without sorting a million labels."""
    if classes is None and y.dtype.kind in "iufb" and len(y):
        low, high = y.min(), y.max()
        is_high = y == high
        if low != high and float(low).is_integer() and float(high).is_integer() and np.all(is_high | (y == low)):
            return np.array([low, high]), is_high.astype(np.int8)
    check_classification_targets(y)
    if classes is None:
        classes, codes = np.unique(y, return_inverse=True)
        return classes, codes
    codes = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    if not np.array_equal(classes[codes], y):
        raise ValueError(f"y holds labels that are not in classes: {sorted(set(np.unique(y)) - set(classes))[:5]}")
    return classes, codes
