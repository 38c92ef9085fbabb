"""Several hypotheses: the search against a plain one, and what a recogniser makes of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.engine.packing import pack_slot, unpack_slot
from duologue.stt.beam import Beam, BeamConfig, BeamError, BeamState, reorder
from duologue.stt.biasing import BiasState, BiasTrie, BiasWeights
from duologue.stt.front_end import MelFrontEnd
from duologue.stt.load import load_recogniser
from duologue.stt.offline import transcribe
from duologue.stt.recogniser import Recogniser
from duologue.stt.second_hearing import SecondHearing
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.voices import Voice

PAD, END = 3, 0
SILENT = frozenset({END, PAD})
CLASSES = 7
WREN = Path(__file__).parents[2] / "duologue" / "models" / "wren"


def gains_of(path: tuple[int, ...], seed: int) -> Tensor:
    """Log-probabilities after a sequence of tokens, as a model's would depend on all of it."""
    rng = np.random.default_rng([seed, *path])
    return torch.from_numpy(rng.normal(0, 2, CLASSES)).float().log_softmax(0)


def plain_search(config: BeamConfig, seed: int, steps: int) -> list[int]:
    """The same search on lists and dictionaries."""
    found: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    given_out = []
    for step in range(steps):
        best: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
        for score, path in found:
            gains = gains_of(path, seed)
            values, tokens = gains.topk(config.candidates)
            for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
                longer = (*path, token)
                text = tuple(t for t in longer if t not in SILENT)
                if text not in best or score + value > best[text][0]:
                    best[text] = (score + value, longer)
        ranked = sorted(best.values(), key=lambda one: -one[0])[: config.width]
        top = ranked[0]
        place = step - config.wait
        given_out.append(top[1][place] if place >= 0 else PAD)
        found = [
            (score, path)
            for score, path in ranked
            if (place < 0 or path[place] == given_out[-1]) and score > top[0] - config.margin
        ]
    return given_out


def search(beam: Beam, seeds: list[int], steps: int) -> tuple[list[list[int]], BeamState]:
    """The search on tensors, a slot for each seed; rows know what they have written."""
    width = beam.config.width
    state = beam.fresh(len(seeds))
    paths: list[list[tuple[int, ...]]] = [[()] * width for _ in seeds]
    out: list[list[int]] = [[] for _ in seeds]
    for _ in range(steps):
        gains = torch.stack(
            [gains_of(path, s) for s, rows in zip(seeds, paths, strict=True) for path in rows]
        )
        advance = beam.advance(gains, state, None)
        paths = [
            [(*rows[p], t) for p, t in zip(parents, tokens, strict=True)]
            for rows, parents, tokens in zip(
                paths, advance.parents.tolist(), advance.tokens.tolist(), strict=True
            )
        ]
        for found, token in zip(out, advance.text.tolist(), strict=True):
            found.append(token)
    return out, state


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.5, 3.0, 1e6]),
    st.lists(st.integers(0, 10_000), min_size=1, max_size=3),
)  # fmt: skip
def test_tensors_search_as_lists_do(
    width: int, wait: int, candidates: int, margin: float, seeds: list[int]
) -> None:
    config = BeamConfig(width, wait, candidates, margin)
    beam = Beam(config, SILENT, PAD)
    out, state = search(beam, seeds, 14)
    assert out == [plain_search(config, seed, 14) for seed in seeds]
    assert state.scores[:, 0].eq(0).all(), "scores are beside the best's"
    owed = torch.stack(beam.settle(state, None), dim=1)
    assert owed.shape == (len(seeds), wait)


def test_what_the_next_piece_belies_is_taken_back() -> None:
    """Token 4 is likelier than 5 at first, but only 5 is gone on with by 6."""
    beam = Beam(BeamConfig(2, 1, 3), SILENT, PAD)
    state = beam.fresh(1)
    first = torch.tensor([-9.0, -9.0, -9.0, -9.0, math.log(0.6), math.log(0.4), -9.0])
    advance = beam.advance(first.expand(2, -1), state, None)
    assert advance.tokens.tolist() == [[4, 5]]
    after_four = torch.full((CLASSES,), math.log(0.1))
    after_five = torch.full((CLASSES,), -9.0)
    after_five[6] = math.log(0.9)
    advance = beam.advance(torch.stack([after_four, after_five]), state, None)
    assert advance.parents[0, 0] == 1
    assert advance.text.tolist() == [5]
    assert [one.tolist() for one in beam.settle(state, None)] == [[6]]


def test_one_hypothesis_is_the_likeliest_token_a_frame_late(
    of_spectra: Recogniser, tokenizer: TextTokenizer
) -> None:
    assert isinstance(of_spectra.front_end, MelFrontEnd)
    single = Recogniser(
        of_spectra.lm, of_spectra.front_end, tokenizer, delay_s=0.5, beam=BeamConfig(1, 1)
    )
    pcm = 0.3 * torch.randn(2, 1, 12 * 1920, generator=torch.Generator().manual_seed(1))
    states = [one.init_state(2) for one in (single, of_spectra)]
    late, plain = (
        [one.step(frame, state) for frame in pcm.split(1920, dim=-1)]
        for one, state in zip((single, of_spectra), states, strict=True)
    )
    for before, now, after in zip(plain, plain[1:], late[1:], strict=False):
        assert torch.equal(after.text, before.text)
        torch.testing.assert_close(after.vector, now.vector)
        torch.testing.assert_close(after.inactivity, now.inactivity)


def test_words_come_later_by_the_wait(searching: Recogniser, of_spectra: Recogniser) -> None:
    assert (searching.wait_frames, of_spectra.wait_frames) == (2, 0)
    assert searching.delay_frames == of_spectra.delay_frames + 2
    assert searching.flush_frames == of_spectra.flush_frames + 2
    assert searching.delay_s == pytest.approx(of_spectra.delay_s + 0.16)


def test_flushing_gives_out_what_is_owed_and_no_frame_twice(searching: Recogniser) -> None:
    pcm = 0.3 * torch.randn(1, 1, 9 * 1920, generator=torch.Generator().manual_seed(5))
    silence = torch.zeros(1, 1, searching.flush_frames * 1920)
    heard, by_hand = searching.init_state(1), searching.init_state(1)
    for frame in pcm.split(1920, dim=-1):
        searching.step(frame, heard)
        searching.step(frame, by_hand)
    flushed = [int(one.text) for one in searching.flush(heard)]
    assert len(flushed) == searching.flush_frames
    waited = [int(searching.step(f, by_hand).text) for f in silence.split(1920, dim=-1)]
    steps = searching.flush_frames - searching.wait_frames
    assert flushed[:steps] == waited[:steps]
    assert heard.beam is not None
    assert (heard.beam.recent == 3).all(), "nothing is owed twice"
    assert (heard.beam.scores > -1e20).sum() == 1
    again = searching.step(pcm[..., :1920], heard)
    assert int(again.text) == 3


def test_states_without_hypotheses_are_as_those_of_others(
    searching: Recogniser, of_spectra: Recogniser
) -> None:
    pcm = 0.3 * torch.randn(1, 1, 6 * 1920, generator=torch.Generator().manual_seed(6))
    state, plain = searching.init_state(1, searches=False), of_spectra.init_state(1)
    for frame in pcm.split(1920, dim=-1):
        assert torch.equal(searching.step(frame, state).text, of_spectra.step(frame, plain).text)
    searching.reset(state)
    assert torch.equal(state.text, searching.init_state(1, searches=False).text)


def test_a_second_hearing_knows_when_pieces_were_written() -> None:
    """What was given out late is followed where it was written: it is likely there."""
    said = Speaker().say("What is the capital of France?", Voice("espeak-ng", "m7", "en-us+m7"))
    recogniser = load_recogniser(WREN, device="cpu")
    heard = SecondHearing(recogniser, speeds=(1.0,)).hear(said.samples)
    assert heard.texts == ("What is the capital of France?",)
    assert heard.encoded.shape[-1] == heard.tokens.shape[1] == heard.begins[0][-1]

    def likelihood(tokens: Tensor) -> float:
        state = recogniser.init_state(1, encodes=False, searches=False)
        total = 0.0
        for frame, token in enumerate(tokens[0]):
            likely = recogniser.follow(heard.encoded[..., frame, None], state, token[None])
            total += float(likely[0, token])
        return total

    assert likelihood(heard.tokens) > -10
    assert likelihood(heard.tokens.roll(recogniser.wait_frames, 1)) < -40


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"width": 0}, "width 0 is not a whole number from 1 to 64"),
        ({"width": True}, "width True"),
        ({"wait": 65}, "wait 65"),
        ({"candidates": 2.5}, "candidates 2.5"),
        ({"margin": 0}, "margin 0"),
        ({"margin": True}, "margin True"),
        (4, "4 is not a table"),
        ({"breadth": 4}, "'breadth' is no entry"),
    ],
)
def test_what_makes_no_sense_is_refused(block: Any, complaint: str) -> None:
    with pytest.raises(BeamError, match=complaint):
        BeamConfig.from_dict(block)


def test_a_folder_says_how_many_are_followed(tmp_path: Path) -> None:
    assert load_recogniser(WREN, device="cpu").wait_frames == 4
    assert load_recogniser(WREN, device="cpu", searches=False).wait_frames == 0
    folder = tmp_path / "stt"
    shutil.copytree(WREN / "stt", folder)
    config = json.loads((folder / "config.json").read_text())
    config["stt_config"]["beam"] = {"width": 3, "wit": 2}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'wit' is no entry"):
        load_recogniser(folder, device="cpu")


def test_words_have_the_times_of_the_sound() -> None:
    said = Speaker().say("What is the capital of France?", Voice("espeak-ng", "m7", "en-us+m7"))
    for searches in (True, False):
        recogniser = load_recogniser(WREN, device="cpu", searches=searches)
        (heard,) = transcribe(recogniser, [torch.from_numpy(said.samples)])
        assert heard.text == "What is the capital of France?"
        times = [word.start_s for word in heard.words]
        assert times == pytest.approx([word.start_s for word in said.words], abs=0.25)


def test_a_packed_slot_goes_on_wherever_it_stood(searching: Recogniser) -> None:
    """Its rows are several, and what the slots before it have heard does not matter."""
    pcm = 0.3 * torch.randn(3, 1, 12 * 1920, generator=torch.Generator().manual_seed(8))
    frames = pcm.split(1920, dim=-1)
    state, other = searching.init_state(3), searching.init_state(2)
    late = torch.tensor([False, True, True])
    for place, frame in enumerate(frames[:8]):
        searching.step(frame, state, late if place < 5 else None)
    unpack_slot(other, 0, pack_slot(state, 1))
    for frame in frames[8:]:
        here = searching.step(frame, state)
        there = searching.step(frame[[1, 0]], other, torch.tensor([True, False]))
        assert here.text[1] == there.text[0]
        assert torch.equal(here.vector[1], there.vector[0])


def test_numbers_that_are_none_end_no_slot() -> None:
    beam = Beam(BeamConfig(3, 1), SILENT, PAD)
    state = beam.fresh(2)
    broken = torch.stack([gains_of((1,), 5)] * 3 + [torch.full((CLASSES,), math.nan)] * 3)
    beam.advance(broken, state, None)
    sane = torch.stack([gains_of((2,), 5)] * 6)
    beam.advance(sane, state, None)
    assert state.scores.isfinite().all()
    assert beam.rows(state, None).view(2, 3)[:, 0].all()
    assert (beam.rows(state, None).view(2, 3).sum(1) > 1).all()


def test_rows_are_copied_likewise_everywhere(searching: Recogniser) -> None:
    """On a CPU only those that move, elsewhere all of them; here by hand."""
    pcm = 0.3 * torch.randn(2, 1, 5 * 1920, generator=torch.Generator().manual_seed(9))
    state = searching.init_state(2)
    for frame in pcm.split(1920, dim=-1):
        searching.step(frame, state)
    parents = torch.tensor([[1, 0, 1], [0, 2, 2]])
    expected = state.temporal.select([1, 0, 1, 3, 5, 5])
    reorder(state.temporal, parents)
    for path, tensor in state.temporal.tensors().items():
        assert torch.equal(tensor, expected.tensors()[path]), path


def test_a_vocabulary_sways_hypotheses_of_one_slot_alone(
    of_spectra: Recogniser, tokenizer: TextTokenizer
) -> None:
    front_end = of_spectra.front_end
    assert isinstance(front_end, MelFrontEnd)
    pcm = 0.3 * torch.randn(2, 1, 12 * 1920, generator=torch.Generator().manual_seed(10))

    def heard(vocabulary: tuple[str, ...], strength: float) -> tuple[Tensor, int]:
        leaning = Recogniser(
            of_spectra.lm, front_end, tokenizer, delay_s=0.5, beam=BeamConfig(3, 2, margin=8.0),
            vocabulary=vocabulary, weights=BiasWeights(8.0, 8.0),
        )  # fmt: skip
        state = leaning.init_state(2)
        leaning.set_strength(state, strength, torch.tensor([True, False]))
        leaning.set_strength(state, 0.0, torch.tensor([False, True]))
        drawn = [leaning.step(frame, state).text for frame in pcm.split(1920, dim=-1)]
        assert state.bias is not None
        saved = leaning.init_state(2)
        saved.assign([0, 1], state.select([0, 1]))
        assert torch.equal(saved.bias.node, state.bias.node)  # type: ignore[union-attr]
        leaning.reset(state)
        assert state.bias.strength.view(2, 3)[:, 0].tolist() == [strength, 0.0]
        assert not state.bias.node.any()
        return torch.stack(drawn, 1), len(state.bias.node)

    plain, rows = heard((), 1.0)
    assert rows == 6
    names, _ = heard(("Canberra", "Newark"), 1.0)
    weak, _ = heard(("Canberra", "Newark"), 0.0)
    assert torch.equal(names[1], plain[1])
    assert torch.equal(weak, plain)


MARKS = (4, 6, 8)
"""Tokens with which words begin."""


@pytest.mark.parametrize(
    ("tokens", "gained"),
    [
        ((4, 5, 7, PAD), 5.0),
        ((4, 5, 7, 6), 5.0),
        ((PAD, 4, 5, 7, PAD), 5.0),
        ((4, 5, PAD), 0.0),
        ((4, 5, 9, PAD), 0.0),
        ((4, 5, 6, PAD), 0.0),
        # "Newarks" is not "Newark".
        ((4, 5, 7, 5, PAD), 0.0),
        ((6, 5, PAD, 8, 9, PAD), 7.0),
        # Nothing is lent for the first piece where another entry breaks off.
        ((6, 5, PAD, PAD, 4, 5, 7, PAD), 4.0),
        ((6, 5, PAD, 9), 0.0),
        ((9, 9, PAD), 0.0),
    ],
)
def test_what_an_entry_was_lent_is_its_own_when_it_is_complete(
    tokens: tuple[int, ...], gained: float
) -> None:
    """Entries 4-5-7 and, of two words, 6-5 8-9; one for a beginning, two for going on."""
    marks = [token in MARKS for token in range(10)]
    trie = BiasTrie([(4, 5, 7), (6, 5, 8, 9)], marks, BiasWeights(1.0, 2.0), SILENT)
    state, total = BiasState.fresh(2), 0.0
    logits = torch.zeros(2, 10)
    logits[:, 9] = 0.1  # something is written anyway
    active = torch.tensor([True, False])
    for token in tokens:
        drawn = torch.tensor([token, token])
        lent = (trie.lean(logits, state) - logits).gather(-1, drawn[:, None])[:, 0]
        total += float(lent[0])
        trie.lend(drawn, lent, state, active)
        trie.advance(drawn, state, active)
    assert total == pytest.approx(gained)
    assert (int(state.node[1]), float(state.lent[1])) == (0, 0.0)
