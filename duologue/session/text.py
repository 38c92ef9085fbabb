"""The model's text stream: tokens to pieces of text, one conversation at a time."""

from __future__ import annotations

from collections.abc import Sequence

from duologue.dialogue import Piece
from duologue.engine.model import LoadedModel

_ENDS = ".?!"


class TextReader:
    """Bytes of one character wait for each other; which ones is all that is remembered."""

    def __init__(self, model: LoadedModel) -> None:
        self._tokenizer = model.tokenizer
        self._silent = model.silent_tokens
        self._trigger = model.lm.config.rag_token_id
        tokens = [self._tokenizer.encode(f"a{end}") for end in _ENDS] if self._tokenizer else []
        self._ends = frozenset(found[-1] for found in tokens if found)
        self.reset()

    def reset(self) -> None:
        """Forget what is incomplete."""
        self._partial: list[int] = []
        self._stream = self._tokenizer.stream() if self._tokenizer else None

    def is_trigger(self, token: int) -> bool:
        """Whether this token asks for a retrieval."""
        return self._trigger is not None and token == self._trigger

    def is_spoken(self, token: int) -> bool:
        """Whether this token is text; a frame of a model whose delays still fill has none."""
        return token >= 0 and token not in self._silent and not self.is_trigger(token)

    def ends_sentence(self, token: int) -> bool:
        """Whether a sentence ends with this token."""
        return token in self._ends

    def pieces(self, text: str) -> list[Piece]:
        """A text as the model would say it: word by word."""
        if self._tokenizer is None:
            return []
        pieces: list[Piece] = []
        for word in text.split():
            tokens = self._tokenizer.encode(word)
            pieces += map(Piece, tokens)
            if tokens and word[-1] in _ENDS:
                pieces[-1] = Piece(tokens[-1], ends=True)
        return pieces

    def push(self, token: int) -> str | None:
        """Text that this token completes, None for silence and for unfinished characters."""
        if not self.is_spoken(token) or self._stream is None:
            return None
        assert self._tokenizer is not None
        is_byte = self._tokenizer.byte(token) is not None
        text = self._stream.push(token)
        self._partial = [*self._partial, token] if is_byte and not text else []
        return text or None

    def save(self) -> list[int]:
        """The tokens that wait for the rest of their character."""
        return list(self._partial)

    def load(self, saved: Sequence[int]) -> None:
        """Continue from `save`."""
        self.reset()
        for token in saved:
            self.push(token)
