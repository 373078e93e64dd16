"""Streamed text equals what transformers generates, on torch and on MLX, and long prompts, seeds and bad settings behave."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, TopPLogitsWarper

from shared import models, streaming
from shared.errors import UserError
from tests.test_shared_models import CPU, HELLO, LONG, MLX, both, build, greedy, ids_of, needs_mlx, text_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def on_torch(tiny) -> models.LoadedModel:
    return models.load(str(tiny), CPU)


def feed(monkeypatch, tokens: list[int]) -> None:
    """Stream these tokens as if a model had drawn them."""
    monkeypatch.setattr(streaming, "_torch_tokens", lambda *_: iter(tokens))


@both
@pytest.mark.parametrize("prompt", ["the cat", HELLO], ids=["text", "chat"])
def test_stream_is_the_greedy_generation_in_pieces(tiny, on_torch, device, prompt):
    ids = ids_of(on_torch, prompt if isinstance(prompt, str) else "<|user|>\nthe void<|end|>\n<|assistant|>\n")
    pieces = list(streaming.stream(models.load(str(tiny), device), prompt, max_new_tokens=40))
    assert "".join(pieces) == text_of(on_torch, greedy(on_torch, ids, 40))
    assert len(pieces) > 5 and all(pieces)


@both
def test_stream_stops_at_an_end_token_and_hides_it(tiny, on_torch, device):
    tokens = greedy(on_torch, ids_of(on_torch, "the cat"), 20)
    loaded = replace(models.load(str(tiny), device), stop_ids=[tokens[9]])
    expected = text_of(on_torch, tokens[: tokens.index(tokens[9])])
    assert "".join(streaming.stream(loaded, "the cat", max_new_tokens=20)) == expected != ""


def test_characters_come_whole_and_special_tokens_not_at_all(on_torch, monkeypatch):
    feed(monkeypatch, ids_of(on_torch, "猫 e\u0301<|user|> 🐈!"))
    pieces = list(streaming.stream(on_torch, "x"))
    assert "".join(pieces) == "猫 e\u0301 🐈!" and "猫" in pieces
    feed(monkeypatch, ids_of(on_torch, "a🐈")[:-1])  # cut within a character
    assert "".join(streaming.stream(on_torch, "x")) == "a\ufffd"


@both
def test_seeded_sampling_repeats_whatever_else_is_drawn(tiny, device):
    loaded = models.load(str(tiny), device)

    def sample(seed: int | None) -> str:
        return "".join(piece for piece in streaming.stream(loaded, "the", 9, temperature=2, seed=seed) if torch.rand(1) < 2)

    assert sample(3) == sample(3) and len({sample(seed) for seed in range(4)}) == 4
    assert sample(None) != sample(None)


@needs_mlx
def test_a_seed_means_the_same_on_both_backends(tiny, on_torch):
    texts = ["".join(streaming.stream(loaded, HELLO, 20, 1.5, 0.9, seed=5)) for loaded in (on_torch, models.load(str(tiny), MLX))]
    assert texts[0] == texts[1] and len(texts[0]) > 10


@pytest.mark.parametrize("length", [2, 3, 5])
def test_no_tokens_come_twice(length):
    """As transformers rules them out, for logits that would say the same three tokens forever."""
    twin, said = NoRepeatNGramLogitsProcessor(length), []
    draw = streaming._unlike(length, lambda logits: int(logits.argmax()))
    for step in range(20):
        logits = torch.tensor([[6.0 if token == step % 3 else -token for token in range(9)]])
        expected = int(twin(torch.tensor([said], dtype=torch.long), logits).argmax())  # pyright: ignore[reportArgumentType]
        said.append(draw(logits[0].numpy()))
        assert said[-1] == expected
    assert len({tuple(said[at : at + length]) for at in range(len(said) - length + 1)}) == len(said) - length + 1


@both
def test_no_repeat_is_passed_on(tiny, on_torch, device):
    ids = ids_of(on_torch, "the cat the cat")
    free = greedy(on_torch, ids, 30)
    again = next(at for at, token in enumerate(free) if token in free[:at])
    text = "".join(streaming.stream(models.load(str(tiny), device), "the cat the cat", 30, no_repeat=1))
    assert text.startswith(text_of(on_torch, free[:again])) and text != text_of(on_torch, free)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 0.5), (0.5, 0.9), (1.0, 1e-9)])
def test_sampling_follows_transformers(temperature, top_p):
    """The same nucleus, and the shares of many draws close to its probabilities."""
    logits = torch.linspace(0, 4, 12)[None]  # (1, V)
    cut = TopPLogitsWarper(top_p)(torch.zeros((1, 1), dtype=torch.long), logits / temperature)  # pyright: ignore[reportArgumentType]
    generator = np.random.default_rng(0)
    drawn = [streaming._sample(logits[0].numpy(), temperature, top_p, generator) for _ in range(3000)]
    shares, expected = np.bincount(drawn, minlength=12) / 3000, cut.softmax(-1)[0].numpy()
    assert not shares[expected == 0].any()
    np.testing.assert_allclose(shares, expected, atol=0.04)


@both
@pytest.mark.parametrize(("asked", "room", "count"), [(12, 52, 12), (32, 48, 16), (500, 48, 16)])
def test_long_prompt_loses_its_start_with_a_warning(tiny, on_torch, device, asked, room, count):
    loaded, ids = models.load(str(tiny), device), ids_of(on_torch, LONG)
    with pytest.warns(
        UserWarning, match=rf"^the prompt has {len(ids)} tokens, {room} fit the context: its start is cut off$"
    ) as caught:
        pieces = streaming.stream(loaded, LONG, max_new_tokens=asked)
    assert caught[0].filename == __file__ and len(ids) > 64
    assert "".join(pieces) == text_of(on_torch, greedy(on_torch, ids[-room:], count))


@both
def test_a_long_conversation_keeps_the_mark_it_begins_with(tiny, on_torch, device):
    ids = on_torch.tokenizer.apply_chat_template([{"role": "user", "content": LONG}], add_generation_prompt=True, return_dict=False)
    with pytest.warns(UserWarning, match="its start is cut off"):
        pieces = streaming.stream(models.load(str(tiny), device), [{"role": "user", "content": LONG}], max_new_tokens=12)
    assert "".join(pieces) == text_of(on_torch, greedy(on_torch, [ids[0], *ids[-51:]], 12)) and ids[0] != ids[-52]


@both
def test_answer_ends_with_the_context(tiny, device, recwarn, monkeypatch):
    loaded = replace(models.load(str(tiny), device), stop_ids=[])
    prompt = text_of(loaded, ids_of(loaded, LONG)[:30])
    for context, asked, expected in [(64, 256, 64 - len(ids_of(loaded, prompt))), (64, 5, 5), (None, 70, 70)]:
        decoded = []  # ids of the answer so far
        monkeypatch.setattr(loaded.tokenizer, "decode", lambda ids, decoded=decoded, **_: decoded.append(len(ids)) or "")
        assert list(streaming.stream(replace(loaded, context=context), prompt, asked)) == []
        assert decoded[-1] == expected
    assert not [warning for warning in recwarn if "cut off" in str(warning.message)]


@pytest.mark.parametrize("prompt", ["", " \n", [], [{"role": "user", "content": ""}]])
def test_empty_prompt_is_refused_before_the_first_piece(on_torch, prompt):
    with pytest.raises(UserError, match=r"^the prompt is empty"):
        streaming.stream(on_torch, prompt)


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}],
)
def test_settings_out_of_range_are_refused(on_torch, settings):
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, temperature 0 to 100, top_p above 0 and at most 1"):
        streaming.stream(on_torch, "the", **settings)


def test_streaming_leaves_the_caller_alone(tiny):
    loaded = replace(models.load(str(tiny), CPU), stop_ids=[])
    loaded.model.train()
    pieces = streaming.stream(loaded, "the", max_new_tokens=30)
    next(pieces)
    assert (
        not loaded.model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    )  # in the middle of a stream one may train

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    loaded.model.forward = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        list(pieces)
