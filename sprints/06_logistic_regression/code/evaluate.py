"""The honest experiments: separable data, known best accuracy, real data against scikit-learn, the step-size bound, calibration.

$ make logreg-eval                          all five, about two minutes
$ make logreg-eval ARGS="--only separable"  one of them
$ make logreg-eval ARGS=--smoke             all five at toy size, seconds
"""

from dataclasses import dataclass

from shared import runlog
from shared.errors import UserError

from . import experiments_real as real
from . import experiments_synthetic as synthetic
from .problems import REAL


@dataclass
class Args(runlog.Args):
    """What each experiment repeats, and how often."""

    only: tuple[str, ...] = ()
    """Which experiments to run: separable, overlap, step_size, real_data, calibration (all when not given)."""
    seeds: int = 20
    """Seeds of the synthetic experiments (a third of it for separable, five times for overlap)."""
    steps: int = 100_000
    """Gradient steps on separable data."""
    repeats: int = 5
    """Repeats of the 5-fold cross-validation."""


EXPERIMENTS = {
    "separable": lambda args: synthetic.separable(args, range(max(2, args.seeds // 3)), args.steps),
    "overlap": lambda args: synthetic.overlap(args, range(5 * args.seeds)),
    "step_size": lambda args: synthetic.step_size(args, range(args.seeds)),
    "real_data": lambda args: real.parity(args, ("breast_cancer",) if args.smoke else REAL, args.repeats),
    "calibration": lambda args: real.calibration(args, args.repeats),
}


def main(args: Args) -> dict:
    runlog.check_only(args.only, EXPERIMENTS)
    if min(args.seeds, args.repeats) < 2 or args.steps < 100:
        raise UserError("--seeds and --repeats must be at least 2, --steps at least 100")
    if args.smoke:
        args.seeds, args.steps, args.repeats = 2, 200, 2
    return {name: EXPERIMENTS[name](args) for name in args.only or EXPERIMENTS}


if __name__ == "__main__":
    runlog.launch(main, Args)
