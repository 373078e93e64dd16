"""Fine-tuning with trl, peft and bitsandbytes, on CUDA and on the CPU; tune_mlx.py does the same on Apple silicon.

Run as a program by torchrun, it is one of several processes that share each batch (see `in_processes`).
"""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from shared import models
from shared.device import Device, pick
from shared.errors import UserError
from shared.processes import torchrun
from shared.report import write_atomically
from shared.runlog import console

from . import adapter, recipe, tuning
from .recipe import ORIGINAL_TARGETS, Course, Recipe, Tuned
from .snippets import Encoded

# what a trainer that is only timed leaves out
STILL: dict[str, Any] = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "logging_strategy": "no",
    "disable_tqdm": True,
}


def rows(encoded: Sequence[Encoded], completion_only: bool) -> Any:
    """A dataset that trl takes as it is: token ids, and labels in which -100 counts for nothing."""
    from datasets import Dataset

    def labels(one: Encoded) -> list[int]:
        return [-100] * one.start + one.ids[one.start :] if completion_only else one.ids

    return Dataset.from_list([{"input_ids": one.ids, "labels": labels(one)} for one in encoded])


def targets(model: Any, wanted: str) -> list[str]:
    """Names of the layers that get an adapter. Raises UserError when there is none."""
    every = {path.rsplit(".", 1)[-1] for path in recipe.linear_layers(model)}
    chosen = every if wanted == "all" else every & set(ORIGINAL_TARGETS)
    if not chosen:
        raise UserError(f"this model has no linear layer of the wanted names; it has {', '.join(sorted(every))}")
    return sorted(chosen)


def sizes(model: Any) -> dict[str, tuple[int, int]]:
    """Path of every linear layer but the head: (out, in)."""
    return {path: (layer.out_features, layer.in_features) for path, layer in recipe.linear_layers(model).items()}


def load_adapter(model: Any, weights: Path, paths: Sequence[str], config: dict[str, Any]) -> Any:
    """Put the tensors of an adapter, which fit (adapter.load has checked), onto these layers; returns the PEFT model."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    same = {key: config[key] for key in ("r", "lora_alpha", "lora_dropout") if key in config}
    made = get_peft_model(model, LoraConfig(**same, target_modules=list(paths), task_type="CAUSAL_LM"))
    set_peft_model_state_dict(made, load_file(weights))
    return made.eval()


def missed(model: Any) -> list[str]:
    """Linear layers (the head apart) that have no adapter, although others have."""
    return sorted(path for path in recipe.linear_layers(model) if not path.endswith(".base_layer"))


def trainer(
    loaded: models.LoadedModel,
    chosen: Recipe,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    folder: Path,
    **changes: Any,
) -> Any:
    """trl's SFTTrainer for this recipe; the model becomes a PEFT model, unless the whole of it is tuned. `changes` to its
    arguments are for timing what each is worth."""
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    world, on_cpu = int(os.environ.get("WORLD_SIZE", "1")), loaded.model.device.type == "cpu"
    if chosen.batch % world:
        raise UserError(f"--batch {chosen.batch} cannot be shared by {world} processes")
    names = targets(loaded.model, chosen.targets)
    lora = LoraConfig(
        r=chosen.rank, lora_alpha=chosen.alpha, lora_dropout=chosen.dropout, target_modules=names, task_type="CAUSAL_LM"
    )
    arguments: dict[str, Any] = dict(
        output_dir=str(folder),
        num_train_epochs=chosen.epochs,
        per_device_train_batch_size=chosen.batch // world,
        per_device_eval_batch_size=chosen.batch,
        learning_rate=chosen.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        optim="adamw_torch",
        max_grad_norm=1.0,
        max_length=None,  # the rows are cut already, where that is said
        use_cpu=on_cpu,
        bf16=on_cpu or torch.cuda.is_bf16_supported(),
        activation_checkpointing=False,  # small batches of short rows fit anyway, and it costs a third of the speed
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_strategy="epoch",
        report_to="none",  # the run's report is mirrored to MLflow as a whole
        seed=chosen.seed,
        data_seed=chosen.seed,
        disable_tqdm=not console.is_terminal,
        dataloader_pin_memory=not on_cpu,
        ddp_backend="gloo" if world > 1 and on_cpu else None,
        ddp_find_unused_parameters=False if world > 1 else None,
    )
    torch.manual_seed(chosen.seed)
    made: Any = SFTTrainer(
        model=loaded.model,
        args=SFTConfig(**arguments | changes),
        train_dataset=rows(train, chosen.completion_only),
        eval_dataset=rows(validation, completion_only=True),
        processing_class=loaded.tokenizer,
        peft_config=None if chosen.method == "full" else lora,
        callbacks=[_patience(chosen.patience)],
    )
    made.remove_callback(PrinterCallback)  # the history says it better
    if made.args.world_size != world:  # accelerate launch --cpu starts one process whatever it is told
        raise UserError(f"{world} processes were asked for, {made.args.world_size} came: start them with --processes")
    for parameter in made.model.parameters():  # trl makes adapters bf16: small steps are lost then, and a resumed run differs
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if chosen.method != "full" and chosen.targets == "all" and (left := missed(made.model)):
        raise RuntimeError(f"no adapter reaches {left[0]} and {len(left) - 1} more")
    return made


def _patience(patience: int) -> Any:
    """Stops when that many epochs were no better than the best. It counts in the log, which a resumed run has; the counter of
    transformers' own callback begins anew there."""
    from transformers import TrainerCallback

    class Patience(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            control.should_training_stop = stale(state.log_history, patience)

    return Patience()


def stale(log: Sequence[dict[str, float]], patience: int) -> bool:
    """Whether the last `patience` epochs were no better than the best before. Raises UserError when a loss is no number."""
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    if not all(map(math.isfinite, losses)):
        raise UserError("the loss is no longer a number: lower --learning-rate")
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def tune(
    loaded: models.LoadedModel, chosen: Recipe, train: Sequence[Encoded], validation: Sequence[Encoded], folder: Path
) -> Tuned:
    """Tune until the validation loss stops falling; the best epoch's weights stay. Goes on from the checkpoint in `folder`."""
    import torch

    made = trainer(loaded, chosen, train, validation, folder)
    trainable = sum(parameter.numel() for parameter in made.model.parameters() if parameter.requires_grad)
    checkpoint, log = last_checkpoint(folder)
    begun = epochs(log)[-1]["epoch"] if epochs(log) else 0
    start = time.perf_counter()
    try:
        if stale(log, chosen.patience) or begun >= chosen.epochs:  # killed after the last epoch, before the adapter was saved
            made.state = made.state.load_from_json(str(checkpoint / "trainer_state.json"))
            made._load_best_model()
        else:
            made.train(resume_from_checkpoint=str(checkpoint) if log else None)
    except torch.OutOfMemoryError:
        raise UserError("the memory of the device is not enough: lower --batch or --max-length") from None
    seconds = time.perf_counter() - start
    loaded.model = made.model.eval()
    history = epochs(made.state.log_history)
    tokens = round((history[-1]["epoch"] - begun) * sum(len(one.ids) for one in train))
    return Tuned(loaded, Course(history, seconds, tokens, trainable))


def last_checkpoint(folder: Path) -> tuple[Path, list[dict[str, float]]]:
    """The newest whole checkpoint and its log, which is empty when there is none; torn ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        if (path / "trainer_state.json").is_file():  # trl writes it last
            return path, json.loads((path / "trainer_state.json").read_text())["log_history"]
        shutil.rmtree(path)
    return folder, []


def epochs(log: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """trl's log, one entry per epoch."""
    found: dict[float, dict[str, float]] = {}
    for entry in log:
        for theirs, ours in (("loss", "train_loss"), ("eval_loss", "validation_loss")):
            if theirs in entry:
                found.setdefault(entry["epoch"], {"epoch": entry["epoch"], "step": entry["step"]})[ours] = entry[theirs]
    return [entry for entry in found.values() if "validation_loss" in entry and "train_loss" in entry]


def in_processes(
    name: str, device: Device, chosen: Recipe, train: Sequence[Encoded], validation: Sequence[Encoded], folder: Path, processes: int
) -> Tuned:
    """The same by several processes on this machine, which share each batch (torchrun, gloo on a CPU, NCCL on GPUs)."""
    job = {"name": name, "device": device.kind, "recipe": asdict(chosen), "processes": processes}
    job |= {"train": [asdict(one) for one in train], "validation": [asdict(one) for one in validation]}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "job.json", json.dumps(job).encode())
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    torchrun(processes, f"{__package__}.tune_torch", str(folder), environment=threads, doing="tuning")
    loaded = adapter.load(recipe.base(name, device, chosen.method), folder / "adapter")
    return Tuned(loaded, Course(**json.loads((folder / "done.json").read_text())))


def work(folder: Path) -> None:
    """One of several processes."""
    job = json.loads((folder / "job.json").read_text())
    if int(os.environ.get("WORLD_SIZE", "1")) != job["processes"]:
        raise UserError(f"{job['processes']} processes were asked for: start this with torchrun")
    chosen = Recipe(**job["recipe"])
    train, validation = ([Encoded(**one) for one in job[side]] for side in ("train", "validation"))
    tuned = tune(recipe.base(job["name"], pick(job["device"]), chosen.method), chosen, train, validation, folder / "checkpoints")
    if int(os.environ.get("RANK", "0")) == 0:
        tuning.finish(tuned, folder)
    PartialState().destroy_process_group()  # gloo's threads must be gone before the interpreter goes, else it aborts now and then


if __name__ == "__main__":
    work(Path(sys.argv[1]))
