"""Sprint 04: the step `data`, the two texts that measure forgetting, and what the checks find."""

import json
import re
from importlib import import_module

import pytest

from shared import data, models
from shared.errors import UserError
from shared.sprints import ROOT

patterns = import_module("sprints.04_engram.code.patterns")
overlaps = import_module("sprints.04_engram.code.overlaps")
prepare_data = import_module("sprints.04_engram.code.prepare_data")
TEXTS = {"unrelated": 12_500, "near_domain": 6_000}


@pytest.fixture(scope="module")
def tokenizer():
    return models._tokenizer(models.POCKET, json.loads((models.POCKET / "config.json").read_bytes()))[0]


@pytest.fixture(scope="module")
def real():
    return patterns.load()


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    return prepare_data.main(prepare_data.Args(smoke=True, out=folder, mlflow=False)), folder / "04_engram" / "patterns" / "rows"


def test_the_files_hold_the_rows_of_the_loader(report, real):
    recorded, folder = report
    for file, rows in {
        "honest/train": real.training_rows(),
        "honest/S2_dev": real.rows("S2", "dev"),
        "honest/S4": real.rows("S4"),
        "honest/S6_10": patterns.private_facts(10, 0),
        "original/train": patterns.original_rows(real).train,
        "original/test": patterns.original_rows(real).test,
    }.items():
        path = folder / f"{file}.jsonl"
        assert [patterns.Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] == rows
        assert recorded["data"][file.replace("/", "_")] == {
            "sha256": data.digest(path),
            "rows": len(rows),
            "source": f"{file}.jsonl",
        }


def test_the_report_says_what_leaks(report):
    metrics = {key: metric["mean"] for key, metric in report[0]["metrics"].items()}
    assert metrics["leaked_prompts"] == 0
    assert metrics["original_rows"] == 337
    assert 70 < metrics["original_test_prompts_trained"] < metrics["original_test_patterns_trained"] <= 104
    assert metrics["held_out_near_duplicates"] < 5
    assert metrics["ambiguous_rows_order_8"] < 5 < metrics["ambiguous_rows_order_2"]
    assert [claim["verdict"] for claim in report[0]["claims"]] == ["reproduced", "not reproduced"]
    assert report[0]["conclusion"].endswith(" 0 of the latter stand in a training prompt.")


@pytest.mark.parametrize(("protocol", "written"), [("honest", ["honest"]), ("original", ["original"])])
def test_one_protocol_alone(tmp_path, protocol, written):
    recorded = prepare_data.main(prepare_data.Args(smoke=True, out=tmp_path, protocol=protocol, mlflow=False))
    assert sorted(path.name for path in (tmp_path / "04_engram" / "patterns" / "rows").iterdir()) == written
    assert ("original_rows" in recorded["metrics"]) == (protocol == "original")


@pytest.mark.parametrize("count", [0, -5, 200_000])
def test_a_number_of_private_facts_that_cannot_be_is_refused(tmp_path, count):
    with pytest.raises(UserError, match="--private"):
        prepare_data.main(prepare_data.Args(private=(100, count), out=tmp_path, mlflow=False))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", TEXTS)
def test_retention_texts_are_long_varied_and_strangers_to_the_patterns(name, tokenizer, real):
    text = patterns.retention_text(name)
    tokens = ids(tokenizer, text)
    assert text.isascii() and len(tokens) >= TEXTS[name]
    assert overlaps.quoted_in(text, real.patterns) == []
    prose = [line for line in text.splitlines() if len(line.split()) >= 6]
    assert len(set(prose)) >= len(prose) - 1, "lines repeat"
    runs = overlaps.ngrams(tokens, 12)
    assert len(runs) > 0.98 * (len(tokens) - 11), "a template repeats"
    training = [ids(tokenizer, row.prompt) + ids(tokenizer, row.completion) for row in real.training_rows()]
    assert overlaps.known_share(tokens, training, 8) < 0.002


def test_the_texts_do_not_stand_in_what_the_base_was_trained_on():
    seen = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("sprints/00_pocket_brain/data/**/*.txt"))
    assert len(seen) > 100_000
    sentences = [s for name in TEXTS for s in re.split(r"(?<=[.!?])\s", patterns.retention_text(name)) if len(s.split()) >= 6]
    assert not [s for s in sentences if s in seen]


def test_known_share_against_a_direct_count():
    text, sequences = [1, 2, 3, 1, 2, 4], [[1, 2, 3], [2, 4]]
    assert overlaps.known_share(text, sequences, 2) == pytest.approx(4 / 5)  # 12 23 (31) 12 24
    assert overlaps.known_share(text, sequences, 3) == pytest.approx(1 / 4)
    assert overlaps.known_share(text, [[1]], 2) == 0


def test_near_duplicates_are_found_and_ordered():
    def fact(name: str, prompt: str, completion: str):
        return patterns.Pattern(f"fact-{name}", "facts", prompt, completion, ("x", "y"), "z")

    taught = [fact("a", "Q: one two three four?", " 5"), fact("b", "Q: something else", " 6")]
    held_out = [fact("c", "Q: one two three for?", " 5"), fact("d", "q: FOUR three two one?", " 5"), fact("e", "no", " 7")]
    assert [(p.id, twin.id) for p, twin, _ in overlaps.near_duplicates(held_out, taught, 0.7)] == [
        ("fact-d", "fact-a"),
        ("fact-c", "fact-a"),
    ]


def test_rows_that_the_last_tokens_do_not_tell_apart():
    rows = [patterns.Row(str(n), "S1", "", completion) for n, completion in enumerate(("x", "y", "y"))]
    encoded = [[1, 2, 9], [3, 2, 9], [4, 5, 9]]
    assert [overlaps.untold_apart(rows, encoded, n) for n in (1, 2, 3)] == [3, 2, 0]
    same = [patterns.Row("a", "S1", "", "x"), patterns.Row("b", "S1", "", "x")]
    assert overlaps.untold_apart(same, [[9], [9]], 1) == 0
