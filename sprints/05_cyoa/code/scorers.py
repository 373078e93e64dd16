"""The measures of single answers as scorers of mlflow.genai: each answer with its values, to be read in MLflow's own pages."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import quality, versions
from .storytext import Example, parse

ENVIRONMENT = {  # MLflow's ten by ten workers exhaust sqlite's connections; traces that are written later are not there to be read
    "MLFLOW_GENAI_EVAL_MAX_WORKERS": "2",
    "MLFLOW_GENAI_EVAL_MAX_SCORER_WORKERS": "1",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
    "MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION": "true",
    "TQDM_DISABLE": "1",
}


def rows(examples: Sequence[Example], answers: Sequence[str]) -> list[dict[str, Any]]:
    """The table that mlflow.genai.evaluate takes; what a person wrote is the expectation."""
    return [
        {
            "inputs": {"prompt": "\n".join(message["content"] for message in example.messages), "taken": quality.taken(example)},
            "outputs": answer,
            "expectations": {"expected_response": example.response},
        }
        for example, answer in zip(examples, answers, strict=True)
    ]


def scorers(memory: quality.Memory, listed: set[str]) -> list[Any]:
    from mlflow.genai import scorer

    @scorer
    def valid_format(inputs: dict[str, Any], outputs: str) -> bool:
        return quality.valid_format(parse(outputs), inputs["taken"])

    @scorer
    def repetition_4(outputs: str) -> float:
        return quality.repetition(parse(outputs).scene)

    @scorer
    def carry_over(inputs: dict[str, Any], outputs: str) -> float:
        return quality.carry_over(parse(outputs).scene, inputs["prompt"])

    @scorer
    def longest_copy(outputs: str) -> int:
        return memory.longest(parse(outputs).scene)

    @scorer
    def bleu_with_authored(outputs: str, expectations: dict[str, Any]) -> float:
        return quality.bleu(parse(outputs).scene, [parse(expectations["expected_response"]).scene])

    @scorer
    def without_listed_words(outputs: str) -> bool:
        return not quality.toxic(outputs, listed)

    return [valid_format, repetition_4, carry_over, longest_copy, bleu_with_authored, without_listed_words]


def evaluate(
    store: versions.Store,
    examples: Sequence[Example],
    answers: Sequence[str],
    memory: quality.Memory,
    listed: set[str],
    tags: Mapping[str, str],
) -> tuple[str, dict[str, float]]:
    """Score the answers in a run of MLflow; returns its id and the mean of each scorer."""
    with _settings(store) as mlflow, mlflow.start_run(run_name="evaluation", tags=dict(tags)) as run:
        result = mlflow.genai.evaluate(data=rows(examples, answers), scorers=scorers(memory, listed))
        mlflow.flush_trace_async_logging()
        return run.info.run_id, {key: float(value) for key, value in result.metrics.items()}


@contextmanager
def _settings(store: versions.Store) -> Iterator[Any]:
    """MLflow's global state, put back at the end: the store, the experiment, and workers that sqlite bears."""
    import mlflow

    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    uri = mlflow.get_tracking_uri()
    os.environ.update(ENVIRONMENT)
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_experiment(experiment_id=store.experiment)
    try:
        yield mlflow
    finally:
        mlflow.set_tracking_uri(uri)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
