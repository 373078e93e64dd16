"""A trained bundle for inference: weights in the order in which the kernel reads them."""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engines import pointer, thread_count
from .kernels import kernels
from .structure import Bundle
from .wiring import LANES

TENSORS = ("weight", "bias", "lanes", "blocks", "quads")


class _Plan(ctypes.Structure):  # `Packed` in kernels.cpp
    _fields_ = [
        *((name, ctypes.c_void_p) for name in TENSORS),
        *((name, ctypes.c_int64) for name in ("in_features", "out_features", "fan_in", "half")),
    ]


class PackedLayer(nn.Module):
    """y = x W^T + bias on the CPU, without gradients; made by SpaghettiLayer.pack().

    x (..., in_features) -> (..., out_features), float32. The weights are float32, or rounded to bfloat16: half the bytes, and one
    row is a matter of bytes. Two entries of a tile lie together, so that one byte holds the lanes of both (kernels.cpp, add_pair).
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
        pairs = paired(tiles)  # (tiles, pairs, 2, 16)
        if dtype == torch.bfloat16:  # the two of a pair in one int32
            pairs = pairs.transpose(2, 3).to(dtype).contiguous().view(torch.int32).squeeze(-1)
        lanes = paired(bundle.lanes)
        self.register_buffer("weight", pairs.contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("lanes", lanes[:, :, 0] | lanes[:, :, 1] << 4)
        self.register_buffer("blocks", bundle.blocks)
        self.register_buffer("quads", bundle.quads)
        self._plan: tuple[_Plan, Tensor, Tensor | None] | None = None

    @property
    def half(self) -> bool:
        """Whether the weights are bfloat16."""
        return self.weight.dtype == torch.int32

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features or x.dtype is not torch.float32 or not x.is_cpu:
            raise ValueError(f"expected float32 (..., {self.in_features}) on the CPU; got {x.dtype} {tuple(x.shape)} on {x.device}")
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("a packed layer has no gradients: use torch.no_grad(), or the layer it was packed from")
        lib = kernels()
        if lib is None:
            return self._gather(x)
        x, rows = x.contiguous(), x.numel() // self.in_features
        y = x.new_empty(rows, self.out_features)  # for one row all this takes longer than the kernel: every call counts
        lib.packed(self._address(), x.data_ptr(), y.data_ptr(), rows, thread_count(rows * self.out_features * self.fan_in))
        return y if x.ndim == 2 else y.view(*x.shape[:-1], self.out_features)

    def _address(self) -> int:
        """The address of the plan; made anew when the tensors are others, as after load_state_dict(assign=True)."""
        weight, bias = self._buffers["weight"], self._buffers["bias"]
        if self._plan is None or self._plan[1] is not weight or self._plan[2] is not bias:
            sizes = self.in_features, self.out_features, self.fan_in, self.half
            plan = _Plan(*(pointer(self._buffers[name]) for name in TENSORS), *sizes)
            self._plan = plan, self.weight, bias
        return ctypes.addressof(self._plan[0])

    def _gather(self, x: Tensor) -> Tensor:
        if self.quads is not None:
            x = x.unflatten(-1, (-1, 4))[..., self.quads.long() // 4, :].flatten(-2)
        weight = self.weight.view(torch.bfloat16).unflatten(-1, (-1, 2)).transpose(2, 3).float() if self.half else self.weight
        lanes = torch.stack([self.lanes & 15, self.lanes >> 4], 2)
        weight, lanes = (one.flatten(1, 2)[:, : self.fan_in] for one in (weight, lanes))
        y = (x[..., self.blocks.long()[:, :, None] * LANES + lanes.long()] * weight).sum(-2).flatten(-2)
        return y if self.bias is None else y + self.bias

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_plan": None}

    def extra_repr(self) -> str:
        kind = "bfloat16" if self.half else "float32"
        return f"in_features={self.in_features}, out_features={self.out_features}, fan_in={self.fan_in}, weights={kind}"


def paired(tiles: Tensor) -> Tensor:
    """(tiles, k, 16) -> (tiles, pairs, 2, 16), with zeros behind an odd k."""
    return F.pad(tiles, (0, 0, 0, tiles.shape[1] % 2)).unflatten(1, (-1, 2))
