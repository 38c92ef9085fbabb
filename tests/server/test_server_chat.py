"""Conversations through `/api/chat`, over real sockets, with a real (tiny) model."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import httpx
import numpy as np
import pytest
from support.serving import Caller, Running, ScriptedRecogniser, run, serving
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from duologue.dialogue import event_from_dict
from duologue.engine.model import LoadedModel
from duologue.retrieval.profiles import MAX_PROFILES, ProfileError
from duologue.server.protocols.kyutai.query import AudioFormat

TALKATIVE = {"text_temperature": 10, "text_topk": 0, "seed": 7}


def test_a_published_client_gets_handshake_audio_and_text_and_nothing_else(
    server: Running,
) -> None:
    async def talk() -> None:
        async with server.call(audio="opus", **TALKATIVE) as caller:
            assert await caller.receive() == b"\x00"
            await caller.converse(10)
            assert {message[0] for message in caller.messages} == {0, 1, 2}
            kinds = [message[0] for message in caller.messages[1:]]
            assert kinds[0] == 1, "audio comes first"
            assert b"".join(m[1:] for m in caller.messages if m[0] == 2).decode().strip()
            assert all(len(pcm) == 1920 for pcm in caller.heard)
            pages = [message[1:] for message in caller.messages if message[0] == 1]
            assert pages[0].startswith(b"OggS")
            assert b"OpusHead" in pages[0]

    run(talk())


def test_equal_seeds_give_equal_conversations(server: Running) -> None:
    async def talk(seed: int) -> list[bytes]:
        async with server.call(**{**TALKATIVE, "seed": seed}) as caller:
            await caller.converse(8)
            return caller.messages

    async def all_at_once() -> None:
        first, same, other = await asyncio.gather(talk(1), talk(1), talk(2))
        assert first == same
        assert first != other

    run(all_at_once())


@pytest.mark.parametrize("audio", ["opus", "pcm16", "pcmf32"])
def test_audio_formats(server: Running, audio: str) -> None:
    async def talk() -> None:
        async with server.call(audio=audio, seed=1) as caller:
            await caller.converse(5)
            assert len(np.concatenate(caller.heard)) == 5 * 1920
            assert max(np.abs(pcm).max() for pcm in caller.heard) > 0

    run(talk())


def test_the_full_handshake_follows_the_metadata(server: Running) -> None:
    async def talk() -> None:
        async with server.call(handshake="full", text_temperature=0.25) as caller:
            metadata = await caller.receive()
            assert metadata[0] == 4
            assert json.loads(metadata[1:])["text_temperature"] == 0.25
            assert await caller.receive() == bytes(9)

    run(talk())


def test_text_is_steered_as_asked(server: Running) -> None:
    """How much is said, and how often again; the metadata show what is in force."""

    async def talk(**asked: float) -> tuple[str, dict[str, float]]:
        usual = {**TALKATIVE, "text_temperature": 1}
        async with server.call(handshake="full", **asked, **usual) as caller:
            metadata = json.loads((await caller.until(4))[1:])
            await caller.converse(12)
            return b"".join(m[1:] for m in caller.messages if m[0] == 2).decode(), metadata

    async def all_of_it() -> None:
        plain, quiet, varied = await asyncio.gather(
            talk(), talk(pad_mult=9), talk(repetition_penalty=90, repetition_penalty_context=64)
        )
        assert plain[0].strip()
        assert quiet[0] == ""
        assert varied[0] != plain[0]
        shown = ("pad_mult", "repetition_penalty", "repetition_penalty_context")
        assert [plain[1][name] for name in shown] == [0.0, 1.0, 32]
        assert [quiet[1][name] for name in shown] == [9.0, 1.0, 32]
        assert [varied[1][name] for name in shown] == [0.0, 90.0, 64]

    run(all_of_it())


def test_a_role_that_nobody_takes_is_told(model: LoadedModel) -> None:
    profiles = [{"id": "fast", "base_url": "http://127.0.0.1:9/v1", "model": "m", "default": True}]
    reads_roles = {"MOSHI_RETRIEVAL_LLMS_JSON": json.dumps(profiles)}

    async def warnings(server: Running) -> list[str]:
        async with server.call(dialect="events", system_prompt="kind") as caller:
            await caller.converse(3)
            events = [json.loads(m[1:]) for m in caller.messages if m[0] == 10]
            return [event["detail"] for event in events if event["type"] == "warning"]

    with serving(model) as server:
        [told] = run(warnings(server))
    assert "no effect" in told
    assert "kind" not in told
    with serving(model, environment=reads_roles) as server:
        assert run(warnings(server)) == []


def test_lookups_in_all_dialects(model: LoadedModel, facts: str) -> None:
    """The model asks, the user's words are known, the document has the answer."""
    question = ScriptedRecogniser({27: "what is the capital", 28: "of peru"})

    async def talk(server: Running, dialect: str) -> Caller:
        async with server.call(dialect=dialect, **TALKATIVE) as caller:
            await caller.converse(29)
            while not any(b"Lima" in message for message in caller.messages):
                await caller.converse(3)
            return caller

    async def both(server: Running) -> tuple[Caller, Caller]:
        rag, ours = await asyncio.gather(talk(server, "moshirag"), talk(server, "events"))
        return rag, ours

    with serving(model, question, knowledge=(facts,)) as server:
        rag, ours = run(both(server))
        figures = httpx.get(f"{server.http}/metrics").text
    assert b"\x07\x04[RET]" in rag.messages
    clear = rag.messages.index(b"\x09\x04\x00")
    label, _, text = rag.messages[clear + 1][2:].decode().partition("\t")
    assert rag.messages[clear + 1].startswith(b"\x09\x04")
    assert (label, text) == ("knowledge", "The capital of Peru is Lima.")
    assert b"\x07\x0a\nuser: " in rag.messages
    spoken = b"".join(m[2:] for m in rag.messages if m[:2] == b"\x07\x0a").decode()
    assert "what is the capital of peru" in spoken

    events = [json.loads(message[1:]) for message in ours.messages if message[0] == 10]
    assert events[0]["type"] == "session"
    found = next(event for event in events if event["type"] == "retrieval_succeeded")
    assert found["text"] == "The capital of Peru is Lima."
    assert found["sources"][0]["title"].startswith("facts.md")
    started = next(e for e in events if e["type"] == "retrieval_started")
    assert started["sequence"] <= found["sequence"]
    for event in events:
        if event["type"] not in ("session", "stats"):
            assert event_from_dict(event).to_dict() == event
    assert 'duologue_retrieval_seconds_count{backend="default",outcome="answered"}' in figures


def test_commands(server: Running) -> None:
    async def talk() -> None:
        async with server.call(dialect="events") as caller:
            session = await caller.until(10, type="session")
            assert session["frame_ms"] == 80
            assert session["audio"] == "pcmf32"
            assert session["resumed"] is False
            await caller.command(type="ping", id="p1")
            assert (await caller.until(10, type="pong"))["id"] == "p1"
            await caller.converse(2)
            await caller.command(type="reset")
            await caller.until(10, type="conversation_reset")
            await caller.converse(2)
            stats = await caller.until(10, type="stats")
            assert stats["slots"] == 3
            assert stats["frame_ms_p50"] > 0
            await caller.command(type="end")
            ended = await caller.until(10, type="session_ended")
            assert ended["reason"] == "client_closed"
            assert await caller.closed() == 1000

    run(talk())
    assert server.lobby.engine.stats().in_use == 0, "the slot is free at once"


def test_a_session_of_so_many_steps(server: Running) -> None:
    async def talk() -> None:
        async with server.call(max_steps=4) as caller:
            await caller.say(12)
            assert await caller.closed() == 1000
            assert sum(message[0] == 1 for message in caller.messages) == 4

    run(talk())


def test_back_ends_can_be_chosen(model: LoadedModel) -> None:
    profiles = [
        {"id": "fast", "base_url": "http://127.0.0.1:9/v1", "model": "m", "default": True},
        {"id": "good", "base_url": "http://127.0.0.1:9/v1", "model": "n"},
    ]
    environment = {"MOSHI_RETRIEVAL_LLMS_JSON": json.dumps(profiles)}

    async def talk(server: Running) -> None:
        async with server.call(dialect="moshirag", backend="good") as caller:
            assert await caller.receive() == b"\x00"
            metadata = json.loads((await caller.receive())[1:])
            assert metadata == {
                "retrieval_backends": [{"id": "fast"}, {"id": "good"}],
                "retrieval_backend_default": "fast",
            }
            await caller.socket.send(b'\x04{"retrieval_backend_id":"good"}')
            await caller.socket.send(b'\x04{"retrieval_backend_id":"nobody"}')
            await caller.converse(2)
        with pytest.raises(InvalidStatus) as refused:
            async with server.call(backend="nobody"):
                pass
        assert refused.value.response.status_code == HTTPStatus.BAD_REQUEST

    with serving(model, environment=environment) as server:
        run(talk(server))


def test_more_back_ends_than_a_conversation_has_are_refused_at_the_start(
    model: LoadedModel,
) -> None:
    def environment(count: int) -> dict[str, str]:
        one = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
        profiles = [{**one, "id": f"p{n}", "default": n == 0} for n in range(count)]
        return {"MOSHI_RETRIEVAL_LLMS_JSON": json.dumps(profiles)}

    async def talk(server: Running) -> None:
        async with server.call() as caller:
            await caller.converse(1)

    with serving(model, environment=environment(MAX_PROFILES)) as server:
        run(talk(server))
    with (
        pytest.raises(ProfileError, match=f"9 profiles; at most {MAX_PROFILES} can be used"),
        serving(model, environment=environment(MAX_PROFILES + 1)),
    ):
        pass


# Coming back.


def test_a_lost_client_comes_back_and_goes_on(server: Running) -> None:
    async def talk() -> None:
        async with server.call(dialect="events", seed=5) as caller:
            token = (await caller.until(10, type="session"))["resume_token"]
            await caller.converse(5)
            caller.socket.transport.abort()
        while server.lobby.engine.stats().detached != 1:
            await asyncio.sleep(0.01)
        async with server.call(dialect="events", resume=token) as again:
            session = await again.until(10, type="session")
            assert session["resumed"] is True
            assert session["resume_token"] == token
            await again.say(5)
            stats = await again.until(10, type="stats")
            while stats["frame"] < 9:
                stats = await again.until(10, type="stats")
            assert stats["frame"] == 9, "frames count on"
            await again.command(type="end")
            await again.closed()
        with pytest.raises(InvalidStatus) as refused:
            async with server.call(dialect="events", resume=token):
                pass
        assert refused.value.response.status_code == HTTPStatus.GONE

    run(talk())


def test_a_newer_connection_takes_the_session_over(server: Running) -> None:
    async def talk() -> None:
        async with server.call(dialect="events") as first:
            token = (await first.until(10, type="session"))["resume_token"]
            await first.converse(3)
            async with server.call(dialect="events", resume=token) as second:
                assert await first.closed() == 4001
                await second.say(3)
                assert len(await second.until(1)) > 1
                assert server.lobby.engine.stats().in_use == 1
                await second.command(type="end")
                await second.closed()

    run(talk())


def test_who_comes_back_needs_no_room_and_gains_none(model: LoadedModel) -> None:
    """A dead connection still holds the only place; a session stays with who began it."""

    async def talk(server: Running) -> None:
        async with server.call(dialect="events") as first:
            token = (await first.until(10, type="session"))["resume_token"]
            await first.converse(2)
            async with server.call(dialect="events", resume=token) as second:
                await second.until(10, type="session", resumed=True)
                assert (await refusal(server.chat()))[:2] == (429, "sessions_per_client")
                assert await first.closed() == 4001
                second.socket.transport.abort()
            while server.lobby.visits:
                await asyncio.sleep(0.01)
            url = server.chat(audio="pcmf32", dialect="events", resume=token)
            async with connect(url, local_addr=("127.0.0.2", 0), proxy=None) as elsewhere:
                third = Caller(elsewhere, AudioFormat.PCMF32)
                await third.until(10, type="session", resumed=True)
                assert (await refusal(server.chat()))[:2] == (429, "sessions_per_client")
                await third.command(type="end")
                await third.closed()
        await asyncio.to_thread(server.wait_until_empty)
        assert not server.lobby.owners
        async with server.call():
            pass

    with serving(model, sessions_per_client=1) as server:
        run(talk(server))


def test_published_clients_are_not_waited_for(server: Running) -> None:
    async def talk() -> None:
        async with server.call() as caller:
            await caller.converse(2)
            caller.socket.transport.abort()
        await asyncio.to_thread(server.wait_until_empty)

    run(talk())


def test_sessions_left_behind_give_way_to_new_ones(model: LoadedModel) -> None:
    async def talk(server: Running) -> None:
        for _ in range(4):
            async with server.call(dialect="events") as caller:
                await caller.converse(1)
                caller.socket.transport.abort()
            while server.lobby.visits:
                await asyncio.sleep(0.01)
            assert server.lobby.engine.stats().in_use <= 2
        async with server.call() as caller:
            await caller.converse(1)
            assert server.lobby.engine.stats().in_use == 2

    with serving(model, sessions=8, sessions_per_client=2) as server:
        run(talk(server))


def test_a_stopping_server_waits_for_nobody_who_has_left(model: LoadedModel) -> None:
    async def talk(server: Running) -> None:
        async with server.call(dialect="events") as gone, server.call(dialect="events") as going:
            await asyncio.gather(gone.converse(1), going.converse(1))
            gone.socket.transport.abort()
            while server.lobby.engine.stats().detached != 1:
                await asyncio.sleep(0.01)
            server.loop.call_soon_threadsafe(server.server.stop)
            while server.lobby.engine.stats().in_use != 1:
                await asyncio.sleep(0.01)
            await going.converse(1)
            assert not server.server.should_exit
            going.socket.transport.abort()
        while not server.server.should_exit:
            await asyncio.sleep(0.01)

    with serving(model, drain_s=3600) as server:
        run(talk(server))


# Being refused, before the websocket is accepted.


async def refusal(url: str, **headers: str) -> tuple[int, str, httpx.Headers]:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, additional_headers=headers, proxy=None, open_timeout=60):
            pass
    response = refused.value.response
    error = json.loads(response.body or b"{}")["error"]
    return response.status_code, error["code"], httpx.Headers(dict(response.headers.raw_items()))


def test_a_full_server_says_so_and_when_to_come_back(model: LoadedModel) -> None:
    async def talk(server: Running) -> None:
        assert httpx.get(f"{server.http}/api/availability").json() == {"available": True}
        async with server.call() as caller:
            await caller.converse(2)
            status, code, headers = await refusal(server.chat())
            assert (status, code) == (503, "full")
            assert int(headers["retry-after"]) >= 1
            told = httpx.get(f"{server.http}/api/availability").json()
            assert told["available"] is False
            assert told["retry_after_s"] > 0
            assert httpx.get(f"{server.http}/ready").status_code == 200, "full is not unready"
            await caller.converse(2)
        await asyncio.to_thread(server.wait_until_empty)
        async with server.call() as caller:
            await caller.converse(2)

    with serving(model, sessions=1) as server:
        run(talk(server))


def test_one_address_has_so_many_sessions(model: LoadedModel) -> None:
    async def talk(server: Running) -> None:
        async with server.call() as caller:
            assert (await refusal(server.chat()))[:2] == (429, "sessions_per_client")
            await caller.converse(2)
        await asyncio.to_thread(server.wait_until_empty)
        async with server.call():
            pass

    with serving(model, sessions_per_client=1) as server:
        run(talk(server))


def test_tokens_origins_and_parameters_are_checked_first(model: LoadedModel) -> None:
    token = "correct-horse-battery"

    async def talk(server: Running) -> None:
        assert (await refusal(server.chat()))[:2] == (401, "token")
        assert (await refusal(server.chat(token="wrong")))[:2] == (401, "token")
        foreign = await refusal(server.chat(token=token), Origin="https://evil.example")
        assert foreign[:2] == (403, "origin")
        assert (await refusal(server.chat(token=token, audio="mp3")))[:2] == (400, "parameters")
        assert (await refusal(server.chat(token=token, voice="x")))[:2] == (400, "parameters")
        assert (await refusal(server.chat(token=token, resume="x")))[:2] == (410, "resume")
        assert (await refusal(server.chat(token=token).replace("chat", "x")))[:1] == (404,)
        async with server.call(worker_auth_id=token) as caller:
            await caller.converse(2)
        async with server.call(headers={"Authorization": f"Bearer {token}"}) as caller:
            await caller.converse(2)
        figures = httpx.get(f"{server.http}/metrics?token={token}").text
        assert 'duologue_refused_total{reason="token"} 2.0' in figures
        assert 'duologue_refused_total{reason="resume"} 1.0' in figures

    with serving(model, token=token) as server:
        run(talk(server))
