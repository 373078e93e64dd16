"""The Pocket Brain with the module names of Phi-3: q|k|v and gate|up become one layer each, the function stays the same.

Phi-3 fuses these projections; the names in the original LoRA list fit a Llama and miss them. With this twin the difference can be
measured, and the Phi-3 path is run with real weights, without a download.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

from shared import models
from shared.report import replaced


def make(base: Path) -> Path:
    """Write the twin of the present weights into a folder under `base`, if it does not stand there; returns the folder."""
    with (models.POCKET / "model.safetensors").open("rb") as weights:
        folder = base / f"pocket_as_phi3_{hashlib.file_digest(weights, 'sha256').hexdigest()[:8]}"
    if (folder / "config.json").is_file():
        return folder
    source = AutoModelForCausalLM.from_pretrained(models.POCKET, dtype=torch.bfloat16, use_safetensors=True)
    known = source.config
    config = Phi3Config(
        vocab_size=known.vocab_size,
        hidden_size=known.hidden_size,
        intermediate_size=known.intermediate_size,
        num_hidden_layers=known.num_hidden_layers,
        num_attention_heads=known.num_attention_heads,
        max_position_embeddings=known.max_position_embeddings,
        original_max_position_embeddings=known.max_position_embeddings,
        rms_norm_eps=known.rms_norm_eps,
        rope_parameters=known.rope_parameters,
        tie_word_embeddings=True,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )
    state = source.state_dict()
    for layer in range(known.num_hidden_layers):
        for part, fused, names in (("self_attn", "qkv_proj", "qkv"), ("mlp", "gate_up_proj", ("gate", "up"))):
            prefix = f"model.layers.{layer}.{part}."
            state[f"{prefix}{fused}.weight"] = torch.cat([state.pop(f"{prefix}{name}_proj.weight") for name in names])
    twin: Any = Phi3ForCausalLM(config)
    twin.to(torch.bfloat16)
    twin.load_state_dict(state)
    with replaced(folder) as part:
        twin.save_pretrained(part)
        for path in models.POCKET.glob("*token*.json"):
            shutil.copy(path, part)
        for name in ("chat_template.jinja", "generation_config.json"):
            shutil.copy(models.POCKET / name, part)
    return folder
