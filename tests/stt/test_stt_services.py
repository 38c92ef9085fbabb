"""Both services' protocols against real servers on loopback that drop, babble, hang and dawdle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.stt_services import FakeService, running, speech

from duologue.dialogue.events import WarningCode
from duologue.dialogue.ports import Report, UserFrame
from duologue.stt import ServiceError, ServiceSettings, connect_service
from duologue.stt.ports import Heard, Link, Word
from duologue.stt.remote.gradium import GradiumWire
from duologue.stt.remote.kyutai import KyutaiWire
from duologue.stt.remote.link import LinkSettings
from duologue.stt.remote.offline import transcribe_remotely
from duologue.stt.remote.settings import Protocol
from duologue.stt.remote.stream import Service, ServiceStream
from duologue.stt.remote.wire import Wire

PROTOCOLS = ("gradium", "kyutai")
SCRIPT = {3: "what", 8: "is", 20: "the", 26: "capital?"}
QUICK = {"open_timeout_s": 2.0, "stall_s": 3.0, "report_after_s": 0.03, "first_retry_s": 0.01,
         "max_retry_s": 0.05}  # fmt: skip
WIRES = {
    "gradium": lambda: GradiumWire(delay_frames=6),
    "kyutai": lambda: KyutaiWire(delay_frames=6),
}
both = pytest.mark.parametrize("protocol", PROTOCOLS)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await main

    asyncio.run(bounded())


def client(service: FakeService, protocol: str, **changes: Any) -> Service:
    settings = LinkSettings(service.url, {"x-secret": "k3y"}, **{**QUICK, **changes})
    return Service(settings, WIRES[protocol])


class Listener:
    """Plays frames to a stream as a session does, and keeps what comes."""

    def __init__(self, stream: ServiceStream) -> None:
        self.stream = stream
        self.heard: list[Heard] = []
        self.pushed = 0

    @property
    def words(self) -> list[Word]:
        return [word for heard in self.heard for word in heard.completed]

    @property
    def text(self) -> str:
        return "".join(piece for heard in self.heard for piece in heard.words)

    @property
    def links(self) -> list[Link]:
        return [notice.link for heard in self.heard for notice in heard.notices]

    def take(self) -> Heard:
        self.heard.append(self.stream.take())
        return self.heard[-1]

    async def play(self, frames: int, pace_s: float = 0.001) -> None:
        for _ in range(frames):
            self.stream.push(speech(self.pushed))
            self.pushed += 1
            self.take()
            await asyncio.sleep(pace_s)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.take()
            await asyncio.sleep(0.002)

    async def finish(self) -> None:
        self.heard.append(await self.stream.finish(2.0))


async def listen(
    service: FakeService, protocol: str, body: Callable[[Listener], Awaitable[None]], **changes: Any
) -> Listener:
    async with await client(service, protocol, **changes).open() as stream:
        listener = Listener(stream)
        await body(listener)
        return listener


def test_what_an_unexpected_error_says_stays_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = "what was said"

    def broken() -> Wire:
        raise LookupError(said)

    async def main() -> None:
        async with running(FakeService(), "kyutai") as service:
            settings = LinkSettings(service.url, {}, **QUICK)
            async with await Service(settings, broken).open() as stream:
                while not stream.stats.losses:
                    await asyncio.sleep(0.002)

    run(main())
    assert "unexpected LookupError" in caplog.text
    assert "in broken" in caplog.text
    assert said not in caplog.text


@both
def test_words_times_pauses_and_progress(protocol: str) -> None:
    async def main() -> None:
        async with running(FakeService(SCRIPT), protocol) as service:

            async def body(listener: Listener) -> None:
                await listener.play(40)
                await listener.until(lambda: len(listener.words) == 4)
                await listener.finish()

            listener = await listen(service, protocol, body)
        assert listener.text == " what is the capital?"
        assert [word.text for word in listener.words] == list(SCRIPT.values())
        assert [round(word.start_s / 0.08) for word in listener.words] == list(SCRIPT)
        assert all(w.end_s is None or w.end_s == pytest.approx(w.start_s + 0.16)
                   for w in listener.words)  # fmt: skip
        assert listener.links == []
        frames = [heard.transcribed_frame for heard in listener.heard]
        assert frames == sorted(frames)
        assert frames[-1] == 39, "after the flush, all that was said is in"
        assert any(heard.inactivity == 0.3 for heard in listener.heard)
        assert listener.heard[0].inactivity is None
        # Whatever comes is a frame of the conversation.
        for heard in listener.heard:
            UserFrame(heard.words, heard.inactivity, heard.transcribed_frame)
        (means, *others) = service.frames
        assert not others
        np.testing.assert_allclose(means[:40], [(n + 1) / 1000 for n in range(40)], atol=2e-5)
        assert service.requests[0]["x-secret"] == "k3y"

    run(main())


@both
def test_a_word_is_never_said_to_be_in_before_it_is(protocol: str) -> None:
    async def main() -> None:
        async with running(FakeService({n: f"w{n}" for n in range(0, 40, 3)}), protocol) as service:

            async def body(listener: Listener) -> None:
                await listener.play(40)
                await listener.finish()

            listener = await listen(service, protocol, body)
        seen = 0
        for heard in listener.heard:
            seen += len(heard.completed)
            assert heard.transcribed_frame is not None
            assert seen >= len([n for n in range(0, 40, 3) if n <= heard.transcribed_frame])
        assert seen == 14

    run(main())


@both
@pytest.mark.parametrize("fault", ["hang_up_after", "garbage_after", "deaf_after"])
def test_a_lost_connection_costs_no_word_and_doubles_none(protocol: str, fault: str) -> None:
    """A session limit, nonsense, or silence in the middle of a sentence."""

    async def main() -> None:
        script = {3: "what", 8: "is", 14: "the", 18: "the", 26: "capital?"}
        async with running(FakeService(script, **{fault: 17}), protocol) as service:

            async def body(listener: Listener) -> None:
                await listener.play(22)
                await listener.until(lambda: listener.stream.stats.connections >= 2)
                await listener.play(18)
                await listener.until(lambda: len(listener.words) == 5)
                await listener.finish()

            listener = await listen(service, protocol, body, report_after_s=5.0, stall_s=0.3)
        assert listener.text == " what is the the capital?"
        assert [round(word.start_s / 0.08) for word in listener.words] == list(script)
        assert listener.links == [], "back before anybody had to know"
        assert listener.stream.stats.losses >= 1
        assert listener.stream.stats.frames_dropped == 0
        first, second, *_ = service.frames
        resumed = round(second[0] * 1000) - 1
        assert resumed <= len(first), "what had no answer yet is heard again"

    run(main())


@both
def test_a_dead_service_is_reported_once_and_its_return_too(protocol: str) -> None:
    async def main() -> None:
        service = FakeService(SCRIPT)
        async with running(service, protocol):
            url = service.url
        # Nobody listens there now.
        async with await client(service, protocol).open() as stream:
            listener = Listener(stream)
            await listener.until(lambda: listener.links == [Link.LOST])
            await listener.play(10)
            assert listener.links == [Link.LOST]
            (notice,) = [n for heard in listener.heard for n in heard.notices]
            assert notice.detail
            assert "k3y" not in notice.detail
            Report(WarningCode(notice.link.value), notice.detail)
            assert listener.heard[-1].transcribed_frame == -1
            again = FakeService(SCRIPT)
            port = int(url.rsplit(":", 1)[1])
            async with _at(again, protocol, port):
                await listener.until(lambda: len(listener.links) == 2)
                await listener.play(30)
                await listener.finish()
            assert listener.links == [Link.LOST, Link.RESTORED]
            assert listener.text == " what is the capital?"

    run(main())


def _at(service: FakeService, protocol: str, port: int) -> Any:
    return running(service, protocol, port)


@both
@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ({"refuse": "no free\nchannels \x07"}, "no free channels"),
        ({"status": 401}, "status 401"),
        ({"never_ready": True}, "not ready"),
    ],
)
def test_a_service_that_will_not(protocol: str, behaviour: dict[str, Any], says: str) -> None:
    """It is asked again and again, ever less often, and the conversation hears why."""

    async def main() -> None:
        async with running(FakeService(SCRIPT, **behaviour), protocol) as service:

            async def body(listener: Listener) -> None:
                await listener.play(3)
                await listener.until(lambda: bool(listener.links))
                await listener.until(lambda: len(service.requests) >= 3)

            listener = await listen(service, protocol, body, open_timeout_s=0.15)
        (notice,) = [n for heard in listener.heard for n in heard.notices]
        assert says in notice.detail
        assert listener.text == ""

    run(main())


def test_pauses_between_attempts_grow() -> None:
    async def main() -> None:
        async with running(FakeService(refuse="full"), "kyutai") as service:

            async def body(listener: Listener) -> None:
                await listener.until(lambda: len(service.asked_at) >= 7)

            await listen(service, "kyutai", body, first_retry_s=0.02, max_retry_s=0.08)
        gaps = np.diff(service.asked_at)
        # At once, then 20, 40, 80, 80 ms, each up to a half shorter, so that nobody keeps step.
        assert all(
            gap >= least for gap, least in zip(gaps[1:5], (0.01, 0.02, 0.04, 0.04), strict=True)
        )

    run(main())


def test_keys_do_not_follow_a_redirection() -> None:
    async def main() -> None:
        async with (
            running(FakeService(SCRIPT), "kyutai") as elsewhere,
            running(FakeService(redirect=elsewhere.url), "kyutai") as service,
        ):

            async def body(listener: Listener) -> None:
                await listener.until(lambda: bool(listener.links))

            listener = await listen(service, "kyutai", body)
            assert elsewhere.requests == []
        (notice,) = [n for heard in listener.heard for n in heard.notices]
        assert "307" in notice.detail

    run(main())


@both
def test_a_slow_service_loses_the_oldest_audio_and_keeps_the_clock(protocol: str) -> None:
    """Beyond the backlog frames are dropped and counted; what is heard keeps its own time."""

    async def main() -> None:
        script = {5: "early", 170: "late"}
        service = FakeService(script)
        async with running(service, protocol):
            url = service.url
        async with await client(service, protocol).open() as stream:
            listener = Listener(stream)
            await listener.play(160, pace_s=0)
            assert stream.stats.frames_dropped == 60
            async with _at(service, protocol, int(url.rsplit(":", 1)[1])):
                await listener.until(lambda: stream.stats.connections == 1)
                await listener.until(lambda: stream.unsent == 0)
                await listener.play(20)
                await listener.finish()
        assert listener.text == " late"
        assert [round(word.start_s / 0.08) for word in listener.words] == [170]
        assert listener.heard[-1].transcribed_frame == 179

    run(main())


@both
def test_a_flush_brings_the_words_at_once_and_the_clock_goes_on(protocol: str) -> None:
    async def main() -> None:
        async with running(FakeService({8: "time?", 25: "now"}), protocol) as service:

            async def body(listener: Listener) -> None:
                await listener.play(10)
                await asyncio.sleep(0.03)
                assert listener.take().words == ()
                listener.stream.flush()
                await listener.until(lambda: listener.heard[-1].transcribed_frame == 9)
                assert listener.text == " time?"
                await listener.play(30)
                await listener.finish()

            listener = await listen(service, protocol, body)
        assert [round(word.start_s / 0.08) for word in listener.words] == [8, 25]

    run(main())


@both
def test_closing_is_quick_whatever_the_service_does(protocol: str) -> None:
    async def main() -> None:
        async with running(FakeService(deaf_after=1), protocol) as service:

            async def body(listener: Listener) -> None:
                await listener.play(5)
                await listener.until(lambda: bool(service.frames and service.frames[0]))

            stream = await client(service, protocol, stall_s=5.0).open()
            listener = Listener(stream)
            await body(listener)
            began = time.monotonic()
            await stream.finish(0.05)
            assert time.monotonic() - began < 1.5
            await stream.aclose()
            stream.push(speech(0))
            assert stream.take().words == ()
            assert not [t for t in asyncio.all_tasks() if t.get_name() == "stt"]

    run(main())


@both
def test_many_conversations_do_not_mix(protocol: str) -> None:
    async def main() -> None:
        async with running(FakeService({n: f"w{n}" for n in range(100)}), protocol) as service:
            remote = client(service, protocol)

            async def one(first: int) -> str:
                async with await remote.open() as stream:
                    listener = Listener(stream)
                    for number in (first, first + 10):
                        stream.push(speech(number))
                        await asyncio.sleep(0)
                    await listener.finish()
                    return listener.text

            texts = await asyncio.gather(*(one(n) for n in range(8)))
        assert texts == [f" w{n} w{n + 10}" for n in range(8)]

    run(main())


@both
def test_a_whole_recording(protocol: str) -> None:
    """Longer than the backlog, sent as fast as the service answers, with a hitch on the way."""

    async def main() -> None:
        script = {n: f"w{n}" for n in range(2, 290, 9)}
        pcm = np.concatenate([speech(n) for n in range(300)])[:-100]
        async with running(FakeService(script, hang_up_after=150), protocol) as service:
            done: list[int] = []
            result = await transcribe_remotely(client(service, protocol), pcm, done.append)
        assert result.text.split() == list(script.values())
        assert [round(word.start_s / 0.08) for word in result.words] == list(script)
        assert sum(done) == 300
        assert result.duration_s == pytest.approx(len(pcm) / 24000)
        async with running(FakeService(deaf_after=1, never_ready=True), protocol) as service:
            with pytest.raises(ServiceError, match=r"not ready|said nothing|did not finish"):
                await transcribe_remotely(
                    client(service, protocol, open_timeout_s=0.05), pcm, patience_s=0.3
                )

    run(main())


def test_gradium_is_set_up_as_documented() -> None:
    async def main() -> None:
        async with running(FakeService(), "gradium") as service:
            settings = ServiceSettings(
                Protocol.GRADIUM, service.url, "secret", language="fr", delay_frames=10,
                vocabulary=("Canberra",),
            )  # fmt: skip
            async with await connect_service(settings).open() as stream:
                stream.push(speech(0))
                while not service.setups:
                    await asyncio.sleep(0.002)
        assert service.setups[0] == {
            "type": "setup",
            "model_name": "default",
            "input_format": "pcm",
            "json_config": {
                "language": "fr",
                "delay_in_frames": 10,
                "keywords": {"words": ["Canberra"], "boost": 3.0},
            },
            "close_ws_on_eos": True,
        }
        assert service.requests[0]["x-api-key"] == "secret"
        assert "secret" not in repr(settings)

    run(main())


def test_settings_from_the_published_variables() -> None:
    read = ServiceSettings.from_environment
    assert read({}) is None
    assert read({"STT_API_KEY": "k"}) is None
    hosted = read({"STT_API_KEY": "k"}, gradium_stt=True)
    assert hosted is not None
    assert hosted.url == "wss://eu.api.gradium.ai/api/speech/asr"
    american = read({"STT_API_KEY": "k", "STT_URL": "https://us.api.gradium.ai"})
    assert american is not None
    assert (american.protocol, american.url) == (
        Protocol.GRADIUM, "wss://us.api.gradium.ai/api/speech/asr",
    )  # fmt: skip
    own = read({"STT_URL": "ws://stt.local:8080"})
    assert own is not None
    assert (own.protocol, own.url, own.key) == (
        Protocol.KYUTAI, "ws://stt.local:8080/api/asr-streaming", "public_token",
    )  # fmt: skip
    asked = read({"STT_URL": "ws://x/other?auth_id=1", "STT_API_KEY": "k"})
    assert asked is not None
    assert (asked.url, asked.key) == ("ws://x/other?auth_id=1", "k")
    for environment, wrong in [
        ({"STT_URL": "wss://gradium.example"}, "STT_API_KEY"),
        ({"STT_URL": "stt.local"}, "ws://"),
        ({"STT_URL": "ws://me:pw@host"}, "credentials"),
        ({"STT_URL": "ws://host:port"}, "address"),
        ({"STT_URL": "ws://host", "STT_API_KEY": "a\nb"}, "printable"),
    ]:
        with pytest.raises(ServiceError, match=wrong):
            read(environment)
    with pytest.raises(ServiceError, match="delay_frames"):
        replace(own, delay_frames=0)
