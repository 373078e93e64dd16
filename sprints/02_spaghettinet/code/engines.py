"""Three ways to compute y = x W^T + bias for a constant fan-in W, with the same gradients.

masked  the dense matrix with zeros, through F.linear: the reference, any device and dtype, any order of derivatives
torch   no compiler: embedding_bag for y and the gradient of x, one dense product for the gradient of the weights
c       kernels.cpp and its headers, float32 on the CPU
auto    c for float32 on the CPU (torch where there is no compiler), torch for float64 on the CPU, masked for the rest

Under torch.compile every engine, c included, computes as masked: a compiled layer is right, and as slow as a dense one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels
from .structure import Structure

ENGINES = ("auto", "c", "torch", "masked")
SMALL = 1 << 18  # multiply-adds below which a second thread costs more than it gains
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, structure: Structure, engine: str) -> Tensor:
    """x (B, in), weight (out, k), bias (out,) or None -> (B, out). Raises ValueError where the engine cannot take them."""
    engine = "masked" if x.numel() == 0 or torch.compiler.is_compiling() else resolve(engine, x)
    if engine == "masked":
        return F.linear(x, dense(weight, structure), bias)
    if weight.shape != structure.indices.shape or (bias is not None and (bias.shape, bias.dtype) != (weight.shape[:1], x.dtype)):
        raise ValueError("weight, bias and indices do not fit together")
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
        return SparseLinear.apply(x, weight, bias, structure, engine)
    return FORWARD[engine](x, weight, bias, structure)


def resolve(engine: str, x: Tensor) -> str:
    """The engine that computes x: "masked", "torch" or "c"."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32
    if engine == "auto":
        if fits:
            return "c" if kernels.kernels() else "torch"
        return "torch" if x.device.type == "cpu" and x.dtype == torch.float64 else "masked"
    if engine == "c":
        if not fits:
            raise ValueError(f"engine 'c' computes float32 on the CPU; got {x.dtype} on {x.device}: use engine='auto'")
        return "c" if kernels.kernels() else "torch"
    return engine


def dense(weight: Tensor, structure: Structure) -> Tensor:
    """The matrix (out, in) with its zeros; differentiable."""
    zeros = weight.new_zeros(weight.shape[0], structure.in_features)
    return zeros.scatter(1, structure.indices.long(), weight)


class SparseLinear(torch.autograd.Function):
    """The engines torch and c. A second derivative goes through the dense matrix, so it costs what a dense layer costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, structure: Structure, engine: str) -> Tensor:
        ctx.save_for_backward(x, weight, structure.indices)  # so that autograd notices a wiring that changes before backward
        ctx.structure, ctx.engine = structure, engine
        return FORWARD[engine](x, weight, bias, structure)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        if torch.is_autocast_enabled(g.device.type):
            with torch.autocast(g.device.type, enabled=False):
                return SparseLinear.backward(ctx, g)
        x, weight, _ = ctx.saved_tensors
        function = masked_backward if torch.is_grad_enabled() else BACKWARD[ctx.engine]
        return *function(g, x, weight, ctx.structure, ctx.needs_input_grad[:3]), None, None


def masked_backward(g: Tensor, x: Tensor, weight: Tensor, structure: Structure, needs: tuple[bool, ...]) -> Grads:
    """Gradients of x, weight and bias (None where not needed) in operations that can be differentiated again."""
    return (
        g @ dense(weight, structure) if needs[0] else None,
        (g.t() @ x).gather(1, structure.indices.long()) if needs[1] else None,
        g.sum(0) if needs[2] else None,
    )


def torch_forward(x: Tensor, weight: Tensor, bias: Tensor | None, structure: Structure) -> Tensor:
    """A bag per output: the rows of x^T that it reads, weighted."""
    y = F.embedding_bag(structure.indices, x.t().contiguous(), mode="sum", per_sample_weights=weight).t()
    return (y if bias is None else y + bias).contiguous()


def torch_backward(g: Tensor, x: Tensor, weight: Tensor, structure: Structure, needs: tuple[bool, ...]) -> Grads:
    """As masked_backward; the gradient of x is again a bag, over the outputs that read an input."""
    gx = None
    if needs[0]:
        by_input = structure.by_input
        weights = weight.reshape(-1)[by_input.places.long()]
        gT = g.t().contiguous()
        gx = F.embedding_bag(by_input.rows, gT, by_input.offsets[:-1], mode="sum", per_sample_weights=weights).t().contiguous()
    gw = (g.t() @ x).gather(1, structure.indices.long()) if needs[1] else None
    return gx, gw, g.sum(0) if needs[2] else None


def c_forward(x: Tensor, weight: Tensor, bias: Tensor | None, structure: Structure) -> Tensor:
    """The kernels: bundle_forward where wiring and processor allow it, forward_row for one row, else forward."""
    lib = kernels.kernels()
    assert lib is not None
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()  # a name of its own: the address is good for as long as the tensor lives
    (B, inputs), (out, k) = x.shape, weight.shape
    threads = thread_count(B * weight.numel())
    y = x.new_empty(B, out)
    if lib.bundle and (bundle := structure.bundle):
        xP, wt = x.new_empty(x.shape if bundle.quads is not None else 0), torch.empty_like(weight)
        order, entries = (pointer(bundle.quads), pointer(xP)), (pointer(bundle.lanes), pointer(bundle.blocks))
        lib.bundle_forward(
            pointer(x), *order, pointer(weight), pointer(wt), *entries, pointer(bias), pointer(y), B, inputs, out, k, threads
        )
        return y
    read = pointer(weight), pointer(structure.indices), pointer(bias)
    if B == 1:
        lib.forward_row(pointer(x), *read, pointer(y), out, k, threads)
    else:
        xT = x.new_empty(padded(B) * inputs)
        lib.forward(pointer(x), *read, pointer(xT), pointer(y), B, inputs, out, k, threads)
    return y


def c_backward(g: Tensor, x: Tensor, weight: Tensor, structure: Structure, needs: tuple[bool, ...]) -> Grads:
    """As masked_backward, in one call of the kernels."""
    lib = kernels.kernels()
    assert lib is not None
    g, x, weight = g.contiguous(), x.contiguous(), weight.contiguous()
    (B, inputs), (out, k) = x.shape, weight.shape
    gx, gw = torch.empty_like(x) if needs[0] else None, torch.empty_like(weight) if needs[1] else None
    gb = g.new_empty(out) if needs[2] else None
    wanted = pointer(gx), pointer(gw), pointer(gb)
    sizes = B, inputs, out, k, thread_count(B * weight.numel())
    wT = torch.empty_like(weight)
    if lib.bundle and (bundle := structure.bundle):
        wt, by_block = torch.empty_like(weight), bundle.by_block
        xP, gxP = (x.new_empty(x.shape if bundle.quads is not None else 0) for _ in range(2))
        lib.bundle_backward(
            *map(pointer, (g, x, bundle.quads, xP, weight, wt, wT, bundle.lanes, bundle.blocks)),
            *map(pointer, (by_block.offsets, by_block.rows, by_block.places, by_block.lanes, gxP)),
            *wanted,
            *sizes,
        )
        return gx, gw, gb
    gT, xT = g.new_empty(padded(B) * out), x.new_empty(padded(B) * inputs if needs[1] else 0)
    by_input = structure.by_input if needs[0] else None
    connections = (by_input.rows, by_input.places, by_input.offsets) if by_input else (None, None, None)
    lib.backward(*map(pointer, (g, x, weight, structure.indices, *connections, gT, xT, wT)), *wanted, *sizes)
    return gx, gw, gb


def pointer(tensor: Tensor | None) -> int | None:
    """The address of the first element, None for a null pointer."""
    return None if tensor is None else tensor.data_ptr()


def padded(rows: int) -> int:
    """Rows rounded up to 16, as the chunks of kernels_any.h are."""
    return -(-rows // 16) * 16


def thread_count(multiply_adds: int) -> int:
    """torch's number of threads, one for a small product."""
    return torch.get_num_threads() if multiply_adds >= SMALL else 1


FORWARD = {"torch": torch_forward, "c": c_forward}
BACKWARD = {"torch": torch_backward, "c": c_backward}
