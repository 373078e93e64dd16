"""One process of a pretraining run; train.py starts as many as the machine can use, through torchrun.

The batch of step s is a pure function of (seed, s) and no state lives outside the checkpoint, so on a CPU a run that is killed and
started again with as many processes ends with the same weights, bit for bit, as one that was left alone.
"""

import contextlib
import fcntl
import json
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from shared.errors import UserError
from shared.report import write_atomically
from shared.runlog import console

from .batches import Settings, Shards
from .model import SHAPES, Llama
from .optimizer import Optimizer, total


def matmul_peak(device: torch.device, dtype: str, size: int = 2048, repeats: int = 5) -> float:
    """Best matrix-product rate of this process, in FLOP/s: the ceiling that a step is compared with."""
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        c = a @ b
        float(c[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


@torch.no_grad()
def heldout_losses(model: Llama, shards: Shards, share: slice = slice(None)) -> torch.Tensor:
    """Loss of each source over its held-out windows in nats per token; with a share of the windows, that part of the sum."""
    losses = []
    for name in shards.sources:
        windows = shards.windows(name)
        nats = sum(model.loss(micro.to(model.embedding.device)) for micro in windows[share].split(4))
        losses.append(nats / (windows.numel() - len(windows)))
    return torch.stack(losses)


def reached(folder: Path) -> int:
    """The step of the checkpoint in this folder; 0 where there is none, or a damaged one, of which a trainer tells."""
    try:
        with safe_open(folder / "checkpoint.safetensors", "pt") as state:
            return int(state.get_tensor("step"))
    except (FileNotFoundError, SafetensorError):
        return 0


def only_writer(folder: Path):
    """Hold the lock of a run's folder for as long as this process lives: two trainers would spoil each other's checkpoint."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is training in {folder}: wait for it, or stop it") from None
    return lock


class Pretraining:
    """The loop, with its evaluation, log and checkpoint."""

    def __init__(self, folder: Path, device: str):
        """`device` is cpu or cuda."""
        self.folder, self.settings = folder, Settings.read(folder)
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.device = self.accelerator.device
        if device == "cpu":
            torch.set_num_threads(1)
        self.lock = only_writer(folder) if self.accelerator.is_main_process else None
        s = self.settings
        self.shards = Shards(s)
        model = Llama(SHAPES[s.size], torch.Generator().manual_seed(s.seed))
        self.model = model.to(self.device, getattr(torch, s.dtype))
        self.optimizer = Optimizer(self.model, self.accelerator, s.optimizer, s.learning_rate, s.matrix_rate, s.weight_decay)
        self.step, self.seconds = 0, 0.0
        self.checkpoint = folder / "checkpoint.safetensors"
        if self.checkpoint.exists():
            self.resume()
        if self.accelerator.is_main_process:  # what the log says beyond the checkpoint is done again; a kill may tear its last line
            kept = [entry for entry in history(folder) if entry["step"] <= self.step]
            write_atomically(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def resume(self) -> None:
        try:
            state = load_file(self.checkpoint)
            self.step, self.seconds = int(state.pop("step")), float(state.pop("seconds"))
            self.optimizer.load(state)
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise UserError(f"{self.checkpoint} is damaged or of another run ({error}): delete it to begin anew") from None

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place: a kill at any moment leaves a whole file."""
        if self.accelerator.is_main_process:
            progress = {"step": torch.tensor(self.step), "seconds": torch.tensor(self.seconds, dtype=torch.float64)}
            part = self.checkpoint.with_suffix(".part")
            try:
                save_file(self.optimizer.state() | progress, part)
                part.rename(self.checkpoint)
            except (SafetensorError, OSError) as error:
                part.unlink(missing_ok=True)
                raise UserError(f"cannot write {self.checkpoint} ({error}): the one before it is kept") from None
        self.accelerator.wait_for_everyone()

    def train_step(self) -> float:
        settings = self.settings
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        everything, importance = self.shards.batch(self.step)
        rows, factors = (torch.from_numpy(part[rank::world]).to(self.device) for part in (everything, importance))
        loss = torch.zeros(1, device=self.device)
        # a core works best on what fits into its cache, a GPU on all there is
        size = len(rows) if self.device.type == "cuda" else max(1, settings.micro_tokens // (rows.shape[1] - 1))
        for micro, factor in zip(rows.split(size), factors.split(size), strict=True):
            part = self.model.loss(micro, factor)
            part.backward()
            loss += part.detach()
        return float(self.optimizer.step(settings.scale(self.step), float(importance[:, 1:].sum()), self.step, loss))

    def evaluate(self) -> dict[str, float]:
        """Held-out loss of each source in nats per token."""
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        summed = total(self.accelerator, heldout_losses(self.model, self.shards, share))
        return {name: round(float(loss), 4) for name, loss in zip(self.settings.mix, summed, strict=True)}

    def run(self) -> None:
        settings = self.settings
        peak = torch.tensor([matmul_peak(self.device, settings.dtype)], device=self.device)
        self.peak = float(total(self.accelerator, peak))
        clock = saved = time.perf_counter()
        seconds_before, step_before = self.seconds, self.step
        train_loss = None
        while self.step < settings.steps:
            loss = self.train_step()
            train_loss = loss if train_loss is None else 0.95 * train_loss + 0.05 * loss
            self.step += 1
            last = self.step == settings.steps
            evaluated = self.evaluate() if last or self.step % settings.evaluate_every == 0 else None
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            if evaluated:
                rate = (self.step - step_before) * settings.step_tokens / (self.seconds - seconds_before)
                seconds_before, step_before = self.seconds, self.step
                self.log(rate, train_loss, evaluated)
            if last or (self.step % 10 == 0 and self.agree(now - saved > settings.checkpoint_seconds)):
                self.save()
                saved = time.perf_counter()
        self.accelerator.end_training()  # gloo's threads must be gone before the interpreter goes, else it aborts now and then

    def agree(self, wish: bool) -> bool:
        """True on every process when any of them wishes it: their clocks differ, what they do must not."""
        return bool(total(self.accelerator, torch.tensor([float(wish)], device=self.device)) > 0)

    def log(self, rate: float, train_loss: float, heldout: dict[str, float]) -> None:
        """Append one line to log.jsonl and say it on the console."""
        if not self.accelerator.is_main_process:
            return
        settings = self.settings
        entry = {
            "step": self.step,
            "tokens": self.step * settings.step_tokens,
            "seconds": round(self.seconds, 1),
            "tokens_per_second": round(rate),
            "peak_share": round(rate * 6 * SHAPES[settings.size].parameters / self.peak, 3),
            "rate_scale": round(settings.scale(self.step - 1), 4),
            "train": round(train_loss, 4),
            "heldout": heldout,
        }
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        minutes = (settings.steps - self.step) * settings.step_tokens / rate / 60
        sources = "  ".join(f"{name} {value:.2f}" for name, value in heldout.items())
        console.print(
            f"{entry['tokens'] / 1e6:6.2f}M tokens  {rate:6.0f} tokens/s  {entry['peak_share']:.0%} of the matmul peak  "
            f"{minutes:3.0f} min left | train {train_loss:.3f} | held out: {sources}",
            soft_wrap=True,
        )


def history(folder: Path) -> list[dict]:
    """The log of a run in the order of its steps: the last line of each step counts, one that a kill has torn does not."""
    entries = {}
    if (folder / "log.jsonl").exists():
        for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                entries[entry["step"]] = entry
    return [entries[step] for step in sorted(entries)]


if __name__ == "__main__":
    Pretraining(Path(sys.argv[1]), sys.argv[2]).run()
