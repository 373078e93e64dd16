"""Stories of the corpus: everyday, cats, adventures; plain, with a title, as the answer to a request, or as a continuation."""

import random

from .quest import quest, scenes
from .sample import Sample
from .script import Plot, plots
from .tale import Tale
from .world import articles, listing, title_case

FAMILIES: tuple[str, ...] = (*plots(), *scenes())

REQUESTS = (
    "Write a short story about {brief} {hook}.",
    "Tell me a story about {brief} {hook}.",
    "Please write a story about {brief} {hook}.",
    "I would like to read a story about {brief} {hook}.",
    "Can you tell me a bedtime story about {brief} {hook}?",
    "Story: {brief} {hook}.",
    "Make up a story in which {brief} is the one {hook}.",
    "Write a little story. It is about {brief} {hook}.",
)
WITH_DETAILS = (
    "Write a story about {brief}. It should have {details} in it.",
    "Tell me a story with {brief}, {details}.",
    "Write a short story.\nHero: {brief}\nAlso in it: {details}",
    "Please tell a story about {name}. Use these things: {details}.",
    "I need a story for tonight. {name} is {plain}, and there should be {details}.",
)
CONTINUE = (
    "Continue the story: {text}",
    "Continue this story:\n\n{text}",
    "How does this story go on?\n\n{text}",
    "Here is the beginning of a story. Write the rest.\n\n{text}",
    "{text}\n\nWhat happens next?",
    "Finish the story.\n\n{text}",
)


def story(rng: random.Random, family: str | None = None) -> Sample:
    """One story of a family (or of a random one, an adventure in one of four)."""
    family = family or rng.choice(tuple(scenes()) if rng.random() < 0.25 else tuple(plots()))
    if family in scenes():
        return quest(rng, family)
    plot = plots()[family]
    tale = Tale(rng)
    plot.tell(tale)
    names = tuple(tale.names)
    joint = "\n\n" if rng.random() < 0.7 else " "
    paragraphs = [" ".join(paragraph) for paragraph in tale.paragraphs if paragraph]
    form = rng.random()
    if form < 0.22:
        asked = request(rng, plot, tale)
        return Sample(family, (articles(asked), articles(joint.join(paragraphs))), names=names)
    if form < 0.32:
        return continuation(rng, family, tale, names)
    text = articles(joint.join(paragraphs))
    if form < 0.5:
        text = f"{articles(title_case(tale.render(rng.choice(plot.titles))))}\n\n{text}"
    return Sample(family, (text,), names=names)


def request(rng: random.Random, plot: Plot, tale: Tale) -> str:
    """What somebody asks for who wants this story."""
    bind = tale.bind
    brief = f"{bind['A.plain']} {rng.choice(('named', 'called'))} {bind['A']}"
    things = [bind[key] for key in ("T", "m", "plant", "b", "i") if key in bind]
    details = [f"a {thing}" for thing in things] + [bind[key] for key in ("P.the", "B") if key in bind]
    if details and rng.random() < 0.4:
        wanted = listing(rng.sample(details, min(3, len(details))))
        return rng.choice(WITH_DETAILS).format(brief=brief, name=bind["A"], plain=bind["A.plain"], details=wanted)
    return rng.choice(REQUESTS).format(brief=brief, hook=tale.render(plot.hook))


def continuation(rng: random.Random, family: str, tale: Tale, names: tuple[str, ...]) -> Sample:
    """The first sentences as the request, the rest as the answer."""
    cut = rng.choice((2, 3, 4))
    opening: list[str] = []
    rest: list[str] = []
    for paragraph in tale.paragraphs:
        head = paragraph[: max(0, cut - len(opening))]
        opening += head
        if paragraph[len(head) :]:
            rest.append(" ".join(paragraph[len(head) :]))
    if " ".join(opening).count('"') % 2:  # a letter or a diary is not cut open
        return Sample(
            family, (articles("\n\n".join(" ".join(paragraph) for paragraph in tale.paragraphs if paragraph)),), names=names
        )
    asked = rng.choice(CONTINUE).format(text=" ".join(opening))
    return Sample(family, (articles(asked), articles("\n\n".join(rest))), names=names)
