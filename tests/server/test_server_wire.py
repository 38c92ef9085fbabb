"""Messages of the chat protocol: exact bytes out, and nothing that can come in is an exception.

The tests with made-up and with mutated messages run two thousand inputs each; a million are run by

    DUOLOGUE_FUZZ=1000000 python -m pytest tests/server/test_server_wire.py -k mutated --timeout 0
"""

from __future__ import annotations

import json
import os
import random
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duologue.audio.errors import AudioError
from duologue.dialogue import Interrupt, Reset, SelectBackend
from duologue.moshi.sampling import Sampling
from duologue.server.door import Answer, Leave, Nothing, Samples
from duologue.server.protocols.kyutai import wire
from duologue.server.protocols.kyutai.audio import SAMPLE_RATE
from duologue.server.protocols.kyutai.door import About, KyutaiDoor
from duologue.server.protocols.kyutai.query import AudioFormat, ChatQuery, Dialect, Handshake

FUZZ = int(os.environ.get("DUOLOGUE_FUZZ", "2000"))


def test_handshake_is_one_byte_or_nine() -> None:
    assert wire.SHORT_HANDSHAKE == b"\x00"
    assert wire.full_handshake() == bytes(9)
    assert wire.full_handshake(1, 2) == b"\x00" + struct.pack("<II", 1, 2)


def test_server_messages_are_kind_and_payload() -> None:
    assert wire.audio(b"OggS") == b"\x01OggS"
    assert wire.text(" né") == b"\x02 n\xc3\xa9"
    assert wire.metadata({"a": "é"}) == b'\x04{"a":"\xc3\xa9"}'
    assert wire.error("full") == b"\x05full"
    assert wire.coloured_text(wire.Colour.MODEL, "x") == b"\x07\x04x"
    assert wire.coloured_text(wire.Colour.USER, "x") == b"\x07\x0ax"
    assert wire.coloured_reference(wire.Colour.MODEL, "\0") == b"\x09\x04\x00"
    assert wire.event({"type": "pong"}) == b'\x0a{"type":"pong"}'


def test_text_that_is_not_unicode_is_replaced() -> None:
    assert wire.text("a\ud800b") == b"\x02a?b"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "empty message"),
        (b"\x00", "handshake"),
        (b"\x03\x01", "control"),
        (b"\x06", "ping"),
        (b"\x02hello", "unknown kind"),
        (b"\x08image", "unknown kind"),
        (b"\xffx", "unknown kind"),
        (b"\x04{", "malformed JSON"),
        (b"\x04[1]", "malformed JSON"),
        (b"\x04\xff", "malformed JSON"),
        (b"\x04" + b'{"a":"' + b"x" * wire.MAX_JSON_BYTES + b'"}', "malformed JSON"),
        (b"\x04" + b"[" * 9000, "malformed JSON"),
        (b"\x0a{}", "malformed command"),
        (b'\x0a{"type":3}', "malformed command"),
    ],
)
def test_messages_without_effect_say_why(message: bytes, reason: str) -> None:
    assert wire.decode(message) == wire.Ignored(reason)


def test_audio_metadata_and_commands_are_read() -> None:
    assert wire.decode(b"\x01OggS") == wire.Audio(b"OggS")
    assert wire.decode(b'\x04{"retrieval_backend_id":"b"}') == wire.Metadata(
        {"retrieval_backend_id": "b"}
    )
    assert wire.decode(b'\x0a{"type":"end"}') == wire.Command("end", {"type": "end"})


def door(
    dialect: Dialect = Dialect.EVENTS,
    handshake: Handshake = Handshake.SHORT,
    audio: AudioFormat = AudioFormat.OPUS,
    backends: tuple[str, ...] = ("one", "two"),
) -> KyutaiDoor:
    about = About(
        session="s1", resume_token="secret", resumed=False, resume_s=60.0, model="tiny",
        backends=backends, text=Sampling(0.7, 25), audio=Sampling(0.8, 250),
    )  # fmt: skip
    return KyutaiDoor(ChatQuery(audio=audio), dialect, handshake, about)


def command(**values: object) -> bytes:
    return b"\x0a" + json.dumps(values).encode()


def test_a_client_can_come_back_once_it_has_been_told_how() -> None:
    told = door()
    assert not told.resumable
    list(told.opening())
    assert told.resumable
    plain = door(Dialect.MOSHI)
    list(plain.opening())
    assert not plain.resumable


def test_commands_of_the_events_dialect() -> None:
    heard = door().hear
    assert list(heard(command(type="interrupt"))) == [Interrupt()]
    assert list(heard(command(type="reset"))) == [Reset()]
    assert list(heard(command(type="end"))) == [Leave()]
    assert list(heard(command(type="select_backend", backend="two"))) == [SelectBackend("two")]
    assert list(heard(command(type="select_backend", backend="xx"))) == [
        Nothing("unknown back end")
    ]
    assert list(heard(command(type="ping", id=7))) == [Answer((b'\x0a{"type":"pong","id":7}',))]
    [long] = heard(command(type="ping", id="x" * 10_000))
    assert isinstance(long, Answer)
    assert len(long.messages[0]) < 200


@pytest.mark.parametrize("dialect", [Dialect.MOSHI, Dialect.MOSHIRAG])
def test_published_dialects_have_no_commands(dialect: Dialect) -> None:
    assert list(door(dialect).hear(command(type="reset"))) == [Nothing("unknown kind")]


def test_back_end_choice_of_published_clients() -> None:
    chosen = b'\x04{"retrieval_backend_id":"two"}'
    assert list(door(Dialect.MOSHIRAG).hear(chosen)) == [SelectBackend("two")]
    single = door(Dialect.MOSHIRAG, backends=("two",))
    assert list(single.hear(chosen)) == [Nothing("metadata")], "nothing to choose from"


@pytest.mark.parametrize(
    ("dialect", "handshake", "backends", "kinds"),
    [
        (Dialect.MOSHI, Handshake.SHORT, ("a",), [0]),
        (Dialect.MOSHI, Handshake.SHORT, ("a", "b"), [0]),
        (Dialect.MOSHIRAG, Handshake.SHORT, ("a",), [0]),
        (Dialect.MOSHIRAG, Handshake.SHORT, ("a", "b"), [0, 4]),
        (Dialect.MOSHI, Handshake.FULL, ("a",), [4, 0]),
        (Dialect.MOSHIRAG, Handshake.FULL, ("a", "b"), [4, 0]),
        (Dialect.EVENTS, Handshake.SHORT, ("a", "b"), [0, 10]),
    ],
)
def test_order_of_the_opening(
    dialect: Dialect, handshake: Handshake, backends: tuple[str, ...], kinds: list[int]
) -> None:
    messages = list(door(dialect, handshake, backends=backends).opening())
    assert [message[0] for message in messages] == kinds
    for message in messages:
        if message[0] == 0:
            assert message == bytes(1 if handshake is Handshake.SHORT else 9)
        if message[0] == 4:
            metadata = json.loads(message[1:])
            assert ("retrieval_backends" in metadata) == (len(backends) > 1)
            if handshake is Handshake.FULL:
                assert metadata["text_temperature"] == 0.7
                assert metadata["audio_topk"] == 250
                assert metadata["build_info"]["git_hash"] == ""
        if message[0] == 10:
            session = json.loads(message[1:])
            assert session["type"] == "session"
            assert session["resume_token"] == "secret"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
_COMMANDS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["ping", "reset", "interrupt", "end", "select_backend", "x", "", None]
        )
    },
    optional={"id": _JSON, "backend": _JSON},
)
_MESSAGES = st.one_of(
    st.binary(max_size=400),
    st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 11), st.binary(max_size=400)),
    st.builds(
        lambda kind, value: bytes([kind]) + json.dumps(value).encode(),
        st.sampled_from([4, 10]),
        _COMMANDS | _JSON,
    ),
    st.builds(lambda at, flip: _broken_page(at, flip), st.integers(0, 120), st.integers(0, 255)),
    st.text(max_size=40),
)


def _broken_page(at: int, flip: int) -> bytes:
    """The beginning of an Ogg-Opus stream with one byte changed."""
    page = bytearray(_STREAM)
    page[at % len(page)] ^= flip
    return b"\x01" + bytes(page)


def _streams() -> list[bytes]:
    """The beginning of a client's audio, message by message."""
    import numpy as np

    from duologue.audio import OggOpusEncoder

    encoder, noise = OggOpusEncoder(SAMPLE_RATE), np.random.default_rng(0)
    frames = 0.1 * noise.standard_normal((6, 1920)).astype(np.float32)
    return [encoder.encode(frame) for frame in frames]


_STREAMS = _streams()
_STREAM = _STREAMS[0]
_VALID_COMMANDS = [
    {"type": "ping", "id": "x" * 30}, {"type": "ping", "id": 7}, {"type": "reset"},
    {"type": "interrupt"}, {"type": "select_backend", "backend": "one"},
]  # fmt: skip


@settings(
    max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(
    st.lists(_MESSAGES, min_size=1, max_size=4),
    st.sampled_from(list(AudioFormat)),
    st.sampled_from(list(Dialect)),
)
def test_fuzzed_messages_are_understood_or_refused(
    messages: list[bytes | str], audio: AudioFormat, dialect: Dialect
) -> None:
    """Any sequence of messages: bounded samples, controls that are allowed, or one AudioError."""
    opened = door(dialect, audio=audio)
    for message in messages:
        if not understood(opened, message):
            return


def test_mutated_streams_are_understood_or_refused() -> None:
    """Real conversations with bytes flipped, cut, doubled and swapped, as fast as they go.

    Mutations of what is valid come further than what is made up; this and the test above share
    the command for a million.
    """
    draw = random.Random(FUZZ)
    valid = [b"\x01" + page for page in _STREAMS]
    valid += [b"\x0a" + json.dumps(command).encode() for command in _VALID_COMMANDS]
    valid += [b"\x04" + json.dumps({"retrieval_backend_id": "two"}).encode(), b"\x00", b"\x03"]
    done = refused = 0
    while done < FUZZ:
        opened = door(draw.choice(list(Dialect)), audio=draw.choice(list(AudioFormat)))
        length = draw.choice((3, 30, 300))
        for number in range(length):
            whole = valid[number] if number < len(_STREAMS) and length > 3 else draw.choice(valid)
            done += 1
            if not understood(opened, mutated(whole, draw)):
                refused += 1
                break
    assert 0.001 * done < refused < done, "some come through, and some do not"


def mutated(message: bytes, draw: random.Random) -> bytes:
    """A message with, most of the time, something done to it."""
    changed = bytearray(message)
    for _ in range(draw.choice((0, 0, 0, 1, 1, 2, 8))):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del changed[at : at + draw.randrange(1, 40)]
            case 2:
                changed[at:at] = changed[max(0, at - 40) : at]
            case 3:
                changed[at:at] = draw.randbytes(draw.randrange(1, 40))
            case 4:
                changed[at : at + 4] = (0xFFFFFFFF >> draw.randrange(32)).to_bytes(4, "little")
    return bytes(changed)


def understood(opened: KyutaiDoor, message: bytes | str) -> bool:
    """Whether a door takes a message, as it may; False if it ends the visit."""
    try:
        heard = list(opened.hear(message))
    except AudioError:
        return False
    for one in heard:
        if isinstance(one, Samples):
            assert one.pcm.ndim == 1
            assert one.pcm.dtype == "float32"
            assert len(one.pcm) <= 10 * SAMPLE_RATE
            assert abs(one.pcm).max(initial=0.0) <= 1.0
        elif isinstance(one, SelectBackend):
            assert one.backend in ("one", "two")
        elif isinstance(one, Answer):
            assert all(len(reply) < 400 for reply in one.messages)
        else:
            assert isinstance(one, Nothing | Interrupt | Reset | Leave)
    return True
