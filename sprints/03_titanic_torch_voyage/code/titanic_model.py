"""The nets: an entity-embedding MLP, many of them at once, sharing weights or not, and the published ensemble.

p = EntityNet(shared=False).fit(X, y).predict_proba(X_new)[:, 1]     16 nets side by side, of their own
p = EntityNet().fit(X, y).predict_proba(X_new)[:, 1]                 32 members of one net (TabM), companions hidden at random
p = voyage().fit(X, y).predict_proba(X_new)[:, 1]                    the published net: TabM, Gaussian process, linear model

Facts in, probabilities out, so the nets fit into the protocol and into any scikit-learn tool. Equal seeds give equal weights.
Entity embeddings: Guo & Berkhahn 2016. TabM, members that share weights up to scales: Gorishniy, Kotelnikov & Babenko 2024.
"""

import math
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional as F

from .encoding import TorchClassifier
from .features import Level, hidden_companions
from .gaussian_process import GaussianProcess
from .linear_model import LinearModel
from .mean_logit import CLIP, MeanLogit

TEMPERATURES = np.exp(np.linspace(-1, 1, 201))
WARMUP = 10  # steps until the full learning rate
LOOK_EVERY = 10  # steps between two looks at other rows


class Members(nn.Module):
    """K nets at once: categories embedded, two SiLU layers, a linear path around them. Logits (K, n)."""

    def __init__(self, net: "EntityNet", numbers: int, sizes: list[int]):
        super().__init__()
        K, k = net.members, 1 if net.shared else net.members
        wide = [min(net.embedding, size - 1) if net.embedding else size for size in sizes]
        d = numbers + sum(wide)
        self.dropout, self.input_dropout = net.dropout, net.input_dropout
        if net.embedding:
            tables = [0.3 * torch.randn(K, size, width) for size, width in zip(sizes, wide, strict=True)]
        else:
            tables = [torch.eye(size).expand(K, -1, -1) for size in sizes]
        self.tables = nn.ParameterList([nn.Parameter(table, requires_grad=bool(net.embedding)) for table in tables])
        self.skip = nn.Parameter(torch.zeros(K, d, 1))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.scales_in, self.scales_out = nn.ParameterList(), nn.ParameterList()
        for layer in range(net.depth):
            self.weights.append(nn.Parameter(torch.randn(k, d, net.width) * math.sqrt(1.5 / d)))
            self.biases.append(nn.Parameter(torch.zeros(K, 1, net.width)))
            if net.shared:
                signs = torch.randint(0, 2, (K, 1, d)).float() * 2 - 1  # members start out different by these alone
                self.scales_in.append(nn.Parameter(signs if layer == 0 else torch.ones(K, 1, d)))
                self.scales_out.append(nn.Parameter(torch.ones(K, 1, net.width)))
            d = net.width
        self.head = nn.Parameter(torch.randn(K, d, 1) / (2 * math.sqrt(d)))
        self.bias = nn.Parameter(torch.zeros(K, 1, 1))

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """x (n, numbers), codes (n, categories)."""
        embedded = [table[:, codes[:, j]] for j, table in enumerate(self.tables)]
        z = torch.cat([x.expand(len(self.head), *x.shape), *embedded], 2)
        z = dropout(z, self.input_dropout) if self.training else z
        straight = z @ self.skip
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if len(self.scales_in):
                z = torch.addcmul(bias, (z * self.scales_in[layer]) @ weight, self.scales_out[layer])
            else:
                z = torch.baddbmm(bias, z, weight)
            z = F.silu(z)
            z = dropout(z, self.dropout) if self.training else z
        return (z @ self.head + self.bias + straight)[..., 0]

    def groups(self, decay: float) -> list[dict]:
        """Matrices decay, vectors and scales do not."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        matrix = [p.shape[1] > 1 for p in parameters]
        parted = [[p for p, is_matrix in zip(parameters, matrix, strict=True) if is_matrix == kind] for kind in (True, False)]
        return [{"params": parted[0], "weight_decay": decay}, {"params": parted[1], "weight_decay": 0.0}]


def dropout(z: Tensor, p: float) -> Tensor:
    """Each entry of z (contiguous) is 0 with probability p, to 1/65536, else divided by 1 - p.

    torch's own draws a mask entry by entry, which took half the time of a step; four entries share a random number here.
    """
    bits = torch.empty(-(-z.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    keep = bits[: z.numel()].view(z.shape) >= round(p * 2**16) - 2**15
    return z * keep.to(z.dtype).mul_(1 / (1 - p))


class EntityNet(TorchClassifier):
    """P(survived) from facts: the mean over members, each with its own weights of the rows (Bayesian bootstrap, Rubin 1981).

    A net of one member weighs all rows alike.
    """

    def __init__(
        self,
        level: Level = "tickets",
        members: int = 32,
        shared: bool = True,
        embedding: int = 4,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.3,
        input_dropout: float = 0.1,
        companion_dropout: float = 0.0,
        steps: int = 120,
        stop: int | None = None,
        batch: int = 256,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ):
        """
        shared: the members share their matrices (TabM), else they are separate nets.
        embedding: width of a category's vector; 0 for one-hot.
        companion_dropout: mean share of a row's companions and neighbours that are hidden while training.
        steps: of AdamW, the length of the cosine schedule; stop: the step at which training ends (early stopping: see `curve`).
        """
        self.level = level
        self.members = members
        self.shared = shared
        self.embedding = embedding
        self.width = width
        self.depth = depth
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.companion_dropout = companion_dropout
        self.steps = steps
        self.stop = stop
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed

    def curve(self, X: pd.DataFrame, y, X_watch: pd.DataFrame) -> dict[int, np.ndarray]:
        """Fit on X, y and predict other rows along the way: step -> P(survived) of X_watch. What early stopping chooses from."""
        seen: dict[int, np.ndarray] = {}
        watched: list[tuple[Tensor, Tensor]] = []

        def look(step: int) -> None:
            if not watched:  # the features are fitted by now, and stay what they are
                watched.append(self._inputs(self.features_.transform(X_watch)))  # type: ignore[arg-type]
            with torch.no_grad():
                seen[step] = self._answer(*watched[0]).double().numpy()

        self.look_ = look
        self.fit(X, y)
        del self.look_
        return seen

    def _learn(self, table: pd.DataFrame, y: np.ndarray) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._descend(table, y)

    def _descend(self, table: pd.DataFrame, y: np.ndarray) -> None:
        variants = torch.stack([self._numbers(view) for view in self._views(table)])  # (views, n, numbers)
        codes, labels = torch.tensor(self.encoding_.codes(table)), torch.tensor(y, dtype=torch.float32)
        n = len(y)
        self.net_ = Members(self, variants.shape[2], self.encoding_.sizes())
        weight = self._row_weights(n)
        optimiser = torch.optim.AdamW(self.net_.groups(self.weight_decay), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / self.steps)) / 2
        )
        look = getattr(self, "look_", None)
        for step in range(1, (self.stop or self.steps) + 1):
            rows = torch.randperm(n)[: self.batch]
            x = variants[torch.randint(len(variants), (len(rows),)), rows]
            logits = self.net_(x, codes[rows])
            losses = F.binary_cross_entropy_with_logits(logits, labels[rows].expand_as(logits), reduction="none")
            optimiser.zero_grad()
            (weight[:, rows] * losses).mean(1).sum().backward()  # a sum over members: each learns as if alone
            optimiser.step()
            schedule.step()
            if look and step % LOOK_EVERY == 0:
                look(step)
                self.net_.train()
        self.net_.eval()

    def _row_weights(self, n: int) -> Tensor:
        """(members, n), mean one: drawn, so that members differ; a net of its own loses rows by that and gains nothing."""
        if self.members == 1:
            return torch.ones(1, n)
        weight = torch.distributions.Exponential(1.0).sample((self.members, n))
        return weight / weight.mean(1, keepdim=True)

    def _views(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        """The training features, or versions of them with companions hidden."""
        if not self.companion_dropout:
            return [table]
        return hidden_companions(self.features_, table, self.known_, self.companion_dropout, self.seed)

    def _numbers(self, table: pd.DataFrame) -> Tensor:
        return torch.tensor(np.concatenate([self.encoding_.numbers(table), self.encoding_.bins(table)], 1), dtype=torch.float32)

    def _inputs(self, table: pd.DataFrame) -> tuple[Tensor, Tensor]:
        return self._numbers(table), torch.tensor(self.encoding_.codes(table))

    def _answer(self, x: Tensor, codes: Tensor) -> Tensor:
        self.net_.eval()  # predictions are also made while training: see curve
        return torch.sigmoid(self.net_(x, codes)).mean(0)

    def _probability(self, P: pd.DataFrame, table: pd.DataFrame) -> Tensor:
        return self._answer(*self._inputs(table))

    def _tensors(self) -> dict[str, Tensor]:
        return self.net_.state_dict()

    def _reload(self, table: pd.DataFrame, y: np.ndarray, tensors: dict[str, Tensor]) -> None:
        self.net_ = Members(self, self._numbers(table.head(1)).shape[1], self.encoding_.sizes())
        self.net_.load_state_dict(tensors)
        self.net_.eval()


class Tempered(ClassifierMixin, BaseEstimator):
    """A classifier whose logits are divided by a temperature, the one of the lowest log-loss on inner folds (Guo et al. 2017)."""

    def __init__(self, model: Any, folds: int = 3, seed: int = 0):
        self.model = model
        self.folds = folds
        self.seed = seed

    def fit(self, X: pd.DataFrame, y) -> Self:
        y, p = np.asarray(y), np.empty(len(y))
        for learn, test in StratifiedKFold(self.folds, shuffle=True, random_state=self.seed).split(np.zeros(len(y)), y):
            inner: Any = clone(self.model)
            p[test] = inner.fit(X.iloc[learn], y[learn]).predict_proba(X.iloc[test])[:, 1]
        self.temperature_ = float(min(TEMPERATURES, key=lambda t: log_loss(y, tempered(p, t))))
        self.model_: Any = clone(self.model)
        self.model_.fit(X, y)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """(n, 2): P(0) and P(1)."""
        check_is_fitted(self)
        p = tempered(self.model_.predict_proba(X)[:, 1], self.temperature_)
        return np.column_stack([1 - p, p])


def tempered(p: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities whose logits are divided by the temperature."""
    p = np.clip(p, CLIP, 1 - CLIP)
    return 1 / (1 + np.exp(-np.log(p / (1 - p)) / temperature))


def log_loss(y: np.ndarray, p: np.ndarray) -> float:
    """Mean negative log-likelihood in nats."""
    p = np.clip(p, CLIP, 1 - CLIP)
    return float(-np.mean(np.where(y == 1, np.log(p), np.log(1 - p))))


def tabm(level: Level = "tickets", seed: int = 0, **settings: Any) -> EntityNet:
    """TabM with companion dropout, the published settings."""
    return EntityNet(level, **({"companion_dropout": 0.25, "seed": seed} | settings))


def embedding_nets(level: Level = "tickets", seed: int = 0, **settings: Any) -> EntityNet:
    """Separate entity-embedding nets with companion dropout, the published settings."""
    return tabm(level, seed, **({"shared": False, "members": 16} | settings))


def voyage(level: Level = "tickets", seed: int = 0, **settings: Any) -> MeanLogit:
    """The published net: TabM, a Gaussian process and a linear model, the mean of their logits. `settings` are those of TabM."""
    return MeanLogit(
        {
            "tabm": tabm(level, seed, **settings),
            "gaussian_process": GaussianProcess(level),
            "linear_model": LinearModel(level),
        }
    )
