"""Reference texts to rows for the language model, here or elsewhere.

Reading order: `ports` (the contract), `model` (the computation), `local` (batched, in a thread),
`cache`, `wire` and `service` (over HTTP), `client` (the same from afar), `opening` (which one).

    from duologue.encoder.opening import open_encoder

    encoder = open_encoder("wren")              # REFERENCE_ENCODER_URL selects a service
    rows = await encoder.encode("The Eiffel Tower opened in eighteen eighty nine.", 0.5)
"""

from duologue.encoder.ports import (
    MAX_ROWS,
    MAX_TEXT_CHARS,
    EncoderBusy,
    EncoderError,
    EncoderMalformed,
    EncoderTimeout,
    EncoderUnavailable,
    RowEncoder,
    TextRefused,
)

__all__ = [
    "MAX_ROWS",
    "MAX_TEXT_CHARS",
    "EncoderBusy",
    "EncoderError",
    "EncoderMalformed",
    "EncoderTimeout",
    "EncoderUnavailable",
    "RowEncoder",
    "TextRefused",
]
