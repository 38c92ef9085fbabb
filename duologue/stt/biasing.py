"""A vocabulary that a recogniser leans towards: names from the knowledge base, a caller's jargon.

The words' pieces form a trie. While a slot's last pieces lie on a path of it, the logits of the
pieces that go on along the path get a bonus (shallow fusion; contextual biasing by a prefix trie,
as in arXiv 1906.09292 and 2406.07096). Beginning a word gets little of it and going on with one
much, because a name's first piece is shared with common words and its later pieces hardly. When
something is written stays the model's choice; the bonus only decides between pieces. Who takes the
likeliest piece never gives a bonus back. Of hypotheses that are weighed against each other, one
that breaks a name off gives back all that it was lent for its beginning.

Where a slot stands is one number (`BiasState.node`); the trie is read-only and shared. The number
names the trie too, so a vocabulary can be exchanged while conversations go on: a slot that stands
somewhere in another trie stands between words in this one. Only the `CANDIDATES` likeliest tokens
can gain, so the cost hardly grows with the vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, Self

import torch
from torch import Tensor

from duologue.checkpoints.tokenizer import WORD_START
from duologue.nn.state import KEEP, State, assign_active, tensor_field

MAX_WORDS = 50_000
"""Further words of a vocabulary are left out; put the most telling ones first."""
MAX_PIECES = 24
"""Longer entries are left out."""
CANDIDATES = 32
_NODE_BITS = 22
"""Enough for MAX_WORDS entries of MAX_PIECES; the bits above name the trie."""
_NAME_BYTES = 4


@dataclass(frozen=True)
class BiasWeights:
    """Bonus in logits (natural logarithm of odds) for beginning an entry and going on with it."""

    begin: float = 0.5
    proceed: float = 2.0

    def __post_init__(self) -> None:
        for name in ("begin", "proceed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 20):
                raise ValueError(f"BiasWeights.{name}: {value!r} is not between 0 and 20")


AMONG_HYPOTHESES = BiasWeights(begin=0.0, proceed=0.5)
"""Where several are followed, little is enough, and more does harm (`docs/stt.md`)."""


@dataclass
class BiasState(State):
    """Where each slot stands in the trie, and how strongly it is biased."""

    node: Tensor = tensor_field(0)
    """int64 [B], 0 between words."""
    strength: Tensor = tensor_field(KEEP)
    """float32 [B], a factor of the weights; 0 turns biasing off. A reset leaves it alone."""
    lent: Tensor = tensor_field(0)
    """float32 [B]: bonus of the entry that is being written; of hypotheses only."""

    @classmethod
    def fresh(cls, slots: int, device: torch.device | str = "cpu") -> Self:
        """Slots between words, biased with strength 1."""
        return cls(
            torch.zeros(slots, dtype=torch.int64, device=device),
            torch.ones(slots, device=device),
            torch.zeros(slots, device=device),
        )


class BiasTokenizer(Protocol):
    """What making a trie needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def piece(self, token: int) -> str: ...


class BiasTrie:
    """The vocabulary as a trie of text tokens, ready for one device."""

    def __init__(
        self,
        sequences: Iterable[Sequence[int]],
        starts_word: Sequence[bool],
        weights: BiasWeights,
        silent: Iterable[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            sequences: tokens of each entry.
            starts_word: for each token, whether a word begins with it.
            silent: tokens that end a word and are no text.
        """
        self.vocabulary = vocabulary = len(starts_word)
        edges: dict[int, int] = {}
        nodes = 1
        ends = {0}
        self.entries = 0
        for sequence in islice(sequences, MAX_WORDS):
            if not 0 < len(sequence) <= MAX_PIECES:
                continue
            self.entries += 1
            node = 0
            for token in sequence:
                child = edges.setdefault(node * vocabulary + token, nodes)
                nodes = max(nodes, child + 1)
                node = child
            ends.add(node)
        # An entry of several words waits at a word's end for its next word to begin.
        waits = torch.zeros(nodes, dtype=torch.bool)
        for key in edges:
            if starts_word[key % vocabulary]:
                waits[key // vocabulary] = True
        keys = sorted(edges) or [-1]
        self._name = _name_of(keys)
        self._nodes = nodes
        self._keys = torch.tensor(keys, device=device)
        self._targets = torch.tensor([edges.get(key, 0) for key in keys], device=device)
        self._bonus = torch.where(self._keys < vocabulary, weights.begin, weights.proceed)
        self._waits = waits.to(device)
        self._silent = torch.tensor(sorted(set(silent)), device=device)
        self._ends = torch.zeros(nodes, dtype=torch.bool, device=device)
        self._ends[sorted(ends)] = True
        self._is_silent = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self._is_silent[self._silent[self._silent < vocabulary]] = True
        self._closes = self._is_silent | torch.tensor(list(starts_word), device=device)
        """Tokens after which the entry before them is complete."""

    @classmethod
    def of_words(
        cls,
        words: Iterable[str],
        tokenizer: BiasTokenizer,
        pieces: int,
        weights: BiasWeights,
        silent: Iterable[int],
        device: torch.device | str = "cpu",
    ) -> BiasTrie:
        """Make the trie of words and phrases, spelt as the recogniser would spell them.

        A single piece is left out: a word that common needs no help.
        """
        marks = [tokenizer.piece(token).startswith(WORD_START) for token in range(pieces)]
        entries = (tokenizer.encode(word.strip()) for word in words)
        several = (entry for entry in entries if len(entry) > 1 and max(entry) < pieces)
        return cls(several, marks, weights, silent, device)

    def choose(self, logits: Tensor, state: BiasState) -> Tensor:
        """The token of each slot, from logits [B, classes]: int64 [B].

        Where the model would write nothing, nothing is written.
        """
        likeliest = logits.argmax(dim=-1)
        values, tokens = logits.float().topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
        _, bonus = self._edge(self._place(state)[:, None], tokens)
        gained = values + bonus * state.strength[:, None]
        best, place = gained.max(dim=-1, keepdim=True)
        # Without a gain this is the argmax itself, whichever of equal logits top-k puts first.
        leans = (best[:, 0] > values[:, 0]) & ~torch.isin(likeliest, self._silent)
        return torch.where(leans, tokens.gather(-1, place)[:, 0], likeliest)

    def lean(self, logits: Tensor, state: BiasState) -> Tensor:
        """Logits [B, classes] of hypotheses with each one's bonus, float32; tokens that break an
        entry off give back what was lent for it. Rows of which nothing is likeliest get nothing.
        """
        here = self._place(state)
        kept = self._ends[here][:, None] & self._closes
        kept |= self._waits[here][:, None] & self._is_silent
        returned = logits.float() - torch.where(kept, 0.0, state.lent[:, None])
        values, tokens = logits.float().topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
        child, bonus = self._edge(here[:, None], tokens)
        silent = torch.isin(logits.argmax(dim=-1), self._silent)
        bonus = bonus * torch.where(silent, 0.0, state.strength)[:, None]
        gained = torch.where(child > 0, values + bonus, returned.gather(-1, tokens))
        return returned.scatter(-1, tokens, gained)

    def lend(self, token: Tensor, gained: Tensor, state: BiasState, active: Tensor | None) -> None:
        """Keep account of what `lean` gave (or took) with the tokens [B] that were drawn; before
        `advance`.
        """
        here = self._place(state)
        child, _ = self._edge(here, token)
        complete = self._ends[here] & self._closes[token] & (child == 0)
        lent = torch.where(complete, 0.0, state.lent) + gained
        assign_active(state.lent, lent, active)

    def advance(self, token: Tensor, state: BiasState, active: Tensor | None) -> None:
        """Move the active slots on by the tokens [B] that were drawn."""
        here = self._place(state)
        child, _ = self._edge(here, token)
        afresh, _ = self._edge(torch.zeros_like(here), token)
        node = torch.where(child > 0, child, afresh)
        silent = torch.isin(token, self._silent)
        resting = torch.where(self._waits[here], here, 0)
        node = torch.where(silent, resting, node)
        assign_active(state.node, torch.where(node > 0, node + self._name, 0), active)

    def _place(self, state: BiasState) -> Tensor:
        """Nodes of this trie [B], 0 for slots that stand in another one."""
        node = state.node - self._name
        return torch.where((node > 0) & (node < self._nodes), node, 0)

    def _edge(self, node: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Child that a token leads to (0: none) and its bonus, elementwise."""
        wanted = node * self.vocabulary + token
        at = torch.searchsorted(self._keys, wanted).clamp(max=len(self._keys) - 1)
        found = self._keys[at] == wanted
        return torch.where(found, self._targets[at], 0), torch.where(found, self._bonus[at], 0.0)


def _name_of(keys: Sequence[int]) -> int:
    """A number for a trie, by what is in it: a saved slot goes on with the same vocabulary only."""
    digest = hashlib.blake2b(",".join(map(str, keys)).encode(), digest_size=_NAME_BYTES).digest()
    return int.from_bytes(digest) << _NODE_BITS
