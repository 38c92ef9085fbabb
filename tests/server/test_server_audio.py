"""Audio payloads both ways."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.audio.errors import AudioError
from duologue.server.protocols.kyutai.audio import audio_coder
from duologue.server.protocols.kyutai.query import AudioFormat

TONE = (0.3 * np.sin(np.arange(24_000) * 2 * np.pi * 440 / 24_000)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4000), min_size=1, max_size=6))
def test_samples_cut_anywhere_are_the_same(sizes: list[int]) -> None:
    for kind, name in ((AudioFormat.PCM16, "<i2"), (AudioFormat.PCMF32, "<f4")):
        scale = 32768 if kind is AudioFormat.PCM16 else 1
        data = (TONE[:3000] * scale).astype(name).tobytes()
        coder = audio_coder(kind)
        cuts = [0, *np.minimum(np.cumsum(sizes), len(data)), len(data)]
        pieces = [data[a:b] for a, b in pairwise(cuts)]
        heard = np.concatenate([coder.decode(piece) for piece in pieces])
        np.testing.assert_allclose(heard, TONE[:3000], atol=1 / 32000)


def test_plain_samples_out_and_in() -> None:
    exact = audio_coder(AudioFormat.PCMF32)
    assert np.array_equal(exact.decode(exact.encode(TONE)), TONE)
    coarse = audio_coder(AudioFormat.PCM16)
    np.testing.assert_allclose(coarse.decode(coarse.encode(TONE)), TONE, atol=1 / 16000)
    loud = np.array([2.0, -2.0], np.float32)
    assert coarse.encode(loud) == np.array([32767, -32767], "<i2").tobytes()


def test_samples_that_are_no_numbers_are_silence() -> None:
    coder = audio_coder(AudioFormat.PCMF32)
    wild = np.array([np.nan, np.inf, -np.inf, 7.0], "<f4")
    assert coder.decode(wild.tobytes()).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_opus_survives_the_round_trip_and_every_frame_has_a_message() -> None:
    sender, receiver = audio_coder(AudioFormat.OPUS), audio_coder(AudioFormat.OPUS)
    payloads = [sender.encode(frame) for frame in TONE[:23_040].reshape(-1, 1920)]
    assert all(payloads)
    heard = np.concatenate([receiver.decode(payload) for payload in payloads])
    assert len(heard) == 23_040
    middle = slice(6000, 18_000)
    shift = 156  # the codec's own delay, 6.5 ms
    a, b = TONE[middle], heard[middle.start + shift : middle.stop + shift]
    assert np.corrcoef(a, b)[0, 1] > 0.95


def test_garbage_closes_an_opus_stream() -> None:
    coder = audio_coder(AudioFormat.OPUS)
    with pytest.raises(AudioError):
        coder.decode(b"\x00" * 100)
    with pytest.raises(AudioError):
        coder.decode(audio_coder(AudioFormat.OPUS).encode(TONE[:1920]))


def test_half_a_page_waits_for_the_rest() -> None:
    stream = audio_coder(AudioFormat.OPUS).encode(TONE[:1920])
    coder = audio_coder(AudioFormat.OPUS)
    assert len(coder.decode(stream[: len(stream) // 2])) == 0
    assert len(coder.decode(stream[len(stream) // 2 :])) == 1920
