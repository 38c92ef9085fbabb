"""Text tokens of the language models: sentencepiece, and pieces put back together as they come."""

from __future__ import annotations

from pathlib import Path

from duologue.checkpoints.errors import CheckpointError

WORD_START = "\u2581"


class TextTokenizer:
    """A sentencepiece model. Token ids are the language model's."""

    def __init__(self, path: Path) -> None:
        import sentencepiece

        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.Load(str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{path}: not a sentencepiece model: {error}") from error

    def __len__(self) -> int:
        return int(self._model.GetPieceSize())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return list(self._model.EncodeAsIds(text))

    def piece(self, token: int) -> str:
        """The raw piece of one token, as published traces hold it."""
        self._check(token)
        return str(self._model.IdToPiece(token))

    def stream(self) -> TextStream:
        """Start putting one stream's tokens back together."""
        return TextStream(self)

    def byte(self, token: int) -> int | None:
        """The byte that a byte-fallback piece stands for, `None` for other pieces."""
        self._check(token)
        return int(self._model.IdToPiece(token)[3:-1], 16) if self._model.IsByte(token) else None

    def _check(self, token: int) -> None:
        if not 0 <= token < len(self):
            raise ValueError(
                f"text token {token} is not in this tokenizer of {len(self)} pieces; "
                "does the tokenizer belong to the model?"
            )


class TextStream:
    """Text of one stream, token by token; bytes of one character wait for each other."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = bytearray()

    def push(self, token: int) -> str:
        """Text that this token completes; empty while a character's bytes are not all there."""
        value = self._tokenizer.byte(token)
        if value is None:
            return self.flush() + self._tokenizer.piece(token).replace(WORD_START, " ")
        self._bytes.append(value)
        try:
            text = self._bytes.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and len(self._bytes) < 4:
                return ""
            return self.flush()
        self._bytes.clear()
        return text

    def flush(self) -> str:
        """Text of bytes that never became a character, as replacement characters."""
        text = self._bytes.decode(errors="replace")
        self._bytes.clear()
        return text
