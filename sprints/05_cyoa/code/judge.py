"""A language model as a judge of pairs, behind any OpenAI-compatible URL. It is optional, and no gate reads it.

Judges like what stands first and what is longer (Zheng et al. 2023), so each pair is shown in both orders: only a judgement that
holds in both counts as one, any other is a tie; the share of longer winners is recorded.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import httpx2
import numpy as np

from shared import runlog
from shared.errors import UserError, line

Winner = Literal["a", "b", "tie"]
ASK = """Two continuations of an interactive story for teens follow. Which one is the better next scene: does it go on from what
happened, hang together, read vividly, and offer choices that matter? Length does not count.

Story so far:
{prompt}

Continuation 1:
{first}

Continuation 2:
{second}

Answer with one word: 1, 2 or tie."""


@dataclass(frozen=True)
class Judgement:
    winner: Winner
    agreed: bool  # in both orders
    longer: bool | None  # whether the winner is the longer text; None for a tie


class Judge:
    """Raises UserError where the server cannot be used."""

    def __init__(self, url: str, model: str = "", key: str = "", timeout: float = 60.0):
        if not url.startswith(("http://", "https://")):
            raise UserError("--judge-url must be http://HOST:PORT/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout)
        self._url, self._model = url, model

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def check(self) -> None:
        """Ask about a trifle: whether the server is there, knows the model and takes the key is better known before a long run."""
        self.judge("The gate opens.", "You walk in.", "You wait for the others.")

    def judge(self, prompt: str, a: str, b: str) -> Judgement:
        """Ask in both orders."""
        first, second = self._ask(prompt, a, b), self._ask(prompt, b, a)
        back: dict[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}
        winner: Winner = first if first == back[second] else "tie"
        longer = None if winner == "tie" else (len(a) > len(b)) == (winner == "a")
        return Judgement(winner, first == back[second], longer)

    def _ask(self, prompt: str, first: str, second: str) -> Winner:
        asked = ASK.format(prompt=prompt, first=first, second=second)
        body = {"messages": [{"role": "user", "content": asked}], "temperature": 0, "max_tokens": 8}
        try:
            if not self._model:
                self._model = self._client.get("models").raise_for_status().json()["data"][0]["id"]
            answer = self._client.post("chat/completions", json=body | {"model": self._model}).raise_for_status().json()
            return verdict(answer["choices"][0]["message"]["content"] or "")
        except (httpx2.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            what = f"the judge at {self._url} does not answer ({line(error)})"
            raise UserError(f"{what}: check --judge-url and --judge-model") from None


def verdict(answer: str) -> Winner:
    """The first 1, 2 or tie in an answer; anything else is a tie."""
    found = re.search(r"\b(1|2|tie)\b", answer.casefold())
    winners: dict[str, Winner] = {"1": "a", "2": "b", "tie": "tie"}
    return winners[found[1]] if found else "tie"


def compare(judge: Judge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str], track=iter) -> list[Judgement]:
    """Our answers (a) against theirs (b), prompt by prompt."""
    triples: Iterable[tuple[str, str, str]] = track(list(zip(prompts, ours, theirs, strict=True)))
    return [judge.judge(*triple) for triple in triples]


def record(run: runlog.Run, other: str, title: str, found: Sequence[Judgement]) -> None:
    """What the judge thinks of us against one other system."""
    wins = [{"a": 1.0, "tie": 0.5, "b": 0.0}[one.winner] for one in found]
    run.metric(f"judge_wins_over_{other}", wins, unit="fraction", meaning=f"{title}: wins, a tie is half a win")
    agreed = np.array([one.agreed for one in found])
    run.metric(f"judge_agrees_{other}", agreed, unit="fraction", meaning=f"{title}: the same verdict in both orders")
    if longer := [one.longer for one in found if one.longer is not None]:
        run.metric(f"judge_longer_{other}", np.array(longer), unit="fraction", meaning=f"{title}: the longer text won")
