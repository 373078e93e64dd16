"""One sentence: what this program trains and measures.

$ make template_name-train                  seconds
$ make template_name-train ARGS=--smoke     toy size
"""

from dataclasses import dataclass

import numpy as np

from shared import runlog


@dataclass
class Args(runlog.Args):
    """The defaults ARE the published run."""

    seeds: int = 5
    """How often the experiment is repeated."""


def main(args: Args) -> dict:
    if args.smoke:
        args.seeds = 2
    with runlog.Run(
        args,
        __file__,
        "first",
        title="Template_name: the first experiment",
        objective="What is tested or validated, in one sentence?",
        setup={"Model": "what is trained", "Data": "what it sees", "Optimisation": "how it is fitted"},
        seeds=range(args.seeds),
    ) as run:
        rows = [measure(seed) for seed in run.track(range(args.seeds), "seeds")]
        method, baseline = (np.array([row[key] for row in rows]) for key in ("method", "baseline"))
        run.metric("template_name_score", method, higher_is_better=True, meaning="score of the method")
        run.metric("template_name_baseline", baseline, higher_is_better=True, meaning="score of the trivial rule")
        run.compare("method_minus_baseline", method, baseline, names=("method", "trivial rule"))
        run.observe(f"The method is {np.mean(method - baseline):.3f} above the trivial rule on average.")
        run.conclude("The takeaway, in one sentence.")
        with runlog.style() as plt:
            figure, axes = plt.subplots()
            axes.bar(["trivial rule", "method"], [baseline.mean(), method.mean()])
            axes.set(ylabel="score", title="The method against the trivial rule")
            run.figure(
                figure, "scores", shows="Mean score of the trivial rule and of the method.", matters="Why a reader should care."
            )
    return run.report


def measure(seed: int) -> dict[str, float]:
    """One repetition: replace this by the real experiment."""
    rng = np.random.default_rng(seed)
    return {"method": 0.7 + 0.02 * rng.standard_normal(), "baseline": 0.6 + 0.02 * rng.standard_normal()}


if __name__ == "__main__":
    runlog.launch(main, Args)
