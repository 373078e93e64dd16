"""Between text and tokens, for the engines that hold a model themselves: requests to token ids, token ids to pieces."""

from typing import Any

from tokenizers.decoders import DecodeStream

from shared.errors import UserError

from .base import BadRequest, Finish, Piece, PromptTooLong, Request


class Prompts:
    """Builds prompts with the chat template of a Hugging Face tokenizer."""

    def __init__(self, tokenizer: Any, stop_ids: list[int], context: int | None):
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise UserError("this model has no tokenizer.json: use one that has")
        self._template, self._bos = tokenizer.apply_chat_template, tokenizer.bos_token
        self.tokenizer, self.stop_ids, self.context = tokenizer.backend_tokenizer, frozenset(stop_ids), context or 2**31
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = sorted(special, key=len, reverse=True)

    def ids(self, request: Request) -> list[int]:
        """The prompt as token ids. Raises BadRequest for messages that the template refuses, PromptTooLong."""
        text, bos = request.prompt, False
        if text is None:
            messages = [message | {"content": self._plain(message["content"])} for message in request.messages]
            try:
                text = str(self._template(messages, tokenize=False, add_generation_prompt=True))
            except Exception as error:  # whatever a template raises
                raise BadRequest(f"the chat template refuses these messages ({error})") from error
        else:
            bos = not (self._bos and text.startswith(self._bos))
        ids = self.tokenizer.encode(text + request.prefix, add_special_tokens=bos).ids
        if not ids:
            raise BadRequest("the prompt is empty")
        if len(ids) >= self.context:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens, of which this model takes {self.context - 1}")
        return ids

    def _plain(self, content: str) -> str:
        """No text of a message is read as a special token: it could end the message and begin another."""
        for token in self._special:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content


class Answer:
    """Token ids in, pieces of text out: whole characters, no special tokens, nothing from the first stop string on.

    `finish` is None until the answer is over.
    """

    def __init__(self, prompts: Prompts, request: Request, prompt: list[int]):
        self._tokenizer, self._ends, self._stop = prompts.tokenizer, prompts.stop_ids, request.stop
        before = prompt[-8:] if request.prefix else []  # some tokenizers write a word differently after nothing
        self._stream = DecodeStream(ids=before, skip_special_tokens=True)
        self.limit = min(request.max_tokens, prompts.context - len(prompt))
        self.finish: Finish | None = None
        self._new: list[int] = []  # tokens not yet read as text: reading many at once is cheaper
        self._text, self._count, self._sent = "", 0, 0

    def add(self, token: int) -> bool:
        """Take the next token; True when it was the last."""
        if self.finish:
            return True
        if token in self._ends:
            self.finish = "stop"
            return True
        self._new.append(token)
        self._count += 1
        if self._count >= self.limit:
            self.finish = "length"
        if self._stop:
            self._read()
            found = [at for stop in self._stop if (at := self._text.find(stop)) >= 0]
            if found:
                self._text, self.finish = self._text[: min(found)], "stop"
        return self.finish is not None

    def _read(self) -> None:
        if self._new and (text := self._stream.step(self._tokenizer, self._new)):
            self._text += text
        self._new = []

    def take(self) -> Piece | None:
        """What was added since the last time, except what may turn out to be the beginning of a stop string."""
        self._read()
        held = 0 if self.finish else max((overlap(self._text, stop) for stop in self._stop), default=0)
        text, self._text = self._text[: len(self._text) - held], self._text[len(self._text) - held :]
        if not text and not self.finish:
            return None
        count, self._sent = self._count - self._sent, self._count
        return Piece(text, count, self.finish)


def overlap(text: str, stop: str) -> int:
    """How many letters of the beginning of `stop` stand at the end of `text`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
