"""Leaning towards a vocabulary: the trie against a plain walk, and what it does to errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.stt.biasing import CANDIDATES, MAX_PIECES, BiasState, BiasTrie, BiasWeights
from duologue.stt.recogniser import RecogniserError

CLASSES = 12
SILENT = (0, 3)
STARTS = [token >= 8 for token in range(CLASSES)]
"""Tokens 8 to 11 begin a word, 4 to 7 go on with one."""
WEIGHTS = BiasWeights(begin=0.5, proceed=2.0)

entries = st.lists(
    st.lists(st.integers(4, CLASSES - 1), min_size=1, max_size=5), min_size=1, max_size=8
)


class PlainTrie:
    """The same on one slot, with dictionaries."""

    def __init__(self, sequences: list[list[int]]) -> None:
        self.sequences = [tuple(sequence) for sequence in sequences]
        self.path: tuple[int, ...] = ()

    def _goes_on(self, path: tuple[int, ...]) -> bool:
        return any(len(s) >= len(path) and s[: len(path)] == path for s in self.sequences)

    def choose(self, logits: Tensor) -> int:
        best = int(logits.argmax())
        if best in SILENT:
            return best
        bonus = WEIGHTS.proceed if self.path else WEIGHTS.begin
        gained = [
            float(value) + bonus * self._goes_on((*self.path, token))
            for token, value in enumerate(logits)
        ]
        winner = max(range(len(gained)), key=gained.__getitem__)
        return winner if gained[winner] > float(logits[best]) else best

    def advance(self, token: int) -> None:
        if token in SILENT:
            waits = any(self._goes_on((*self.path, t)) for t in range(CLASSES) if STARTS[t])
            self.path = self.path if waits else ()
        elif self._goes_on((*self.path, token)):
            self.path = (*self.path, token)
        else:
            self.path = (token,) if self._goes_on((token,)) else ()


@settings(max_examples=80, deadline=None)
@given(entries, st.integers(0, 10_000))
def test_the_trie_is_a_plain_walk(sequences: list[list[int]], seed: int) -> None:
    trie = BiasTrie(sequences, STARTS, WEIGHTS, SILENT)
    state, walks = BiasState.fresh(2), [PlainTrie(sequences) for _ in range(2)]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        logits = 2 * torch.randn(2, CLASSES, generator=generator)
        chosen = trie.choose(logits, state)
        assert chosen.tolist() == [w.choose(row) for w, row in zip(walks, logits, strict=True)]
        trie.advance(chosen, state, None)
        for walk, token in zip(walks, chosen.tolist(), strict=True):
            walk.advance(token)


def test_slots_that_stand_still_or_are_not_biased() -> None:
    trie = BiasTrie([[8, 4, 5]], STARTS, WEIGHTS, SILENT)
    state = BiasState.fresh(3)
    state.strength[2] = 0.0
    logits = torch.zeros(3, CLASSES)
    logits[:, 8] = -0.1
    logits[:, 9] = 0.1
    assert trie.choose(logits, state).tolist() == [8, 8, 9]
    trie.advance(torch.tensor([8, 8, 9]), state, torch.tensor([True, False, True]))
    assert state.node.tolist()[1:] == [0, 0]
    assert state.node[0] > 0
    state.reset()
    assert state.strength.tolist() == [1.0, 1.0, 0.0], "a setting, not history"
    assert state.node.tolist() == [0, 0, 0]


def test_a_phrase_waits_for_its_next_word() -> None:
    trie = BiasTrie([[8, 4, 9, 5]], STARTS, WEIGHTS, SILENT)
    state = BiasState.fresh(1)
    for token in (8, 4, 3, 3, 3, 0, 9):
        trie.advance(torch.tensor([token]), state, None)
    logits = torch.zeros(1, CLASSES)
    logits[0, 6] = 1.9
    assert trie.choose(logits, state).tolist() == [5], "four words long, three in"
    for token in (3, 5):
        trie.advance(torch.tensor([token]), state, None)
    assert state.node.tolist() == [0], "a piece inside a word does not wait"


def test_a_place_in_another_vocabulary_is_between_words() -> None:
    one = BiasTrie([[8, 4, 5]], STARTS, WEIGHTS, SILENT)
    other = BiasTrie([[9, 6, 7], [8, 6]], STARTS, WEIGHTS, SILENT)
    same = BiasTrie([[8, 4, 5]], STARTS, WEIGHTS, SILENT)
    logits = torch.zeros(1, CLASSES)
    logits[0, 7], logits[0, 8] = 0.2, 0.1
    state = BiasState.fresh(1)
    one.advance(torch.tensor([8]), state, None)
    assert one.choose(logits, state).tolist() == [4]
    assert same.choose(logits, state).tolist() == [4], "what is in it counts"
    assert other.choose(logits, state).tolist() == [8], "a word may begin, none goes on"
    other.advance(torch.tensor([4]), state, None)
    assert state.node.tolist() == [0]


def test_bounds() -> None:
    trie = BiasTrie([[8] * (MAX_PIECES + 1), []], STARTS, WEIGHTS, SILENT)
    assert trie.entries == 0
    logits = torch.randn(1, CLASSES)
    assert trie.choose(logits, BiasState.fresh(1)).tolist() == [int(logits.argmax())]
    many = BiasTrie([[90, 4]], [True] * 100, BiasWeights(begin=20.0), SILENT)
    ramp = torch.arange(100.0, 0, -1)[None]
    ramp[0, 0] = -1.0
    assert int(many.choose(ramp, BiasState.fresh(1))[0]) == 1
    assert CANDIDATES < 90, "the entry's piece is too unlikely to gain"
    for value in (-1.0, 21.0, float("nan")):
        with pytest.raises(ValueError, match="begin"):
            BiasWeights(begin=value)


def test_a_recogniser_with_a_vocabulary(make_recogniser, recogniser) -> None:
    """Biasing changes what is drawn, per slot, and only there; a reset keeps the setting."""
    words = ["Canberra", "Newark", "the", "candidates", "capital of Australia"]
    biased = make_recogniser(vocabulary=words, weights=BiasWeights(20.0, 20.0))
    assert biased.bias is not None
    assert 4 <= biased.bias.entries <= 5
    pcm = 0.3 * torch.randn(2, 1, 40 * 1920, generator=torch.Generator().manual_seed(3))
    state, plain = biased.init_state(2), recogniser.init_state(2)
    biased.set_strength(state, 0.0, torch.tensor([True, False]))
    biased.reset(state)
    drawn = [
        (biased.step(frame, state).text, recogniser.step(frame, plain).text)
        for frame in pcm.split(1920, dim=-1)
    ]
    mine, theirs = (torch.stack(texts, dim=1) for texts in zip(*drawn, strict=True))
    assert torch.equal(mine[0], theirs[0])
    assert not torch.equal(mine[1], theirs[1])


def test_a_vocabulary_is_exchanged_while_conversations_go_on(make_recogniser) -> None:
    """From the next step on it is as if the new one had been there from the beginning."""
    weights = BiasWeights(20.0, 20.0)
    with pytest.raises(RecogniserError, match="vocabulary"):
        make_recogniser().set_vocabulary(["Canberra"])
    changing = make_recogniser(vocabulary=(), weights=weights)
    plain = make_recogniser()
    leaning = make_recogniser(vocabulary=["Newark", "candidates"], weights=weights)
    assert changing.leans
    assert not plain.leans
    pcm = 0.3 * torch.randn(2, 1, 60 * 1920, generator=torch.Generator().manual_seed(3))
    frames = pcm.split(1920, dim=-1)
    state, other = changing.init_state(2), plain.init_state(2)
    for frame in frames[:20]:
        assert torch.equal(changing.step(frame, state).text, plain.step(frame, other).text)
    assert changing.set_vocabulary(["Newark", "candidates"]) == 2
    saved = state.clone()
    third = leaning.init_state(2)
    third.temporal, third.text, third.front_end = saved.temporal, saved.text, saved.front_end
    drawn = [changing.step(frame, state).text for frame in frames[20:40]]
    for frame, text in zip(frames[20:40], drawn, strict=True):
        assert torch.equal(text, leaning.step(frame, third).text)
    assert changing.set_vocabulary([]) == 0
    back = plain.init_state(2)
    now = state.clone()
    back.temporal, back.text, back.front_end = now.temporal, now.text, now.front_end
    for frame in frames[40:]:
        assert torch.equal(changing.step(frame, state).text, plain.step(frame, back).text)


def spell(tokens: list[int], noise: Tensor, trie: BiasTrie | None) -> list[int]:
    """A greedy recogniser of one word whose logits favour the truth by 3, under noise."""
    state = None if trie is None else BiasState.fresh(1)
    drawn = []
    for token, row in zip(tokens, noise, strict=True):
        logits = row.clone()[None]
        logits[0, token] += 3.0
        if trie is None or state is None:
            drawn.append(int(logits.argmax()))
            continue
        chosen = trie.choose(logits, state)
        trie.advance(chosen, state, None)
        drawn.append(int(chosen))
    return drawn


def test_names_are_misheard_less_and_common_words_no_more(byte_tokenizer: TextTokenizer) -> None:
    """A simulated recogniser: half of the names' errors go, other words lose next to nothing."""
    names = ["Canberra", "Newark", "Zargova", "Hirnova", "Waova", "Belmitsk", "Dornheim"]
    common = ["candidates", "cork", "capital", "the", "lazy", "brown", "fox", "what"]
    pieces = len(byte_tokenizer)
    trie = BiasTrie.of_words(names, byte_tokenizer, pieces, BiasWeights(), SILENT)
    generator = torch.Generator().manual_seed(11)
    errors = {"names": [0, 0], "common": [0, 0]}
    for kind, words in (("names", names), ("common", common)):
        for word in words * 40:
            tokens = byte_tokenizer.encode(word)
            noise = 0.75 * torch.randn(len(tokens), pieces, generator=generator)
            noise[:, :4] = -9.0
            for column, given_trie in enumerate((None, trie)):
                errors[kind][column] += spell(tokens, noise, given_trie) != tokens
    plain, biased = errors["names"]
    assert plain > 60
    assert biased < 0.5 * plain, errors
    plain, biased = errors["common"]
    assert biased <= plain * 1.1 + 3, errors
