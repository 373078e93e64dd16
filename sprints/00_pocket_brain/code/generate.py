"""Let the Pocket Brain write: answer a prompt, or write the sheet of 24 samples.

$ make pocket-generate PROMPT="Write a short story about a cat named Milo."   streams an answer
$ make pocket-generate PROMPT="Once there was" ARGS=--plain                   goes on with a text
$ make pocket-generate                                                        the sample sheet, nothing selected
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared import models, runlog, streaming
from shared.report import quoted
from shared.runlog import console

PROMPTS = Path(__file__).resolve().parents[1] / "data" / "prompts.txt"


@dataclass
class Args(runlog.Args):
    """What to write about, and how boldly."""

    devices = ("cpu", "cuda", "mps", "mlx")  # writing needs less than training

    prompt: str | None = None
    """What to say to the model; without it, the sample sheet is written."""
    plain: bool = False
    """Go on with the prompt as a text, instead of answering it as a message."""
    model: str = "pocket"
    """pocket, smollm, phi3, a hub id or a folder."""
    max_new_tokens: int = 200
    """Longest answer, in tokens."""
    temperature: float = 0.7
    """Boldness: 0 always takes the likeliest token."""
    top_p: float = 0.9
    """Only the likeliest tokens that together hold this much probability are drawn."""
    seed: int = 0
    """Seed of the draw."""


def write(loaded: models.LoadedModel, args: Args, prompt: str, plain: bool) -> tuple[str, bool]:
    """The text for one prompt, shown while it is written, and whether it ended by itself."""
    asked = prompt if plain else [{"role": "user", "content": prompt}]
    sampling = {"temperature": args.temperature, "top_p": args.top_p, "seed": args.seed}
    pieces = streaming.stream(loaded, asked, max_new_tokens=args.max_new_tokens, **sampling)
    found = streaming.whole(pieces, partial(console.print, end="", soft_wrap=True))
    console.print()
    return found


def sheet(args: Args, loaded: models.LoadedModel, run: runlog.Run) -> None:
    """One draw for each prompt of data/prompts.txt; lines that begin with > are texts to go on with."""
    prompts = PROMPTS.read_text(encoding="utf-8").strip().split("\n")
    prompts = prompts[:2] if args.smoke else prompts
    decoding, lengths, whole = f"seed {args.seed}, temperature {args.temperature}, top-p {args.top_p}", [], 0
    cut = f"[cut]: at {args.max_new_tokens} tokens. A text that goes on with a given one shows that in bold."
    lines = ["# Samples", "", f"One draw each, {decoding}, nothing selected. {cut}", "", f"{loaded}", ""]
    for prompt in prompts:
        plain, prompt = prompt.startswith("> "), prompt.removeprefix("> ").replace("\\n", "\n")
        console.print(f"\n{prompt}", style="bold")
        text, ended = write(loaded, args, prompt, plain)
        lengths.append(len(loaded.tokenizer(text)["input_ids"]))
        whole += ended
        body = f"**{prompt}**{text}" if plain else text
        lines += [f"## {prompt.splitlines()[0]}", "", quoted(body if ended else f"{body} [cut]"), ""]
    run.metric("sample_tokens", lengths, unit="tokens", meaning="length of the samples on the sheet")
    run.observe(f"{whole} of {len(lengths)} samples end by themselves.")
    run.conclude(f"{len(lengths)} texts, nothing selected, in samples.md beside this report.")
    run.file("samples.md", "\n".join(lines))


def main(args: Args) -> dict | None:
    if args.prompt is not None:
        loaded = models.load(args.model, args.device)
        console.print(str(loaded), style="dim")
        _, ended = write(loaded, args, args.prompt, args.plain)
        if not ended:
            console.print(f"[cut at {args.max_new_tokens} tokens: --max-new-tokens takes more]", style="dim")
        return None
    if args.smoke:
        args.max_new_tokens = 8
    setup = {
        "prompts": "data/prompts.txt, written before the model was trained",
        "decoding": f"temperature {args.temperature}, top-p {args.top_p}, one draw, at most {args.max_new_tokens} tokens",
    }
    title, objective = "Sample sheet", "Read what the model writes, without a selection."
    with runlog.Run(args, __file__, "samples", title=title, objective=objective, setup=setup, seeds=[args.seed]) as run:
        loaded = models.load(args.model, run.device)
        console.print(str(loaded), style="dim")
        sheet(args, loaded, run)
    return run.report


if __name__ == "__main__":
    runlog.launch(main, Args)
