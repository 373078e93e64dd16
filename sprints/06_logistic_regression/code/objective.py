"""The loss of logistic regression and its derivatives, each from ONE pass over the rows.

Everything a solver needs (loss, gradient, Hessian) is computed chunk by chunk while the chunk sits in the processor's cache, so
that main memory is read once per evaluation and no array of the data's size is ever made. Chunks are shared between threads.

For rows x_i with weight s_i, labels y_i and logits z_i = W x_i + b, the objective is the mean

    f(W, b) = ( sum_i s_i * loss(y_i, z_i)  +  l2 / 2 * ||W||^2 ) / sum_i s_i          (the intercept b is not penalised)

with loss = log(1 + exp(-+z)) for two classes and log-sum-exp(z) - z_y for more. scikit-learn's C equals 1 / l2.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from shared.environment import usable_cpus

CHUNK_BYTES = 2 << 20  # stays in the shared cache: the second use of a chunk costs no memory traffic
LOG_BLOCK = 32  # logs per product: log(a) + log(b) = log(a * b), and multiplications are far cheaper than logs

Array = np.ndarray


class Objective:
    """Mean logistic loss of a linear classifier over rows `X` (n, d), as a function of a flat `theta` (K * (d + 1),).

    `y` holds class codes 0..classes-1; K is 1 for two classes (theta is then the logit of class 1) and `classes` otherwise.
    A context manager: inside `with`, large data is shared between `threads` Python threads, and BLAS runs on one thread (BLAS's own
    threads spin, and cost more than they give at these sizes).
    """

    def __init__(
        self,
        X: Array,
        y: Array,
        classes: int,
        *,
        weights: Array | None = None,
        l2: float = 0.0,
        fit_intercept: bool = True,
        threads: int | None = None,
    ):
        self.X, self.y, self.weights, self.l2, self.fit_intercept = X, y, weights, l2, fit_intercept
        self.n, self.d = X.shape
        self.classes, self.K = classes, 1 if classes == 2 else classes
        self.curvature = 0.25 if self.K == 1 else 0.5  # no row's second derivative by its logits is larger (Boehning 1992)
        self.columns = self.d + fit_intercept
        self.size = self.K * self.columns
        self.total = float(self.n if weights is None else weights.sum(dtype=np.float64))
        self.chunk = max(LOG_BLOCK, CHUNK_BYTES // max(1, self.d * X.itemsize))
        self.threads = min(threads or len(usable_cpus()), -(-self.n // self.chunk))
        if self.K == 1:  # minus the label's sign, so that `sign * z` is minus the margin
            self.sign = 1 - 2 * (y == 1).astype(X.dtype)
        self.penalised = np.ones((self.K, self.columns))
        self.penalised[:, self.d :] = 0
        self.penalised = self.penalised.ravel()
        self.bytes_read = Counter()  # of rows, by this objective ("full") and by the subsets made of it ("subset")
        self._role = "full"
        self._pool: ThreadPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self):
        self._stack.enter_context(_single_threaded_blas())
        if self.threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self.threads - 1))
        return self

    def __exit__(self, *exc):
        self._pool = None
        self._stack.close()

    def subset(self, rows: Array, dtype: type | None = None) -> "Objective":
        """The same objective on the rows with these indices, copied as `dtype`, with their share of weights and penalty."""
        weights = None if self.weights is None else self.weights[rows].astype(dtype or self.X.dtype)
        copy = np.empty((len(rows), self.d), dtype or self.X.dtype)
        for start in range(0, len(rows), self.chunk):  # piecewise, so that no second copy in the old dtype is made
            copy[start : start + self.chunk] = self.X[rows[start : start + self.chunk]]
        part = Objective(
            copy,
            self.y[rows],
            self.classes,
            weights=weights,
            fit_intercept=self.fit_intercept,
            threads=self.threads,
        )
        # As if every part had its share of the weights: the parts' gradients then average to the gradient of the whole.
        share = part.n / self.n
        part.total, part.l2 = self.total * share, self.l2 * share
        part._pool, part.bytes_read, part._role = self._pool, self.bytes_read, "subset"
        self.bytes_read["subset"] += part.n * self.d * self.X.itemsize  # for the copy
        return part

    def unpack(self, theta: Array) -> tuple[Array, Array]:
        """Coefficients (K, d) and intercepts (K,) as views of `theta`."""
        table = theta.reshape(self.K, self.columns)
        return table[:, : self.d], table[:, self.d] if self.fit_intercept else np.zeros(self.K)

    def pack(self, coef: Array, intercept: Array) -> Array:
        """The flat theta of coefficients (K, d) and intercepts (K,)."""
        return np.column_stack([coef, intercept] if self.fit_intercept else [coef]).ravel().astype(np.float64)

    def loss_gradient(self, theta: Array) -> tuple[float, Array]:
        """f(theta) and its gradient (K * (d + 1),), in float64."""
        return self._evaluate(theta, hessian=False)[:2]

    def loss_gradient_hessian(self, theta: Array) -> tuple[float, Array, Array]:
        """f(theta), its gradient, and its Hessian (K * (d + 1), K * (d + 1)), in float64."""
        return self._evaluate(theta, hessian=True)

    def lipschitz(self) -> float:
        """An upper bound L of the gradient's Lipschitz constant; gradient descent with a step below 2 / L must converge.

        The Hessian is at most `curvature` * X^T X plus the penalty.
        """
        gram = np.zeros((self.columns, self.columns))
        for start in range(0, self.n, self.chunk):
            rows = slice(start, start + self.chunk)
            x = self._with_ones(self.X[rows])
            gram += x.T @ (x if self.weights is None else x * self.weights[rows, None])
        if not np.isfinite(gram).all():
            raise FloatingPointError("X holds NaN, infinity or values too large for its dtype")
        bound = np.linalg.eigvalsh(gram)[-1] * self.curvature
        return float(bound + self.l2) / self.total

    # -- one pass -----------------------------------------------------------------------------------------------------------

    def _evaluate(self, theta: Array, hessian: bool) -> tuple[float, Array, Any]:
        def rows(bounds: tuple[int, int]):
            return self._rows(theta, *bounds, hessian)

        self.bytes_read[self._role] += self.X.nbytes
        if self._pool is None or self.threads == 1:
            parts = [rows((0, self.n))]
        else:  # whole chunks per thread; summed in a fixed order, so that a run repeats to the last bit
            chunks = -(-self.n // self.chunk)
            cuts = [min(self.n, self.chunk * (chunks * t // self.threads)) for t in range(self.threads + 1)]
            first, *others = pairwise(cuts)
            pending = [self._pool.submit(rows, bounds) for bounds in others]
            parts = [rows(first), *(future.result() for future in pending)]  # this thread works too
        penalty = self.l2 * self.penalised
        loss = sum(part[0] for part in parts) + 0.5 * float(penalty @ (theta * theta))
        gradient = np.sum([part[1] for part in parts], axis=0).ravel() + penalty * theta
        if not hessian:
            return loss / self.total, gradient / self.total, None
        matrix = np.sum([part[2] for part in parts], axis=0)
        matrix[np.diag_indices_from(matrix)] += penalty
        return loss / self.total, gradient / self.total, matrix / self.total

    def _rows(self, theta: Array, first: int, last: int, hessian: bool) -> tuple[float, Array, Any]:
        """Sums of loss, gradient (K, d + 1) and Hessian over the rows first..last."""
        kernel: Callable = self._two_classes if self.K == 1 else self._many_classes
        coef, intercept = (part.astype(self.X.dtype) for part in self.unpack(theta))
        loss, gradient = 0.0, np.zeros((self.K, self.columns))
        matrix = np.zeros((self.size, self.size)) if hessian else None
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is handled below; NaN rows show in the gradient
            for start in range(first, last, self.chunk):
                rows = slice(start, min(start + self.chunk, last))
                x = self.X[rows]
                chunk_loss, residual, chunk_hessian = kernel(x, rows, coef, intercept, hessian)
                loss += chunk_loss
                gradient[:, : self.d] += residual.T @ x
                if self.fit_intercept:
                    gradient[:, self.d] += residual.sum(axis=0)
                if matrix is not None:
                    matrix += chunk_hessian
        return loss, gradient, matrix

    def _two_classes(self, x: Array, rows: slice, coef: Array, intercept: Array, hessian: bool):
        sign, weights = self.sign[rows], None if self.weights is None else self.weights[rows]
        minus_margin = x @ coef[0]
        minus_margin += intercept[0]
        minus_margin *= sign
        odds = np.exp(minus_margin)  # (1 - p) / p of the true class
        one_plus = odds + 1
        loss = _sum_log(one_plus) if weights is None else float(weights @ np.log(one_plus))
        total = len(x) if weights is None else weights.sum()
        if not 1e-3 * total < loss < np.inf:  # tiny terms are lost in 1 + odds, huge ones overflow: the exact, slower form
            exact = np.logaddexp(0, minus_margin)
            loss = float(exact.sum() if weights is None else weights @ exact)
            odds = np.exp(np.minimum(minus_margin, np.log(np.finfo(x.dtype).max) - 1))
            one_plus = odds + 1
        wrong = odds / one_plus  # 1 - p of the true class, exact also when tiny
        residual = wrong * sign
        if weights is not None:
            residual *= weights
        matrix = None
        if hessian:
            curvature = wrong / one_plus if weights is None else wrong / one_plus * weights
            scaled = self._with_ones(x, np.sqrt(curvature))
            matrix = scaled.T @ scaled
        return loss, residual[:, None], matrix

    def _many_classes(self, x: Array, rows: slice, coef: Array, intercept: Array, hessian: bool):
        y, each = self.y[rows], np.arange(len(x))
        z = x @ coef.T + intercept  # (m, K)
        top = z.argmax(axis=1)
        z -= z[each, top][:, None]
        true_logit = z[each, y]
        p = np.exp(z)
        p[each, top] = 0
        rest = p.sum(axis=1)  # of the classes below the top one: log1p keeps it exact when tiny
        losses = np.log1p(rest) - true_logit
        p[each, top] = 1
        p /= (1 + rest)[:, None]
        residual = p.copy()
        residual[each, y] = 0
        residual[each, y] = -residual.sum(axis=1)
        if self.weights is not None:
            weights = self.weights[rows]
            losses = losses * weights
            residual *= weights[:, None]
        matrix = self._softmax_hessian(x, rows, p) if hessian else None
        return float(losses.sum()), residual, matrix

    def _softmax_hessian(self, x: Array, rows: slice, p: Array) -> Array:
        """Blocks X^T diag(p_k (1[k=l] - p_l)) X of the multinomial Hessian (Boehning 1992, eq. 2.5)."""
        matrix = np.empty((self.K, self.columns, self.K, self.columns))
        ones = self._with_ones(x)
        for k in range(self.K):
            for other in range(k, self.K):
                curvature = p[:, k] * ((k == other) - p[:, other])
                if self.weights is not None:
                    curvature = curvature * self.weights[rows]
                block = ones.T @ (ones * curvature[:, None])
                matrix[k, :, other], matrix[other, :, k] = block, block.T
        return matrix.reshape(self.size, self.size)

    def _with_ones(self, x: Array, scale: Array | None = None) -> Array:
        """[x, 1] (or [x] without intercept), each row multiplied by `scale`."""
        out = np.empty((len(x), self.columns), x.dtype)
        if scale is None:
            out[:, : self.d] = x
            out[:, self.d :] = 1
        else:
            np.multiply(x, scale[:, None], out=out[:, : self.d])
            out[:, self.d :] = scale[:, None]
        return out


@cache
def _blas() -> ThreadpoolController:
    """Finding the loaded BLAS libraries takes milliseconds, longer than a small fit: once per process."""
    return ThreadpoolController()


_limit_lock, _limits = Lock(), []


@contextmanager
def _single_threaded_blas():
    """One BLAS thread while any fit of this process is inside; the last one out restores the setting."""
    with _limit_lock:
        _limits.append(None if _limits else _blas().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _limit_lock:
            if len(_limits) == 1:
                _limits[0].restore_original_limits()
                _limits.clear()
            else:
                _limits.pop()  # never the first, which holds the setting to restore


def _sum_log(values: Array) -> float:
    """sum(log(values)) for values >= 1, by logs of products of LOG_BLOCK values; inf when a product overflows."""
    whole = len(values) // LOG_BLOCK * LOG_BLOCK
    products = np.multiply.reduce(values[:whole].reshape(LOG_BLOCK, -1), axis=0)
    return float(np.log(products).sum(dtype=np.float64) + np.log(values[whole:]).sum(dtype=np.float64))
