"""Sprint 04: the original's protocol with its leak, its rule and its p value; ablations change one thing at one budget."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

CODE = "sprints.04_engram.code"
ablations = import_module(f"{CODE}.study.ablations")
capacity = import_module(f"{CODE}.study.capacity")
evaluate = import_module(f"{CODE}.evaluate")
memory = import_module(f"{CODE}.engram.memory")
original = import_module(f"{CODE}.study.original")
patterns = import_module(f"{CODE}.patterns")
regimes = import_module(f"{CODE}.study.regimes")
training = import_module(f"{CODE}.teaching.training")


def row(pattern, prompt, completion=" x"):
    return patterns.Row(pattern, "original", prompt, completion)


def test_leak_counts_prompts_and_wordings():
    train, valid = [row("a", "A"), row("b", "Tell me: B")], [row("c", "C")]
    test = [row("a", "A"), row("b", "B"), row("c", "C"), row("d", "D")]
    assert regimes.leak(train, valid, test) == {"in_train": 0.25, "in_train_or_valid": 0.5, "wording_in_train": 0.5}


@pytest.mark.parametrize("seed", [42, 43])
def test_the_original_tests_on_what_it_trains(seed):
    split = patterns.original_rows(patterns.load(), seed)
    found = regimes.leak(*split)
    assert [len(part) for part in split] == [269, 68, 104]
    assert found["in_train_or_valid"] == 1 and found["in_train"] > 0.6


def test_the_original_counts_a_right_beginning():
    asked = [row("a", "A", " 80"), row("b", "B", " 80"), row("c", "C", " 80")]
    assert regimes.begins(asked, ["8080", "80", "08"]) == [True, True, False]


def test_the_gain_of_the_original_is_within_chance():
    before, after = np.zeros(104, bool), np.zeros(104, bool)
    before[:9], after[:12] = True, True
    assert original.p_of(before.tolist(), after.tolist()) == pytest.approx(0.25)


def test_settings_of_the_original():
    ours, theirs = original.settings(training.Recipe("lora", 1e-2, steps=300)).values()
    assert (ours[0].steps, ours[1]) == (300, False)
    assert (theirs[0].steps, theirs[0].batch, theirs[0].rank, theirs[1]) == (100, 4, 8, True)


def test_original_at_toy_size(tmp_path):
    args = evaluate.Args(smoke=True, quick=True, out=tmp_path, jobs=1)
    report = original.run(args, training.Recipe("lora", 1e-2, steps=2, batch=2))
    keys = {"original_protocol_accuracy_base", "original_protocol_accuracy_tuned", "original_leak_in_train"}
    assert keys < set(report["metrics"]) and len(report["claims"]) == 3
    assert report["metrics"]["original_consistency"]["values"] == [1]


def test_every_variant_changes_one_thing_within_the_budget():
    default, budget = memory.EngramConfig(), capacity.unit()
    assert ablations.VARIANTS[0].changes == {} and ", ".join(map(str, default.orders)) in ablations.VARIANTS[0].says
    for variant in ablations.VARIANTS:
        changed = replace(default, **variant.changes)
        assert len(variant.changes) == (changed != default), variant.key
        assert 0.97 * budget <= memory.within_budget(changed, 256, budget).parameters(256) <= budget, variant.key


def test_ablations_at_toy_size(tmp_path):
    args = evaluate.Args(smoke=True, out=tmp_path, seeds=(0, 1), jobs=1)
    report = ablations.run(args, training.Recipe("engram", 1e-2, steps=2, batch=2))
    metrics = report["metrics"]
    assert {"ablation_recall_default", "ablation_equal_no_guard", "ablation_perplexity_convolution"} < set(metrics)
    assert metrics["ablation_equal_no_guard"]["mean"] < metrics["ablation_equal_default"]["mean"]
    assert len(report["comparisons"]) == 2 and "guard" in report["conclusion"]
