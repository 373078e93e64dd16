"""A trained bundle for inference: weights in the order in which the kernel reads them."""

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engines import SMALL, pointer
from .kernels import kernels
from .structure import Bundle
from .wiring import LANES

TENSORS = ("weight", "bias", "lanes", "blocks", "quads")


class _Packed(ctypes.Structure):  # `Packed` in kernels.cpp
    _fields_ = [
        *((name, ctypes.c_void_p) for name in TENSORS),
        *((name, ctypes.c_int64) for name in ("in_features", "out_features", "fan_in", "half")),
    ]


class _Plan(NamedTuple):
    """What every call needs, looked up once: for one row the looking up takes longer than the kernel."""

    kernel: Callable[..., None] | None
    address: int  # of `packed`
    work: int  # multiply-adds of one row
    weight: Tensor
    bias: Tensor | None
    packed: _Packed


class PackedLayer(nn.Module):
    """y = x W^T + bias on the CPU, without gradients; made by SpaghettiLayer.pack().

    x (..., in_features) -> (..., out_features), float32. The weights are float32, or rounded to bfloat16: half the bytes, and one
    row is a matter of bytes. The lanes of eight entries of a tile share one register (kernels.cpp, packed_row).
    Without a compiler it gathers with torch, which is right and slow.
    """

    weight: Tensor
    lanes: Tensor
    blocks: Tensor
    quads: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, bundle: Bundle, dtype: torch.dtype = torch.float32):
        """weight (out, k) and bias (out,) of a layer whose wiring is `bundle`; dtype: float32 or bfloat16."""
        super().__init__()
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"a packed layer has weights of float32 or bfloat16; got {dtype}")
        self.in_features, self.out_features, self.fan_in = bundle.in_features, *weight.shape
        tiles = weight.detach().reshape(-1, LANES, self.fan_in).transpose(1, 2)
        pairs = padded(tiles, 2)  # (tiles, pairs, 2, 16)
        if dtype == torch.bfloat16:  # the two of a pair in one int32
            pairs = pairs.transpose(2, 3).to(dtype).contiguous().view(torch.int32).squeeze(-1)
        lanes = padded(bundle.lanes, 8).long() << 4 * torch.arange(8)[:, None]  # eight half bytes of an int32
        self.register_buffer("weight", pairs.contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("lanes", lanes.sum(2).int())
        self.register_buffer("blocks", bundle.blocks)
        self.register_buffer("quads", bundle.quads)
        self._plan: _Plan | None = None

    @property
    def half(self) -> bool:
        """Whether the weights are bfloat16."""
        return self.weight.dtype == torch.int32

    def __call__(self, x: Tensor) -> Tensor:
        """As nn.Module's, which for one row takes a third of the kernel's time, but without it where there is no hook."""
        return super().__call__(x) if self._forward_hooks or self._forward_pre_hooks else self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        n, out = self.in_features, self.out_features
        if x.shape[-1] != n or x.dtype is not torch.float32 or not x.is_cpu:
            raise ValueError(f"expected float32 (..., {n}) on the CPU; got {x.dtype} {tuple(x.shape)} on {x.device}")
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("a packed layer has no gradients: use torch.no_grad(), or the layer it was packed from")
        buffers, plan = self._buffers, self._plan
        if plan is None or plan.weight is not buffers["weight"] or plan.bias is not buffers["bias"]:
            plan = self._plan = self._planned()
        if plan.kernel is None:
            return self._gather(x)
        x = x.contiguous()
        rows = x.numel() // n
        y = torch.empty(rows, out)
        plan.kernel(plan.address, x.data_ptr(), y.data_ptr(), rows, 1 if rows * plan.work < SMALL else torch.get_num_threads())
        return y if x.ndim == 2 else y.view(*x.shape[:-1], out)

    def _planned(self) -> _Plan:
        """Made anew when the tensors are others, as after load_state_dict(assign=True). ValueError if of another type or device."""
        floats = {"weight": torch.int32 if self.half else torch.float32, "bias": torch.float32}
        for name, tensor in self._buffers.items():
            if tensor is not None and (tensor.dtype != floats.get(name, torch.int32) or not tensor.is_cpu):
                raise ValueError(f"a packed layer stays as it is: its {name} has become {tensor.dtype} on {tensor.device}")
        sizes = self.in_features, self.out_features, self.fan_in, self.half
        packed = _Packed(*(pointer(self._buffers[name]) for name in TENSORS), *sizes)
        lib = kernels()
        return _Plan(lib and lib.packed, ctypes.addressof(packed), self.fan_in * self.out_features, self.weight, self.bias, packed)

    def _gather(self, x: Tensor) -> Tensor:
        if self.quads is not None:
            x = x.unflatten(-1, (-1, 4))[..., self.quads.long() // 4, :].flatten(-2)
        weight = self.weight.view(torch.bfloat16).unflatten(-1, (-1, 2)).transpose(2, 3).float() if self.half else self.weight
        lanes = self.lanes[:, :, None] >> 4 * torch.arange(8)[:, None] & 15
        weight, lanes = (one.flatten(1, 2)[:, : self.fan_in] for one in (weight, lanes))
        y = (x[..., self.blocks.long()[:, :, None] * LANES + lanes.long()] * weight).sum(-2).flatten(-2)
        return y if self.bias is None else y + self.bias

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_plan": None}

    def extra_repr(self) -> str:
        kind = "bfloat16" if self.half else "float32"
        return f"in_features={self.in_features}, out_features={self.out_features}, fan_in={self.fan_in}, weights={kind}"


def padded(tiles: Tensor, size: int) -> Tensor:
    """(tiles, k, 16) -> (tiles, groups, size, 16), with zeros behind the last entry."""
    return F.pad(tiles, (0, 0, 0, -tiles.shape[1] % size)).unflatten(1, (-1, size))
