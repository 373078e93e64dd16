"""Base, LoRA and Engram memory side by side in the terminal: taught prompts, what was never taught, and one fact forgotten.

$ make engram-demo                                       the adapters of `make engram-train` with these settings, or trains them
$ make engram-demo ARGS=--quick                          under a minute: teaches a part of the patterns when nothing was trained yet
$ make engram-demo ARGS="--forget fact-ssh-port"         that fact is forgotten
$ make engram-demo ARGS="--prompt 'Q: Default port for SSH?'"   your own prompt
$ make engram-demo ARGS=--smoke                          toy size, seconds
"""

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.text import Text

from shared import data, models, runlog
from shared.errors import UserError
from shared.runlog import console

from . import patterns, showing, train
from .engram.guard import digest
from .patterns import Pattern, Patterns, Row
from .showing import OTHER, RIGHT, WRONG, Answer
from .teaching import training
from .teaching.training import Encoded
from .train import SMOKE_PATTERNS

NAMES = {"base": "base", "lora": "LoRA", "engram": "Engram"}
QUICK_PATTERNS, QUICK_STEPS = 8, 80  # of each category; updates
SMOKE_STEPS = 6
NEW_TOKENS, SMOKE_TOKENS = 24, 6  # of an answer
NEIGHBOURS = 3
SENTENCE = 160  # characters of the unrelated text
SHOWN = 120  # characters of a prompt, at most


@dataclass
class Args(train.Args):
    """What is shown, beside how the adapters are trained where there are none."""

    quick: bool = False
    """Under a minute also where nothing was trained yet: it then teaches a part of the patterns."""
    prompt: str = ""
    """Show the answers to this prompt, and what the memory reads in it, and nothing else."""
    forget: str = ""
    """Id of the taught pattern that the memory forgets; when not given, the first of facts.yaml that is shown."""


@dataclass(frozen=True)
class Side:
    """One column: a model with its adapter on a base of its own."""

    name: str
    model: Any
    adapter: Any


@dataclass
class Show:
    """The three sides, what they were taught, and a tally of what was shown."""

    sides: list[Side]
    loaded: models.LoadedModel
    known: Patterns
    taught: list[Pattern]
    most: int  # new tokens of an answer
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 0.0))

    def encode(self, row: Row) -> Encoded:
        return training.encode(self.loaded, row.prompt, row.completion)

    def say(self, side: Side, ids: Sequence[int]) -> tuple[list[int], float]:
        """What greedy decoding says after these ids, an end token included, and in how many seconds."""
        given = torch.tensor([list(ids)], device=side.model.device)
        start = time.perf_counter()
        with torch.no_grad():
            made = side.model.generate(
                input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=self.most, do_sample=False
            )
        seconds = time.perf_counter() - start
        said = made[0, len(ids) :].tolist()
        self.tokens[side.name] += len(said)
        self.seconds[side.name] += seconds
        return said, seconds

    def text(self, ids: Sequence[int]) -> str:
        return self.loaded.tokenizer.decode([token for token in ids if token not in self.loaded.stop_ids])

    def logits(self, side: Side, ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return side.model(input_ids=torch.tensor([list(ids)], device=side.model.device), use_cache=False).logits


def prepare(args: Args, run: runlog.Run) -> Show:
    """Load the trained adapters, or train: all of them, or with --quick a few patterns that are not kept."""
    device, folder = train.torch_device(run.device), train.home(args)
    names = tuple(name for name in NAMES if name != "base")
    trained = not args.smoke and all((folder / name).is_dir() for name in names)
    known = patterns.load()
    part = SMOKE_PATTERNS if args.smoke else QUICK_PATTERNS if args.quick else None
    taught = train.taught(known, None if trained else part)
    if args.forget:  # before minutes of training
        pattern_of(args.forget, taught)
    loaded = models.load(args.model, device, args.quantization)
    show = Show([Side("base", loaded.model, None)], loaded, known, taught, SMOKE_TOKENS if args.smoke else NEW_TOKENS)
    ids = {one.id for one in taught}
    rows = [show.encode(row) for row in known.training_rows() if row.pattern in ids]
    for name, recipe in train.recipes(args).items():
        if trained:
            made = train.reload(name, args.model, device, args.quantization, folder / name)
            show.sides.append(Side(name, *made))
        elif args.quick or args.smoke:
            recipe = replace(recipe, steps=min(recipe.steps, SMOKE_STEPS if args.smoke else QUICK_STEPS))
            own = models.load(args.model, device, args.quantization)
            tuned = training.fit(own, recipe, rows, lambda steps, name=name: run.track(steps, NAMES[name]))
            show.sides.append(Side(name, tuned.model, tuned.adapter))
        else:
            train.teach(args, run.device, recipe, rows, folder / name, lambda steps, name=name: run.track(steps, NAMES[name]))
            made = train.reload(name, args.model, device, args.quantization, folder / name)
            show.sides.append(Side(name, *made))
    if trained:
        show.taught = learned(show)
    about = "as `make engram-train` left them" if trained else f"taught just now, {len(taught)} patterns"
    console.print(f"adapters: {about}; base {loaded}")
    for side in show.sides:  # the first call of a process is slow
        show.say(side, rows[0].ids[:4])
    show.tokens, show.seconds = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0.0)
    return show


def learned(show: Show) -> list[Pattern]:
    """The patterns of which the saved memory knows every training row. Raises UserError when it knows none of them."""
    known = set(show.sides[-1].adapter.memory.guard.sequences.tolist())
    missing = {row.pattern for row in show.known.training_rows() if digest(show.encode(row).ids) not in known}
    found = [one for one in show.taught if one.id not in missing]
    if not found:
        raise UserError("the saved memory was taught other patterns than data/ holds: run `make engram-train`")
    return found


def asked(show: Show, rows: Sequence[Row], title: str) -> dict[str, list[bool]]:
    """Show the answers to rows that have a right one; returns per side which were right."""
    right: dict[str, list[bool]] = {side.name: [] for side in show.sides}
    lines = []
    for row in rows:
        encoded, cells = show.encode(row), []
        for side in show.sides:
            said, seconds = show.say(side, encoded.ids[: encoded.start])
            right[side.name].append(said == encoded.ids[encoded.start :])
            cells.append(Answer(show.text(said), RIGHT if right[side.name][-1] else WRONG, 1000 * seconds))
        lines.append((row.prompt, cells))
    console.print(showing.answers(title, list(NAMES.values()), lines))
    return right


def unknown(show: Show, rows: Sequence[tuple[str, str]], title: str) -> None:
    """Show the answers to prompts that nobody taught, beside a completion that must not come: the base's own is the right one."""
    lines = []
    for prompt, wrong in rows:
        ids = show.loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        before, cells = "", []
        for side in show.sides:
            said, seconds = show.say(side, ids)
            text = show.text(said)
            before = text if side.name == "base" else before
            style = WRONG if wrong and text.strip() == wrong.strip() else RIGHT if text == before else OTHER
            cells.append(Answer(text, style, 1000 * seconds))
        lines.append((prompt if len(prompt) < SHOWN else f"…{prompt[-SHOWN:]}", cells))
    console.print(showing.answers(title, list(NAMES.values()), lines))


def unrelated(show: Show, run: runlog.Run) -> None:
    """How far each side is from the base on text that has nothing to do with the patterns."""
    text = " ".join(patterns.retention_text("unrelated").split())[:SENTENCE].rsplit(" ", 1)[0]
    ids = show.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    before = show.logits(show.sides[0], ids)
    console.print(Text("Unrelated text\n", "bold") + Text(text, "italic"))
    for side in show.sides:
        logits = show.logits(side, ids)
        equal = (logits == before).all(-1).float().mean().item()
        target = torch.tensor(ids[1:], device=logits.device)
        perplexity = torch.nn.functional.cross_entropy(logits[0, :-1].float(), target).exp().item()
        console.print(f"  {NAMES[side.name]:7} perplexity {perplexity:10.1f}   positions with the logits of the base: {equal:.0%}")
        run.metric(
            f"demo_{side.name}_perplexity", perplexity, higher_is_better=False, meaning=f"{NAMES[side.name]}, one unrelated text"
        )
    unknown(show, [(text, "")], "What follows that text (green: as the base)")


def pattern_of(name: str, taught: Sequence[Pattern]) -> Pattern:
    """The taught pattern of that id. Raises UserError with the nearest id when there is none."""
    ids = {one.id: one for one in taught}
    if name not in ids:
        near = difflib.get_close_matches(name, ids, n=1)
        hint = f", did you mean {near[0]}?" if near else f"; one of them is {next(iter(ids))}"
        raise UserError(f"--forget {name}: no taught pattern has this id{hint}")
    return ids[name]


def forget(show: Show, gone: Pattern) -> None:
    """Take one fact out of the memory in this process; its nearest neighbours must not move."""
    name, engram = gone.id, show.sides[-1]
    others = [one for one in show.taught if one.category == gone.category and one.id != name]
    others.sort(key=lambda one: -difflib.SequenceMatcher(None, one.prompt, gone.prompt).ratio())
    facts = [gone, *others[:NEIGHBOURS]]
    prompts = [show.encode(Row(one.id, "S1", one.prompt, one.completion)) for one in facts]

    def look() -> list[tuple[str, torch.Tensor]]:
        return [(show.text(show.say(engram, one.ids[: one.start])[0]), show.logits(engram, one.ids)) for one in prompts]

    before = look()
    count = engram.adapter.forget([show.encode(row).ids for row in show.known.training_rows() if row.pattern == name])
    rows = [
        (one.id, first, second, torch.equal(was, now))
        for one, (first, was), (second, now) in zip(facts, before, look(), strict=True)
    ]
    console.print(showing.forgetting(f"{name} is forgotten ({count} n-grams), in this process only", rows))


def conclusion(metrics: dict[str, dict]) -> str:
    def of(what: str, form: str) -> str:
        return ", ".join(f"{label} {metrics[f'demo_{name}_{what}']['mean']:{form}}" for name, label in NAMES.items())

    if "demo_base_exact_match" not in metrics:
        return f"Answered at {of('speed', '.0f')} tokens/s."
    return f"Taught prompts answered right: {of('exact_match', '.0%')}; perplexity of other text: {of('perplexity', '.1f')}."


def main(args: Args) -> dict:
    setup = {
        "model": f"{args.model} as it is, with LoRA of rank {args.rank}, and with guarded n-gram memory of as many parameters",
        "data": "a few prompts of each kind, greedy decoding one token at a time",
        "optimisation": "none; where nothing was trained yet, as in the training",
    }
    title, objective = "Demo", "What the three say, side by side, and what the memory reads."
    with runlog.Run(args, __file__, "demo", title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        files = sorted(patterns.DATA.glob("*.yaml"))
        show = prepare(args, run)
        run.data("patterns", data.digest(files), rows=len(show.taught), source="data/*.yaml, written for this sprint")
        tokenizer, engram = show.loaded.tokenizer, show.sides[-1]
        kinds = sorted({one.category for one in show.taught})
        first = [next(one for one in show.taught if one.category == kind) for kind in kinds]
        if args.prompt:
            unknown(show, [(args.prompt, "")], "Your prompt (green: as the base)")
        else:
            taught = [Row(one.id, "S1", one.prompt, one.completion) for one in first]
            led = [
                replace(row, prompt=show.known.leads[one.category].test + row.prompt)
                for row, one in zip(taught, first, strict=True)
            ]
            right = asked(show, taught, "Taught prompts (green: right)")
            for name, more in asked(show, led[:2], "The same under a lead-in that was never taught").items():
                run.metric(
                    f"demo_{name}_exact_match",
                    [*right[name], *more],
                    unit="fraction",
                    higher_is_better=True,
                    meaning=f"{NAMES[name]}, the taught prompts shown here",
                )
            unknown(
                show, [(one.near_miss, one.completion) for one in first[1:3]], "Near misses: red is a taught answer where none fits"
            )
            unrelated(show, run)
        fact = next((one for one in first if one.category == "facts"), first[0])
        text = args.prompt or fact.prompt
        console.print(Text(f"\nWhat the memory reads in: {showing.visible(text)}", "bold"))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        console.print(showing.reading(tokenizer, engram.adapter.inspect(ids), console.width - 1))
        for name, label in NAMES.items():
            speed = show.tokens[name] / show.seconds[name]
            run.metric(
                f"demo_{name}_speed",
                speed,
                unit="tokens/s",
                higher_is_better=True,
                meaning=f"{label}, answers shown here, prompt included",
            )
        if args.forget or not args.prompt:
            forget(show, pattern_of(args.forget, show.taught) if args.forget else fact)
        run.observe("A few prompts to look at; the numbers that count are those of the evaluation and the bench.")
        run.conclude(conclusion(run.report["metrics"]))
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
