"""One training: a net of some arm on some images, from its seed to its accuracies."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import images
from .images import CLASSES, Images
from .rewire import Rewirer
from .spaghettinet import NoodleDAG, SpaghettiNet, connections, param_groups, readout

WARM_UP = 100  # steps until the learning rate is reached, at most a tenth of all
REWIRINGS = 20  # of SET and RigL at least in one training; every 100 steps where there are enough
WIRING = {"constant_fan_in": "random", "set": "random", "rigl": "random"}  # arms that are not called as their wiring
REWIRED = ("set", "rigl")
LOCAL = ("local_bundle", "small_world")


@dataclass(frozen=True)
class Job:
    """Everything a training depends on."""

    data: str
    arm: str  # dense, dense_small, erdos_renyi, constant_fan_in, bundle, local_bundle, small_world, variance, set, rigl, noodle_dag
    sparsity: float  # of the sparse layer; dense_small has the number of parameters that this sparsity gives
    rate: float
    seed: int
    hidden: int
    epochs: int
    batch: int
    rows: int | None = None
    permuted: bool = False
    rewire_p: float = 0.1
    scaled: bool = True  # the sparse layer learns with rate / density (param_groups)
    original: bool = False  # the original's protocol: all training rows, constant rate, its masked layers for "erdos_renyi"
    depth: int = 0  # of a noodle_dag
    skip: float = 0.0

    @property
    def name(self) -> str:
        """Short and readable; not unique, since it leaves out what is the same in a comparison."""
        marks = f"{'-permuted' * self.permuted}{'-unscaled' * (not self.scaled)}{'-original' * self.original}"
        return f"{self.arm}-s{100 * self.sparsity:g}{marks}-rate{self.rate:g}-seed{self.seed}"


class MaskedLinear(nn.Module):
    """A dense layer times a mask (out, in), the original's way: it computes, and keeps an optimizer's state of, every zero."""

    mask: Tensor

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight * mask), nn.Parameter(bias)
        self.register_buffer("mask", mask)

    @property
    def density(self) -> float:
        """Share of connections that are present; param_groups looks for it."""
        return self.mask.mean().item()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def build(job: Job, given: Images) -> nn.Module:
    """The untrained net of a job."""
    n = given.x.shape[1]
    generator = torch.Generator().manual_seed(job.seed)
    if job.arm == "noodle_dag":
        fan_in = connections(n, job.sparsity, None)
        return NoodleDAG(n, [job.hidden] * job.depth, CLASSES, fan_in=fan_in, skip=job.skip, seed=job.seed)
    if job.original and job.arm == "erdos_renyi":
        sizes = ((n, job.hidden), (job.hidden, CLASSES))
        first, second = (bernoulli(*size, job.sparsity, generator) for size in sizes)
        return nn.Sequential(first, nn.ReLU(), second)
    if job.arm in ("dense", "dense_small"):
        hidden = small(job, n) if job.arm == "dense_small" else job.hidden
        first = readout(n, hidden, job.seed + 1)  # PyTorch's own start
        if not job.original:
            first.weight.data.normal_(0, math.sqrt(2 / n), generator=generator)
            first.bias.data.zero_()
        return nn.Sequential(first, nn.ReLU(), readout(hidden, CLASSES, job.seed))
    if job.arm == "erdos_renyi":
        first = ragged(n, job.hidden, connections(n, job.sparsity, None), generator)
        return nn.Sequential(first, nn.ReLU(), readout(job.hidden, CLASSES, job.seed))
    options: dict[str, Any] = {"grid": given.grid, "rewire_p": job.rewire_p} if job.arm in LOCAL else {}
    if job.arm == "variance":
        options["input_std"] = given.x[given.train].std(0)
    sizes = [n, job.hidden, CLASSES]
    return SpaghettiNet(sizes, sparsity=job.sparsity, wiring=WIRING.get(job.arm, job.arm), seed=job.seed, **options)


def bernoulli(n: int, out: int, sparsity: float, generator: torch.Generator) -> MaskedLinear:
    """The original's layer: PyTorch's start for n inputs, and then each connection stays where a draw exceeds `sparsity`."""
    weight, bias = (torch.empty(*shape).uniform_(-(n**-0.5), n**-0.5, generator=generator) for shape in ((out, n), (out,)))
    return MaskedLinear(weight, (torch.rand(out, n, generator=generator) > sparsity).float(), bias)


def ragged(n: int, out: int, fan_in: int, generator: torch.Generator) -> MaskedLinear:
    """out * fan_in connections anywhere, so `fan_in` is a mean; Kaiming's start for the fan-in that each output has."""
    mask = torch.zeros(out * n)
    mask[torch.randperm(out * n, generator=generator)[: out * fan_in]] = 1
    mask = mask.reshape(out, n)
    weight = torch.randn(out, n, generator=generator) * (2 / mask.sum(1, keepdim=True).clamp_min(1)).sqrt()
    return MaskedLinear(weight, mask, torch.zeros(out))


def small(job: Job, n: int) -> int:
    """Hidden neurons of a dense net with as many parameters as the sparse one of the job."""
    if job.original:  # as many weights as are left in both layers of the original
        return round((1 - job.sparsity) * job.hidden)
    k = connections(n, job.sparsity, None)
    return max(1, round(job.hidden * (k + 1 + CLASSES) / (n + 1 + CLASSES)))


def parameters(net: nn.Module) -> int:
    """Trainable numbers; of a masked layer those that its mask leaves."""
    masked = sum(int((1 - layer.mask).sum()) for layer in net.modules() if isinstance(layer, MaskedLinear))
    return sum(parameter.numel() for parameter in net.parameters()) - masked


def learn(job: Job, device: str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The trained net, and what is to be kept: accuracies in percent, curves, seconds of the training loop alone.

    Seconds are of the processor (time.thread_time) on a CPU, on which one thread is expected, and of the clock elsewhere.
    """
    split = job.seed if job.data == "digits" else 0
    given = images.load(job.data, split=split, permuted=job.permuted, rows=job.rows)
    net = build(job, given).to(device)
    groups = param_groups(net, job.rate) if job.scaled else [{"params": list(net.parameters()), "lr": job.rate}]
    optimizer = torch.optim.Adam(groups, fused=True)
    train = torch.cat([given.train, given.validation]) if job.original else given.train
    steps = job.epochs * (len(train) // job.batch)
    every = min(100, max(1, steps // REWIRINGS))
    rewirer = Rewirer(net, optimizer, job.arm, steps=steps, every=every, seed=job.seed) if job.arm in REWIRED else None
    explored = wired(net, given) if rewirer else None
    schedule = None if job.original else torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
    clock = time.thread_time if device == "cpu" else time.perf_counter
    curve, losses, seconds = [], [], 0.0
    for epoch in range(job.epochs):
        total, start = 0.0, clock()
        for x, y in batches(given, train, job, epoch, device):
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            if rewirer and rewirer.step() and explored is not None:
                paused = clock()
                explored |= wired(net, given)
                start += clock() - paused
            optimizer.step()
            if schedule:
                schedule.step()
            total += loss.item()
        seconds += clock() - start
        losses.append(total / (len(train) // job.batch))
        curve.append(accuracy(net, given, given.validation, device))
    if rewirer:
        rewirer.close()
    found = {
        "validation": curve[-1],
        "test": accuracy(net, given, given.test, device),
        "curve": curve,
        "losses": losses,
        "seconds": seconds,
        "parameters": parameters(net),
    }
    return net, found | ({"explored": explored.float().mean().item()} if explored is not None else {})


def factor(step: int, steps: int) -> float:
    """Of the learning rate: a linear warm-up, then half a cosine down to 0."""
    return min(1.0, (step + 1) / max(1, min(WARM_UP, steps // 10))) * 0.5 * (1 + math.cos(math.pi * step / steps))


def batches(given: Images, rows: Tensor, job: Job, epoch: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows once, in an order drawn from seed and epoch; what is left over after the last whole batch waits."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1000 * job.seed + epoch))
    for places in order[: len(rows) // job.batch * job.batch].split(job.batch):
        part = rows[places]
        yield given.x[part].to(device), given.y[part].to(device)


@torch.no_grad()
def accuracy(net: nn.Module, given: Images, rows: Tensor, device: str = "cpu") -> float:
    """Percent of the rows that are classified right."""
    right = sum(int((net(given.x[part].to(device)).argmax(1).cpu() == given.y[part]).sum()) for part in rows.split(2000))
    return 100 * right / len(rows)


def wired(net: nn.Module, given: Images) -> Tensor:
    """Which connections (out, in) of the first layer are there now."""
    indices = net[0].indices.long().cpu()  # type: ignore[index]
    return torch.zeros(len(indices), given.x.shape[1], dtype=torch.bool).scatter_(1, indices, True)
