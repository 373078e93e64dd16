"""Stories for the tests of CYOA's exports and imports."""

from importlib import import_module

code = "sprints.05_cyoa.code"
document, tables = (import_module(f"{code}.api.{name}") for name in ("document", "tables"))
scenarios, storytext = (import_module(f"{code}.{name}") for name in ("scenarios", "storytext"))
Page, StoryDocument, Person = document.Page, document.StoryDocument, scenarios.Person

# what means something in one of the formats, at the beginning of a line or inside
MARKS = r"""{ } [ ] [[ ]] -> <- -->| || # ## ~ \ \\ \n // /* */ * ** - -- --- + = === <> < > </script> <!-- & &amp; &#65; ::
:: $x _y_ __z__ `c` (set:$a) (2) ' '' " 1. 2) ! ? % @ ^ | VAR CONST LIST INCLUDE EXTERNAL TODO: TODO TODO- ~temp {{{ else: ]]> %s {0} @@TITLE@@
function knot END DONE é 猫 🦊"""
TOKENS = (*MARKS.split(" "), "\u202e", "\xa0", "\u2028", "\ufeff", "e\u0301", "fox", "gate", "rain")


def words(rng, most=8):
    return " ".join(rng.choice([*TOKENS, chr(rng.randrange(0xA1, 0x2FF))]) for _ in range(rng.randint(1, most))).strip() or "fox"


def fuzzed(rng):
    """A story as the store could hold it, out of everything that a format could stumble over."""
    pages = []
    for place in range(rng.randint(1, 9)):
        parents = [page for page in pages if page.text and not page.ending]
        parent = rng.choice(parents) if parents and rng.random() < 0.9 else None
        ways = [*parent.choices, words(rng), None] if parent else [None]
        made = {"kind": rng.choice(("act", "retry", "continue", "edit")), "actor": rng.choice(("model", "author", "player"))}
        text = "\n\n".join(words(rng) for _ in range(rng.randint(1, 3))) if place == 0 or rng.random() < 0.9 else ""
        made |= {"ending": not text or rng.random() < 0.2, "status": "done" if text else "failed", "seed": rng.choice((None, 7))}
        choices = () if made["ending"] else tuple(dict.fromkeys(words(rng, 3) for _ in range(rng.randint(2, 4))))
        pages.append(
            Page(
                f"p{place}", parent and parent.id, text, rng.choice(ways), choices, **made, created="2026-01-02T03:04:05.678+00:00"
            )
        )
    return StoryDocument(
        " ".join(words(rng, 4).split())[:80],
        "cat cafe",
        Person("Mio", "she/her"),
        tuple(pages),
        rng.choice(pages).id,
        id=tables.new_id(),
        cast=(Person("Ren", "he/him", "cook"),),
        rating="teen",
        seed=rng.choice((None, 3)),
        memory=words(rng),
        lore=(storytext.Lore(("fox", "den"), words(rng), True, -2),),
        settings=rng.choice(({}, {"temperature": 0.5, "length": None})),
        created="2026-01-02T03:04:05.678+00:00",
    )


def told(scenario):
    """A scenario played through along every path."""
    pages = {}
    for path in scenarios.paths(scenario):
        parent, way = None, ()
        for (scene, _), (_, taken) in zip(path, [(None, None), *path], strict=False):
            way = (*way, taken and taken.text)
            choices = tuple(choice.text for choice in scene.choices)
            pages.setdefault(
                way, Page(str(len(pages)), parent, scene.text, way[-1], choices, scene.ending is not None, "act", "author")
            )
            parent = pages[way].id
    found = tuple(pages.values())
    named = {name: getattr(scenario, name) for name in ("title", "genre", "hero", "cast", "rating")}
    return StoryDocument(pages=found, head=next(page.id for page in found if page.ending), id=tables.new_id(), **named)
