"""What the model must show before other sprints build on it: look-up, names that stay, grammar, bits per character."""

import random
import re
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shared.stats import wilson_interval

from . import rules
from .kneser_ney import ORDER, KneserNey
from .text import corpus, stories, task_lookup
from .text.sample import Sample

BATCH = 32
WINDOW = 512
STORY_TOKENS = 120
STORY_WORDS = 40  # a shorter continuation has failed: nothing wrong can stand in nothing
OPENING_WORDS, REST_WORDS = 45, 60  # with most of the cast in the opening, few names can be new
FACTS = (2, 3, 4, 5)
TEMPERATURE, TOP_P = 0.7, 0.9
MIXTURES = (1.0, 0.9, 0.75, 0.5, 0.25, 0.0)


def split_prompts(samples: Sequence[Sample], brain: PreTrainedTokenizerBase) -> list[str]:
    """Everything before the last turn of each sample, in the chat format, up to the assistant's mark."""
    prompts = []
    for sample in samples:
        roles = ["user", "assistant"] * len(sample.turns)
        messages = [{"role": role, "content": turn} for role, turn in zip(roles, sample.turns[:-1], strict=False)]
        if sample.system:
            messages.insert(0, {"role": "system", "content": sample.system})
        prompts.append(brain.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return prompts


@torch.no_grad()
def complete(
    model: PreTrainedModel, brain: PreTrainedTokenizerBase, prompts: Sequence[str], new_tokens: int, seed: int | None = None
) -> list[str]:
    """What the model writes after each prompt, in their order: greedy, or with a seed sampled at TEMPERATURE and TOP_P."""
    if seed is not None:
        torch.manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))  # little padding
    found = [""] * len(prompts)
    sampling = (
        {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0} if seed is not None else {"do_sample": False}
    )
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = brain([prompts[place] for place in places], return_tensors="pt", padding=True, return_token_type_ids=False)
        batch = batch.to(model.device)
        out = model.generate(**batch, max_new_tokens=new_tokens, **sampling)  # pyright: ignore[reportCallIssue]
        texts = brain.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    return found


def complete_by_counts(
    ngram: KneserNey,
    brain: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    new_tokens: int,
    stops: Sequence[int],
    seed: int | None = None,
) -> list[str]:
    """The same by the n-gram model."""
    rng = None if seed is None else np.random.default_rng(seed)
    asked = [brain(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    written = [ngram.write(tokens, new_tokens, stops, rng, TEMPERATURE, TOP_P) for tokens in asked]
    return brain.batch_decode(written, skip_special_tokens=True)


def unseen_phrasings() -> list[str]:
    """The look-up families whose question never trains: the first phrasings of a relation are shared with other kinds of task."""
    found = (family.split("/") for family in corpus.held_out() if family.startswith("lookup/"))
    return sorted("/".join(parts) for parts in found if int(parts[2]) >= task_lookup.COMMON_ASKS)


def lookup_questions(
    facts: int, count: int, families: Sequence[str] | None = None, seed: int = 1
) -> list[tuple[Sample, list[str]]]:
    """Questions about so many facts on reserved invented names, each with the values of the asked relation in its text, the right
    one first.

    Of any relation and phrasing, or of these families.
    """
    rng, known, found = random.Random(f"{seed} {facts}"), task_lookup.relations(), []
    for _ in range(count):
        if families is None:
            relation = rng.choice(list(known.values()))
            family = f"lookup/{relation.name}/{rng.randrange(len(relation.asks))}"
        else:
            family = rng.choice(families)
            relation = known[family.split("/")[1]]
        draw = rng.random()
        sample = task_lookup.lookup(random.Random(draw), "test", facts, family)
        told = task_lookup.draw_facts(random.Random(draw), "test", facts, relation)  # what lookup draws first
        found.append((sample, [fact.value for fact in told if fact.relation == relation]))
    return found


def exact(answers: Sequence[str], samples: Sequence[Sample]) -> np.ndarray:
    """Whether each answer is the right one, letter by letter (a final full stop apart)."""
    return np.array([a.strip().rstrip(".") == sample.turns[-1].rstrip(".") for a, sample in zip(answers, samples, strict=True)])


def openings(count: int, seed: int = 2) -> list[tuple[str, str, str]]:
    """The first sentences of plain stories from held-out plots, at least OPENING_WORDS, the rest, REST_WORDS, and the plot."""
    rng, families = random.Random(seed), sorted(corpus.held_out() & set(stories.FAMILIES))
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        sample = stories.story(rng, rng.choice(families))
        if len(sample.turns) != 1:
            continue
        sentences = re.split(r"(?:(?<=[.!?])|(?<=[.!?]\")) (?=[A-Z\"])", sample.turns[0])
        opening = ""
        while sentences and (len(opening.split()) < OPENING_WORDS or opening.count('"') % 2):  # nobody is cut off while speaking
            opening = f"{opening} {sentences.pop(0)}".strip()
        rest = " ".join(sentences)
        if len(rest.split()) >= REST_WORDS:
            found.append((opening, rest, sample.family))
    return found


def long_enough(text: str) -> bool:
    return len(text.split()) >= STORY_WORDS


def name_verdicts(before: Sequence[str], written: Sequence[str]) -> list[list[bool]]:
    """Per story and mention of a name, whether it was introduced; in a story that is too short no mention counts as such."""
    found = []
    for opening, text in zip(before, written, strict=True):
        text = re.sub(r"\w+$", "", text)  # the last word may be cut
        verdicts = rules.names_introduced(opening, text)
        found.append(verdicts if long_enough(text) else [False] * max(1, len(verdicts)))
    return found


def cluster_interval(
    stories: Sequence[Sequence[bool]], plots: Sequence[str], seed: int = 0, draws: int = 4000
) -> tuple[float, float]:
    """95 % bootstrap interval of the share of mentions; whole plots are drawn, since the stories of one depend on each other.

    Where all mentions agree there is nothing to draw: then Wilson's interval of as many plots.
    """
    told = {plot: [right for each, story in zip(plots, stories, strict=True) if each == plot for right in story] for plot in plots}
    right = np.array([sum(verdicts) for verdicts in told.values() if verdicts])
    total = np.array([len(verdicts) for verdicts in told.values() if verdicts])
    share = right.sum() / total.sum()
    if share in (0, 1):
        return wilson_interval(len(total) if share else 0, len(total))
    picks = np.random.default_rng(seed).integers(len(total), size=(draws, len(total)))
    low, high = np.quantile(right[picks].sum(1) / total[picks].sum(1), (0.025, 0.975))
    return min(float(low), share), max(float(high), share)


def clean(text: str) -> bool:
    return long_enough(text) and not rules.faults(text)


def shuffled(text: str, rng: random.Random) -> str:
    """The words of each sentence in random order; capitals, full stops and quotes stay where they were."""
    parts = re.split(r"([.!?]+)", text)
    for place in range(0, len(parts), 2):
        words = re.findall(r"[\w'-]+", parts[place])
        if words:
            if not rules.keeps_capital(words[0]):
                words[0] = words[0][0].lower() + words[0][1:]
            rng.shuffle(words)
            words[0] = words[0][0].upper() + words[0][1:]
            left = iter(words)
            parts[place] = re.sub(r"[\w'-]+", lambda _, left=left: next(left), parts[place])
    return "".join(parts)


def windows(tokens: np.ndarray, count: int) -> np.ndarray:
    """Where evenly spaced windows of WINDOW + 1 tokens begin, fewer than `count` where they would overlap."""
    last = len(tokens) - (WINDOW + 1)
    count = min(count, (len(tokens) - (ORDER - 2)) // (WINDOW + 1))
    return np.linspace(ORDER - 2, last, count).astype(int)


def characters(tokens: np.ndarray, starts: np.ndarray, brain: PreTrainedTokenizerBase) -> np.ndarray:
    """How many characters the predicted tokens of each window are; the signs of the chat format cost bits and are none."""
    rows = [tokens[start + 1 : start + WINDOW + 1].tolist() for start in starts]
    return np.array([len(text) for text in brain.batch_decode(rows, skip_special_tokens=True)])


@torch.no_grad()
def model_nats(model: PreTrainedModel, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """-log p of the tokens of each window, all but the first: (windows, WINDOW) nats."""
    rows = torch.from_numpy(np.stack([tokens[start : start + WINDOW + 1] for start in starts]).astype(np.int64))
    found = []
    for batch in rows.split(8):
        batch = batch.to(model.device)
        logits = model(batch[:, :-1]).logits.float()
        found.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").cpu())
    return torch.cat(found).numpy()


def ngram_nats(own: KneserNey, every: KneserNey, tokens: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, float]:
    """The same tokens by the n-gram model of their source mixed with that of all sources, which may also look back in front of the
    window, and the share of the former: the best of MIXTURES for these very tokens, which favours it."""
    parts = [np.exp([-ngram.nats(tokens[start - ORDER + 2 : start + WINDOW + 1]) for start in starts]) for ngram in (own, every)]
    mixed = {share: -np.log(share * parts[0] + (1 - share) * parts[1]) for share in MIXTURES}
    best = min(MIXTURES, key=lambda share: mixed[share].sum())
    return mixed[best], best
