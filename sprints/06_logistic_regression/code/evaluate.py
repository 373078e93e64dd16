"""The honest experiments: separable data, known best accuracy, real data against scikit-learn, the step-size bound, calibration.

make logreg-eval                          all five, about two minutes
make logreg-eval ARGS="--only separable"  one of them
make logreg-eval ARGS=--smoke             all five at toy size, seconds
"""

from dataclasses import dataclass

from shared import runlog
from shared.errors import UserError

from . import experiments_real, experiments_synthetic

EXPERIMENTS = {
    "separable": experiments_synthetic.separable,
    "overlap": experiments_synthetic.overlap,
    "step_size": experiments_synthetic.step_size,
    "real_data": experiments_real.parity,
    "calibration": experiments_real.calibration,
}


@dataclass
class Args(runlog.Args):
    """What each experiment repeats, and how often."""

    only: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments to run: separable, overlap, step_size, real_data, calibration."""
    seeds: int = 20
    """Seeds of the synthetic experiments."""
    steps: int = 100_000
    """Gradient steps on separable data."""
    datasets: tuple[str, ...] = ("breast_cancer", "digits")
    """Real data sets: breast_cancer, digits (ship with scikit-learn), mnist (downloaded, or in $SPRINTS_DATA)."""
    repeats: int = 5
    """Repeats of the 5-fold cross-validation."""


def main(args: Args) -> dict:
    unknown = set(args.only) - set(EXPERIMENTS)
    if unknown:
        raise UserError(f"--only: there is no experiment {', '.join(sorted(unknown))}; there is: {', '.join(EXPERIMENTS)}")
    if args.smoke:
        args.seeds, args.steps, args.repeats, args.datasets = 2, 200, 2, ("breast_cancer",)
    return {name: EXPERIMENTS[name](args) for name in args.only}


if __name__ == "__main__":
    runlog.launch(main, Args)
