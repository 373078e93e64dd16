"""Let base and tuned model speak side by side: one prompt, a file of prompts, or the sheet of samples.

$ make cats-generate PROMPT="Why is the bowl empty?"              streams both answers
$ make cats-generate ARGS="--prompts my_prompts.txt"              a prompt per line
$ make cats-generate                                              results/generated_responses.md and the blind page
"""

import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared import models, runlog
from shared.device import pick
from shared.errors import UserError
from shared.report import quoted, write_atomically
from shared.runlog import console

from . import adapter, judges, measures, recipe, scores, snippets, tuning, vote
from .train_qlora_phi3_cats import RUNS

ORIGINAL_PROMPTS = (  # the subjects of the eight prompts of the original; all but the last two have a theme that trains
    "What do you think about during a long nap?",
    "What does the empty food bowl mean?",
    "Why do you chase the red dot?",
    "Why do you sit in the box?",
    "What does meow mean?",
    "What are you looking at on the wall?",
    "If I fits, I sits. But what if the void fits?",
    "What is the purpose of your human?",
)
BEST = 6
COPIED = 6  # words in a row, from which on a text is no candidate for the best


@dataclass
class Args(runlog.Args):
    """What to ask, of which adapter, and how boldly."""

    prompt: str | None = None
    """One prompt; without it and without --prompts, the sheet of samples is written."""
    prompts: Path | None = None
    """A text file, one prompt per line."""
    model: str = "auto"
    """The base: auto, pocket, smollm, phi3, a hub id or a folder."""
    adapter: Path | None = None
    """Folder of an adapter; when not given, that of seed 0 of make cats-train, for this base and the default recipe."""
    new_tokens: int = measures.NEW_TOKENS
    """Longest answer, in tokens."""
    seed: int = 0
    """Seed of the draw."""


def both(args: Args) -> tuple[models.LoadedModel, models.LoadedModel]:
    """The base, and the base with the adapter."""
    device = pick(args.device, ("cpu", "cuda", "mlx"))
    tuned = recipe.base(args.model, device, "qlora")
    tuned = adapter.load(tuned, args.adapter or tuning.home(RUNS, tuned, recipe.Recipe(), snippets.read()) / "adapter")
    return recipe.base(args.model, device, "qlora"), tuned


def say(args: Args, prompts: list[str]) -> None:
    """Stream the answers of both, one after the other."""
    names = zip(("base", "tuned"), both(args), strict=True)
    speakers = list(names)
    console.print(str(speakers[0][1]), style="dim", emoji=False)
    for prompt in prompts:
        console.print("\n" + textwrap.shorten(prompt, 300, placeholder=" ..."), style="bold", emoji=False)
        for name, loaded in speakers:
            answer = measures.stream(loaded, [{"role": "user", "content": prompt}], args.new_tokens, args.seed)  # it may warn
            console.print(f"{name}: ", end="", style="dim")
            for piece in answer:
                console.print(piece, end="", soft_wrap=True, emoji=False, highlight=False)  # as it was written
            console.print()


def sheet(args: Args, run: runlog.Run) -> str:
    """The text of generated_responses.md: every prompt once, unselected, then the best by the scores; and the blind page."""
    base, tuned = both(args)
    rows = snippets.read()
    held_out = snippets.split(rows, "test")
    chosen = [held_out[place].prompt for place in np.linspace(0, len(held_out) - 1, 2 if args.smoke else 16).astype(int)]
    parts = {"The original's subjects": list(ORIGINAL_PROMPTS), "Prompts whose form or theme never trained": chosen}
    lines = [
        "# Generated responses",
        "",
        f"One draw each, seed {args.seed}, temperature {measures.TEMPERATURE}, nothing selected.",
        "",
    ]
    pairs, ended = {}, {"base": [], "tuned": []}
    for title, prompts in parts.items():
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        answers = [measures.write(loaded, chats, args.new_tokens, args.seed) for loaded in (base, tuned)]
        lines += [f"## {title}", ""]
        for prompt, before, after in zip(prompts, *answers, strict=True):
            lines += [f"**{prompt}**", "", "base:", "", quoted(before.text), "", "tuned:", "", quoted(after.text), ""]
            pair = vote.pair(prompt, {"base": before.text, "tuned": after.text})
            pairs[pair["id"]] = pair
        for name, written in zip(ended, answers, strict=True):
            ended[name] += [one.ended for one in written]
    lines += best(args, run, tuned, rows)
    run.file("vote.html", vote.page(list(pairs.values()), "The Paws of Dread"))
    count, up = len(ended["base"]), {"unit": "fraction", "higher_is_better": True}
    run.metric("sheet_prompts", count, unit="prompts", meaning="answered once by base and tuned model, nothing selected")
    for name, flags in ended.items():
        meaning = f"answers of the {name} model on the sheet that end by themselves within {args.new_tokens} tokens"
        run.metric(f"sheet_ended_{name}", np.array(flags), **up, meaning=meaning)
    run.conclude(
        f"On the sheet {sum(ended['tuned'])} of {count} answers of the tuned model and {sum(ended['base'])} of the base end by "
        f"themselves within {args.new_tokens} tokens."
    )
    return "\n".join(lines)


def best(args: Args, run: runlog.Run, tuned: models.LoadedModel, rows: list[snippets.Snippet]) -> list[str]:
    """The highest scored of a draw for every held-out prompt: ended, of clean form, not copied; by the product of both judges."""
    held_out = snippets.split(rows, "test")[: 4 if args.smoke else None]
    written = measures.write(tuned, [snippets.chat(row) for row in held_out], args.new_tokens, args.seed + 1)
    corpus = [row.completion for row in snippets.split(rows, "train")]
    product = np.prod([judges.Judge.train(key).score([one.text for one in written]) for key in judges.KEYS], axis=0)
    faults = [fault(one, corpus) for one in written]
    able = [one is None for one in faults]
    order = [at for at in np.argsort(-product) if able[at]][:BEST]
    lines = [
        "## Best of",
        "",
        f"The {len(order)} highest scored of {len(written)} answers: cat judge x angst judge, of clean form, not copied.",
        "",
    ]
    for at in order:
        lines += [f"**{held_out[at].prompt}** ({product[at]:.2f})", "", quoted(written[at].text), ""]
    run.metric("best_of_answers", len(written), unit="answers", meaning="among which the best were chosen by their scores")
    what = f"of these that ended, have a clean form and copy no {COPIED} words in a row"
    run.metric("best_of_passed", np.array(able), unit="fraction", higher_is_better=True, meaning=what)
    counts = ", ".join(f"{name} {n}" for name, n in Counter(one for one in faults if one).most_common())
    run.observe(
        f"{sum(able)} of {len(written)} answers could be chosen as the best; the others fell out first by: {counts or 'nothing'}."
    )
    return lines


def fault(one: measures.Written, corpus: list[str]) -> str | None:
    """Why an answer is no candidate for the best, None for a candidate."""
    if not one.ended:
        return "not ended"
    if not scores.clean_form(one.text):
        return scores.broken_rule(one.text)
    return "copied" if scores.longest_copied(one.text, corpus).length >= COPIED else None


def main(args: Args) -> dict | None:
    if args.new_tokens < 1:
        raise UserError("--new-tokens must be at least 1")
    if args.prompt is not None and not args.prompt.strip():
        raise UserError("the prompt is empty: give it some text")
    if args.prompt is not None:
        return say(args, [args.prompt])
    if args.prompts:
        if not args.prompts.is_file():
            raise UserError(f"there is no file {args.prompts}")
        try:
            text = args.prompts.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{args.prompts} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
        if not prompts:
            raise UserError(f"{args.prompts} holds no prompt: write one per line")
        return say(args, prompts)
    if args.smoke:
        args.new_tokens = 8
    setup = {"prompts": "the original's subjects, and held-out prompts", "decoding": "as in the evaluation, one draw"}
    title, objective = "Samples", "Read what base and tuned model write, without a selection."
    with runlog.Run(args, __file__, "samples", title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        if args.smoke and not args.adapter:
            small, setting, place = snippets.toy(snippets.read()), recipe.Recipe(epochs=1), run.folder.parent / "adapters"
            tuned = tuning.tune(args.model, run.device, setting, small, place)
            args.adapter = tuning.home(place, tuned.loaded, setting, small) / "adapter"
        text = sheet(args, run)
    write_atomically(run.folder.parent / "generated_responses.md", text.encode())
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
