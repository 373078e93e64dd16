"""What the evaluation found, as metrics and figures: losses, texts, and what readers say."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared import runlog, stats

from . import judges, measures, scores, vote

DATA = Path(__file__).resolve().parents[1] / "data"
NAMES = {"base": "the base", "fewshot": "the base with examples in the prompt", "tuned": "the tuned model"}


def losses(run: runlog.Run, found: Mapping[str, Any], given: Any) -> None:
    """Loss per token on the held-out rows, on the control, and on unrelated text."""
    down: dict[str, Any] = {"unit": "nats", "higher_is_better": False}
    for name, system in found.items():
        for kind, rows in (("heldout", system.heldout), ("shuffled", system.shuffled)):
            what = "held-out snippets" if kind == "heldout" else "the same snippets, their words in random order"
            meaning = f"per token of {what}, {NAMES[name]}; interval over rows and seeds"
            values = [measures.per_token(one) for one in rows]
            run.metric(f"{kind}_loss_{name}", values, **down, meaning=meaning, interval=measures.interval(rows))
        perplexity = np.exp([measures.per_token(one) for one in system.heldout])
        run.metric(f"heldout_perplexity_{name}", perplexity, higher_is_better=False, meaning=f"of held-out snippets, {NAMES[name]}")
    for part in ("form", "theme", "both"):
        places = [at for at, row in enumerate(given.test) if row.unseen == part]
        if places:
            for name in ("base", "tuned"):
                rows = [one[places] for one in found[name].heldout]
                what = {"form": "form", "theme": "theme", "both": "form and theme both"}[part]
                run.metric(
                    f"heldout_loss_{name}_{part}",
                    [measures.per_token(one) for one in rows],
                    **down,
                    meaning=f"the same for the {len(places)} snippets whose {what} never trains",
                    interval=measures.interval(rows),
                )
    gains = {
        kind: [
            measures.per_token(before) - measures.per_token(after)
            for before, after in zip(getattr(found["base"], kind), getattr(found["tuned"], kind), strict=True)
        ]
        for kind in ("heldout", "shuffled")
    }
    run.compare("gain in loss", gains["heldout"], gains["shuffled"], names=("snippets", "words in random order"), unit="nats")
    before, after = (np.exp([measures.per_token(one) for one in found[name].unrelated]) for name in ("base", "tuned"))
    run.metric(
        "forgetting",
        after / before,
        unit="x",
        higher_is_better=False,
        meaning=f"perplexity on {len(given.unrelated)} texts without a cat and without dread, tuned / base",
    )
    _loss_figure(run)


def _loss_figure(run: runlog.Run) -> None:
    metrics = run.report["metrics"]
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 3.6))
        places = np.arange(len(NAMES))
        for shift, (kind, label, color) in enumerate(
            (("heldout", "held-out snippets", "C0"), ("shuffled", "their words in random order", "0.6"))
        ):
            every = [metrics[f"{kind}_loss_{name}"] for name in NAMES]
            bounds = np.array([[one["mean"] - one["ci95"][0], one["ci95"][1] - one["mean"]] for one in every]).T
            axes.bar(places + 0.4 * shift - 0.2, [one["mean"] for one in every], 0.38, yerr=bounds, label=label, color=color)
        axes.set_xticks(places, ["base", "few-shot", "tuned"])
        axes.set(ylabel="nats per token", title="Loss on forms and themes that never train")
        axes.set_ylim(bottom=0.6 * min(metrics[f"heldout_loss_{name}"]["mean"] for name in NAMES))
        axes.legend()
        run.figure(
            figure,
            "losses",
            shows="Loss per token on held-out snippets, and on the same words in random order; the axis does not begin at zero.",
            matters="What falls on both is vocabulary; what falls more on the snippets is voice.",
        )


def texts(run: runlog.Run, found: Mapping[str, Any], given: Any) -> None:
    """What the texts of the systems are like; the held-out snippets themselves are the ceiling."""
    corpus = [row.completion for row in given.train]
    grams, critics = scores.corpus_grams(corpus), {key: judges.Judge.train(key) for key in judges.KEYS}
    written = {name: system.written for name, system in found.items()}
    up: dict[str, Any] = {"unit": "fraction", "higher_is_better": True}
    for name, seeds in written.items():
        who = f"texts of {NAMES[name]} on held-out prompts"
        ended = np.array([one.ended for seed in seeds for one in seed])
        run.metric(f"termination_rate_{name}", ended, **up, meaning=f"{who} that end by themselves within the budget")
        plain = [[one.text for one in seed] for seed in seeds]
        coherent = np.array([scores.coherent(text) for seed in plain for text in seed])
        run.metric(f"coherence_{name}", coherent, **up, meaning=f"{who} that break none of {len(scores.RULES)} rules")
        for key, critic in critics.items():
            label = {"cat": "cat_meme_accuracy", "angst": "angst_quotient"}[key]
            values = [critic.score(seed).mean() for seed in plain]
            run.metric(f"{label}_{name}", values, **up, meaning=f"mean probability of the {key} judge for {who}")
        run.metric(f"distinct_2_{name}", [scores.distinct_n(s, 2) for s in plain], **up, meaning=f"different word pairs in {who}")
        alike = {"unit": "fraction", "higher_is_better": False}
        run.metric(f"self_bleu_{name}", [scores.self_bleu(s) for s in plain], **alike, meaning=f"likeness among {who}")
    for key, critic in critics.items():
        label = {"cat": "cat_meme_accuracy", "angst": "angst_quotient"}[key]
        human = critic.score([row.completion for row in given.test])
        run.metric(f"{label}_written", human, **up, meaning=f"the same judge for the {len(human)} held-out snippets themselves")
    copied(run, [one.text for seed in written["tuned"] for one in seed], [row.completion for row in given.test], corpus, grams)


def copied(run: runlog.Run, tuned: Sequence[str], human: Sequence[str], corpus: Sequence[str], grams: set[Any]) -> None:
    """How much of the tuned model's texts stands in the training rows."""
    down: dict[str, Any] = {"higher_is_better": False}
    shares = np.array([scores.copied_share(text, grams) for text in tuned])
    what = "5-grams of the tuned model's texts that stand in a training completion, mean over texts"
    run.metric("copied_5gram_share", shares, unit="fraction", **down, meaning=what)
    human_shares = [scores.copied_share(text, grams) for text in human]
    run.metric("copied_5gram_share_written", human_shares, unit="fraction", **down, meaning="the same of the held-out snippets")
    longest = [scores.longest_copied(text, corpus) for text in tuned]
    worst = max(longest, key=lambda one: one.length)
    lengths = [one.length for one in longest]
    run.metric("longest_copied_words", lengths, unit="words", **down, meaning="longest run of words copied from one training row")
    run.observe(f"The longest run of words that the tuned model copied has {worst.length} words: {worst.phrase!r}.")


def readers(run: runlog.Run, more_votes: Sequence[Path]) -> None:
    """Quality of the judges, their agreement with a reader who did not know the systems, and the votes."""
    for key in judges.KEYS:
        quality = judges.quality(key)
        for name, values in quality.items():
            suffix = "" if name == "judge" else f"_{name}"
            folds = values["roc_auc"]
            spread = stats.paired(folds, np.full(len(folds), 0.5), test_over_train=1 / (judges.FOLDS - 1))["ci95"]
            meaning = f"area under the ROC curve of the {key} judge ({name}), repeated 5-fold cross-validation on its own texts"
            bounds = (0.5 + spread[0], 0.5 + spread[1])
            run.metric(f"{key}_judge_auc{suffix}", folds, higher_is_better=True, meaning=meaning, interval=bounds)
    rated = DATA / "ratings.json"
    if rated.is_file():
        rows = json.loads(rated.read_text(encoding="utf-8"))
        for key in judges.KEYS:
            scored = judges.Judge.train(key).score([row["text"] for row in rows])
            agreed = judges.agreement(scored.tolist(), [row[key] / 2 for row in rows])
            meaning = f"rank correlation of the {key} judge with a blind reader's marks, {agreed['n']} texts"
            interval = agreed["spearman_ci95"]
            run.metric(f"{key}_judge_agreement", agreed["spearman"], higher_is_better=True, meaning=meaning, interval=interval)
    votes = vote.read_votes([*sorted((DATA / "votes").glob("*.json")), *more_votes])
    for name, one in (vote.bradley_terry(votes) if votes else {}).items():
        meaning = f"Bradley-Terry probability that a reader prefers {NAMES[name]} to the base, {one['n']} blind votes"
        options: dict[str, Any] = {"unit": "fraction", "higher_is_better": True, "interval": one["ci95"]}
        run.metric(f"preferred_to_base_{name}", one["win_probability"], **options, meaning=meaning)
