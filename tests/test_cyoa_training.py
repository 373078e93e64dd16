"""Sprint 05: tokens and losses, early stopping, a killed run that ends the same, model folders, the search."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import optuna
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from shared import models, sprints
from shared.device import pick
from shared.errors import UserError

CODE = "sprints.05_cyoa.code"
encoding, evaluate, scenarios, storytext, sweep, train, tuning = (
    import_module(f"{CODE}.{name}") for name in ("encoding", "evaluate", "scenarios", "storytext", "sweep", "train", "tuning")
)
SMALL = tuning.Recipe(learning_rate=1e-3, rank=4, epochs=3, batch=4)


@pytest.fixture(scope="module")
def pocket():
    return models.load("pocket", "cpu", "none")


@pytest.fixture(scope="module")
def examples():
    return [
        storytext.Example("s", str(n), [{"role": "user", "content": f"Room {n}."}], f"You wait {n}.\n\n> Go on") for n in range(12)
    ]


@pytest.fixture(scope="module")
def tiny(pocket, tmp_path_factory):
    """A folder with a model of random weights and the tokenizer of pocket: the same code in a fraction of the time."""
    torch.manual_seed(0)
    changes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "dtype": "float32"}
    config = LlamaConfig.from_dict(pocket.model.config.to_dict() | changes | {"num_key_value_heads": 2, "head_dim": 32})
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    pocket.tokenizer.save_pretrained(folder)
    return str(folder)


def fresh(name):
    return models.load(name, "cpu", "none")


def rows(loaded, examples):
    found = encoding.encode(loaded, examples)
    return found[:8], found[8:]


def test_a_row_ends_with_the_end_sign_and_begins_its_answer_where_the_prompt_ends(pocket):
    every = scenarios.load()[:2]
    for example in storytext.training_examples(every, train.counter(pocket.tokenizer))[::9]:
        (row,) = encoding.encode(pocket, [example])
        assert pocket.tokenizer.decode(row.ids[row.start :]) == f"{example.response}<|end|>"
        assert row.ids[-1] in pocket.stop_ids and len(row.ids) <= pocket.context


def test_nats_are_those_of_one_row_at_a_time(pocket, examples):
    found = encoding.encode(pocket, [*examples[:3], replace(examples[3], response="A longer answer. " * 6)])
    together = encoding.nats(pocket, found)
    for row, nats in zip(found, together, strict=True):
        with torch.no_grad():
            chances = pocket.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        slow = -sum(float(chances[place - 1, row.ids[place]]) for place in range(row.start, len(row.ids)))
        assert nats == pytest.approx(slow, rel=1e-4)
    bits = encoding.bits_per_byte(pocket, examples[:3])
    size = sum(len(example.response.encode()) for example in examples[:3])
    assert bits == {"s": pytest.approx(sum(together[:3]) / math.log(2) / size, rel=1e-4)}


def test_what_cannot_be_trained_is_said_in_one_line(pocket, examples):
    with pytest.raises(UserError, match="no examples"):
        encoding.encode(pocket, [])
    with pytest.raises(UserError, match="takes 512"):
        encoding.encode(pocket, [replace(examples[0], response="word " * 600)])
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"seed": -1}):
        with pytest.raises(UserError):
            replace(SMALL, **wrong)
    with pytest.raises(UserError, match="no longer a number"):
        tuning.stale([{"eval_loss": math.nan}], 2)
    with pytest.raises(UserError, match="cannot be used"):
        sweep.study(sweep.Args(storage="sqlite:////no/such/folder/x.db"), train.registry.RUNS, "v")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_stops_when_the_validation_loss_worsens_and_keeps_the_best(tiny, examples, tmp_path, method):
    """The validation answers contradict the training answers: learning the one unlearns the other."""
    loaded = fresh(tiny)
    contrary = [replace(example, response="Nobody waits there, ever, not even once.") for example in examples]
    learned, held = encoding.encode(loaded, examples[:8]), encoding.encode(loaded, contrary[:8])
    recipe = replace(SMALL, method=method, epochs=20, learning_rate=1e-2 if method == "full" else 5e-2)
    course = tuning.tune(loaded, recipe, learned, held, tmp_path / "run")
    losses = [entry["validation_loss"] for entry in course.history]
    assert len(losses) == losses.index(min(losses)) + 1 + recipe.patience < 20
    assert course.history[-1]["train_loss"] < course.history[0]["train_loss"]
    assert sum(encoding.nats(loaded, held)) / sum(len(r.ids) - r.start for r in held) == pytest.approx(min(losses), abs=0.1)
    tuning.save(loaded, tiny, pick("cpu"), tmp_path / "run" / "model")
    saved = models.load(str(tmp_path / "run" / "model"), "cpu", "none")
    assert sum(encoding.nats(saved, held)) == pytest.approx(sum(encoding.nats(loaded, held)), rel=0.01)
    stored = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16} and set(stored) == set(
        load_file(Path(tiny, "model.safetensors"))
    )
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file() == (method == "lora")


def test_a_run_killed_with_signal_9_ends_with_the_same_weights(tiny, examples, tmp_path):
    whole = fresh(tiny)
    course = tuning.tune(whole, SMALL, *rows(whole, examples), tmp_path / "whole")
    script = (
        f"import sys, json; from importlib import import_module as i; t, e, s = (i('{CODE}.' + n) for n in ('tuning', 'encoding', 'storytext'))\n"
        "from pathlib import Path; from shared import models; loaded = models.load(sys.argv[4], 'cpu', 'none')\n"
        "rows = e.encode(loaded, [s.Example(**one) for one in json.loads(sys.argv[1])])\n"
        "t.tune(loaded, t.Recipe(**json.loads(sys.argv[2])), rows[:8], rows[8:], Path(sys.argv[3]))\n"
    )
    given = [json.dumps([vars(example) for example in examples]), json.dumps(vars(SMALL)), str(tmp_path / "killed"), tiny]
    process = subprocess.Popen([sys.executable, "-c", script, *given], cwd=sprints.ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "checkpoints" / "checkpoint-2" / "trainer_state.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    torn = tmp_path / "killed" / "checkpoints" / "checkpoint-99"  # and while a checkpoint was written
    torn.mkdir()
    for _ in range(2):  # the second time only the end is missing
        resumed = fresh(tiny)
        again = tuning.tune(resumed, SMALL, *rows(resumed, examples), tmp_path / "killed")
        timeless = [[{key: value for key, value in e.items() if key != "seconds"} for e in c.history] for c in (course, again)]
        assert timeless[0] == timeless[1] and not torn.exists()
        seconds = [entry["seconds"] for entry in again.history]
        assert seconds == sorted(seconds) and seconds[0] > 0
        state = whole.model.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())


def test_other_rows_start_anew(tiny, examples, tmp_path):
    loaded = fresh(tiny)
    train_rows, held = rows(loaded, examples)
    once = replace(SMALL, epochs=1)
    tuning.tune(loaded, once, train_rows, held, tmp_path)
    assert tuning.tune(fresh(tiny), once, train_rows[:4], held, tmp_path).history[-1]["step"] == 1
    homes = {tuning.home(tmp_path, "pocket", recipe, version) for recipe in (once, SMALL) for version in ("a", "b")}
    assert len(homes) == 4


def test_the_examples_of_a_split_hold_no_scenario_of_another(pocket):
    data = train.examples(pocket.tokenizer, smoke=True)
    ids = [{example.scenario for example in part} for part in (data.train, data.validation, data.test)]
    assert all(len(part) >= 2 for part in ids) and len(set.union(*ids)) == sum(map(len, ids))


def test_a_trial_that_is_worse_than_the_others_stops_after_an_epoch(tiny, examples, tmp_path):
    search = sweep.study(sweep.Args(), tmp_path, "v")
    for _ in range(4):
        search.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values={1: 0.0}))
    loaded, watch = fresh(tiny), sweep.pruning(search.ask())
    course = tuning.tune(loaded, SMALL, *rows(loaded, examples), tmp_path / "trial", [watch])
    assert watch.pruned and len(course.history) == 1


def searching(args, folder, start):
    found = sweep.study(args, folder, "v")
    start.wait(60)

    def loss(trial):
        time.sleep(0.1)
        return sweep.suggest(trial, 1, 0).learning_rate

    found.optimize(loss, n_trials=6, callbacks=[optuna.study.MaxTrialsCallback(6)])


def test_two_processes_of_a_search_share_its_trials(tmp_path):
    args = sweep.Args(storage=f"sqlite:///{tmp_path / 'shared.db'}")
    assert sweep.study(args, tmp_path, "v").trials == []
    forked = multiprocessing.get_context("fork")  # the libraries are there already
    start = forked.Barrier(2)
    both = [forked.Process(target=searching, args=(args, tmp_path, start)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
        assert process.exitcode == 0
    trials = sweep.study(args, tmp_path, "v").trials
    assert 6 <= len(trials) <= 7 and {trial.state for trial in trials} == {optuna.trial.TrialState.COMPLETE}
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert len({trial.value for trial in trials}) == len(trials), "each draws its own"
    assert sweep.study(args, tmp_path, "w").trials == []  # other data, another search


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:secret@host/db", "postgresql://host/db?password=secret"])
def test_a_password_in_a_url_is_refused_before_a_report_names_it(url, tmp_path):
    with pytest.raises(UserError, match="--storage: leave the password out"):
        sweep.main(sweep.Args(storage=url, smoke=True, out=tmp_path))
    with pytest.raises(UserError, match="--judge-url: leave the password out"):
        evaluate.main(evaluate.Args(judge_url=url, smoke=True, out=tmp_path))
    assert list(tmp_path.iterdir()) == []
