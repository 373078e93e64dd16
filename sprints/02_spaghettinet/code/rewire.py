"""Sparse layers that change their wiring while they learn."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .spaghettinet import SpaghettiLayer

Method = Literal["set", "rigl"]
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg")  # averages of squared gradients in the state of torch's optimizers


class Rewirer:
    """Every `every` steps a layer drops its weakest connections, and each output grows as many as it lost, so its fan-in stays.

    An output keeps the strongest of several connections, a layer of fan-in 1 its strongest one. Full ones are left as they are.

    method: "set" grows at random (doi:10.1038/s41467-018-04316-3), "rigl" where the gradient is largest (arXiv:1911.11134).
    fraction: share of connections moved at first; falls as half a cosine to 0 at step `until` * `steps`, where rewiring ends.
    steps: of the whole training.  seed: of the random growth.

    Call step() once per optimizer step, after backward(). Those that stay keep their optimizer state. A new connection starts at 0,
    its gradient and optimizer state too, but averages of squared gradients (SQUARES) at the mean of those that the layer keeps:
    from 0, late in a training, Adam's first steps would be several times the learning rate. A bundle that is rewired is no bundle
    any more. ValueError where the model has no layer to rewire or the optimizer lacks its weight.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Method = "set",
        *,
        steps: int,
        fraction: float = 0.3,
        every: int = 100,
        until: float = 0.75,
        seed: int = 0,
    ):
        if method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
        if not (0 < fraction <= 1 and 0 < until <= 1 and min(steps, every) >= 1):
            got = f"{fraction}, {until}, {steps}, {every}"
            raise ValueError(f"fraction and until must be in (0, 1], steps and every at least 1; got {got}")
        sparse = [layer for layer in model.modules() if isinstance(layer, SpaghettiLayer)]
        self.layers = [layer for layer in sparse if layer.fan_in < layer.in_features and layer.weight.numel() > 1]
        if not self.layers:
            raise ValueError("the model has no sparse layer with fewer connections per output than inputs")
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(id(layer.weight) not in held for layer in self.layers):
            raise ValueError("the optimizer does not hold the weight of a sparse layer")
        self.optimizer, self.method, self.fraction, self.every = optimizer, method, fraction, every
        self.end, self.count = until * steps, 0
        self.generator = torch.Generator().manual_seed(seed)
        self._grads: dict[SpaghettiLayer, Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        if method == "rigl":
            self._hooks = [layer.register_forward_hook(self._watch) for layer in self.layers]

    def step(self) -> bool:
        """Count one optimizer step; True where it rewired."""
        due = self._due()
        self.count += 1
        if due:
            share = self.fraction / 2 * (1 + math.cos(math.pi * (self.count - 1) / self.end))
            for layer in self.layers:
                self._rewire(layer, share)
            self._grads.clear()
        return due

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def _due(self) -> bool:
        return self.count % self.every == self.every - 1 and self.count < self.end

    @torch.no_grad()
    def _rewire(self, layer: SpaghettiLayer, share: float) -> None:
        weight, indices = layer.weight, layer.indices.long()
        if self.method == "set":
            score = torch.rand(len(weight), layer.in_features, generator=self.generator).to(weight.device)
        elif layer in self._grads:
            score = self._grads[layer].abs()
        else:
            raise RuntimeError("RigL grows by gradient: run forward and backward in training mode before every step()")
        size, staying = weight.abs(), len(weight) if layer.fan_in > 1 else 1
        if layer.fan_in > 1:
            size.scatter_(1, size.argmax(1, keepdim=True), math.inf)  # the one that an output keeps
        count = min(max(1, round(share * weight.numel())), weight.numel() - staying)
        weakest = size.flatten().topk(count, largest=False).indices
        dropped = torch.zeros_like(weight, dtype=torch.bool).flatten().index_fill(0, weakest, True).view_as(weight)
        dropped &= dropped.cumsum(1) <= layer.in_features - layer.fan_in  # no output has more to grow than it lacks
        rank = dropped.cumsum(1)  # 1, 2, ... among those that its output drops
        grown = score.scatter(1, indices, -1.0).topk(int(rank.max()), dim=1).indices
        layer.rewire(torch.where(dropped, grown.gather(1, (rank - 1).clamp(min=0)), indices))
        state = self.optimizer.state.get(weight, {})
        for name, tensor in [("weight", weight), ("grad", weight.grad), *state.items()]:
            if torch.is_tensor(tensor) and tensor.shape == weight.shape:
                tensor.masked_fill_(dropped, tensor[~dropped].mean() if name in SQUARES else 0.0)

    def _watch(self, layer: SpaghettiLayer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep the dense gradient (out, in) of a layer in the step that will need it."""
        if not (self._due() and layer.training and output.requires_grad):
            return
        x = inputs[0].detach().reshape(-1, layer.in_features)

        def keep(grad: Tensor) -> None:
            dense = grad.detach().reshape(-1, layer.out_features).t() @ x.to(grad.dtype)
            self._grads[layer] = self._grads[layer] + dense if layer in self._grads else dense

        output.register_hook(keep)
