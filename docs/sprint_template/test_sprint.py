"""Tests of the sprint template_name. Parity with a trusted twin first, then invariants, then bad input."""

from importlib import import_module

train = import_module("sprints.NN_template.code.train")


def test_a_seed_repeats():
    assert train.measure(1) == train.measure(1) != train.measure(2)
