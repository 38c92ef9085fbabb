from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.mimi.codesfile import CodesError, CodesHeader, pack_codes, read_codes, unpack_codes

HEADER = CodesHeader(
    num_codebooks=8, frames=5, bins=2048, sample_rate=24_000, frame_rate=12.5, samples=9000
)


@given(st.integers(1, 9), st.integers(0, 20), st.sampled_from([2, 3, 64, 1000, 1024, 2048]))
def test_codes_round_trip(books: int, frames: int, bins: int) -> None:
    codes = np.random.default_rng(books).integers(0, bins, (books, frames))
    header = replace(HEADER, num_codebooks=books, frames=frames, bins=bins)
    unpacked, read = unpack_codes(pack_codes(codes, header))
    assert read == header
    np.testing.assert_array_equal(unpacked, codes)


def test_eight_books_of_2048_cost_1100_bits_a_second() -> None:
    assert HEADER.bitrate == pytest.approx(1100)
    data = pack_codes(np.zeros((8, 125), np.int64), replace(HEADER, frames=125))
    assert len(data) < 125 * 11 + 200


@given(st.data())
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    good = pack_codes(np.arange(40).reshape(8, 5), HEADER)
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        flip = data.draw(st.integers(1, 255))
        bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    with pytest.raises(CodesError):
        unpack_codes(bad)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CodesError, match=r"none\.codes"):
        read_codes(tmp_path / "none.codes")
