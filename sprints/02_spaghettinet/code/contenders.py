"""The layers that are timed: dense, masked, sparse ones of other libraries, and ours; all from x (B, in) to y (B, out), row-major.

A name maps to a function of no arguments that does the whole work once, its transposes, bias and optimizer step included.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .learning import MaskedLinear
from .spaghettinet import SpaghettiLayer
from .wiring import PATCH

LINEAR, ONEDNN, MASKED, CSR, SCIPY = "nn.Linear", "oneDNN linear", "masked (the original)", "torch.sparse CSR", "SciPy CSR"
SPARSELINEAR, TORCH, RANDOM, BUNDLE, PACKED = (
    "sparselinear",
    "ours, no compiler",
    "ours, random",
    "ours, bundle",
    "ours, packed bundle",
)
HALF, LOCAL = "ours, packed bundle, bf16", "ours, local bundle"
MODES = ("forward", "training", "adam")  # training: forward and backward, with the gradients of x, weights and bias
LARGEST = 1 << 20  # connections of a dense layer up to which sparselinear is timed: for 4096 x 4096 a step takes half a minute
Timed = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """A product to time."""

    in_features: int
    out_features: int
    batch: int
    sparsity: float

    @property
    def shape(self) -> str:
        square = self.in_features == self.out_features
        return str(self.in_features) if square else f"{self.in_features}x{self.out_features}"

    def __str__(self) -> str:
        return f"{self.in_features}x{self.out_features}, batch {self.batch}, {self.sparsity:.0%}"


class OneDNN(torch.autograd.Function):
    """y = x W^T + b and its gradients by oneDNN, which torch.nn.Linear does not call for float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (g,), (x, weight) = grads, ctx.saved_tensors
        return product(g, weight.t()), product(g.t().contiguous(), x.t()), g.sum(0)  # the fastest of its layouts


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def has_onednn() -> bool:
    """Whether this build of torch has oneDNN's linear."""
    try:
        product(torch.ones(2, 2), torch.ones(2, 2))
    except (AttributeError, RuntimeError):
        return False
    return True


class Csr(nn.Module):
    """The same weights as torch's sparse matrix: W x^T, so both transposes are part of it.

    Of torch's two products MKL's is the faster for one row, its own, which "sum" asks for, for more.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.to_sparse_csr()), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return (self.weight @ x.t()).t() + self.bias
        return torch.sparse.mm(self.weight, x.t().contiguous(), "sum").t() + self.bias


@cache
def has_sparselinear() -> bool:
    """Whether that package, which is not among the requirements, can be imported."""
    try:
        import_module("sparselinear")
    except (ImportError, OSError):  # OSError: its torch-sparse was built for another torch
        return False
    return True


def layers(case: Case, device: str) -> dict[str, nn.Module]:
    """Every layer that trains, with the same weights where the wiring is the same."""
    n, out, size = case.in_features, case.out_features, {"sparsity": case.sparsity, "seed": 0, "device": device}
    random = SpaghettiLayer(n, out, **size)
    dense = random.to_dense()
    bias = torch.zeros(out, device=device)
    made: dict[str, nn.Module] = {
        LINEAR: nn.Linear(n, out, device=device),
        MASKED: MaskedLinear(dense.weight.detach(), (dense.weight.detach() != 0).float(), bias),
        CSR: Csr(dense.weight.detach(), bias.clone()),
        TORCH: SpaghettiLayer(n, out, **size, engine="torch"),
    }
    if device == "cpu":
        made |= {RANDOM: random, BUNDLE: SpaghettiLayer(n, out, **size, wiring="bundle")}
        side = math.isqrt(n)
        if side**2 == n and side % PATCH == 0:
            made[LOCAL] = SpaghettiLayer(n, out, **size, wiring="local_bundle", grid=(side, side))
        if has_sparselinear() and n * out <= LARGEST:
            made[SPARSELINEAR] = import_module("sparselinear").SparseLinear(n, out, sparsity=case.sparsity)
    else:
        made[RANDOM] = random
    return made


def forward(case: Case, device: str, only: tuple[str, ...] = ()) -> Timed:
    """Functions that compute y, to be called where gradients are off."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(case.batch, case.in_features, generator=generator).to(device)
    made = {name: layer for name, layer in layers(case, device).items() if not only or name in only}
    timed: Timed = {name: lambda layer=layer: layer(x) for name, layer in made.items()}
    if device == "cpu":
        linear = made[LINEAR]
        if has_onednn():
            timed[ONEDNN] = lambda: product(x, linear.weight, linear.bias)  # type: ignore[arg-type]
        bundle: Any = made[BUNDLE]
        for name, packed in ((PACKED, bundle.pack()), (HALF, bundle.pack(torch.bfloat16))):
            timed[name] = lambda packed=packed: packed(x)
        if not only:
            timed[SCIPY] = scipy_csr(made[CSR], x)
    return timed


def scipy_csr(layer: Any, x: Tensor) -> Callable[[], Any]:
    """SciPy's matrix of the same weights; it computes on one thread."""
    from scipy.sparse import csr_matrix

    weight = layer.weight.detach()
    parts = (weight.values().numpy(), weight.col_indices().numpy().astype("int32"), weight.crow_indices().numpy().astype("int32"))
    matrix, bias, rows = csr_matrix(parts, shape=tuple(weight.shape)), layer.bias.detach().numpy(), x.numpy()
    return lambda: torch.from_numpy((matrix @ rows.T).T + bias)


def training(case: Case, device: str, mode: str, only: tuple[str, ...] = ()) -> Timed:
    """Functions that compute y and all gradients for a given gradient of y; with mode "adam" they also take a step."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(case.batch, case.in_features, generator=generator).to(device).requires_grad_()
    seen = torch.randn(case.batch, case.out_features, generator=generator).to(device)
    made = {name: layer for name, layer in layers(case, device).items() if not only or name in only}
    calls: dict[str, tuple[Callable[[], Tensor], nn.Module]] = {
        name: (lambda layer=layer: layer(x), layer) for name, layer in made.items()
    }
    if device == "cpu" and has_onednn():
        twin: Any = nn.Linear(case.in_features, case.out_features)
        calls[ONEDNN] = (lambda: OneDNN.apply(x, twin.weight, twin.bias)), twin
    if mode == "adam":
        calls.pop(CSR, None)  # Adam has no step for it
    timed: Timed = {}
    for name, (call, layer) in calls.items():
        parameters = list(layer.parameters())
        optimizer = torch.optim.Adam(parameters, lr=1e-6, fused=True) if mode == "adam" else None
        timed[name] = step(call, x, seen, parameters, optimizer)
    return timed


def step(call: Callable[[], Tensor], x: Tensor, seen: Tensor, parameters: list, optimizer: Any) -> Callable[[], None]:
    def run() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        call().backward(seen)
        if optimizer:
            optimizer.step()

    return run
