"""What the demo prints: answers side by side, what the memory reads at every token, a fact before and after it is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

WRONG, RIGHT, OTHER = "red", "green", "yellow"
HITS = {0: "bright_black", 1: "white", 2: "blue", 3: "cyan", 4: "cyan", 5: "magenta"}  # longest known n-gram -> colour
LONGEST = "bold yellow"


@dataclass(frozen=True)
class Answer:
    """What a model said to a prompt, and how it should look."""

    text: str
    style: str
    milliseconds: float


def visible(text: str) -> str:
    return text.replace("\n", "⏎")


def answers(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[Answer]]]) -> Table:
    """One line per prompt, one column per model."""
    table = Table("prompt", *names, title=title, title_justify="left", title_style="bold", expand=True, show_lines=True)
    for prompt, given in rows:
        cells = [Text(visible(one.text) or "(nothing)", one.style) + Text(f"\n{one.milliseconds:.0f} ms", "dim") for one in given]
        table.add_row(Text(prompt), *cells)
    return table


def reading(tokenizer: Any, readings: Sequence[Any], width: int) -> Group:
    """The tokens of a text; under each the longest n-gram the memory knows there, and how far its first gate is open."""
    lines: list[Text] = []
    rows = [Text(), Text(), Text()]
    for one in readings:
        shown = visible(tokenizer.decode([one.token])).replace(" ", "·")
        longest = max(one.orders, default=0)
        under = (shown, str(longest or "-"), f"{100 * one.gates[0]:.0f}%" if one.gates else "-")
        room = max(len(cell) for cell in under) + 1
        if len(rows[0]) + room > width:
            lines += [*rows, Text()]
            rows = [Text(), Text(), Text()]
        style = HITS.get(longest, LONGEST)
        gate = f"on rgb({int(90 * one.gates[0])},{int(60 * one.gates[0])},0)" if one.gates else ""
        for row, cell, look in zip(rows, under, (f"{style} {gate}".strip(), style, "dim"), strict=True):
            row.append(cell, look).append(" " * (room - len(cell)))
    lines += [*rows, Text("rows: token, length of the longest known n-gram that ends there, gate", "dim")]
    return Group(*lines)


def forgetting(title: str, rows: Sequence[tuple[str, str, str, bool]]) -> Table:
    """(id, answer before, answer after, whether its logits are bit-equal) of a fact and its neighbours."""
    table = Table("pattern", "before", "after", "logits", title=title, title_justify="left", title_style="bold", expand=True)
    for place, (name, before, after, equal) in enumerate(rows):
        changed = Text("bit-equal", RIGHT) if equal else Text("changed", OTHER if place == 0 else WRONG)
        table.add_row(Text(name), Text(visible(before)), Text(visible(after) or "(nothing)"), changed)
    return table
