"""A trained bundle for inference: weights in the order in which the kernel reads them."""

import ctypes
import math

import torch
from torch import Tensor, nn

from .engines import pointer, thread_count
from .kernels import kernels
from .structure import Bundle
from .wiring import LANES

TENSORS = ("weight", "bias", "lanes", "blocks", "quads")


class _Plan(ctypes.Structure):  # `Packed` in kernels.cpp
    _fields_ = [
        *((name, ctypes.c_void_p) for name in TENSORS),
        *((name, ctypes.c_int64) for name in ("in_features", "out_features", "fan_in")),
    ]


class PackedLayer(nn.Module):
    """y = x W^T + bias, float32 on the CPU, without gradients; made by SpaghettiLayer.pack().

    x (..., in_features) -> (..., out_features). Without a compiler it gathers with torch, which is right and slow.
    """

    weight: Tensor
    lanes: Tensor
    blocks: Tensor
    quads: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, bundle: Bundle):
        """weight (out, k) and bias (out,) of a layer whose wiring is `bundle`."""
        super().__init__()
        self.in_features, self.out_features, self.fan_in = bundle.in_features, *weight.shape
        tiles = weight.detach().reshape(-1, LANES, self.fan_in).transpose(1, 2)
        self.register_buffer("weight", tiles.contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("lanes", bundle.lanes)
        self.register_buffer("blocks", bundle.blocks)
        self.register_buffer("quads", bundle.quads)
        self._plan: tuple[_Plan, Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features or x.dtype is not torch.float32 or not x.is_cpu:
            raise ValueError(f"expected float32 (..., {self.in_features}) on the CPU; got {x.dtype} {tuple(x.shape)} on {x.device}")
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("a packed layer has no gradients: use torch.no_grad(), or the layer it was packed from")
        lib = kernels()
        if lib is None:
            return self._gather(x)
        x, y = x.contiguous(), x.new_empty((*x.shape[:-1], self.out_features))
        rows = math.prod(x.shape[:-1])
        lib.packed(self._address(), x.data_ptr(), y.data_ptr(), rows, thread_count(rows * self.out_features * self.fan_in))
        return y

    def _address(self) -> int:
        """The address of the plan; made anew when the tensors are others, as after load_state_dict(assign=True)."""
        weight, bias = self._buffers["weight"], self._buffers["bias"]
        if self._plan is None or self._plan[1] is not weight or self._plan[2] is not bias:
            plan = _Plan(*(pointer(self._buffers[name]) for name in TENSORS), self.in_features, self.out_features, self.fan_in)
            self._plan = plan, self.weight, bias
        return ctypes.addressof(self._plan[0])

    def _gather(self, x: Tensor) -> Tensor:
        if self.quads is not None:
            x = x.unflatten(-1, (-1, 4))[..., self.quads.long() // 4, :].flatten(-2)
        y = (x[..., self.blocks.long()[:, :, None] * LANES + self.lanes.long()] * self.weight).sum(-2).flatten(-2)
        return y if self.bias is None else y + self.bias

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_plan": None}

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, fan_in={self.fan_in}"
