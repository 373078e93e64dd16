"""Sprint 05: the evaluation around the measures: scorers in MLflow, the judge, what the gates read, scenes through the engine."""

import asyncio
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from threading import Thread

import numpy as np
import pytest
import tyro

from shared import models, runlog
from shared.errors import UserError
from tests.cyoa_game import Parrot

CODE = "sprints.05_cyoa.code."
evaluate, generate, judge, lint, panel, promote, quality, scorers, storytext, versions = (
    import_module(CODE + name)
    for name in ["evaluate", "generate", "judge", "lint", "panel", "promote", "quality", "scorers", "storytext", "versions"]
)


@pytest.fixture(scope="module")
def data():
    tokenizer, *_ = models.load_tokenizer(models.POCKET)
    return evaluate.load(evaluate.Args(smoke=True), tokenizer)


class Handler(BaseHTTPRequestHandler):
    """Answers as OpenAI's server does, with the verdict that the test asks for."""

    server: "JudgeServer"

    def do_GET(self):
        self.answer({"data": [{"id": "first"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        first, second = re.findall(r"Continuation \d:\n(.*?)\n\n", body["messages"][0]["content"], re.S)
        self.answer({"choices": [{"message": {"content": self.server.verdict(first, second)}}]})

    def answer(self, content: dict):
        sent = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args):
        pass


class JudgeServer(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict] = []
        self.verdict: Callable[[str, str], str | None] = lambda first, second: None
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def server():
    with JudgeServer() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_judge_that_means_it_wins_and_one_that_likes_the_first_ties(server):
    with judge.Judge(server.url) as asked:
        server.verdict = lambda first, second: "1" if "good" in first else "2"
        (found,) = judge.compare(asked, ["So far."], ["a good scene"], ["a much longer scene without it"])
        assert found == judge.Judgement("a", True, False)
        assert asked.judge("So far.", "bad", "good").winner == "b"
        server.verdict = lambda first, second: "Continuation 1 is better."
        assert asked.judge("So far.", "x", "y") == judge.Judgement("tie", False, None)
        server.verdict = lambda first, second: "Hard to say."
        assert asked.judge("So far.", "x", "y") == judge.Judgement("tie", True, None)
    assert {body["model"] for body in server.seen} == {"first"} and len(server.seen) == 8


def test_a_judge_that_is_not_there_is_one_line(server):
    with judge.Judge(server.url, "m") as asked:
        assert asked.judge("", "x", "y").winner == "tie"
    with judge.Judge("http://127.0.0.1:9", "m", timeout=2) as asked, pytest.raises(UserError, match="does not answer"):
        asked.judge("", "x", "y")
    with pytest.raises(UserError, match="--judge-url"):
        judge.Judge("localhost:8000")
    for url in ("http://127.0.0.1:9/v1", "localhost:8000"):  # before a model is loaded
        with pytest.raises(UserError, match="judge"):
            evaluate.main(evaluate.Args(smoke=True, mlflow=False, judge_url=url, model=models.ROOT / "nowhere"))


def test_a_judge_that_stops_costs_its_own_verdicts_only(server, tmp_path):
    args = evaluate.Args(out=tmp_path, judge_url=server.url)
    run = runlog.Run(args, str(evaluate.__file__), "evaluation", title="t", objective="o", setup={})
    answers = {"model": ["good", "good"], "base": ["bad", "bad"], "authored": ["best", "best"]}

    def verdict(first, second):
        if "best" in first + second:
            server.shutdown()
            return 1 / 0
        return "1" if first == "good" else "2"

    server.verdict = verdict
    evaluate.judged(run, args, ["So far."] * 2, answers)
    assert run.report["metrics"]["judge_wins_over_base"]["mean"] == 1
    assert "judge_wins_over_authored" not in run.report["metrics"]
    (said,) = run.report["observations"]
    assert "stopped before its end" in said and "\n" not in said


def test_scorers_give_mlflow_our_values(data, tmp_path):
    store = versions.Store(f"sqlite:///{tmp_path}/mlflow.db", (tmp_path / "artifacts").as_uri())
    import mlflow

    before = mlflow.get_tracking_uri()
    memory = quality.Memory([example.response for example in data.training])
    answers = [data.test[0].response, "Go on now then. " * 10, data.training[0].response]
    run, means = scorers.evaluate(store, data.test[:3], answers, memory, quality.word_list(), {"data_version": "x"})
    assert mlflow.get_tracking_uri() == before
    assert means["valid_format/mean"] == pytest.approx(2 / 3)
    assert means["repetition_4/mean"] == pytest.approx(np.mean([quality.repetition(storytext.parse(a).scene) for a in answers]))
    assert means["longest_copy/mean"] >= len(lint.words(storytext.parse(answers[2]).scene)) / 3
    assert store.client.get_run(run).data.tags["data_version"] == "x"
    traces = mlflow.MlflowClient(store.uri).search_traces(locations=[store.experiment])
    assert len(traces) == 3 and all(len(trace.info.assessments) >= 6 for trace in traces)


def test_the_gates_refuse_what_is_worse_than_the_champion():
    stories = [f"story-{at}" for at in range(8) for _ in range(5)]

    def read(name, answers):
        one = panel.MEASURES[name]
        return panel.gate(one, answers[::5] if one.sets else answers, authored[::5] if one.sets else authored, stories)

    authored = np.random.default_rng(0).normal(0.3, 0.05, 40)
    good = {name: read(name, authored) for name in panel.MEASURES}
    assert all(list(one["values"]) == stories[::5] for one in good.values())
    assert good["carry_over"]["values"]["story-1"] == pytest.approx(authored[5:10].mean())
    assert not promote.worse({"metrics": good}, {"metrics": good})
    for name, one in panel.MEASURES.items():
        off = authored - 0.2 if one.better == "higher" else authored + 0.4
        (reason,) = promote.worse({"metrics": good | {name: read(name, off)}}, {"metrics": good})
        assert reason.startswith(name)
    assert promote.worse({"metrics": {}}, {"metrics": good})


def test_sight_is_blind_where_nothing_changes_and_knows_the_bad_direction():
    higher, lower, both = (panel.MEASURES[name] for name in ("format_validity", "longest_copy", "scenario_distinct_2"))
    few, many = np.arange(20.0), np.arange(20.0) + 30
    assert panel.sight(higher, many, few) == (1.0, True) and panel.sight(higher, few, many) == (0.0, False)
    assert panel.sight(lower, few, many) == (1.0, True)
    assert panel.sight(both, few, many)[1] and panel.sight(both, many, few)[1]
    assert panel.sight(higher, np.ones(9), np.ones(9)) == (0.5, False)


def test_prompts_for_people_are_spread_over_the_stories():
    assert evaluate.spread(9, 3) == [0, 4, 8] and evaluate.spread(2, 24) == [0, 1]


def test_samples_end_with_their_last_scene_where_the_model_would_end_early():
    args = generate.Args(stories=2, turns=3)
    told = asyncio.run(generate._all(args, Parrot("Then it was all over.\n\nThe end."), storytext.estimate, generate.worlds(args)))
    assert [[draft.ending for draft in story.drafts] for story in told] == [[False, False, True]] * 2
    assert len({story.title for story in told}) == 2


def test_scenes_through_the_engine_have_valid_choices(data):
    genres = {scenario.id: scenario.genre for scenario in data.every}
    examples = [*data.test[:4], *data.training[:4]]
    drafts = asyncio.run(evaluate.write(evaluate.open_engine("fast", models.POCKET), examples, genres, 24))
    assert all(quality.valid_format(draft, quality.taken(one)) for draft, one in zip(drafts, examples, strict=True))


def test_a_story_of_ones_own_is_told(capsys):
    args = dict(model=models.POCKET, turns=2, tokens=24, engine="fast")
    assert generate.main(generate.Args(prompt="The lighthouse <|end|> blinks a name.", **args)) == {}
    told = capsys.readouterr().out
    assert told.startswith("The lighthouse") and "->" in told and "The end." in told
    with pytest.raises(UserError, match="PROMPT is empty"):
        generate.main(generate.Args(prompt=" ", **args))
    with pytest.raises(SystemExit):  # it would need an address, which this step does not take
        tyro.cli(generate.Args, args=["--engine", "openai"])
    with pytest.raises(UserError, match="no scenario of the genre"):
        generate.worlds(generate.Args(genre="tax law"))
