"""What a model that reads out a looked-up text would say next.

Small models copy with slips: they turn into a word that is likelier, double one, stop short, or do
not begin. A `Quotation` follows what is said through the text, piece by piece, and names the piece
that goes on with it; where a sentence stays unsaid or is broken off, it says how much to urge.
Whether anybody heeds that is the engine's business (`Steer.favoured` and `Steer.urge`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_PIECES = 512
"""Of a text; what is longer is not quoted further."""
PATIENCE = 125
"""Frames (10 s) that a text is kept while nothing of it is said."""
LATE = 9
"""Frames (0.7 s) of silence after which a model that owes a sentence is urged on,"""
URGED = 40
"""for so many frames,"""
URGE_STEP, URGE_LIMIT = 4.0, 20.0
"""more with each of them, up to a limit."""
SURE_RUN = 4
"""Pieces in a row that fit leave no doubt."""
NOTHING = (0, 0.0)


@dataclass(frozen=True)
class Piece:
    """A piece of a text that may be read out."""

    token: int
    ends: bool = False
    """Whether a sentence ends with it."""


class Quotation:
    """Where in a text the model is, as far as what it said tells.

    Every place that fits the last thing said is kept with the number of pieces before it that fit
    too; the longest run wins. Where equal runs go on differently, no piece is named.
    """

    def __init__(self) -> None:
        self._pieces: tuple[Piece, ...] = ()
        self._places: dict[int, int] = {}
        """Place of the next piece -> pieces in a row that were said before it."""
        self._idle = 0
        """Frames since something of it was said."""
        self._silent = 0
        """Frames since anything was said."""
        self._owes = False
        """Whether no sentence of it has been said to the end."""
        self._breaks_off = False
        """Whether the last sentence that was begun, of it or not, has no end yet."""

    def offer(self, pieces: Iterable[Piece], *, append: bool = False) -> None:
        """A text that may be read out, in place of the one before or behind it."""
        given = (*self._pieces, *pieces) if append else tuple(pieces)
        if not append:
            self._places, self._owes = {}, bool(given)
            self._silent = 0
        self._pieces, self._idle = given[:MAX_PIECES], 0

    def forget(self) -> None:
        """There is nothing to read out, nor to bring to an end."""
        self.offer(())
        self._breaks_off = False

    def hear(self, token: int | None, *, ends: bool = False) -> None:
        """A frame of the model's text, None where nothing is said; whether a sentence `ends`."""
        self._idle = min(self._idle + 1, PATIENCE + 1)
        self._silent = min(self._silent + 1, LATE + URGED + 1)
        if token is not None:
            self._silent, self._breaks_off = 0, not ends
            self._places = {
                place + 1: self._places.get(place, 0) + 1
                for place, piece in enumerate(self._pieces)
                if piece.token == token
            }
            if self._places:
                self._idle = 0
            if any(run > 1 and self._pieces[at - 1].ends for at, run in self._places.items()):
                self._owes = False
        if self._pieces and self._idle > PATIENCE:
            self.offer(())

    @property
    def following(self) -> tuple[int, float]:
        """The piece that goes on with the text, and how sure that is: from 0, where nothing is
        known, to 1.

        Who is urged on and is nowhere in the text begins at its beginning.
        """
        longest = max(self._places.values(), default=0)
        found = {
            self._pieces[place].token
            for place, run in self._places.items()
            if run == longest and place < len(self._pieces)
        }
        if len(found) == 1:
            return found.pop(), min(1.0, longest / SURE_RUN)
        return (self._pieces[0].token, 1.0) if self._owes and self.urge else NOTHING

    @property
    def urge(self) -> float:
        """How much it is to be urged to say something: 0 unless it owes a sentence, or the rest of
        one, and is late."""
        late = self._silent - LATE
        if not (self._owes or self._breaks_off) or not 0 < late <= URGED:
            return 0.0
        return min(late * URGE_STEP, URGE_LIMIT)

    def save(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {
            "pieces": [[piece.token, piece.ends] for piece in self._pieces],
            "places": [[place, run] for place, run in self._places.items()],
            "idle": self._idle, "silent": self._silent, "owes": self._owes,
            "breaks_off": self._breaks_off,
        }  # fmt: skip

    def load(self, saved: Mapping[str, Any]) -> None:
        """Continue from `save`."""
        self._pieces = tuple(Piece(token, ends) for token, ends in saved["pieces"])
        self._places = dict(saved["places"])
        self._idle, self._silent, self._owes = saved["idle"], saved["silent"], saved["owes"]
        self._breaks_off = saved["breaks_off"]
