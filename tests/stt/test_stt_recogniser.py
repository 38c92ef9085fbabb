"""The local recogniser: the published arithmetic, the streaming contract, flushing, sharing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contract import assert_slots_equal
from support.golden import assert_near, integers, vectors
from torch import Tensor

from duologue.mimi.codec import Mimi
from duologue.stt import offline
from duologue.stt.front_end import MelFrontEnd, MelFrontEndConfig
from duologue.stt.offline import transcribe
from duologue.stt.ports import Heard
from duologue.stt.recogniser import Recogniser, RecogniserError, RecogniserState

SLOTS = 3


def sound(slots: int, frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(slots, 1, frames * 1920, generator=generator)


def frame(pcm: Tensor, index: int) -> Tensor:
    return pcm[..., index * 1920 : (index + 1) * 1920]


def tokens(recogniser: Recogniser, pcm: Tensor, state: RecogniserState | None = None) -> Tensor:
    state = state or recogniser.init_state(len(pcm))
    count = pcm.shape[-1] // 1920
    return torch.stack([recogniser.step(frame(pcm, k), state).text for k in range(count)], dim=1)


def test_text_and_pauses_are_those_of_the_published_model(recogniser: Recogniser) -> None:
    """Golden vectors: codes of call 0 never reach the model there; here none are lost."""
    user, golden = integers("lm_stt", "user_tokens"), vectors("lm_stt")
    state = recogniser.init_state(1, encodes=False)
    assert state.text.tolist() == [golden["sampled_text"][0]]
    drawn = [recogniser.step(user[None, :, t : t + 1], state) for t in range(1, user.shape[1])]
    text = [int(one.text[0]) for one in drawn]
    assert text == golden["sampled_text"][1 : len(text) + 1].tolist()
    pauses = torch.cat([one.inactivity for one in drawn])
    assert_near(pauses, golden["extra_heads"][1 : len(text) + 1, 2, 0])


def test_a_batch_hears_what_each_would_hear_alone(any_recogniser: Recogniser) -> None:
    pcm = sound(SLOTS, 12)
    state, alone = (
        any_recogniser.init_state(SLOTS),
        [any_recogniser.init_state(1) for _ in range(SLOTS)],
    )
    for index in range(12):
        heard = frame(pcm, index)
        drawn = any_recogniser.step(heard, state)
        singles = [any_recogniser.step(heard[s : s + 1], alone[s]) for s in range(SLOTS)]
        assert torch.equal(drawn.text, torch.cat([one.text for one in singles]))
        inactivity = torch.cat([one.inactivity for one in singles])
        torch.testing.assert_close(drawn.inactivity, inactivity, atol=1e-6, rtol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS) | st.integers(0, SLOTS - 1),
        min_size=1,
        max_size=12,
    )
)
def test_slots_do_not_sway_each_other_by_a_bit(
    any_recogniser: Recogniser, events: list[list[bool] | int]
) -> None:
    """Moves and resets in any order: a slot of a busy batch draws the bits it draws when the
    others stand still."""
    pcm = sound(SLOTS, 12)

    def play(present: set[int]) -> list[list[Tensor]]:
        state, heads = any_recogniser.init_state(SLOTS), [0] * SLOTS
        outputs: list[list[Tensor]] = [[] for _ in range(SLOTS)]
        for event in events:
            if isinstance(event, int):
                if event in present:
                    any_recogniser.reset(state, torch.arange(SLOTS) == event)
                continue
            active = [wants and slot in present for slot, wants in enumerate(event)]
            if not any(active):
                continue
            heard = torch.cat([frame(pcm[s : s + 1], heads[s]) for s in range(SLOTS)])
            # Whoever stands still is fed nonsense, and must not notice.
            heard[~torch.tensor(active)] = float("nan")
            drawn = any_recogniser.step(heard, state, torch.tensor(active))
            for slot in range(SLOTS):
                if active[slot]:
                    outputs[slot].append(torch.stack([drawn.text[slot], drawn.inactivity[slot]]))
                    heads[slot] += 1
                else:
                    assert drawn.text[slot] == -2
                    assert drawn.inactivity[slot].isnan()
        return outputs

    busy = play(set(range(SLOTS)))
    for slot in range(SLOTS):
        for mine, theirs in zip(busy[slot], play({slot})[slot], strict=True):
            assert torch.equal(mine, theirs)


def test_a_reset_slot_is_fresh_and_the_others_keep_every_bit(any_recogniser: Recogniser) -> None:
    pcm = sound(SLOTS, 6)
    state = any_recogniser.init_state(SLOTS)
    tokens(any_recogniser, pcm, state)
    before = state.clone()
    any_recogniser.reset(state, torch.tensor([False, True, False]))
    assert_slots_equal(state, before, [0, 2])
    assert_slots_equal(state, any_recogniser.init_state(SLOTS), [1])
    any_recogniser.reset(state)
    assert_slots_equal(state, any_recogniser.init_state(SLOTS), [0, 1, 2])


def test_a_snapshot_continues(any_recogniser: Recogniser) -> None:
    pcm = sound(2, 10)
    state = any_recogniser.init_state(2)
    tokens(any_recogniser, pcm[..., : 4 * 1920], state)
    restored = any_recogniser.init_state(2)
    restored.load(state.save())
    moved = state.select([1, 0])
    rest = pcm[..., 4 * 1920 :]
    expected = tokens(any_recogniser, rest, state)
    assert torch.equal(tokens(any_recogniser, rest, restored), expected)
    assert torch.equal(tokens(any_recogniser, rest.flip(0), moved), expected.flip(0))


def test_codes_that_were_made_already_are_heard_alike(recogniser: Recogniser) -> None:
    """Sharing: a codec with more codebooks runs once, for whoever listens."""
    pcm = sound(2, 8)
    codec = recogniser.front_end
    encoder, state = codec.init_state(2), recogniser.init_state(2, encodes=False)
    shared = []
    for k in range(8):
        codes = codec.encode_step(frame(pcm, k), encoder, num_codebooks=9)
        shared.append(recogniser.step(codes, state).text)
    assert torch.equal(torch.stack(shared, dim=1), tokens(recogniser, pcm))
    with pytest.raises(RecogniserError, match="encodes=False"):
        recogniser.step(frame(pcm, 0), state)
    with pytest.raises(RecogniserError, match="8 or more"):
        recogniser.step(codes[:, :7], state)


def test_which_codecs_can_be_shared(recogniser: Recogniser, codec: Mimi) -> None:
    assert recogniser.hears_codes_of(codec)
    twin = Mimi(codec.config, 4)
    twin.load_state_dict(codec.state_dict())
    assert recogniser.hears_codes_of(twin)
    with torch.no_grad():
        twin.decoder_transformer.layers[0].norm1.weight.add_(1)
    assert recogniser.hears_codes_of(twin), "decoding has no part in it"
    with torch.no_grad():
        twin.encoder_transformer.layers[0].norm1.weight.add_(1e-6)
    assert not recogniser.hears_codes_of(twin)


def test_a_flush_is_silence_that_the_codec_does_not_remember(recogniser: Recogniser) -> None:
    pcm = sound(2, 5)
    state = recogniser.init_state(2)
    tokens(recogniser, pcm, state)
    silent, before = state.clone(), state.clone()
    active = torch.tensor([True, False])
    drawn = recogniser.flush(state, active)
    assert len(drawn) == recogniser.flush_frames == 8
    zeros = torch.zeros(2, 1, 1920)
    expected = [recogniser.step(zeros, silent, active).text for _ in range(8)]
    assert [one.text[0] for one in drawn] == [text[0] for text in expected]
    assert_slots_equal(state, before, [1])
    assert state.front_end is not None
    assert_slots_equal(state.front_end, before.front_end, [0, 1])
    # The same with codes from outside.
    outside = recogniser.init_state(2, encodes=False)
    encoder = recogniser.front_end.init_state(2)
    for k in range(5):
        codes = recogniser.front_end.encode_step(frame(pcm, k), encoder, num_codebooks=8)
        recogniser.step(codes, outside)
    again = recogniser.flush(outside, active, encoder)
    assert [one.text[0] for one in again] == [one.text[0] for one in drawn]
    with pytest.raises(RecogniserError, match="codec's state"):
        recogniser.flush(outside)


def test_a_flush_of_spectra_is_silence_that_is_not_remembered(of_spectra: Recogniser) -> None:
    pcm = sound(2, 5)
    state = of_spectra.init_state(2)
    tokens(of_spectra, pcm, state)
    silent, before = state.clone(), state.clone()
    drawn = [one.text for one in of_spectra.flush(state)]
    zeros = torch.zeros(2, 1, 1920)
    expected = [of_spectra.step(zeros, silent).text for _ in drawn]
    assert torch.equal(torch.stack(drawn), torch.stack(expected))
    assert_slots_equal(state.front_end, before.front_end, [0, 1])


def test_a_front_end_of_its_own_takes_no_codes(of_spectra: Recogniser, codec: Mimi) -> None:
    assert of_spectra.num_codebooks == 0
    assert not of_spectra.hears_codes_of(codec)
    with pytest.raises(RecogniserError, match="encodes=False"):
        of_spectra.step(sound(1, 1), of_spectra.init_state(1, encodes=False))
    other = MelFrontEnd(MelFrontEndConfig(dim=16, channels=(8, 8, 8)))
    with pytest.raises(RecogniserError, match="vectors of 16"):
        Recogniser(of_spectra.lm, other, of_spectra.tokenizer, delay_s=0.5)


def test_a_look_ahead_is_not_noticed(any_recogniser: Recogniser) -> None:
    pcm = sound(2, 8)
    state, plain = any_recogniser.init_state(2), any_recogniser.init_state(2)
    tokens(any_recogniser, pcm[..., : 4 * 1920], state)
    any_recogniser.flush(state.select([1]))
    rest = tokens(any_recogniser, pcm[..., 4 * 1920 :], state)
    assert torch.equal(rest, tokens(any_recogniser, pcm, plain)[:, 4:])


def test_leading_silence_is_part_of_a_fresh_slot(make_recogniser, recogniser: Recogniser) -> None:
    led = make_recogniser(prefix_s=0.3)
    pcm = sound(1, 5)
    quiet = torch.cat([torch.zeros(1, 1, 4 * 1920), pcm], dim=-1)
    assert torch.equal(tokens(led, pcm), tokens(recogniser, quiet)[:, 4:])
    state = led.init_state(1)
    tokens(led, pcm, state)
    led.reset(state, torch.tensor([True]))
    assert torch.equal(tokens(led, pcm, state), tokens(recogniser, quiet)[:, 4:])


def test_recordings_of_all_lengths_in_one_batch(
    any_recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline is streaming plus a tail of silence, whatever else is in the batch."""
    monkeypatch.setattr(offline, "CHUNK_FRAMES", 10)
    recordings = [sound(1, 1, seed)[0, 0, :length] for seed, length in enumerate((700, 1920))]
    recordings += [sound(1, 25, 5)[0, 0], torch.zeros(0)]
    done = []
    together = transcribe(any_recogniser, recordings, done.append)
    tail = any_recogniser.delay_frames + 13
    assert sum(done) == sum(-(-len(pcm) // 1920) + tail for pcm in recordings)
    assert [one.duration_s for one in together] == [len(pcm) / 24000 for pcm in recordings]
    for pcm, mine in zip(recordings, together, strict=True):
        frames = -(-len(pcm) // 1920) + tail
        padded = torch.nn.functional.pad(pcm, (0, frames * 1920 - len(pcm)))[None, None]
        words = any_recogniser.assembler()
        heard: list[Heard] = [words.push(int(t)) for t in tokens(any_recogniser, padded)[0]]
        heard.append(words.finish())
        streamed = [word for one in heard for word in one.completed]
        assert [(w.text, w.start_s) for w in mine.words] == [(w.text, w.start_s) for w in streamed]
        assert all(w.end_s is not None and w.end_s >= w.start_s for w in mine.words)
    assert transcribe(any_recogniser, []) == []


def test_parts_that_do_not_fit(make_recogniser, recogniser: Recogniser, byte_tokenizer) -> None:
    with pytest.raises(RecogniserError, match="delay_s"):
        make_recogniser(delay_s=float("nan"))
    small = Mimi(recogniser.front_end.config, 8)
    small.config = type(small.config)()
    with pytest.raises(RecogniserError, match="codebooks of 48"):
        Recogniser(recogniser.lm, small, recogniser.tokenizer, delay_s=0.5)
    with pytest.raises(RecogniserError, match="without a vocabulary"):
        recogniser.set_strength(recogniser.init_state(1), 1.0)


def test_numbers_of_the_published_model(make_recogniser) -> None:
    one_b, big = make_recogniser(delay_s=0.5), make_recogniser(delay_s=2.5)
    assert (one_b.delay_frames, one_b.flush_frames) == (7, 8)
    assert (big.delay_frames, big.flush_frames) == (32, 33)
    assert one_b.num_codebooks == 8
    assert (one_b.sample_rate, one_b.frame_size) == (24_000, 1920)
    assert np.isfinite(one_b.step(sound(1, 1), one_b.init_state(1)).inactivity.numpy()).all()
