"""Tuning on authored scenes with trl: examples to tokens, early stopping, checkpoints from which a killed run goes on exactly.

The loss counts the answer and its end sign only. A finished run is a model folder that shared.models loads: of a LoRA run, the
base with its adapter merged in, since a registry then holds a whole model; the adapter itself lies beside it.
"""

import functools
import hashlib
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shared import data, models
from shared.device import Device, keep_freed_memory
from shared.errors import UserError
from shared.report import replaced, write_atomically
from shared.runlog import console

from .encoding import Row

Method = Literal["full", "lora"]
PARTS = ("encoding.py", "storytext.py", "tuning.py")


@dataclass(frozen=True)
class Recipe:
    """rank: of LoRA, whose scale is 2. patience: epochs without a better validation loss before it stops. batch: rows per
    update."""

    learning_rate: float
    epochs: int
    batch: int
    method: Method = "full"
    rank: int = 16
    patience: int = 2
    seed: int = 0

    def __post_init__(self):
        numbers = {"rank": self.rank, "epochs": self.epochs, "batch": self.batch, "patience": self.patience}
        if wrong := [name for name, value in numbers.items() if value < 1]:
            raise UserError(f"--{wrong[0]} must be at least 1")
        if not 0 < self.learning_rate < math.inf or self.seed < 0:
            raise UserError("--learning-rate must be above 0, --seed at least 0")


@dataclass(frozen=True)
class Course:
    """How a run went: per epoch its epoch, step, train_loss, validation_loss and the seconds until then, over all its starts."""

    history: list[dict[str, float]]
    trainable: int
    tokens: int  # of the training rows, per epoch

    @property
    def best(self) -> dict[str, float]:
        return min(self.history, key=lambda entry: entry["validation_loss"])

    @property
    def seconds(self) -> float:
        return self.history[-1]["seconds"]


def trainer(
    loaded: models.LoadedModel,
    recipe: Recipe,
    train: Sequence[Row],
    validation: Sequence[Row],
    folder: Path,
    callbacks: Sequence[Any] = (),
) -> Any:
    """trl's SFTTrainer for this recipe; with LoRA the model becomes a PEFT model."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    def rows(part: Sequence[Row]) -> Any:
        return Dataset.from_list([{"input_ids": r.ids, "labels": [-100] * r.start + r.ids[r.start :]} for r in part])

    kind = loaded.model.device.type
    arguments: dict[str, Any] = dict(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.01,
        optim="adamw_torch",
        max_grad_norm=1.0,
        max_length=None,  # the text format keeps every example within its budget
        use_cpu=kind == "cpu",
        bf16=kind == "cpu" or (kind == "cuda" and torch.cuda.is_bf16_supported()),
        activation_checkpointing=False,  # it saves memory that these short rows do not need
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_strategy="epoch",
        report_to="none",  # diary.py logs to MLflow, without its global state
        seed=recipe.seed,
        data_seed=recipe.seed,
        disable_tqdm=not console.is_terminal,
        dataloader_pin_memory=kind == "cuda",
    )
    lora = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(recipe.seed)
    made: Any = SFTTrainer(
        model=loaded.model,
        args=SFTConfig(**arguments),
        train_dataset=rows(train),
        eval_dataset=rows(validation),
        processing_class=loaded.tokenizer,
        peft_config=lora if recipe.method == "lora" else None,
        callbacks=[_watch(recipe.patience), *callbacks],
    )
    made.remove_callback(PrinterCallback)
    for parameter in made.model.parameters():  # in bf16 small steps are lost, and a resumed run differs
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return made


def _watch(patience: int) -> Any:
    """Stops early, and keeps the time. Both live in the log, which a resumed run has; transformers' own callback counts anew."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        before, start = 0.0, 0.0

        def on_train_begin(self, args, state, control, **kwargs):
            self.before = max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
            self.start = time.perf_counter()

        def on_evaluate(self, args, state, control, **kwargs):
            state.log_history[-1]["seconds"] = self.before + time.perf_counter() - self.start
            control.should_training_stop |= stale(state.log_history, patience)

    return Watch()


def stale(log: Sequence[dict[str, float]], patience: int) -> bool:
    """Whether the last `patience` epochs were no better than the best before. Raises UserError when a loss is no number."""
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    if not all(map(math.isfinite, losses)):
        raise UserError("the loss is no longer a number: lower --learning-rate")
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def home(base: Path, name: str, recipe: Recipe, data_version: str) -> Path:
    """Where the run of a base, recipe and data version stands; any other stands elsewhere."""
    known = repr((name, recipe, data_version))
    return base / f"{recipe.method}_{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def tune(
    loaded: models.LoadedModel,
    recipe: Recipe,
    train: Sequence[Row],
    validation: Sequence[Row],
    folder: Path,
    callbacks: Sequence[Any] = (),
) -> Course:
    """Tune until the validation loss stops falling, and leave the best epoch's weights in `loaded`. A run that stopped in
    `folder` goes on there, exactly, if rows, recipe and code are the same; else it starts anew."""
    import torch

    keep_freed_memory()
    rows = hashlib.sha256(repr([*train, None, *validation]).encode()).hexdigest()
    settings = {"recipe": asdict(recipe), "base": loaded.name, "rows": rows, "code": _code()}
    if (folder / "settings.json").is_file() and json.loads((folder / "settings.json").read_text()) != settings:
        console.print(f"{folder.name}: the data or the code is another than before, it starts anew")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "settings.json", json.dumps(settings, indent=1).encode())
    made = trainer(loaded, recipe, train, validation, folder / "checkpoints", callbacks)
    trainable = sum(parameter.numel() for parameter in made.model.parameters() if parameter.requires_grad)
    checkpoint, log = _last_checkpoint(folder / "checkpoints")
    try:
        if stale(log, recipe.patience) or (_epochs(log) and _epochs(log)[-1]["epoch"] >= recipe.epochs):
            made.state = made.state.load_from_json(str(checkpoint / "trainer_state.json"))  # it lacked only its end
            made._load_best_model()
        else:
            if log:
                console.print(f"{folder.name}: goes on after epoch {_epochs(log)[-1]['epoch']:.0f}")
            made.train(resume_from_checkpoint=str(checkpoint) if log else None)
    except torch.OutOfMemoryError:
        raise UserError("the memory of the device is not enough: lower --batch") from None
    loaded.model = made.model.eval()
    return Course(_epochs(made.state.log_history), trainable, sum(len(row.ids) for row in train))


@functools.cache
def _code() -> str:
    return data.digest([Path(__file__).with_name(part) for part in PARTS])


def _last_checkpoint(folder: Path) -> tuple[Path, list[dict[str, float]]]:
    """The newest whole checkpoint and its log, which is empty when there is none; torn ones are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            return path, json.loads((path / "trainer_state.json").read_text())["log_history"]  # written last
        except (OSError, ValueError):
            shutil.rmtree(path)
    return folder, []


def _epochs(log: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """trl's log, one entry per epoch."""
    found: defaultdict[float, dict[str, float]] = defaultdict(dict)
    for entry in log:
        for theirs, ours in (("loss", "train_loss"), ("eval_loss", "validation_loss"), ("seconds", "seconds")):
            if theirs in entry:
                found[entry["epoch"]] |= {"epoch": entry["epoch"], "step": entry["step"], ours: entry[theirs]}
    return [entry for entry in found.values() if "validation_loss" in entry and "train_loss" in entry]


def save(loaded: models.LoadedModel, base: str, device: Device, folder: Path) -> None:
    """Write the tuned model as a folder of bf16 safetensors and its tokenizer.

    An adapter is merged into its base as stored: a base in 4 bit would stay in 4 bit.
    """
    model = loaded.model
    if hasattr(model, "merge_and_unload"):
        from peft import PeftModel

        adapter = folder.with_name("adapter")
        model.save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)  # an empty form of peft's
        whole = models.load(base, replace(device, dtype="float32") if device.kind == "cpu" else device, "none").model
        model = PeftModel.from_pretrained(whole, adapter).merge_and_unload()  # pyright: ignore[reportCallIssue]
    with replaced(folder) as part:
        model.bfloat16().save_pretrained(part)
        loaded.tokenizer.save_pretrained(part)
