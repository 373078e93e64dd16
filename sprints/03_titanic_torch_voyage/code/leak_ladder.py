"""How much each leak would give, in accuracy that is not there."""

import numpy as np
from scipy.stats import loguniform, randint
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterSampler, RandomizedSearchCV, StratifiedKFold

from shared import runlog
from shared.data import DataError
from shared.processes import spread

from . import figures, leaks, protocol
from .baselines import baseline
from .cross_validation import TOY, passengers_of
from .features import Level
from .protocol import Result, Split, evaluate
from .titanic3 import boats
from .titanic_model import EntityNet

CLASSIFIERS = {
    "logistic regression": LogisticRegression(C=0.1, max_iter=2000),
    "extra trees": ExtraTreesClassifier(100, min_samples_leaf=3, random_state=0, n_jobs=1),
}
SHORT = {
    "own label in a group rate over all rows": "own_label_all_rows",
    "group rate of the others over all rows": "others_all_rows",
    "own label kept in the training feature": "own_label_in_training",
    "group sizes over all rows, no labels": "sizes_all_rows",
    "medians, sizes and scalers over all rows, no labels": "scalers_all_rows",
}  # leaks.PLANTED -> metric keys
TRIALS = 8
HONEST: dict[str, Level] = {"honest, no companions' fate": "engineered", "honest": "groups"}
SPACE = {"learning_rate": loguniform(0.02, 0.15), "max_iter": randint(40, 250), "max_leaf_nodes": randint(3, 16)}


def leak_ladder(args) -> dict:
    passengers = passengers_of("embedded", args.smoke)
    y = passengers.y
    with runlog.Run(
        args,
        __file__,
        "leaks",
        title="The leak ladder: fake accuracy, leak by leak",
        objective="How much accuracy does each common leak invent?",
        setup={
            "Model": "logistic regression and extra trees; a net for early stopping; boosting for the choice of settings",
            "Data": f"{len(y)} passengers without tickets, two repeats of five folds",
            "Optimisation": "as in the baselines",
        },
        seeds=[protocol.SEED],
    ) as run:
        protocol.record_data(run, "embedded", passengers)
        processes = 1 if args.smoke else args.jobs
        jobs = {(what, name): (what, name, args.smoke) for name in CLASSIFIERS for what in (*HONEST, *leaks.PLANTED)}
        found = dict(run.track(spread(climb, jobs, processes), "leaks", total=len(jobs)))
        rungs: dict[str, dict[str, figures.Span]] = {}
        for what, name in jobs:
            slug, result = name.replace(" ", "_"), found[what, name]
            if what in HONEST:
                key, told = ("honest", "companions' fate fitted in the fold")
                if HONEST[what] == "engineered":
                    key, told = ("honest_no_fate", "no label in any feature")
            else:
                key, told = SHORT[what], f"leak: {what}"
            protocol.record(run, f"{key}_{slug}", f"{name}, {told}", result, "leaks")
            mean, low, high = result.span("accuracy")
            rungs.setdefault(what, {})[name] = mean, low, min(high, 1.0)  # to be drawn: what is recorded is t's interval, whole
        ratio = next(iter(found.values())).test_over_train
        peek(run, ratio, args.smoke, processes)
        choose(run, ratio, args.smoke, processes)
        top, highest = max((span[0], f"{what}, {name}") for what, rung in rungs.items() for name, span in rung.items())
        honest = max(rungs["honest"][name][0] for name in CLASSIFIERS)
        run.observe(f"The highest rung is '{highest}' with {top:.1%}; the honest models reach {honest:.1%}.")
        boat(run)
        gain = 100 * (top - honest)
        run.conclude(f"The largest invention is '{highest}', {gain:.1f} points above the best honest model here ({honest:.1%}).")
        with runlog.style() as plt:
            run.figure(
                figures.ranked(plt, rungs, "accuracy", "Leak ladder", honest),
                "leak_ladder",
                shows="Accuracy with each leak, 95 % intervals; the dashed line is the best honest model here.",
                matters="Far to the right of the line accuracy is invented. The honest models see all features of fate, "
                "a planted rate is one column: small leaks hide in that difference, and only the tests find them.",
            )
    return run.report


def splits_of(y: np.ndarray, toy: bool) -> list[Split]:
    """Two repeats of the published folds."""
    return protocol.folds(y, splits=2 if toy else 5, repeats=1 if toy else 2)


def climb(what: str, name: str, toy: bool) -> Result:
    """One rung: a classifier, honest or with a leak, on all folds."""
    X, y = passengers_of("embedded", toy)
    if what in HONEST:
        recipe = leaks.honest(baseline(name.replace(" ", "_"), HONEST[what]).set_params(model=CLASSIFIERS[name]))
    else:
        recipe = leaks.PLANTED[what](CLASSIFIERS[name])
    table, model = recipe(X, y)
    return evaluate(model, table, y, splits_of(y, toy))


def boat(run: runlog.Run) -> None:
    """What `boat` would give: the rule that whoever has a boat lived, where titanic3 is at hand."""
    try:
        has, y = boats()
    except DataError:
        run.observe("The column boat (titanic3), written down after the sinking: not run here, titanic3 is not at hand.")
        return
    right = np.sort(has == y)  # sorted: row by row it would spell out the labels
    run.metric(
        "boat_rule_accuracy_leaks", right, higher_is_better=True, meaning="titanic3: whoever has a boat lived, all others died"
    )
    run.observe(
        f"The column boat alone is right for {right.mean():.1%} of titanic3: written down after the sinking, the schema refuses it."
    )


def peek(run: runlog.Run, ratio: float, toy: bool, processes: int) -> None:
    """Early stopping on the fold that is scored: the best look at it against the last one."""
    count = len(splits_of(passengers_of("embedded", toy).y, toy))
    jobs = {fold: (fold, toy) for fold in range(count)}
    found = dict(run.track(spread(looks, jobs, processes), "early stopping on the scored fold", total=count))
    best, last = ([what(found[fold]) for fold in range(count)] for what in (max, lambda right: right[-1]))
    for key, right, what in (
        ("early_stop_on_test", best, "the best of its looks at the scored fold"),
        ("last_step", last, "its last step"),
    ):
        ends = protocol.interval(np.array(right), ratio)
        run.metric(f"{key}_accuracy_leaks", right, interval=ends, higher_is_better=True, meaning=f"one net, {what}")
    run.compare("early_stopping_on_the_scored_fold", best, last, names=("best look", "last step"), test_over_train=ratio)
    run.observe(f"Stopping on the scored fold adds {100 * (np.mean(best) - np.mean(last)):.1f} points to one net.")


@protocol.one_thread()
def looks(fold: int, toy: bool) -> list[float]:
    """Accuracy of one net on the scored fold, every few steps."""
    X, y = passengers_of("embedded", toy)
    train, test = splits_of(y, toy)[fold]
    net = EntityNet("groups", shared=False, **(TOY if toy else {"members": 1, "steps": 200}))
    return [float(np.mean((p > 0.5) == y[test])) for p in net.curve(X.iloc[train], y[train], X.iloc[test]).values()]


def choose(run: runlog.Run, ratio: float, toy: bool, processes: int) -> None:
    """Settings chosen on the folds that are scored, against the same draws chosen on inner folds of each training fold."""
    trials = 2 if toy else TRIALS
    draws = list(ParameterSampler(SPACE, trials, random_state=0))
    jobs = {None: (None, trials, toy)} | {i: (draws[i], trials, toy) for i in range(trials)}
    found = dict(run.track(spread(drawn, jobs, processes), "settings chosen on the scored folds", total=len(jobs)))
    nested, best = found[None], max((found[i] for i in range(trials)), key=np.mean)
    for key, right, what in (
        ("best_of_trials", best, "the best on the scored folds"),
        ("nested_choice", nested, "chosen on inner folds"),
    ):
        ends, meaning = protocol.interval(right, ratio), f"boosting, {trials} settings drawn, {what}"
        run.metric(f"{key}_accuracy_leaks", right, interval=ends, higher_is_better=True, meaning=meaning)
    gain = 100 * (best.mean() - nested.mean())
    run.observe(f"The best of {trials} settings, chosen where it is scored, looks {gain:+.1f} points better than chosen inside.")


def drawn(settings: dict | None, trials: int, toy: bool) -> np.ndarray:
    """Accuracy of boosting on the first five folds with one draw of settings; None: with a search inside each training fold."""
    X, y = passengers_of("embedded", toy)
    if settings is not None:
        return evaluate(baseline("hist_gradient_boosting", "groups", **settings), X, y, splits_of(y, toy)[:5]).scores["accuracy"]
    blind = RandomizedSearchCV(
        baseline("hist_gradient_boosting", "groups"),
        {f"model__{name}": values for name, values in SPACE.items()},
        n_iter=trials,
        scoring="accuracy",
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        random_state=0,
    )
    return evaluate(blind, X, y, splits_of(y, toy)[:5]).scores["accuracy"]
