"""What the evaluation found, as metrics and figures: losses, texts, and what readers say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared import models, runlog, stats

from . import judges, measures, ratings, scores, vote

DATA = Path(__file__).resolve().parents[1] / "data"
LABELS = {"cat": "cat_meme_accuracy", "angst": "angst_quotient"}  # the names of the original's criteria
NAMES = {"base": "the base", "fewshot": "the base with examples in the prompt", "tuned": "the tuned model"}


def signed(run: runlog.Run, key: str, *terms: measures.Term, **meaning: Any) -> None:
    """Record a sum of signed losses per token, a value per seed, with its bootstrap interval."""
    seeds = zip(*(seeds for _, seeds in terms), strict=True)
    values = [sum(sign * measures.per_token(rows) for (sign, _), rows in zip(terms, one, strict=True)) for one in seeds]
    run.metric(key, values, unit="nats", interval=measures.interval(*terms), **meaning)


def losses(run: runlog.Run, found: Mapping[str, Any], control: Sequence[np.ndarray], given: Any, vocabulary: int) -> None:
    """Loss per token on the held-out rows, on their words in random order, and on unrelated text; `control`: of the held-out rows,
    by models tuned on words in random order; `vocabulary` tokens of the base."""
    lower: dict[str, Any] = {"higher_is_better": False}
    for name, system in found.items():
        for kind, what in (("heldout", "held-out snippets"), ("shuffled", "the same snippets, their words in random order")):
            meaning = f"per token of {what}, {NAMES[name]}; interval over rows and seeds"
            signed(run, f"{kind}_loss_{name}", (1, getattr(system, kind)), **lower, meaning=meaning)
        of_rows = measures.interval((1, system.heldout))
        perplexity, bounds = np.exp([measures.per_token(one) for one in system.heldout]), (np.exp(of_rows[0]), np.exp(of_rows[1]))
        meaning = f"perplexity of held-out snippets, {NAMES[name]}"
        run.metric(f"heldout_perplexity_{name}", perplexity, **lower, meaning=meaning, interval=bounds)
    for part, what in (("form", "form"), ("theme", "theme"), ("both", "form and theme both")):
        places = [at for at, row in enumerate(given.test) if row.unseen == part]
        if not places:  # at smoke size
            continue
        rows = {name: [one[places] for one in system.heldout] for name, system in found.items()}
        for name in rows:
            meaning = f"the same for the {len(places)} snippets whose {what} never trains, {NAMES[name]}"
            signed(run, f"heldout_loss_{name}_{part}", (1, rows[name]), **lower, meaning=meaning)
        for other in ("base", "fewshot"):
            meaning = f"the tuned model minus {NAMES[other]}, on those {len(places)} snippets, paired"
            signed(run, f"tuned_minus_{other}_{part}", (1, rows["tuned"]), (-1, rows[other]), **lower, meaning=meaning)
    base, tuned = found["base"], found["tuned"]
    for other in ("base", "fewshot"):
        meaning = f"the tuned model minus {NAMES[other]}, on all held-out snippets, paired"
        signed(run, f"tuned_minus_{other}", (1, tuned.heldout), (-1, found[other].heldout), **lower, meaning=meaning)
    meaning = (
        "per token of held-out snippets, tuned on training rows with their words in random order; interval over rows and seeds"
    )
    signed(run, "heldout_loss_control", (1, control), **lower, meaning=meaning)
    meaning = "the loss of that control minus that of the tuned model, the same seeds; interval over rows and seeds"
    signed(run, "gain_beyond_vocabulary", (1, control), (-1, tuned.heldout[: len(control)]), higher_is_better=True, meaning=meaning)
    terms = (1, base.heldout), (-1, tuned.heldout), (-1, base.shuffled), (1, tuned.shuffled)
    meaning = "what tuning gains on held-out snippets beyond what it gains on the same snippets with their words in random order"
    signed(run, "gain_beyond_shuffled_texts", *terms, higher_is_better=True, meaning=meaning)
    uniform = np.log(vocabulary)
    if (worst := run.report["metrics"]["shuffled_loss_base"]["mean"]) > uniform:
        run.observe(
            f"Word salad costs the base {worst:.1f} nats per token, a uniform guess {uniform:.1f}: it is too sure of itself. Any "
            "tuning mends that, most where it is most wrong, so the gain on word salad says little of vocabulary; the control does."
        )
    before, after = (np.exp([measures.per_token(one) for one in system.unrelated]) for system in (base, tuned))
    meaning = f"perplexity on {len(given.unrelated)} texts without a cat and without dread, tuned / base"
    run.metric("forgetting", after / before, unit="x", **lower, meaning=meaning)
    _loss_figure(run, uniform)


def _loss_figure(run: runlog.Run, uniform: float) -> None:
    metrics = run.report["metrics"]
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 3))
        kinds = (("heldout", "held-out snippets", "C0"), ("shuffled", "their words in random order", "0.6"))
        for shift, (kind, label, color) in enumerate(kinds):
            for place, name in enumerate(NAMES):
                one, height = metrics[f"{kind}_loss_{name}"], place + 0.16 * (2 * shift - 1)
                axes.plot(one["ci95"], [height, height], color=color)
                axes.plot(one["mean"], height, "o", color=color, label=label if place == 0 else None)
        control = metrics["heldout_loss_control"]
        axes.plot(control["ci95"], [len(NAMES) - 0.16] * 2, color="C0")
        axes.plot(control["mean"], len(NAMES) - 0.16, "o", color="C0")
        axes.axvline(uniform, color="0.4", linestyle=":", linewidth=1)
        axes.annotate(" a uniform guess", (uniform, len(NAMES) + 0.4), fontsize=9, color="0.4")
        axes.set_yticks(range(len(NAMES) + 1), ["base", "few-shot", "tuned", "tuned on shuffled\nwords (control)"])
        axes.set(
            xlabel="nats per token, 95 % interval", ylim=(len(NAMES) + 0.5, -0.5), title="Loss on forms and themes that never train"
        )
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)
        run.figure(
            figure,
            "losses",
            shows="Loss per token on held-out snippets, and on the same words in random order.",
            matters="The control learned words, length and end; what the tuned one has over it is the order of words, at most. It "
            "has no grey point: it is there for that difference, and was asked for the snippets alone.",
        )


def texts(run: runlog.Run, found: Mapping[str, Any], given: Any) -> None:
    """What the texts of the systems are like; the held-out snippets themselves are the ceiling."""
    corpus = [row.completion for row in given.train]
    grams, critics = scores.corpus_grams(corpus), {key: judges.Judge.train(key) for key in judges.KEYS}
    written = {name: system.written for name, system in found.items()}
    up: dict[str, Any] = {"unit": "fraction", "higher_is_better": True}
    alike: dict[str, Any] = {"unit": "fraction", "higher_is_better": False}
    for name, seeds in written.items():
        who = f"texts of {NAMES[name]} on held-out prompts"
        ended = np.array([one.ended for seed in seeds for one in seed])
        run.metric(f"termination_rate_{name}", ended, **up, meaning=f"{who} that end by themselves, taken as independent")
        plain = [[one.text for one in seed] for seed in seeds]
        clean = np.array([scores.clean_form(text) for seed in plain for text in seed])
        run.metric(f"clean_form_{name}", clean, **up, meaning=f"{who} that break none of {len(scores.RULES)} rules of form")
        for key, critic in critics.items():
            values = [critic.score(seed).mean() for seed in plain]
            run.metric(f"{LABELS[key]}_{name}", values, **up, meaning=f"mean probability of the {key} judge for {who}")
        run.metric(f"distinct_2_{name}", [scores.distinct_n(s, 2) for s in plain], **up, meaning=f"different word pairs in {who}")
        run.metric(f"self_bleu_{name}", [scores.self_bleu(s) for s in plain], **alike, meaning=f"likeness among {who}")
    held_out = [row.completion for row in given.test]
    for key, critic in critics.items():
        for label, rows, what in (
            ("written", held_out, "held-out snippets themselves"),
            ("neither", given.unrelated, "unrelated texts"),
        ):
            meaning = f"the same judge for the {len(rows)} {what}" + (", on which it was trained" if label == "neither" else "")
            run.metric(f"{LABELS[key]}_{label}", critic.score(rows), **up, meaning=meaning)
    clean = np.array([scores.clean_form(text) for text in held_out])
    run.metric("clean_form_written", clean, **up, meaning="the same of the held-out snippets themselves")
    for name in ("fewshot", "tuned"):
        copied(run, name, [[one.text for one in seed] for seed in written[name]], corpus, grams)
    shares = np.array([scores.copied_share(text, grams) for text in held_out])
    meaning, bounds = "the same of the held-out snippets themselves", stats.bootstrap_interval(shares)
    run.metric("copied_5gram_share_written", shares, **alike, meaning=meaning, interval=bounds)


def copied(run: runlog.Run, name: str, seeds: Sequence[Sequence[str]], corpus: Sequence[str], grams: set[Any]) -> None:
    """How much of a system's texts, for each seed one to every prompt, stands in the training rows."""
    down: dict[str, Any] = {"higher_is_better": False}
    key = "" if name == "tuned" else f"_{name}"  # the tuned model's is the headline
    shares = np.array([[scores.copied_share(text, grams) for text in seed] for seed in seeds])  # (seeds, prompts)
    what = f"5-grams in texts of {NAMES[name]} that stand in a training completion, mean over texts; interval over prompts"
    bounds = stats.bootstrap_interval(shares.T)
    run.metric(f"copied_5gram_share{key}", shares.ravel(), unit="fraction", **down, meaning=what, interval=bounds)
    longest = [scores.longest_copied(text, corpus) for seed in seeds for text in seed]
    what = f"longest run of words in a text of {NAMES[name]} that stands in one training row"
    run.metric(f"longest_copied_words{key}", [one.length for one in longest], unit="words", **down, meaning=what)
    worst = max(longest, key=lambda one: one.length)
    run.observe(f"The longest run of words that {NAMES[name]} copied has {worst.length} words: {worst.phrase!r}.")


def word_order(run: runlog.Run, found: Mapping[str, Any], given: Any, reader: models.LoadedModel) -> None:
    """Whether the order of the words matters to a language model; none of the judges sees it."""
    sets = {name: system.written for name, system in found.items()}
    texts = {name: [[one.text for one in seed] for seed in seeds] for name, seeds in sets.items()}
    texts["written"] = [[row.completion for row in given.test]]
    for name, seeds in texts.items():
        who = "the held-out snippets themselves" if name == "written" else f"texts of {NAMES[name]}"
        values = [measures.order_gain(reader, seed).mean() for seed in seeds]
        meaning = f"what the order of the words saves the untuned base in full precision, per word of {who}"
        run.metric(f"order_gain_{name}", values, unit="nats", higher_is_better=True, meaning=meaning)


def readers(run: runlog.Run, found: Mapping[str, Any], given: Any, more_votes: Sequence[Path]) -> None:
    """Quality of the judges, their agreement with readers who did not know the systems, and the votes."""
    for key in judges.KEYS:
        quality = judges.quality(key, repeats=1 if run.args.smoke else 4)
        for name, values in quality.items():
            suffix = "" if name == "judge" else f"_{name}"
            folds = values["roc_auc"]
            spread = stats.paired(folds, np.full(len(folds), 0.5), test_over_train=1 / (judges.FOLDS - 1))["ci95"]
            meaning = f"area under the ROC curve of the {key} judge ({name}), repeated 5-fold cross-validation on its own texts"
            bounds = (0.5 + spread[0], 0.5 + spread[1])
            run.metric(f"{key}_judge_auc{suffix}", folds, higher_is_better=True, meaning=meaning, interval=bounds)
    every = ratings.read() if ratings.FILE.is_file() else []
    asked = [(row.prompt, one.text) for system in found.values() for row, one in zip(given.asked, system.written[0], strict=True)]
    mine = {*asked, *((row.prompt, row.completion) for row in given.asked)}
    rows = [row for row in every if (row.prompt, row.text) in mine]
    if len(rows) < len(every):
        run.observe(f"{len(every) - len(rows)} of {len(every)} blind marks are on other texts than this run's and do not count.")
    who = f"{len({row.rater for row in rows})} blind readers ({', '.join(sorted({row.rater for row in rows}))})"
    for key in judges.KEYS if rows else ():
        texts, marks = ratings.averaged(rows, key)
        if min(marks) == max(marks):
            run.observe(f"All texts have the same mark for {key}: nothing can agree with that.")
            continue
        agreed = judges.agreement(judges.Judge.train(key).score(texts).tolist(), marks)
        meaning = f"rank correlation of the {key} judge with the mean mark of {who}, {agreed['n']} texts"
        interval = agreed["spearman_ci95"]
        run.metric(f"{key}_judge_agreement", agreed["spearman"], higher_is_better=True, meaning=meaning, interval=interval)
    for system in sorted({row.system for row in rows}):
        _, marks = ratings.averaged([row for row in rows if row.system == system], "coherent")
        what = f"{len(marks)} texts of {NAMES.get(system, 'the data set')}, by {who}"
        meaning = f"mark for sense, 0 to {ratings.HIGHEST}: {what}"
        marks = ratings.HIGHEST * np.array(marks)
        bounds = stats.bootstrap_interval(marks)
        run.metric(f"rated_coherent_{system}", marks, higher_is_better=True, meaning=meaning, interval=bounds)
        some = np.array([mark > 0 for mark in marks])
        run.metric(f"some_sense_{system}", some, unit="fraction", higher_is_better=True, meaning=f"some sense to a reader: {what}")
    page = DATA.parent / "results" / "samples" / "vote.html"
    known = vote.known_ids(page) if page.is_file() else set()
    kept = vote.read_votes(sorted((DATA / "votes").glob("*.json")))
    votes = [*(one for one in kept if one.id in known), *vote.read_votes(more_votes, known)]
    if old := sum(one.id not in known for one in kept):
        run.observe(f"{old} of {len(kept)} votes are on an older page and do not count.")
    pairs = len({one.id for one in votes})
    for name, one in (vote.bradley_terry(votes) if votes else {}).items():
        meaning = f"Bradley-Terry probability that a reader of the committed page prefers {NAMES[name]} to the base; "
        meaning += f"{one['n']} blind votes on {pairs} pairs, which are drawn for the interval"
        options: dict[str, Any] = {"unit": "fraction", "higher_is_better": True, "interval": one["ci95"]}
        run.metric(f"preferred_to_base_{name}", one["win_probability"], **options, meaning=meaning)


def claims(run: runlog.Run) -> None:
    """What the original ticked, and what was measured here."""
    mean = {key: metric["mean"] for key, metric in run.report["metrics"].items()}
    source = "leonvanbokhorst, sprints/01_paws_of_dread, README and docs"

    def beside(key: str, unit: str = "") -> str:
        return f"base {mean[f'{key}_base']:.2f}{unit}, tuned {mean[f'{key}_tuned']:.2f}{unit}"

    for what, key in (("cat-meme accuracy", "cat_meme_accuracy"), ("an existential angst quotient", "angst_quotient")):
        better = mean[f"{key}_tuned"] > mean[f"{key}_base"]
        run.claim(
            f"the texts were evaluated for {what}",
            source=source,
            protocol="a box that is ticked; no score exists",
            ours=f"{beside(key)} by a judge of its own",
            honest=f"the held-out snippets themselves score {mean[f'{key}_written']:.2f}",
            verdict="partly reproduced" if better else "not reproduced",
        )
    systems = ("base", "tuned", "written")
    sense = {system: mean.get(f"rated_coherent_{system}", np.nan) for system in systems}
    marks = ", ".join(f"{system} {sense[system]:.2f}" for system in systems)
    run.claim(
        "the texts were evaluated for coherence",
        source=source,
        protocol="a box that is ticked; no score exists",
        ours="no rule measures it; readers do",
        honest="nobody has read these texts blind"
        if np.isnan(sense["tuned"])
        else f"mean mark of blind readers (language models) for sense, 0 to {ratings.HIGHEST}: {marks}",
        verdict="not run here"
        if np.isnan(sense["tuned"])
        else "reproduced"
        if sense["tuned"] >= 0.9 * sense["written"]
        else "not reproduced",
    )
    run.claim(
        "absurdity can be a valid training signal",
        source=source,
        protocol="read by its author",
        ours=f"held-out loss: {beside('heldout_loss')}",
        honest=f"{mean['gain_beyond_vocabulary']:+.2f} nats better than a control tuned on shuffled words; sense: {marks}",
        verdict="partly reproduced" if run.report["metrics"]["gain_beyond_vocabulary"]["ci95"][0] > 0 else "not reproduced",
    )


def conclude(run: runlog.Run) -> None:
    mean = {key: metric["mean"] for key, metric in run.report["metrics"].items()}
    for what, key in (("end by themselves", "termination_rate"), ("have clean form", "clean_form")):
        tuned, base = mean[f"{key}_tuned"], mean[f"{key}_base"]
        run.observe(f"{tuned:.0%} of the tuned model's texts {what}; of the base's, {base:.0%}.")
    base, few, tuned = (mean[f"heldout_loss_{name}"] for name in NAMES)
    run.conclude(
        f"Held-out loss: base {base:.2f}, with examples in the prompt {few:.2f}, tuned {tuned:.2f}; "
        f"a control tuned on shuffled words stays {mean['gain_beyond_vocabulary']:.2f} nats above it."
    )
