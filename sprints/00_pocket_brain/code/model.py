"""A Llama written for fast training: the weights are those of transformers' LlamaForCausalLM, name by name.

Why not train the library's class: on a CPU its fp32 step is several times slower (bench.py measures it). Only the execution of
the mathematics differs: bf16 weights, q|k|v and gate|up as one matrix product each, RMSNorm and SwiGLU with hand-written
backward passes, attention in blocks of queries that skip the masked future, and a cross-entropy that makes its gradient while the
logits of a chunk are in the cache, so that the (tokens x vocabulary) matrix never exists.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

EPSILON = 1e-6
QUERY_BLOCK = 256  # queries that are worked on together; keys after the block are never touched
LOSS_CHUNK = 1024  # tokens whose logits exist at one time


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama with tied embeddings. Defaults: the shipped model, 6 million parameters, at most 12.5 MB in bf16."""

    vocabulary: int = 4096
    width: int = 256
    layers: int = 6
    heads: int = 4
    inner: int = 768
    context: int = 512  # positions the rotary table covers
    theta: float = 10_000.0

    @property
    def parameters(self) -> int:
        layer = 4 * self.width**2 + 3 * self.width * self.inner + 2 * self.width
        return self.vocabulary * self.width + self.layers * layer + self.width


SHAPES = {
    "1M": Shape(width=128, layers=4, heads=2, inner=352),
    "3M": Shape(width=192, layers=6, heads=3, inner=512),
    "6M": Shape(),
}


class RMSNorm(torch.autograd.Function):
    """x * w / rms(x) (Zhang & Sennrich 2019, eq. 4); the backward pass keeps only the normalised input."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(norm * norm / x.shape[-1] + EPSILON).to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx, gradient: Tensor):
        normed, scale, weight = ctx.saved_tensors
        inner = gradient * weight
        for_weight = (gradient * normed).reshape(-1, normed.shape[-1]).sum(0)
        return scale * (inner - normed * (inner * normed).mean(-1, keepdim=True)), for_weight


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up for one matrix that holds both halves (Shazeer 2020, eq. 6)."""

    @staticmethod
    def forward(ctx, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, -1)
        result = torch.empty_like(both)
        for_gate, for_up = result.chunk(2, -1)
        torch.mul(gradient, F.silu(gate), out=for_up)
        for_gate.copy_(torch.ops.aten.silu_backward(gradient * up, gate))
        return result


class Rotation(torch.autograd.Function):
    """x * cos + swapped halves of x * sin: rotary positions (Su et al. 2021, eq. 34) in the layout of transformers."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, swap(x), sin)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        cos, sin = ctx.saved_tensors
        return swap(gradient * sin).addcmul_(gradient, cos), None, None


def swap(x: Tensor) -> Tensor:
    """The two halves of the last dimension, exchanged."""
    first, second = x.chunk(2, -1)
    return torch.cat([second, first], -1)


class LinearCrossEntropy(torch.autograd.Function):
    """Sum over tokens of importance * cross-entropy of hidden @ weight.T, in nats; both gradients are made in the forward pass."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, importance: Tensor) -> Tensor:
        for_hidden = torch.empty_like(hidden)
        for_weight = torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), LOSS_CHUNK):
            part, wanted = hidden[start : start + LOSS_CHUNK], targets[start : start + LOSS_CHUNK, None]
            factor = importance[start : start + LOSS_CHUNK, None]
            softmax = torch.softmax(part @ weight.T, 1)
            total -= (softmax.gather(1, wanted).float().clamp_min(1e-30).log() * factor).sum()
            softmax.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=softmax.dtype))
            softmax.mul_(factor)
            for_hidden[start : start + LOSS_CHUNK] = softmax @ weight
            for_weight += softmax.T @ part
        ctx.save_for_backward(for_hidden, for_weight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        for_hidden, for_weight = ctx.saved_tensors
        return for_hidden * gradient.to(for_hidden.dtype), (for_weight * gradient).to(ctx.dtype), None, None


class Llama(nn.Module):
    """The training twin of LlamaForCausalLM. Tokens (B, T) in; see `loss` and `hidden`."""

    def __init__(self, shape: Shape, generator: torch.Generator | None = None):
        super().__init__()
        self.shape = shape
        width, inner, layers = shape.width, shape.inner, shape.layers

        def matrix(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) * 0.02 * scale)

        def stack(make) -> nn.ParameterList:
            return nn.ParameterList([make() for _ in range(layers)])

        depth = 1 / math.sqrt(2 * layers)  # the residual stream keeps its size at the start (GPT-2)
        self.embedding = matrix(shape.vocabulary, width)
        self.qkv = stack(lambda: matrix(3 * width, width))
        self.output = stack(lambda: matrix(width, width, depth))
        self.gate_up = stack(lambda: matrix(2 * inner, width))
        self.down = stack(lambda: matrix(width, inner, depth))
        self.norm_attention = stack(lambda: nn.Parameter(torch.ones(width)))
        self.norm_mlp = stack(lambda: nn.Parameter(torch.ones(width)))
        self.norm = nn.Parameter(torch.ones(width))
        half = width // shape.heads // 2
        angles = torch.arange(shape.context)[:, None] / shape.theta ** (torch.arange(half) / half)
        self.cos: Tensor
        self.sin: Tensor
        # (context, q and k, 1, head size): the queries are scaled on the way, which attention would do otherwise
        scale = torch.tensor([(2 * half) ** -0.5, 1.0]).view(2, 1, 1)
        self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], -1)[:, None, None] * scale, persistent=False)
        self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], -1)[:, None, None] * scale, persistent=False)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention on (B, H, T, D)."""
        if q.is_cuda:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        length, blocks = q.shape[2], []
        future = torch.full((QUERY_BLOCK, QUERY_BLOCK), -1e4, dtype=q.dtype, device=q.device).triu(1)
        for start in range(0, length, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, length)
            scores = q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2)
            scores[..., start:end] += future[: end - start, : end - start]
            blocks.append(torch.softmax(scores, -1) @ v[:, :, :end])
        return torch.cat(blocks, 2)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final normalised states (B, T, width)."""
        batch, length = tokens.shape
        heads, width = self.shape.heads, self.shape.width
        size = width // heads
        x = F.embedding(tokens, self.embedding)
        cos, sin = (table[:length].to(x.dtype) for table in (self.cos, self.sin))
        for layer in range(self.shape.layers):
            qkv = F.linear(RMSNorm.apply(x, self.norm_attention[layer]), self.qkv[layer]).view(batch, length, 3, heads, size)
            q, k = Rotation.apply(qkv[:, :, :2], cos, sin).unbind(2)
            q, k, v = (part.transpose(1, 2) for part in (q, k, qkv[:, :, 2]))
            mixed = self.attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
            x = x + F.linear(mixed, self.output[layer])
            both = F.linear(RMSNorm.apply(x, self.norm_mlp[layer]), self.gate_up[layer])
            x = x + F.linear(SwiGLU.apply(both), self.down[layer])
        return RMSNorm.apply(x, self.norm)

    def loss(self, tokens: Tensor, importance: Tensor | None = None) -> Tensor:
        """Sum of the next-token cross-entropies of (B, T + 1) tokens in nats, each times its importance (B, T + 1), if given."""
        hidden = self.hidden(tokens[:, :-1]).reshape(-1, self.shape.width)
        factors = torch.ones_like(tokens) if importance is None else importance
        targets, factors = tokens[:, 1:].reshape(-1), factors[:, 1:].reshape(-1).to(hidden.dtype)
        return LinearCrossEntropy.apply(hidden, self.embedding, targets, factors)


def configuration(shape: Shape, end: int, pad: int) -> LlamaConfig:
    """The library's configuration of this shape; `end` and `pad` are the ids of those two tokens."""
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )


def to_transformers(config: LlamaConfig, weights: dict[str, Tensor]) -> LlamaForCausalLM:
    """The library's model, in the dtype of these weights (names as in `Llama.named_parameters`)."""
    state = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        q, k, v = weights[f"qkv.{layer}"].chunk(3)
        gate, up = weights[f"gate_up.{layer}"].chunk(2)
        state |= {f"{prefix}self_attn.{name}_proj.weight": matrix for name, matrix in (("q", q), ("k", k), ("v", v))}
        state |= {f"{prefix}mlp.{name}_proj.weight": matrix for name, matrix in (("gate", gate), ("up", up))}
        state[f"{prefix}self_attn.o_proj.weight"] = weights[f"output.{layer}"]
        state[f"{prefix}mlp.down_proj.weight"] = weights[f"down.{layer}"]
        state[f"{prefix}input_layernorm.weight"] = weights[f"norm_attention.{layer}"]
        state[f"{prefix}post_attention_layernorm.weight"] = weights[f"norm_mlp.{layer}"]
    model: Any = LlamaForCausalLM(config)
    model.to(weights["embedding"].dtype)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # the head is the embedding
        raise ValueError(f"the weights do not fit: missing {missing}, unexpected {unexpected}")
    return model
