"""The timing of sprint 06: settings with which nothing can be timed are refused in one line, before the work where that is possible."""

from importlib import import_module

import pytest

from shared.errors import UserError

bench = import_module("sprints.06_logistic_regression.code.bench")
problems = import_module("sprints.06_logistic_regression.code.problems")


@pytest.mark.parametrize(
    ("name", "sizes"), [("1000000x32", (1_000_000, 32, 1)), ("300x4@100", (300, 4, 100)), ("20x1", (20, 1, 1))]
)
def test_a_problem_is_named_by_its_sizes(name, sizes):
    assert problems.parse(name) == sizes


@pytest.mark.parametrize(
    "name", ["abc", "", "300", "300x", "x4", "300x4x2", "300x4@", "300x4@0.5", "300x4@0", "300x0", "19x4", "-300x4"]
)
def test_what_names_no_problem_is_refused(name):
    with pytest.raises(UserError, match="rows x columns"):
        problems.parse(name)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"problems": ("abc",)}, "'abc' is not"),
        ({"problems": ()}, "--problems"),
        ({"problems": ("300x4", "300x4")}, "only once"),
        ({"repeats": 0}, "--repeats"),
        ({"threads": 0}, "--threads"),
        ({"tol": 0.0}, "--tol"),
        ({"tol": float("nan")}, "--tol"),
        ({"l2": 0.0}, "--l2"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_run_begins(tmp_path, setting, word):
    with pytest.raises(UserError, match=word):
        bench.main(bench.Args(out=tmp_path, mlflow=False, **setting))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:solver 'auto' did not converge")
def test_a_tolerance_that_no_solver_reaches_is_refused_and_one_it_reaches_is_not(tmp_path):
    def run(tol: float) -> dict:
        return bench.main(bench.Args(problems=("300x4",), repeats=2, tol=tol, out=tmp_path, mlflow=False))

    with pytest.raises(UserError, match=r"--tol 1e-30 is below .* take at least \d\.\de-\d\d"):
        run(1e-30)
    assert run(1e-8)["metrics"]["time_ratio_vs_sklearn"]["n"] == 2
