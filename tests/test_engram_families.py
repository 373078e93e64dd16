"""Engram memory on other families of models than Llama: absolute, rotary and linear positions, sliding windows, experts."""

from importlib import import_module

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from shared import models

adapter = import_module("sprints.04_engram.code.engram.adapter")
memory = import_module("sprints.04_engram.code.engram.memory")

TOKENIZER = models.load("pocket", "cpu").tokenizer
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 0}
LLAMA = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
FAMILIES = {
    "gpt2": GPT2,
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "opt": LLAMA | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mistral": LLAMA | {"sliding_window": 6},
    "gemma3_text": LLAMA | {"head_dim": 8, "sliding_window": 6},
    "mixtral": LLAMA | {"num_local_experts": 2},
}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_attaches_decodes_and_leaves(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=4096, pad_token_id=1, eos_token_id=0, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    ids = TOKENIZER("Q: Who paints the red door?\nA: Marlene.", return_tensors="pt").input_ids
    base = model(input_ids=ids, use_cache=False).logits
    found = adapter.EngramAdapter(model, TOKENIZER, memory.EngramConfig(orders=(2, 3, 5), rows=53, layers=(0, 2)))
    found.learn([ids[0].tolist()])
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, base)
    found.memory.table.normal_()
    whole = model(input_ids=ids, use_cache=False).logits
    assert (whole - base).abs().max() > 0.1
    cache = DynamicCache(config=model.config)
    parts = [
        model(input_ids=part, past_key_values=cache, use_cache=True).logits for part in ids.split([4, *[1] * (ids.shape[1] - 4)], 1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    prompt = torch.cat([torch.nn.functional.pad(ids[:, :6], (3, 0), value=1), ids[:, :9]])
    options = {"attention_mask": (prompt != 1).long(), "max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    assert torch.equal(model.generate(prompt, **options), model.generate(prompt, **options, use_cache=False))
    found.detach()
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, base)
