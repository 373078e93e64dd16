"""A trained bundle for inference: weights in the order in which the kernel reads them."""

import ctypes
from collections.abc import Callable, Mapping
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
    tensors: tuple[Tensor | None, ...]  # whose memory the kernel reads
    packed: _Packed


class PackedLayer(nn.Module):
    """y = x W^T + bias on the CPU, without gradients; made by SpaghettiLayer.pack().

    x (..., in_features) -> (..., out_features), float32. The weights are float32, or rounded to bfloat16: half the bytes, and one
    row is a matter of bytes. The lanes of eight entries of a tile share one register (kernels_bundle.h, packed_row).
    Without a compiler it gathers with torch, which is right and slow. The kernel checks nothing while it runs, so the tensors are
    checked when they are loaded and before the first call: RuntimeError from load_state_dict, ValueError from the call.
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
        self.register_buffer("bias", None if bias is None else bias.detach().clone(memory_format=torch.contiguous_format))
        self.register_buffer("lanes", lanes.sum(2).int())
        self.register_buffer("blocks", bundle.blocks.clone())  # those of the layer would change with this one's
        self.register_buffer("quads", None if bundle.quads is None else bundle.quads.clone())
        self._plan: _Plan | None = None

    @property
    def half(self) -> bool:
        """Whether the weights are bfloat16."""
        return self.weight.dtype == torch.int32

    def __call__(self, x: Tensor) -> Tensor:
        """As nn.Module's, which for one row takes a third of the kernel's time, but without it where there is no hook."""
        return super().__call__(x) if self._forward_hooks or self._forward_pre_hooks else self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        n, out, shape = self.in_features, self.out_features, x.shape
        if shape[-1] != n or x.dtype is not torch.float32 or not x.is_cpu:
            raise ValueError(f"expected float32 (..., {n}) on the CPU; got {x.dtype} {tuple(shape)} on {x.device}")
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("a packed layer has no gradients: use torch.no_grad(), or the layer it was packed from")
        buffers, plan = self._buffers, self._plan
        if plan is None or plan.weight is not buffers["weight"] or plan.bias is not buffers["bias"]:
            plan = self._plan = self._planned()
        if plan.kernel is None:
            return self._gather(x)
        x = x.contiguous()
        rows = x.numel() // n
        y = x.new_empty(rows, out)
        plan.kernel(plan.address, x.data_ptr(), y.data_ptr(), rows, 1 if rows * plan.work < SMALL else torch.get_num_threads())
        return y if len(shape) == 2 else y.view(*shape[:-1], out)

    def _planned(self) -> _Plan:
        """Made, and the tensors checked, at the first call and when the tensors may be others. ValueError if they do not fit."""
        if wrong := self._misfit(self._buffers):
            raise ValueError(f"a packed layer stays as it is: {wrong}")
        tensors = tuple(self._buffers[name] for name in TENSORS)
        packed = _Packed(*map(pointer, tensors), self.in_features, self.out_features, self.fan_in, self.half)
        lib, work = kernels(), self.fan_in * self.out_features
        return _Plan(lib and lib.packed, ctypes.addressof(packed), work, self.weight, self.bias, tensors, packed)

    def _misfit(self, tensors: Mapping[str, Tensor | None]) -> str:
        """Which of these tensors the kernel would read wrongly or out of bounds, and why; empty where none."""
        tiles, pairs, groups = self.out_features // LANES, -(-self.fan_in // 2), -(-self.fan_in // 8)
        wanted = {
            "weight": (torch.int32, (tiles, pairs, LANES)) if self.half else (torch.float32, (tiles, pairs, 2, LANES)),
            "bias": (torch.float32, (self.out_features,)),
            "lanes": (torch.int32, (tiles, groups, LANES)),  # every half byte is a lane
            "blocks": (torch.int32, (tiles, self.fan_in)),
            "quads": (torch.int32, (self.in_features // 4,)),
        }
        places = {"blocks": (self.in_features // LANES, 1), "quads": (self.in_features, 4)}  # end and step of their values
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            if (tensor.dtype, tensor.shape) != wanted[name] or not (tensor.is_cpu and tensor.is_contiguous()):
                found = f"{tensor.dtype} on {tensor.device}, {tuple(tensor.shape)} with strides {tensor.stride()}"
                return f"its {name} has become {found}; the kernel reads contiguous {wanted[name][0]} {wanted[name][1]}"
            end, step = places.get(name, (0, 1))
            if name in places and (tensor.min() < 0 or tensor.max() >= end or (tensor % step).any()):
                return f"its {name} lie outside the {self.in_features} inputs"
        return ""

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs) -> None:
        given = {name: state_dict[prefix + name] for name in TENSORS if prefix + name in state_dict}
        wrong = self._misfit(given)
        if "blocks" in given and ("quads" in given) != (self.quads is not None):
            wrong = "only one of the two has its blocks on a grid"
        if wrong:
            error_msgs.append(f"{prefix}*: the state dict belongs to another packed layer: {wrong}")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        self._plan = None

    def _apply(self, fn, recurse=True):
        """As nn.Module's, behind .to() and share_memory(), which may move the memory of the same tensors."""
        self._plan = None
        return super()._apply(fn, recurse)

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
