"""What a model that reads out a looked-up text would say next.

Small models copy with slips: they turn into a word that is likelier, double one, or stop short. A
`Quotation` follows what is said through the text, piece by piece, and names the piece that goes on
with it. Whether anybody heeds that is the engine's business (`Steer.favoured`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MAX_PIECES = 512
"""Of a text; what is longer is not quoted further."""
PATIENCE = 125
"""Frames (10 s) that a text is kept while nothing of it is said."""


class Quotation:
    """Where in a text the model is, as far as what it said tells.

    Every place that fits the last thing said is kept with the number of pieces before it that fit
    too; the longest run wins. Where equal runs go on differently, no piece is named.
    """

    def __init__(self) -> None:
        self._pieces: tuple[int, ...] = ()
        self._places: dict[int, int] = {}
        """Place of the next piece -> pieces in a row that were said before it."""
        self._idle = 0

    def offer(self, pieces: Iterable[int], *, append: bool = False) -> None:
        """A text that may be read out, in place of the one before or behind it."""
        given = (*self._pieces, *pieces) if append else tuple(pieces)
        if not append:
            self._places = {}
        self._pieces, self._idle = given[:MAX_PIECES], 0

    def forget(self) -> None:
        """There is nothing to read out."""
        self.offer(())

    def hear(self, piece: int | None) -> None:
        """A frame of the model's text, None where nothing is said."""
        if not self._pieces:
            return
        self._idle += 1
        if piece is not None:
            self._places = {
                place + 1: self._places.get(place, 0) + 1
                for place, own in enumerate(self._pieces)
                if own == piece
            }
            if self._places:
                self._idle = 0
        if self._idle > PATIENCE:
            self.forget()

    @property
    def following(self) -> int | None:
        """The piece that goes on with the text; None where that is not known."""
        places = {place: run for place, run in self._places.items() if place < len(self._pieces)}
        if not places:
            return None
        longest = max(self._places.values())
        found = {self._pieces[place] for place, run in places.items() if run == longest}
        return found.pop() if len(found) == 1 else None

    def save(self) -> dict[str, Any]:
        """All of it, as plain data."""
        places = [[place, run] for place, run in self._places.items()]
        return {"pieces": list(self._pieces), "places": places, "idle": self._idle}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Continue from `save`."""
        self._pieces, self._idle = tuple(saved["pieces"]), saved["idle"]
        self._places = dict(saved["places"])
