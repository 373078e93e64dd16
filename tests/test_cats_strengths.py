"""Sprint 01: the strengths of Bradley and Terry that are fitted to votes."""

import math
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from shared.errors import UserError

vote = import_module("sprints.01_paws_of_dread.code.vote")
Vote = vote.Vote
SYSTEMS = ("base", "fewshot", "tuned")


def simulated(strengths, count, seed=0, ties=0.2):
    """Votes between random systems of these log strengths; a share of them ends in a tie."""
    rng, names, found = np.random.default_rng(seed), list(strengths), []
    for at in range(count):
        left, right = rng.permutation(names)[:2].tolist()
        wins = rng.random() < 1 / (1 + math.exp(strengths[right] - strengths[left]))
        found.append(Vote(str(at), left, right, "equal" if rng.random() < ties else "left" if wins else "right", 1.0))
    return found


def logits(votes):
    fitted = vote.bradley_terry(votes, draws=10)
    return [math.log(fitted[name]["win_probability"] / (1 - fitted[name]["win_probability"])) for name in SYSTEMS[1:]]


@pytest.mark.parametrize("count", [1, 7, 400])
def test_fit_equals_logistic_regression(count):
    votes = simulated({"base": 0, "tuned": 1.5, "fewshot": -0.5}, count)
    votes += [Vote("y", "base", "fewshot", "left", 1), Vote("z", "tuned", "base", "left", 1)]
    outcomes = {"left": [(1, 1)], "right": [(0, 1)], "equal": [(1, 0.5), (0, 0.5)]}
    rows = [(v.left, v.right, *outcome) for v in votes for outcome in outcomes[v.choice]]
    rows += [(a, b, 1, vote.PRIOR) for a in SYSTEMS for b in SYSTEMS if a != b]
    design = [[(a == name) - (b == name) for name in SYSTEMS[1:]] for a, b, _, _ in rows]
    wins, weights = [won for _, _, won, _ in rows], [weight for *_, weight in rows]
    twin = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10, max_iter=1000).fit(design, wins, sample_weight=weights)
    assert logits(votes) == pytest.approx(twin.coef_[0], abs=1e-4)


def test_known_strengths_are_recovered_and_covered():
    truth = {"base": 0.0, "tuned": 1.0, "fewshot": 0.4}
    assert logits(simulated(truth, 20_000, ties=0)) == pytest.approx([0.4, 1.0], abs=0.08)
    right = 1 / (1 + math.exp(-1.0))
    intervals = [vote.bradley_terry(simulated(truth, 90, seed, ties=0), draws=300)["tuned"]["ci95"] for seed in range(200)]
    assert 0.90 <= np.mean([low <= right <= high for low, high in intervals]) <= 0.99


def test_ties_skips_sides_and_seed():
    for choices in ("equal", "equal"), ("left", "right"):
        votes = [Vote(str(at), "tuned", "base", choices[at % 2], 1) for at in range(20)]
        assert vote.bradley_terry(votes)["tuned"]["win_probability"] == pytest.approx(0.5)
    votes = simulated({"base": 0, "tuned": 1}, 50)
    mirrored = [Vote(v.id, v.right, v.left, {"left": "right", "right": "left"}.get(v.choice, v.choice), 1) for v in votes]
    skips = [Vote(f"s{at}", "base", "tuned", "skip", 1) for at in range(30)]
    assert vote.bradley_terry(votes) == vote.bradley_terry([*skips, *mirrored]) != vote.bradley_terry(votes, seed=1)
    assert vote.bradley_terry(skips + votes)["tuned"]["n"] == 50


def test_a_record_of_wins_alone_is_finite_and_has_an_interval():
    found = vote.bradley_terry([Vote(str(at), "tuned", "base", "left", 1) for at in range(40)])["tuned"]
    assert found["win_probability"] == pytest.approx(40.5 / 41)
    assert 0.85 < found["ci95"][0] < 0.96 and found["ci95"][1] < 1


def test_votes_on_the_same_pair_are_no_news():
    """Four readers who agree on every pair: as many wins, and an interval about as wide as one reader's."""
    one = [Vote(str(at), "tuned", "base", "left" if at % 3 else "right", 1) for at in range(30)]
    alone, four = (vote.bradley_terry(votes)["tuned"] for votes in (one, one * 4))
    apart = vote.bradley_terry(
        [Vote(f"{at} {copy}", v.left, v.right, v.choice, 1) for copy in range(4) for at, v in enumerate(one)]
    )
    widths = [np.ptp(found["ci95"]) for found in (alone, four, apart["tuned"])]
    assert four["n"] == 120 and 0.9 < widths[1] / widths[0] < 1.1 and widths[2] < 0.6 * widths[0]


@pytest.mark.parametrize("votes", [[], [Vote("a", "base", "tuned", "skip", 1)], [Vote("a", "fewshot", "tuned", "left", 1)]])
def test_votes_without_base(votes):
    with pytest.raises(UserError, match="'base'"):
        vote.bradley_terry(votes)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.permutations(SYSTEMS), st.sampled_from(["left", "right", "equal"])), min_size=1, max_size=30))
def test_interval_holds_the_estimate(drawn):
    votes = [Vote(str(at), left, right, choice, 1) for at, ((left, right, _), choice) in enumerate(drawn)]
    votes.append(Vote("a", "base", "tuned", "left", 1))
    for found in vote.bradley_terry(votes, draws=300).values():
        assert 0 < found["ci95"][0] <= found["win_probability"] <= found["ci95"][1] < 1
