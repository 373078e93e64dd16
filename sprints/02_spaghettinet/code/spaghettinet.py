"""A sparse layer of constant fan-in, and the nets that are made of it.

from .spaghettinet import SpaghettiLayer, SpaghettiNet, param_groups
net = SpaghettiNet([784, 1024, 10], sparsity=0.9, wiring="local_bundle", grid=(28, 28), seed=0)
optimizer = torch.optim.Adam(param_groups(net, lr=1e-3))
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import wiring as wirings
from .engines import ENGINES, dense, linear
from .packed import PackedLayer
from .structure import Structure

LARGEST_FACTOR = 30.0  # of the learning rate: beyond, Adam's steps are as large as the weights
LATER = {"bundle": "bundle", "local_bundle": "bundle"}  # wirings of later layers, whose inputs have no grid; else random


class SpaghettiLayer(nn.Module):
    """y = x W^T + b where every output reads `fan_in` inputs: weight (out, fan_in) and indices int32 (out, fan_in).

    sparsity: share of absent connections, 0.9 by default; or fan_in, connections per output.
    wiring: "random", "bundle", "local_bundle", "small_world", "variance" (wiring.py) or a table of indices (out, fan_in).
    grid: (height, width) of the inputs, for the local wirings.  rewire_p: share of their connections that go anywhere.
    input_std: (in,) for "variance".  seed: of a generator of its own; None draws one, see .seed.
    engine: "auto", "c", "torch" or "masked" (engines.py).

    x (..., in_features) -> (..., out_features), in float32 under autocast. Weights start as Kaiming normal with the real fan-in
    (arXiv:1502.01852), the bias at 0. ValueError for sizes, indices and options that do not fit, and for a wrong x.
    """

    indices: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        sparsity: float | None = None,
        fan_in: int | None = None,
        wiring: str | Tensor = "random",
        grid: tuple[int, int] | None = None,
        rewire_p: float = 0.1,
        input_std: Tensor | None = None,
        bias: bool = True,
        seed: int | None = None,
        engine: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if min(in_features, out_features) < 1:
            raise ValueError(f"in_features and out_features must be at least 1; got {in_features}, {out_features}")
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
        if grid is not None:
            wirings.check_grid(grid, in_features)
        if not 0 <= rewire_p <= 1:
            raise ValueError(f"rewire_p must be in [0, 1]; got {rewire_p}")
        generator = torch.Generator()
        self.seed = generator.seed() if seed is None else seed
        generator.manual_seed(self.seed)
        if isinstance(wiring, Tensor):
            wirings.check(wiring, in_features)
            if len(wiring) != out_features or (sparsity, fan_in) not in ((None, None), (None, wiring.shape[1])):
                raise ValueError(f"the indices {tuple(wiring.shape)} contradict out_features, sparsity or fan_in")
            indices = wiring
        else:
            fan_in = connections(in_features, sparsity, fan_in)
            options: dict[str, Any] = {"grid": grid, "rewire_p": rewire_p, "input_std": input_std}
            indices = wirings.draw(wiring, in_features, out_features, fan_in, generator, **options)
        self.in_features, self.out_features, self.fan_in = in_features, out_features, indices.shape[1]
        self.wiring, self.grid, self.engine = wiring if isinstance(wiring, str) else "given", grid, engine
        weight = torch.randn(out_features, self.fan_in, generator=generator) * math.sqrt(2 / self.fan_in)
        self.weight = nn.Parameter(weight.to(device, dtype))
        self.register_buffer("indices", indices.detach().to(device, torch.int32).clone(memory_format=torch.contiguous_format))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None)
        self._known: tuple[Tensor, int, Structure] | None = None

    @property
    def density(self) -> float:
        """Share of connections that are present."""
        return self.fan_in / self.in_features

    @property
    def structure(self) -> Structure:
        """What the engines derive from the indices; made anew, and the indices checked, whenever they have changed."""
        if torch.compiler.is_compiling():
            return Structure(self.indices, self.in_features, self.grid)
        version = 0 if self.indices.is_inference() else self.indices._version
        if self._known is None or self._known[0] is not self.indices or self._known[1] != version:
            wirings.check(self.indices, self.in_features)
            table = self.indices.to(torch.int32).contiguous()  # load_state_dict(assign=True) may bring another type
            self._known = self.indices, version, Structure(table, self.in_features, self.grid)
        return self._known[2]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"expected (..., {self.in_features}); got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"expected floating-point input; got {x.dtype}")
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(self.weight.dtype))
        if x.dtype != self.weight.dtype or x.device != self.weight.device:
            raise ValueError(f"the layer is {self.weight.dtype} on {self.weight.device}; got {x.dtype} on {x.device}")
        y = linear(x.reshape(-1, self.in_features), self.weight, self.bias, self.structure, self.engine)
        return y.reshape(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def rewire(self, indices: Tensor) -> None:
        """Take over another wiring of the same shape; the weights keep their places in the table. ValueError if it does not fit."""
        if indices.shape != self.indices.shape:
            raise ValueError(f"the wiring is {tuple(self.indices.shape)}; got {tuple(indices.shape)}")
        wirings.check(indices, self.in_features)
        self.indices.copy_(indices)

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """The same function as an nn.Linear with zeros."""
        made = _linear(self.in_features, self.out_features, self.bias is not None, self.weight)
        made.weight.copy_(dense(self.weight, self.structure))
        if self.bias is not None:
            made.bias.copy_(self.bias)
        return made

    @classmethod
    @torch.no_grad()
    def from_linear(
        cls, linear: nn.Linear, *, sparsity: float | None = None, fan_in: int | None = None, engine: str = "auto"
    ) -> "SpaghettiLayer":
        """The largest weights of every output of a dense layer, and its bias."""
        k = connections(linear.in_features, sparsity, fan_in)
        indices = linear.weight.abs().topk(k, dim=1).indices.sort(1).values
        kind = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        made = cls(
            linear.in_features, linear.out_features, wiring=indices, bias=linear.bias is not None, seed=0, engine=engine, **kind
        )
        made.weight.copy_(linear.weight.gather(1, indices))
        if made.bias is not None:
            made.bias.copy_(linear.bias)
        return made

    def pack(self, dtype: torch.dtype = torch.float32) -> PackedLayer:
        """A copy for fast inference, its weights float32 or rounded to bfloat16, half the bytes.

        ValueError unless the wiring is a bundle and the layer float32 on the CPU.
        """
        if self.weight.dtype != torch.float32 or self.weight.device.type != "cpu":
            raise ValueError(f"a packed layer is float32 on the CPU; this one is {self.weight.dtype} on {self.weight.device}")
        if self.structure.bundle is None:
            raise ValueError(f"only a bundle can be packed; the wiring {self.wiring!r} is none")
        return PackedLayer(self.weight, self.bias, self.structure.bundle, dtype)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs) -> None:
        indices = state_dict.get(prefix + "indices")
        if indices is not None and not torch.equal(indices.to(self.indices.device), self.indices):
            error_msgs.append(
                f"{prefix}indices: the state dict belongs to another wiring; build the layer with wiring=state_dict"
                f"['{prefix}indices'], or call adopt_wiring(model, state_dict) first"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_known": None}

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, fan_in={self.fan_in}, wiring={self.wiring}, "
            f"bias={self.bias is not None}, seed={self.seed}, engine={self.engine}"
        )


class SpaghettiNet(nn.Sequential):
    """Sparse hidden layers with ReLU between them and a dense readout: sizes [in, hidden, ..., classes].

    Options are those of SpaghettiLayer. The wiring is that of the first hidden layer; later ones, whose inputs lie on no grid, are
    bundles after a bundle and random else. The seeds of the layers are seed, seed + 1, ...
    """

    def __init__(self, sizes: Sequence[int], *, wiring: str | Tensor = "random", seed: int | None = None, **options: Any):
        if len(sizes) < 3:
            raise ValueError(f"sizes must be [in, hidden, ..., classes]; got {list(sizes)}")
        seed = torch.Generator().seed() if seed is None else seed
        first = {name: options.pop(name) for name in ("grid", "rewire_p", "input_std") if name in options}
        layers: list[nn.Module] = [SpaghettiLayer(sizes[0], sizes[1], wiring=wiring, seed=seed, **first, **options)]
        later = LATER.get(wiring, "random") if isinstance(wiring, str) else "random"
        for place in range(1, len(sizes) - 2):
            layers += [nn.ReLU(), SpaghettiLayer(sizes[place], sizes[place + 1], wiring=later, seed=seed + place, **options)]
        super().__init__(*layers, nn.ReLU(), readout(sizes[-2], sizes[-1], seed + len(sizes)))

    def __getitem__(self, idx):
        """A layer, or for a slice a plain nn.Sequential of them."""
        return nn.Sequential(*self)[idx]


class NoodleDAG(nn.Module):
    """Levels of neurons that read the level before them and, with probability `skip` per connection, any earlier neuron or input.

    widths: neurons per level, each with `fan_in` connections and a ReLU; the dense readout sees the last level.
    x (..., in_features) -> (..., out_features).
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        out_features: int,
        *,
        fan_in: int = 16,
        skip: float = 0.3,
        seed: int | None = None,
        engine: str = "auto",
    ):
        super().__init__()
        if not widths or not 0 <= skip <= 1:
            raise ValueError(f"a NoodleDAG needs widths and a skip in [0, 1]; got {list(widths)} and {skip}")
        seed = torch.Generator().seed() if seed is None else seed
        generator = torch.Generator().manual_seed(seed)
        self.levels = nn.ModuleList()
        earlier, total = 0, in_features
        for place, width in enumerate(widths):
            indices = wirings.skip(range(earlier, total), earlier, width, fan_in, generator, probability=skip)
            self.levels.append(SpaghettiLayer(total, width, wiring=indices, seed=seed + 1 + place, engine=engine))
            earlier, total = total, total + width
        self.readout = readout(widths[-1], out_features, seed + 1 + len(widths))

    def forward(self, x: Tensor) -> Tensor:
        known = x
        level = x
        for layer in self.levels:
            level = F.relu(layer(known))
            known = torch.cat([known, level], dim=-1)
        return self.readout(level)


def connections(in_features: int, sparsity: float | None, fan_in: int | None) -> int:
    """The fan-in that sparsity (0.9 where both are None) or fan_in asks for. ValueError where neither fits."""
    if sparsity is not None and fan_in is not None:
        raise ValueError("give sparsity or fan_in, not both")
    if fan_in is None:
        sparsity = 0.9 if sparsity is None else sparsity
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1); got {sparsity}")
        return max(1, round((1 - sparsity) * in_features))
    if not 1 <= fan_in <= in_features or fan_in != int(fan_in):
        raise ValueError(f"fan_in must be 1 to in_features = {in_features}; got {fan_in}")
    return int(fan_in)


def readout(in_features: int, out_features: int, seed: int) -> nn.Linear:
    """A dense layer with PyTorch's own start, drawn from a generator of its own."""
    made, generator = _linear(in_features, out_features, True, torch.empty(0)), torch.Generator().manual_seed(seed)
    for parameter in (made.weight, made.bias):
        nn.init.uniform_(parameter, -(in_features**-0.5), in_features**-0.5, generator=generator)
    return made


def param_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: weights of layers with a `density` learn with lr * min(1 / density, 30), everything else with lr.

    Source: a weight of a sparser layer needs a larger step for the same change of its output, arXiv:2405.15743.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    factor = {
        id(layer.weight): min(1 / density, LARGEST_FACTOR)
        for layer in model.modules()
        if (density := getattr(layer, "density", None))
    }
    for parameter in model.parameters():
        groups.setdefault(factor.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": parameters, "lr": lr * times} for times, parameters in groups.items()]


def adopt_wiring(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Give the sparse layers the wirings of a state dict, say of a model that a Rewirer changed, so that it can be loaded."""
    for name, layer in model.named_modules():
        if isinstance(layer, SpaghettiLayer) and (key := f"{name}.indices".lstrip(".")) in state_dict:
            layer.rewire(state_dict[key])


def _linear(in_features: int, out_features: int, bias: bool, like: Tensor) -> nn.Linear:
    """An nn.Linear whose values are still to be set: torch's global generator is not touched."""
    made = nn.Linear(in_features, out_features, bias=bias, device="meta", dtype=like.dtype)
    return made.to_empty(device=like.device)
