"""The gates: look-up in context, names that stay, grammar, bits per character of unseen text, each beside its baselines.

$ make pocket-eval               all of it, minutes (builds the corpus first when it is not there)
$ make pocket-eval ARGS=--smoke  toy size, seconds
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from shared import data, models, runlog
from shared.errors import UserError
from shared.sprints import ROOT

from . import gates, rules
from .kneser_ney import ORDER, KneserNey
from .text import corpus, stories

Answer = Callable[[Sequence[str], int], list[str]]  # prompts, tokens -> what follows
HELD_OUT_PLOTS = len(corpus.held_out() & set(stories.FAMILIES))
GATES = {"lookup_exact_match": 0.9, "name_consistency": 0.9}
Questions = list[tuple[gates.Sample, list[str]]]


@dataclass
class Args(runlog.Args):
    """How many of each."""

    questions: int = 250
    """Look-up questions for each number of facts (2, 3, 4 and 5), and in phrasings that never train; baselines get one in five."""
    stories: int = 200
    """Stories whose names and grammar are checked."""
    ngram_stories: int = 50
    """Stories that the n-gram model writes."""
    heldout_tokens: int = 100_000
    """Held-out tokens per source for bits per character."""
    seed: int = 0
    """Seed of the sampled stories, of the random weights and of the guesses."""


def same_tokenizer(folder: Path, brain) -> None:
    """Raises UserError when the corpus was made with another tokenizer than the model's: its tokens would mean something else."""

    def content(text: str) -> dict:
        return {key: value for key, value in json.loads(text).items() if key not in ("padding", "truncation")}

    if content(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str()) != content(brain.backend_tokenizer.to_str()):
        shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        raise UserError(f"{shown} was made with another tokenizer than the model's: move it away, then it is built anew")


def corpus_folder(args: Args, brain) -> Path:
    """The corpus that trained, or at smoke size a small one with the same tokenizer."""
    folder = args.toys / "pocket-eval" / "corpus" if args.smoke else corpus.FOLDER
    corpus.build(folder, smoke=args.smoke, brain=brain)
    same_tokenizer(folder, brain)
    return folder


def fraction(run: runlog.Run, key: str, values, meaning: str, interval: tuple[float, float] | None = None) -> None:
    run.metric(key, values, unit="fraction", higher_is_better=True, meaning=meaning, interval=interval)


def look_up(run: runlog.Run, args: Args, brain, ours: Answer, chance: Answer, counts: Answer) -> None:
    def right(answer: Answer, questions: Questions) -> np.ndarray:
        samples = [sample for sample, _ in questions]
        return gates.exact(answer(gates.split_prompts(samples, brain), 24), samples)

    asked = {facts: gates.lookup_questions(facts, args.questions) for facts in gates.FACTS}
    found = {facts: right(ours, questions) for facts, questions in run.track(asked.items(), "look-up")}
    every = [question for questions in asked.values() for question in questions]
    some = every[::5]
    what = "questions about one of 2 to 5 facts on invented names no training text holds, in phrasings that train; greedy, exact"
    fraction(run, "lookup_exact_match", np.concatenate(list(found.values())), what)
    for facts, values in found.items():
        fraction(run, f"lookup_exact_match_{facts}_facts", values, f"look-up questions with {facts} facts")
    families = gates.unseen_phrasings()
    each = -(-args.questions // len(gates.FACTS))
    unseen = [question for facts in gates.FACTS for question in gates.lookup_questions(facts, each, families, seed=2)]
    meaning = f"look-up questions, as many for each number of facts, in the {len(families)} phrasings that no training text holds"
    fraction(run, "lookup_exact_match_unseen_phrasing", right(ours, unseen), meaning)
    fraction(run, "lookup_exact_match_random", right(chance, some), "look-up questions (one in five) to random weights")
    meaning = f"look-up questions (one in five) to a {ORDER}-gram Kneser-Ney model of all training tokens, greedy"
    fraction(run, "lookup_exact_match_ngram", right(counts, some), meaning)
    rng = random.Random(args.seed)
    guessed = gates.exact([rng.choice(values) for _, values in every], [sample for sample, _ in every])
    meaning = "look-up questions, answered with a value of the asked relation in the prompt, drawn at random"
    fraction(run, "lookup_exact_match_guess", guessed, meaning)
    several = np.array([len(values) > 1 for _, values in every])
    meaning = "look-up questions in which two facts or more have the asked relation, so that only the subject tells which is meant"
    fraction(run, "lookup_exact_match_binding", np.concatenate(list(found.values()))[several], meaning)
    fraction(
        run,
        "lookup_exact_match_binding_guess",
        guessed[several],
        "such questions, answered with a value drawn at random",
    )


def write_stories(run: runlog.Run, args: Args, brain, ours: Answer, counts: Answer) -> None:
    begun = gates.openings(args.stories)
    openings, plots = [opening for opening, _, _ in begun], [plot for _, _, plot in begun]
    true = [brain.decode(brain(rest, add_special_tokens=False)["input_ids"][: gates.STORY_TOKENS]) for _, rest, _ in begun]
    written = ours(openings, gates.STORY_TOKENS)
    by_counts = counts(openings[: args.ngram_stories], gates.STORY_TOKENS)
    rng = random.Random(args.seed)
    ngram = f"stories sampled from a {ORDER}-gram Kneser-Ney model of all training tokens"
    sets = {  # key: openings, continuations, meaning
        "": (
            openings,
            written,
            f"mentions of names, in stories continued from {HELD_OUT_PLOTS} held-out plots, that stand in the opening or are "
            "introduced (not that their bearers stay who they were)",
        ),
        "_ceiling": (openings, true, "names in the true continuations: what the rules let pass"),
        "_floor": (openings[1:] + openings[:1], true, "names in the true continuations, behind the opening of another story"),
        "_ngram": (openings[: len(by_counts)], by_counts, f"names in {ngram}"),
    }
    judged = {key: gates.name_verdicts(before, texts) for key, (before, texts, _) in sets.items()}
    for key, (_, _, meaning) in sets.items():
        verdicts = judged[key]
        mentions = [float(good) for story in verdicts for good in story] or [0.0]  # nobody named: nothing shown
        interval = gates.cluster_interval(verdicts, plots[: len(verdicts)]) if any(verdicts) else None
        fraction(run, f"name_consistency{key}", mentions, f"{meaning}; interval over plots", interval)
    whole = np.array([all(story) for story in judged[""]])
    fraction(run, "name_consistency_stories", whole, "continued stories in which every name is one of the opening or introduced")
    what = f"continuations of {gates.STORY_TOKENS} tokens that have {gates.STORY_WORDS} words or more and break none of "
    fraction(run, "grammar_clean", clean(written), f"{what}{len(rules.RULES) + 1} rules")
    fraction(run, "grammar_clean_ceiling", clean(true), "true continuations that break none of the rules")
    fraction(run, "grammar_clean_ngram", clean(by_counts), f"of {ngram}: those that break none of the rules")
    mixed = [gates.shuffled(text, rng) for text in true]
    fraction(run, "grammar_clean_shuffled", clean(mixed), "true continuations with the words of each sentence shuffled that pass")
    counted = [fault for text in written for fault in rules.faults(text)]
    common = sorted(set(counted), key=counted.count, reverse=True)[:3]
    run.observe("Most frequent faults: " + (", ".join(f"{name} ({counted.count(name)})" for name in common) or "none") + ".")
    ours_words, true_words, ngram_words = (np.mean([len(text.split()) for text in texts]) for texts in (written, true, by_counts))
    short = sum(not gates.long_enough(text) for text in written)
    run.observe(
        f"The continuations have {ours_words:.0f} words on average (the true ones {true_words:.0f}, the n-gram model's "
        f"{ngram_words:.0f}); {short} of {len(written)} ended before {gates.STORY_WORDS} words and failed."
    )


def clean(texts: Sequence[str]) -> np.ndarray:
    return np.array([gates.clean(text) for text in texts])


def bits(run: runlog.Run, args: Args, loaded: models.LoadedModel, folder: Path, counts: KneserNey) -> list[str]:
    """Of every source; returns the sources on which the n-gram model is better."""
    bars: dict[str, tuple[dict, dict]] = {}  # source -> metrics of ours and of theirs
    for source in run.track(corpus.SOURCES, "bits per character"):
        tokens = np.fromfile(folder / f"{source}.heldout.bin", np.uint16)
        starts = gates.windows(tokens, args.heldout_tokens // (gates.WINDOW + 1))
        per_character = 1 / np.log(2) / gates.characters(tokens, starts, loaded.tokenizer).mean()
        ngram = KneserNey(np.fromfile(folder / f"{source}.train.bin", np.uint16))
        ours = gates.model_nats(loaded.model, tokens, starts).sum(1) * per_character
        nats, own = gates.ngram_nats(ngram, counts, tokens, starts)
        theirs = nats.sum(1) * per_character
        options = {"unit": "bits", "higher_is_better": False}
        unseen = f"held-out {source}, {len(starts)} windows of {gates.WINDOW} tokens evenly over all of it"
        run.metric(f"bits_per_character_{source}", ours, **options, meaning=f"bits per character of {unseen}")
        meaning = f"held-out {source} by {ORDER}-gram Kneser-Ney models, {own:.0%} that of this source and the rest that of all"
        run.metric(f"bits_per_character_ngram_{source}", theirs, **options, meaning=meaning)
        if len(starts) > 1:
            run.compare(f"bits_per_character_{source}", ours, theirs, names=("pocket", f"{ORDER}-gram Kneser-Ney"), unit="bits")
        found = run.report["metrics"]
        bars[source] = (found[f"bits_per_character_{source}"], found[f"bits_per_character_ngram_{source}"])
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 3.6))
        places = np.arange(len(bars))
        for shift, whose, color, label in ((-0.2, 0, "C0", "Pocket Brain"), (0.2, 1, "0.6", f"{ORDER}-gram Kneser-Ney")):
            mine = [pair[whose] for pair in bars.values()]
            drawn = axes.bar(places + shift, [one["mean"] for one in mine], 0.38, yerr=half_widths(mine), color=color, label=label)
            axes.bar_label(drawn, fmt="%.2f", padding=2, fontsize=8)
        axes.grid(axis="x", visible=False)
        axes.set_xticks(places, list(bars))
        axes.set(ylabel="bits per character, held out", title="What an unseen character costs")
        axes.legend()
        run.figure(
            figure,
            "bits",
            shows="Bits per character of held-out families and files, ours beside the n-gram model; lines: 95 % intervals.",
            matters="The n-gram model has seen the same text: what is below it is more than counting.",
        )
    return [source for source, (ours, theirs) in bars.items() if ours["mean"] > theirs["mean"]]


def half_widths(metrics: Sequence[dict]) -> np.ndarray:
    """Distances of the intervals' ends from the means, as matplotlib wants them: (2, metrics)."""
    ends = [(one["mean"] - one["ci95"][0], one["ci95"][1] - one["mean"]) if one["ci95"] else (0, 0) for one in metrics]
    return np.array(ends).T


def overview(run: runlog.Run) -> None:
    """Look-up, names and grammar beside what they are measured against."""
    rows = {
        "look-up": "lookup_exact_match",
        "   look-up: a value of the right kind, drawn": "lookup_exact_match_guess",
        "look-up, unseen phrasings": "lookup_exact_match_unseen_phrasing",
        "look-up, only the subject tells": "lookup_exact_match_binding",
        "   only the subject tells: a value, drawn": "lookup_exact_match_binding_guess",
        "names introduced": "name_consistency",
        "   names introduced: n-gram model": "name_consistency_ngram",
        "stories with every name introduced": "name_consistency_stories",
        "grammar: passes the rules": "grammar_clean",
        "   grammar: n-gram model": "grammar_clean_ngram",
    }
    found = [run.report["metrics"][key] for key in rows.values()]
    with runlog.style() as plt:
        figure, axes = plt.subplots(figsize=(8, 4))
        colors = ["0.6" if label.startswith(" ") else "C0" for label in rows]
        axes.barh(list(rows), [100 * one["mean"] for one in found], xerr=100 * half_widths(found), color=colors)
        for place, key in enumerate(rows.values()):
            if gate := GATES.get(key):
                axes.plot([100 * gate] * 2, [place - 0.4, place + 0.4], color="white", linestyle=":", linewidth=2)
                axes.text(100 * gate - 1, place, f"gate, {gate:.0%}", fontsize=8, color="white", ha="right", va="center")
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="%", xlim=(0, 104), title="What it can do (blue), and what it is measured against (grey)")
        axes.invert_yaxis()
        shows = "Share of right answers, introduced names and clean texts, with 95 % intervals."
        run.figure(figure, "gates", shows=shows, matters="A number says little without the chance level beside it.")


def verdict(key: str, metric: dict) -> str:
    """Whether a gate is met, in words."""
    low = metric["ci95"][0]
    met = (
        f"met{'' if low >= GATES[key] else f', though the interval begins at {low:.1%}'}"
        if metric["mean"] >= GATES[key]
        else "not met"
    )
    return f"{key} {metric['mean']:.1%} of {GATES[key]:.0%}: {met}."


def record_inputs(run: runlog.Run, folder: Path) -> None:
    """What was judged, on which text: digests, and whether the corpus is that of the weights."""
    run.data("weights", data.digest(models.POCKET / "model.safetensors"), rows=1, source="results/model")
    for source in corpus.SOURCES:
        shard = folder / f"{source}.heldout.bin"
        run.data(f"held-out {source}", data.digest(shard), rows=shard.stat().st_size // 2, source="code/text/corpus.py")
    here, then = (json.loads(path.read_text())["packages"] for path in (folder / "manifest.json", models.POCKET / "corpus.json"))
    if here != then and not run.args.smoke:
        run.observe("The packages whose text is held out here are not those of the weights: see results/model/corpus.json.")


def main(args: Args) -> dict:
    if min(args.questions, args.stories, args.ngram_stories) < 2 or args.heldout_tokens < 2 * (gates.WINDOW + 1):
        raise UserError("--questions, --stories and --ngram-stories must be at least 2, --heldout-tokens at least 1026")
    if args.smoke:
        args.questions, args.stories, args.ngram_stories, args.heldout_tokens = 3, 4, 2, 1026
    setup = {
        "model": "the committed weights",
        "look-up": "facts and questions in the chat format, all names invented and reserved; greedy; exact match",
        "stories": f"openings of {HELD_OUT_PLOTS} held-out plots, continued at temperature {gates.TEMPERATURE}, top-p "
        f"{gates.TOP_P}; names and grammar by rules; a continuation below {gates.STORY_WORDS} words fails; the interval of "
        "names is a bootstrap over plots",
        "bits per character": "held-out plots, phrasings and files; the n-gram model of the source, mixed with that of all sources "
        "as is best for the text it is judged on, which favours it",
    }
    title, objective = "The gates", "Is the model good enough to be the base of the other sprints?"
    with runlog.Run(args, __file__, "gates", title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        loaded = models.load("pocket", run.device)
        brain, model = loaded.tokenizer, loaded.model
        folder = corpus_folder(args, brain)
        torch.manual_seed(args.seed)
        start = LlamaForCausalLM(model.config).to(model.device, model.dtype).eval()
        start.generation_config = model.generation_config
        ngram = KneserNey(np.concatenate([np.fromfile(folder / f"{source}.train.bin", np.uint16) for source in corpus.SOURCES]))
        answer = partial(gates.complete, model, brain)
        count = partial(gates.complete_by_counts, ngram, brain, stops=loaded.stop_ids)
        look_up(run, args, brain, answer, partial(gates.complete, start, brain), count)
        write_stories(run, args, brain, partial(answer, seed=args.seed), partial(count, seed=args.seed))
        overview(run)
        worse = bits(run, args, loaded, folder, ngram)
        run.observe(f"The n-gram model needs fewer bits per character on: {', '.join(worse) or 'none of the sources'}.")
        record_inputs(run, folder)
        run.conclude(" ".join(verdict(key, run.report["metrics"][key]) for key in GATES))
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
