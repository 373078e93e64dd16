"""Candidates for the net: what they are, and that nothing can be chosen on the published folds."""

from importlib import import_module

import pytest

from shared.errors import UserError

SPRINT = "sprints.03_titanic_torch_voyage.code"
cross_validation = import_module(f"{SPRINT}.cross_validation")
choose = import_module(f"{SPRINT}.choose")
train = import_module(f"{SPRINT}.train")


@pytest.mark.parametrize("seed", [42, 1001, 1002])
def test_published_folds_choose_nothing(seed, tmp_path):
    with pytest.raises(UserError, match=f"{seed} make published folds"):
        choose.main(choose.Args(seeds=(7, seed), out=tmp_path))
    assert set(choose.FORBIDDEN) == {42, *train.FRESH}


def test_wrong_candidates_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no nonsense; there is: net"):
        choose.main(choose.Args(models=("nonsense",), out=tmp_path))
    with pytest.raises(UserError, match="no nowhere"):
        choose.main(choose.Args(only=("nowhere",), out=tmp_path))
    with pytest.raises(UserError, match="one seed at least"):
        choose.main(choose.Args(seeds=(), out=tmp_path))


def test_candidates_are_scored_on_development_folds(tmp_path):
    report = choose.main(choose.Args(smoke=True, mlflow=False, out=tmp_path))["embedded"]
    assert report["seeds"] == [7, 8, 9, 10, 11] and "net_accuracy_embedded" not in report["metrics"]
    for name in choose.TOYS:
        assert f"{name}_log_loss_choice_embedded" in report["metrics"]
    assert any(entry["key"] == "log_loss_tabm_and_gp_minus_net" for entry in report["comparisons"])


def test_every_candidate_can_be_made():
    assert set(choose.CANDIDATES) <= {*cross_validation.nets(), *cross_validation.BLENDS}
