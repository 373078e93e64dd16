"""The tokenizer: byte-level BPE that any text fits into, digits one by one, words alike at the start of a line, the chat format."""

import random
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from shared.report import write_atomically

from .sample import Sample

END_OF_TEXT, PAD, SYSTEM, USER, ASSISTANT, END = SPECIALS = (
    "<|endoftext|>",
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
VOCABULARY = 4096
# A word that begins a line is written as BACK, a space and the word, so that it has the same tokens as within a line. Else an
# answer, which always begins one, could not be copied from the question token by token. Decoding removes BACK and the space.
BACK = "\b"
# the shape of Phi-3's template: a role, a line break, the text, the end sign; generation continues after <|assistant|>
# `generation` marks what an assistant says, from its line break, which BACK follows, to its end sign, for training on answers
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ '\n' + message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '\n' + message['content'] + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# (share, how one user turn and one assistant turn are written): the chat format is canonical, the others make the base robust
FORMATS = (
    (0.70, None),
    (0.10, ("Q: {}\n", "A: {}\n")),
    (0.10, ("### Instruction:\n{}\n\n", "### Response:\n{}\n\n")),
    (0.10, ("User: {}\n", "Assistant: {}\n")),
)


def train(texts: Iterable[str], size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Learn the merges from `texts`; tokens are at most 16 bytes, so that no phrase becomes one symbol."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(Regex(r"\n(?=\p{L})"), f"\n{BACK} ")
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (r"\d", BACK)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(f"{BACK} ", ""), decoders.Replace(BACK, "")])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        padding_side="left",
    )


def generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Stops at the end of a turn and at the end of a text."""
    ends = tokenizer.convert_tokens_to_ids([END, END_OF_TEXT])
    return GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, max_new_tokens=256)


def chat(sample: Sample) -> str:
    """The sample in the chat format, as the chat template would write it."""
    parts = [f"{SYSTEM}\n{sample.system}{END}\n"] if sample.system else []
    for index, turn in enumerate(sample.turns):
        parts.append(f"{ASSISTANT if index % 2 else USER}\n{turn}{END}\n")
    return "".join(parts)


def render(sample: Sample, rng: random.Random) -> str:
    """The sample as the model reads it: plain, as a chat, or in one of the other formats."""
    if len(sample.turns) == 1:
        return sample.turns[0]
    chosen = rng.choices([form for _, form in FORMATS], [share for share, _ in FORMATS])[0]
    if chosen is None:
        return chat(sample)
    text = "".join(chosen[index % 2].format(turn) for index, turn in enumerate(sample.turns))
    return f"{sample.system}\n\n{text}".strip() if sample.system else text.strip()


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    write_atomically(folder / "chat_template.jinja", CHAT_TEMPLATE.encode())
