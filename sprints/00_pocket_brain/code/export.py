"""A finished checkpoint as a folder that transformers loads: weights, tokenizer, configuration, corpus manifest, model card."""

import json
from pathlib import Path

from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from shared.report import replaced

from .model import SHAPES, configuration, to_transformers
from .text import tokenizer

CARD = """---
license: mit
language: en
pipeline_tag: text-generation
---
# Pocket Brain {size}

A Llama of {parameters} parameters, pretrained from nothing by sprint 00 of this repository (`make pocket-train`) on text that is
on every machine. It is the offline base model of the other sprints, made to be tuned and read, not to be relied on.

- **Architecture:** `LlamaForCausalLM`, {layers} layers, width {width}, {heads} heads, tied embeddings, vocabulary {vocabulary},
  context {context}.
- **Chat format:** `<|user|>`, text, `<|end|>`, `<|assistant|>`; an answer ends with `<|end|>`, a text with `<|endoftext|>`.
- **Trained on** {tokens} tokens in {hours} hours on {machine}: {mix}; the first {first} are recall alone, and
  the tokens of an answer weigh {answer_weight} times.
- **Corpus:** generated stories and tasks, prose and dialogues by language models, docstrings and functions of the packages in
  `corpus.json`.
- **Licence:** MIT, for the weights as for the text written here; the licences of the packages stand in `corpus.json`.
- **What it can do:** measured in the README of the sprint, two folders up.

## Use

    from transformers import pipeline

    brain = pipeline("text-generation", model="sprints/00_pocket_brain/results/model")
    print(brain([{{"role": "user", "content": "Write a short story about a cat named Milo."}}], max_new_tokens=150, do_sample=True,
                temperature=0.7)[0]["generated_text"][-1]["content"])

## Limits

It knows the small world of its corpus, in simple English, and no facts beyond it; it forgets and invents. Its code looks like code.
It was not aligned or filtered beyond the choice of its text. Do not use it where an answer matters.
"""


def restored(checkpoint: Path, size: str, brain: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The library's model with the weights of a checkpoint, in bf16."""
    state = load_file(checkpoint)
    weights = {name.removeprefix("master."): tensor.bfloat16() for name, tensor in state.items() if name.startswith("master.")}
    vocabulary = brain.get_vocab()
    model = to_transformers(configuration(SHAPES[size], vocabulary[tokenizer.END_OF_TEXT], vocabulary[tokenizer.PAD]), weights)
    model.generation_config = tokenizer.generation_config(brain)
    return model


def export(checkpoint: Path, size: str, brain: PreTrainedTokenizerFast, target: Path, facts: dict, manifest: dict) -> Path:
    """Write the folder; returns the weights file. `facts` fill the card."""
    shape, model = SHAPES[size], restored(checkpoint, size, brain)
    sizes = {key: getattr(shape, key) for key in ("layers", "width", "heads", "vocabulary", "context")}
    card = CARD.format(size=size, parameters=f"{shape.parameters:,}", **sizes, **facts)
    with replaced(target) as part:
        model.save_pretrained(part)
        tokenizer.save(brain, part)
        (part / "corpus.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")
    return target / "model.safetensors"
