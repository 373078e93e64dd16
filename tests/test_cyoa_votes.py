"""Sprint 05: votes, from pairs to a ranking."""

import base64
import json
import re
from importlib import import_module

import numpy as np
import pytest
from sqlalchemy import select

from shared.errors import UserError
from tests.chromium import CHROMIUM, needs_chromium

votes = import_module("sprints.05_cyoa.code.votes")
bradley_terry = import_module("sprints.05_cyoa.code.bradley_terry")
storytext = import_module("sprints.05_cyoa.code.storytext")
store, tables = (import_module(f"sprints.05_cyoa.code.api.{name}") for name in ("store", "tables"))

KRIPPENDORFF = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")  # his example of 2011: four raters, twelve units
NASTY = '</script><script>hit = 1</script> & "it\'s" \u2603'


def vote(rater="r", pair="p", left="model", right="base", winner="left"):
    return votes.Vote(rater, pair, left, right, winner, 900)


def example(at: int):
    asked = [{"role": "system", "content": "A story."}, {"role": "user", "content": f"{NASTY} {at}"}]
    return storytext.Example("s", str(at), asked, f"You wait at gate {at} until the long rain is over.\n\n> Go\n> Stay")


EXAMPLES = [example(at) for at in range(12)]
ANSWERS = {
    "authored": [one.response for one in EXAMPLES],
    "model": [f"{NASTY} {at}" for at in range(12)],
    "base": [f"base {at}" for at in range(12)],
}


def test_alpha_is_krippendorffs():
    units = [[int(row[at]) for row in KRIPPENDORFF if row[at] != "."] for at in range(12)]
    assert bradley_terry.agreement(units) == pytest.approx(0.815, abs=5e-4)
    assert bradley_terry.agreement([[1, 1], [0, 0]]) == 1
    assert bradley_terry.agreement([[1], [0]]) is None and bradley_terry.agreement([[1, 1], [1, 1]]) is None


def test_strengths_of_two_models_are_their_odds():
    (first, second) = bradley_terry.fit([("x", "y", "a")] * 30 + [("y", "x", "a")] * 10)
    odds = (30 + bradley_terry.PRIOR) / (10 + bradley_terry.PRIOR)
    assert (first.model, second.model) == ("x", "y")
    assert first.rating - second.rating == pytest.approx(400 * np.log10(odds))
    assert first.rating + second.rating == pytest.approx(2000)
    assert first.low < first.rating < first.high and first.low > second.high


def test_ranking_recovers_known_strengths_and_forgets_sides():
    rng, true = np.random.default_rng(0), {"a": 0.0, "b": 0.8, "c": 1.6}
    cast = []
    for _ in range(900):
        one, other = rng.choice(list(true), 2, replace=False)
        wins = rng.random() < 1 / (1 + np.exp(true[other] - true[one]))
        cast.append((str(one), str(other), "a" if wins else "b"))
    rows = bradley_terry.fit(cast)
    assert [row.model for row in rows] == ["c", "b", "a"]
    assert rows[0].rating - rows[2].rating == pytest.approx(1.6 * bradley_terry.POINTS, rel=0.2)
    turned = [(b, a, {"a": "b", "b": "a"}[winner]) for a, b, winner in cast]
    assert [row.rating for row in bradley_terry.fit(turned)] == pytest.approx([row.rating for row in rows])


def test_the_interval_of_few_raters_is_wider_than_that_of_as_many_votes():
    """Eight people, each of one mind: eight opinions, however often they are given."""
    cast = [("x", "y", "a" if rater < 6 else "b") for rater in range(8) for _ in range(50)]
    raters = [f"r{rater}" for rater in range(8) for _ in range(50)]
    (alone, _), (together, _) = bradley_terry.fit(cast), bradley_terry.fit(cast, raters)
    assert together.rating == alone.rating and together.low < 1000 < alone.low
    each = bradley_terry.fit(cast, [f"r{at}" for at in range(len(cast))])[0]
    assert each.high - each.low == pytest.approx(alone.high - alone.low, rel=0.6)


def test_checks_of_attention_rank_nobody():
    contest = [("x", "y", "a"), ("y", "x", "tie")]
    checks = [("authored", bradley_terry.SHUFFLED, "a"), (bradley_terry.SHUFFLED, "authored", "b")]
    assert bradley_terry.fit([*checks, *contest]) == bradley_terry.fit(contest) and bradley_terry.fit(checks) == []


def test_pairs_and_checks_come_into_the_app_once(tmp_path, capsys):
    found = votes.pairs(EXAMPLES, ANSWERS)
    (tmp_path / "vote.html").write_text(votes.page(found), encoding="utf-8")
    database = f"sqlite:///{tmp_path / 'stories.db'}"
    for _ in range(2):
        votes.main(add=tmp_path / "vote.html", database=database)
    assert "14 new pairs" in (said := capsys.readouterr().out) and "0 new pairs" in said
    with store.Store(database).session() as session:
        kept = list(session.scalars(select(tables.Pair)))
        texts = [{pair.model_a: pair.text_a, pair.model_b: pair.text_b} for pair in kept]
    assert len(texts) == len(found) and all(pair["texts"] in texts for pair in found)
    assert sum(votes.SHUFFLED in one for one in texts) == 2


def test_ties_wins_alone_and_no_votes():
    assert [row.rating for row in bradley_terry.fit([("x", "y", "tie")] * 9)] == pytest.approx([1000, 1000])
    best, worst = bradley_terry.fit([("x", "y", "a")] * 5)
    assert best.model == "x" and np.isfinite([best.high, worst.low]).all() and best.low < best.high
    assert bradley_terry.fit([]) == bradley_terry.fit([("x", "x", "a")]) == []


def test_power_of_a_hundred_votes():
    assert bradley_terry.power(0.7, 100) == pytest.approx(0.83, abs=0.03)  # the simulation behind the plan gave 0.84
    assert bradley_terry.power(0.6, 100) < 0.5 < 0.99 < bradley_terry.power(0.8, 200)
    assert bradley_terry.power(0.5, 100, noise=0) < 0.05 and bradley_terry.power(1.0, 1) == 0


def test_pairs_are_blind_stable_and_hold_checks():
    found = votes.pairs(EXAMPLES, ANSWERS)
    checks = [pair for pair in found if votes.SHUFFLED in pair["texts"]]
    assert len(found) == 14 and len(checks) == 2 and found == votes.pairs(EXAMPLES, ANSWERS)
    others = [set(pair["texts"]) - {"model"} for pair in found if pair not in checks]
    assert {"authored"} in others and {"base"} in others
    contests = {text for pair in found if pair not in checks for text in pair["texts"].values()}
    assert not contests & {pair["texts"]["authored"] for pair in checks}, "a check tells nobody who wrote the text of another pair"
    for pair in checks:
        authored, worse = pair["texts"]["authored"], pair["texts"][votes.SHUFFLED]
        assert authored != worse and sorted(authored.split()) == sorted(worse.split())


def test_the_page_needs_no_network_and_keeps_its_texts(tmp_path):
    found = votes.pairs(EXAMPLES, ANSWERS)
    html = votes.page(found)
    (tmp_path / "vote.html").write_text(html, encoding="utf-8")
    assert votes.read_page(tmp_path / "vote.html") == found
    assert "hit = 1" not in html and not re.search(r'(?:src|href)="(?!data:)', html)
    packed = re.search(r'id="pairs">([^<]+)<', html)
    assert packed and json.loads(base64.b64decode(packed[1]))["key"].startswith("votes-")
    with pytest.raises(UserError, match="no pairs"):
        votes.page([])


def test_votes_are_read_and_damage_is_named(tmp_path):
    row = {"rater": "r", "id": "p", "left": "model", "right": "base", "winner": "tie", "ms": 700}
    path = tmp_path / "votes.json"
    path.write_text(json.dumps([row]))
    assert votes.read([path]) == [votes.Vote("r", "p", "model", "base", "tie", 700)]
    for wrong in ({**row, "winner": "both"}, {**row, "ms": -1}, {**row, "ms": True}, {**row, "right": "model"}, {"rater": "r"}, 7):
        path.write_text(json.dumps([wrong]))
        with pytest.raises(UserError, match="vote 1"):
            votes.read([path])
    path.write_text(json.dumps([row, row]))
    with pytest.raises(UserError, match=r"vote 2.*before"):
        votes.read([path])
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        votes.read([path])
    with pytest.raises(UserError, match="cannot be read"):
        votes.read([tmp_path / "none.json"])


def test_who_fails_the_checks_is_not_counted():
    good = [vote("good", f"c{n}", "authored", votes.SHUFFLED, "left") for n in range(3)] + [vote("good", "p")]
    bad = [vote("bad", f"c{n}", votes.SHUFFLED, "authored", "left") for n in range(2)]
    bad += [vote("bad", "c2", votes.SHUFFLED, "authored", "right"), vote("bad", "p", winner="right")]
    assert votes.inattentive([*good, *bad]) == {"bad"}
    assert votes.counted([*good, *bad]) == [vote("good", "p")]


def test_agreement_does_not_depend_on_sides():
    same = [vote("x", "p", "model", "base", "left"), vote("y", "p", "base", "model", "right")]
    same += [vote("x", "q", "model", "base", "right"), vote("y", "q", "model", "base", "right")]
    assert votes.agreement(same) == 1
    assert votes.agreement(same[:1]) is None


@needs_chromium
def test_a_visitor_votes_blind_and_downloads(tmp_path):
    """In a real browser: no name of a system is shown, a reload keeps the votes, the file is what `read` reads."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = votes.pairs(EXAMPLES[:2], ANSWERS)
    (tmp_path / "vote.html").write_text(votes.page(found), encoding="utf-8")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(accept_downloads=True)
        problems = []
        page.on("pageerror", lambda error: problems.append(error))
        page.goto((tmp_path / "vote.html").as_uri())
        for done, key in enumerate("123"):
            page.get_by_text(f"{done} of 3 done").wait_for()
            seen = page.locator("#left").inner_text(), page.locator("#right").inner_text()
            assert set(seen) in [set(pair["texts"].values()) for pair in found]
            page.wait_for_timeout(300)  # a faster vote is taken for a double click
            page.keyboard.press(key)
            if done == 0:
                page.get_by_text("1 of 3 done").wait_for()
                page.reload()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download votes").click()
        download.value.save_as(tmp_path / "votes.json")
        assert page.evaluate("typeof hit") == "undefined" and not problems
        browser.close()
    cast = votes.read([tmp_path / "votes.json"])
    assert [vote.winner for vote in cast] == ["left", "tie", "right"] and {vote.id for vote in cast} == {
        pair["id"] for pair in found
    }
