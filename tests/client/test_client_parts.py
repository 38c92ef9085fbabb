"""The client's pure parts: addresses, buffers, the chronicle and its picture."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from duologue.client import ConnectionFailed, Event, Sound, Stats
from duologue.client.chronicle import Chronicle, LookupState
from duologue.client.devices import _Card, _listening, _speaking
from duologue.client.levels import level_db
from duologue.client.link import Address
from duologue.client.playout import Capture, Hold, Playout
from duologue.client.reading import Reader
from duologue.client.screen import View, draw
from duologue.dialogue import (
    CancelReason,
    Outcome,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    Source,
    TextToken,
    TurnStarted,
)

FRAME = 1920
LOUD = np.full(FRAME, 0.3, np.float32)
QUIET = np.zeros(FRAME, np.float32)


@pytest.mark.parametrize(
    ("given", "url", "token"),
    [
        ("localhost:8998", "ws://localhost:8998/api/chat", None),
        ("https://a.example/?token=t%20x", "wss://a.example/api/chat", "t x"),
        ("http://a.example/duo/", "ws://a.example/duo/api/chat", None),
        ("http://a.example/api/chat", "ws://a.example/api/chat", None),
        ("wss://a.example/api/other?seed=3", "wss://a.example/api/other?seed=3", None),
        ("ws://[::1]:8998", "ws://[::1]:8998/api/chat", None),
    ],
)
def test_addresses_as_people_write_them(given: str, url: str, token: str | None) -> None:
    address = Address.parse(given)
    assert (address.url, address.token) == (url, token)


@pytest.mark.parametrize(
    "given",
    [
        "", "ftp://x", "http://user:word@x", "http://", "http://localhost:99999", "host:notaport",
        "[::1", "http://" + "a" * 64 + ".example", "http://a..example",
    ],
)  # fmt: skip
def test_what_is_no_address_is_told(given: str) -> None:
    with pytest.raises(ConnectionFailed, match="looks like"):
        Address.parse(given)


def test_importing_the_client_loads_no_torch() -> None:
    program = "import sys, duologue.client; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"


# Buffers.


def test_playing_starts_with_something_in_hand_and_again_after_running_dry() -> None:
    playout = Playout()
    playout.push(LOUD)
    assert not playout.pull(480).any(), "one frame is not enough"
    playout.push(LOUD)
    assert np.array_equal(playout.pull(2 * FRAME), np.concatenate([LOUD, LOUD]))
    assert not playout.pull(480).any()
    playout.push(LOUD)
    assert not playout.pull(480).any(), "it ran dry"


def test_late_speech_is_dropped_oldest_first() -> None:
    playout = Playout()
    for index in range(20):
        playout.push(np.full(FRAME, index, np.float32))
    assert playout.waiting_s <= 1.0
    assert playout.dropped_s == pytest.approx(8 * 0.08)
    assert playout.pull(1)[0] == 8
    playout.clear()
    assert not playout.pull(FRAME).any()


def test_the_microphone_gives_whole_frames_and_drops_the_oldest() -> None:
    capture = Capture()
    counted = np.arange(20 * FRAME, dtype=np.float32)
    assert not capture.push(counted[: FRAME - 1])
    assert capture.take() is None
    assert capture.push(counted[FRAME - 1 : FRAME])
    assert np.array_equal(capture.take(), counted[:FRAME])
    for at in range(FRAME, 20 * FRAME, 480):
        capture.push(counted[at : at + 480])
    assert capture.dropped_frames == 7
    frame = capture.take()
    assert frame is not None
    assert frame[0] == 8 * FRAME


def test_a_hold_ends_with_a_pause_or_in_time() -> None:
    hold = Hold()
    assert hold.passes(LOUD)
    hold.begin()
    assert [hold.passes(pcm) for pcm in (LOUD, *[QUIET] * 4, LOUD)] == [False] * 5 + [True]
    hold.begin()
    assert sum(not hold.passes(LOUD) for _ in range(200)) == 50


def test_levels() -> None:
    assert level_db(np.ones(10, np.float32)) == pytest.approx(0, abs=1e-6)
    assert level_db(np.full(10, 0.1, np.float32)) == pytest.approx(-20, abs=1e-4)
    assert level_db(QUIET) == level_db(np.zeros(0, np.float32)) == pytest.approx(-160)


# What happened.


def told(*events: Event) -> Chronicle:
    chronicle = Chronicle()
    for event in events:
        chronicle.add(event)
    return chronicle


def say(frame: int, role: Role, *pieces: str) -> list[Event]:
    return [
        TurnStarted(frame, role, 0),
        *(TextToken(frame, role, piece, frame) for piece in pieces),
    ]


def test_breaking_into_the_models_turn_shows() -> None:
    speaking = Sound(LOUD, 20 * FRAME)
    chronicle = told(
        *say(1, Role.USER, " Hello"), *say(10, Role.MODEL, " The capital", " of"), speaking,
        *say(21, Role.USER, " No,", " wait"),
    )  # fmt: skip
    assert [turn.shown for turn in chronicle.turns] == [
        "Hello", "The capital of—", "(over) No, wait",
    ]  # fmt: skip
    quiet = [Sound(QUIET, frame * FRAME) for frame in range(21, 26)]
    chronicle = told(*say(10, Role.MODEL, " Done."), speaking, *quiet, *say(30, Role.USER, " OK"))
    assert [turn.shown for turn in chronicle.turns] == ["Done.", "OK"]


def test_lookups_end_in_one_of_three_ways() -> None:
    found = RetrievalSucceeded(
        1, 40, 25, 20, "b", "Gemma", "Lima.", (Source("facts.md", "line 3"),)
    )
    chronicle = told(
        RetrievalStarted(1, 15), RetrievalStarted(2, 50), RetrievalStarted(3, 60), found,
        RetrievalFailed(2, 55, 5, None, "", Outcome.TIMED_OUT, "too slow"),
    )  # fmt: skip
    states = [lookup.state for lookup in chronicle.lookups.values()]
    assert states == [LookupState.ANSWERED, LookupState.FAILED, LookupState.OPEN]
    chronicle.add(RetrievalCancelled(3, 70, 10, 1, "b", CancelReason.BARGE_IN))
    lookups = json.loads(json.dumps(chronicle.summary()))["lookups"]
    assert lookups[0]["latency_s"] == 2.0
    assert lookups[0]["sources"][0]["title"] == "facts.md"
    assert [lookup["reason"] for lookup in lookups] == ["", "too slow", "barge_in"]


def test_a_chronicle_is_bounded_and_printable() -> None:
    chronicle = Chronicle()
    for number in range(1000):
        for event in say(number, Role.USER if number % 2 else Role.MODEL, "x" * 100):
            chronicle.add(event)
        chronicle.add(RetrievalStarted(number, number))
    assert (len(chronicle.turns), len(chronicle.lookups), chronicle.begun) == (400, 100, 1000)
    for _ in range(300):
        chronicle.add(TextToken(1000, Role.USER, "y" * 100, 1000))
    assert len(chronicle.turns[-1].text) == 20_000
    steering = told(*say(0, Role.MODEL, "\x1b[2J\x07red\nline\u202e"))
    assert steering.turns[0].text == "[2Jred line"


def test_coloured_text_of_published_servers_becomes_events() -> None:
    reader, chronicle = Reader(), Chronicle()
    for message in (
        b"\x07\x0auser: ", b"\x07\x0a capital?", b"\x07\x04\nmoshi: ", b"\x07\x04 It is",
        b"\x07\x04[RET]", b"\x09\x04\0", b"\x09\x04Gemma\tLima\tis it.", b"\x07\x04[RET_FAILED]",
        b"", b"\x07", b"\x09", b"\x05full", b"\x0a{", b"\x0a[]", b'\x0a{"type":"new"}', b"\xff",
        b'\x0a{"type":"text_token","frame":"x"}', b"\x02\xff",
    ):  # fmt: skip
        for event in reader.read(message):
            chronicle.add(event)
    assert [(turn.role, turn.text) for turn in chronicle.turns] == [
        (Role.USER, "capital?"), (Role.MODEL, "It is"),
    ]  # fmt: skip
    assert chronicle.lookups[1].label == "Gemma"
    assert chronicle.lookups[1].text == "Lima is it."
    assert reader.fault == "full"


# The picture.


def picture(view: View, width: int = 110, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(draw(view, width, height), height=height)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_picture_shows_both_sides_lookups_and_state() -> None:
    chronicle = told(
        *say(10, Role.MODEL, " The capital of"), Sound(LOUD, 20 * FRAME),
        *say(21, Role.USER, " [bold]Peru[/bold]?"),
        RetrievalStarted(1, 15),
        RetrievalSucceeded(1, 40, 25, 20, "b", "Gemma", "Lima.", (Source("facts.md", "line 3"),)),
        Stats(frame_ms_p99=31.0, sessions=1, slots=4, dropped_ms=80.0),
    )  # fmt: skip
    view = View("http://x", "wren", chronicle, user_db=-30.0, elapsed_s=83.0, notice="back")
    shown = picture(view)
    for words in (
        "0:00  wren  The capital of—", "(over) [bold]Peru[/bold]?", "Gemma: Lima. after 2.0 s",
        "from facts.md (line 3)", "1:23", "back", "1 of 4 places", "lost 80 ms", "q quit",
    ):  # fmt: skip
        assert words in shown, shown
    you = next(line for line in shown.splitlines() if line.startswith("you"))
    assert you.split("wren")[0].count("█") == 12, "-30 dB is half of the bar"
    view.muted = True
    assert "muted" in picture(view)


@pytest.mark.parametrize(("width", "height"), [(60, 20), (110, 24), (20, 8)])
def test_the_newest_turn_is_always_in_sight(width: int, height: int) -> None:
    chronicle = Chronicle()
    for number in range(60):
        for event in say(number, Role.USER if number % 2 else Role.MODEL, f" t{number}"):
            chronicle.add(event)
    shown = picture(View("http://x", "wren", chronicle), width, height)
    assert "t59" in shown
    assert "t3 " not in shown
    assert len(shown.splitlines()) <= height


# The sound card's thread.


@pytest.mark.parametrize("rate", [24_000, 48_000, 44_100])
def test_devices_of_other_rates_are_converted(rate: int) -> None:
    card = _Card()
    listen, speak = _listening(card, rate), _speaking(card, rate)
    complete: list[int] = []
    card.on_frame = lambda: complete.append(1)
    seconds = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    block = rate // 50
    for at in range(0, rate, block):
        listen(tone[at : at + block, None], block, None, None)
    assert len(complete) == 12, "one second is twelve frames and a half"
    while (frame := card.capture.take()) is not None:
        card.playout.push(frame)
    played = np.zeros((rate, 1), np.float32)
    for at in range(0, rate, block):
        speak(played[at : at + block], block, None, None)
    spectrum = np.abs(np.fft.rfft(played[: rate // 2, 0] * np.hanning(rate // 2)))
    assert np.argmax(spectrum) * 2 == 440
    assert level_db(played[: rate // 2, 0]) == pytest.approx(-9.03, abs=0.3)
