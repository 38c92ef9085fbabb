"""Text tokens to words: nothing lost, nothing doubled, times from the rules of the text row."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.dialogue.ports import UserFrame
from duologue.stt.ports import Heard, Word
from duologue.stt.words import (
    MAX_WORD_CHARACTERS,
    AssemblerStateError,
    WordAssembler,
    with_ends,
)
from duologue.training.text_stream import text_row

PAD, EPAD = 3, 0
VOCABULARY = ("the", "quick", "Canberra", "fox", "time?", "lazy", "Newark", "a", "zebra", "ærø")


@pytest.fixture(scope="module")
def make(byte_tokenizer: TextTokenizer):
    return lambda delay_s=0.4: WordAssembler(byte_tokenizer, delay_s=delay_s)


def run(assembler: WordAssembler, tokens: list[int]) -> list[Heard]:
    return [*(assembler.push(token) for token in tokens), assembler.finish()]


def text_of(heard: list[Heard]) -> str:
    return "".join(piece for one in heard for piece in one.words)


def words_of(heard: list[Heard]) -> list[Word]:
    return [word for one in heard for word in one.completed]


spoken = st.lists(
    st.tuples(st.sampled_from(VOCABULARY), st.floats(0.05, 0.6), st.floats(0.0, 1.5)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(spoken=spoken, delay=st.sampled_from([0.0, 0.08, 0.4, 0.5, 2.5]))
def test_a_text_row_as_models_learn_it_comes_back(
    byte_tokenizer: TextTokenizer, spoken: list[tuple[str, float, float]], delay: float
) -> None:
    """Words laid on a row by the training rules are found again, within a frame of their start."""
    at, words = 0.0, []
    for text, length, pause in spoken:
        # As long as its pieces take, so that no word pushes the one before it off the row.
        length = max(length, 0.08 * (len(byte_tokenizer.encode(text)) + 1))
        words.append((text, at, at + length))
        at += length + pause
    row = text_row(words, int((at + delay) * 12.5) + 2, 12.5, byte_tokenizer, delay_s=delay)
    assembler = WordAssembler(byte_tokenizer, delay_s=delay)
    # Column 0 of the row is drawn before any audio.
    heard = run(assembler, row.tokens[1:].tolist())
    found = words_of(heard)
    first_is_lost = row.tokens[0] not in (PAD, EPAD)
    if first_is_lost:
        return
    assert [word.text for word in found] == [text for text, _, _ in words]
    assert text_of(heard).split() == [text for text, _, _ in words]
    for word, (_, begin, _) in zip(found, words, strict=True):
        assert begin - 0.08 - 1e-6 <= word.start_s <= begin + 1e-6
    # Where it says that all words up to a frame are in, they are.
    handed_in, said = 0, "".join(" " + text for text, _, _ in words)
    for one in heard[:-1]:
        handed_in += sum(len(piece) for piece in one.words)
        assert one.transcribed_frame is not None
        due = "".join(" " + t for t, begin, _ in words if begin * 12.5 < one.transcribed_frame + 1)
        assert len(due) <= handed_in <= len(said)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 339), max_size=60), st.integers(0, 60))
def test_any_tokens(byte_tokenizer: TextTokenizer, tokens: list[int], cut: int) -> None:
    """Whatever a model draws: pieces and words say the same, progress never goes back, and a saved
    assembler goes on as if nothing had happened."""
    assembler = WordAssembler(byte_tokenizer, delay_s=0.5)
    heard = [assembler.push(token) for token in tokens[:cut]]
    second = WordAssembler(byte_tokenizer, delay_s=0.5)
    second.load(json.loads(json.dumps(assembler.save())))
    rest = run(assembler, tokens[cut:])
    assert rest == run(second, tokens[cut:])
    heard += rest
    assert text_of(heard).split() == [word.text for word in words_of(heard)]
    frames = [one.transcribed_frame for one in heard]
    assert frames == sorted(frames)
    assert all(frame <= max(-1, index) for index, frame in enumerate(frames))
    starts = [word.start_s for word in words_of(heard)]
    assert starts == sorted(starts)
    for one in heard:
        assert one.words == UserFrame(one.words, one.inactivity, one.transcribed_frame).words
        assert "\u2581" not in "".join(one.words)
        assert "".join(one.words).isprintable()


def test_progress_stands_still_inside_a_word(make, byte_tokenizer: TextTokenizer) -> None:
    pieces = byte_tokenizer.encode("zebra")
    assert len(pieces) > 2
    assembler = make(0.4)
    frames = [
        assembler.push(token).transcribed_frame for token in [*[PAD] * 8, EPAD, *pieces, PAD, PAD]
    ]
    before = 8 + 1 - 5
    assert frames[:9] == [max(-1, k + 1 - 5) for k in range(9)]
    assert frames[9 : 9 + len(pieces)] == [before] * len(pieces)
    assert frames[-1] == len(frames) - 5


def test_one_padding_token_is_hesitation_two_end_a_word(
    make, byte_tokenizer: TextTokenizer
) -> None:
    tokens = byte_tokenizer.encode("zebra")
    first, rest = tokens[:-1], tokens[-1:]
    hesitant = run(make(), [*first, PAD, *rest, PAD])
    assert text_of(hesitant) == " zebra"
    assert [word.text for word in words_of(hesitant)] == ["zebra"]
    for gap in ([PAD, PAD], [EPAD]):
        parted = words_of(run(make(), [*first, *gap, *rest]))
        assert "".join(word.text for word in parted) == "zebra"
        assert len(parted) == 2


def test_bytes_become_characters_or_a_mark(make, byte_tokenizer: TextTokenizer) -> None:
    tokens = byte_tokenizer.encode("ærø")
    assert any(byte_tokenizer.byte(token) is not None for token in tokens)
    heard = run(make(), [*tokens, PAD])
    assert text_of(heard) == " ærø"
    half = [token for token in tokens if byte_tokenizer.byte(token) is not None][:1]
    assert text_of(run(make(), [*half, PAD, PAD])) == " \ufffd"


def test_flushed_silence_takes_no_time(make, byte_tokenizer: TextTokenizer) -> None:
    """A flush brings the words up to the last frame; what follows keeps its own time."""
    the = byte_tokenizer.encode("the")
    plain, flushed = make(0.4), make(0.4)
    lead = [PAD] * 10
    for token in lead:
        plain.push(token)
        flushed.push(token)
    pieces = [EPAD, *the, *[PAD] * (6 - len(the) - 1)]
    heard = [flushed.push_silence(token) for token in pieces]
    assert text_of(heard) == " the"
    assert heard[-1].transcribed_frame == 9
    (early,) = words_of(heard)
    late = [plain.push(token) for token in pieces]
    assert words_of(late) == [early]
    tail = [flushed.push(token) for token in [*[PAD] * 8, EPAD, *the, PAD, PAD]]
    (after,) = words_of(tail)
    # Its first piece came in column 10 + 9 of the conversation's own frames.
    assert after.start_s == pytest.approx((10 + 9 + 1 - 5) * 0.08)
    assert [one.transcribed_frame for one in tail][:2] == [9, 9]


def test_pause_estimates(make) -> None:
    assembler = make()
    values = [assembler.push(PAD, 0.75).inactivity for _ in range(14)]
    assert values == [None] * 12 + [0.75] * 2
    assert assembler.push(PAD, math.nan).inactivity is None
    assert assembler.push(PAD, 1.0000001).inactivity == 1.0
    assert assembler.push_silence(PAD).inactivity is None


def test_a_word_is_bounded(make, byte_tokenizer: TextTokenizer) -> None:
    token = next(t for t in range(261, 340) if byte_tokenizer.piece(t).isalpha())
    heard = run(make(), [token] * 500)
    assert max(len(word.text) for word in words_of(heard)) <= MAX_WORD_CHARACTERS
    assert len("".join(word.text for word in words_of(heard))) == 500 * len(
        byte_tokenizer.piece(token)
    )


def test_states_of_other_recognisers_are_refused(make) -> None:
    with pytest.raises(AssemblerStateError, match="other delay"):
        make(0.4).load(make(2.5).save())
    with pytest.raises(AssemblerStateError, match="not a saved"):
        make().load({"recent": [0], "colour": 1})


def test_ends() -> None:
    words = [Word("a", 0.0), Word("b", 0.4), Word("c", 3.0, 3.2), Word("d", 3.1)]
    assert [word.end_s for word in with_ends(words, 3.5)] == [0.4, 1.4, 3.1, 3.5]
    assert with_ends([]) == []
    assert with_ends([Word("late", 4.0)], 3.5)[0].end_s == 4.0
