"""`/api/chat`: from a URL to a session and a door."""

from __future__ import annotations

from dataclasses import replace

from starlette.websockets import WebSocket

from duologue.moshi.sampling import GenerationDefaults, Sampling
from duologue.server.lobby import Lobby
from duologue.server.protocols.kyutai.door import About, KyutaiDoor
from duologue.server.protocols.kyutai.query import ChatQuery, Dialect, Handshake
from duologue.server.refusals import Refusal
from duologue.session import Session, SessionOptions


async def chat(websocket: WebSocket) -> None:
    """The route."""
    lobby: Lobby = websocket.app.state.lobby
    query = ChatQuery.parse(dict(websocket.query_params))
    text, audio = sampling_of(query, lobby.model.defaults)
    options = options_of(query, lobby, text, audio)
    dialect = dialect_for(query, lobby, from_browser="origin" in websocket.headers)
    handshake = query.handshake or Handshake(lobby.settings.handshake)

    def make_door(session: Session) -> KyutaiDoor:
        about = About(
            session=session.id,
            resume_token=session.resume_token,
            resumed=query.resume is not None,
            resume_s=lobby.settings.resume_s,
            model=lobby.model.name,
            backends=lobby.engine.backends,
            text=text,
            audio=audio,
            wording=options.wording,
        )
        return KyutaiDoor(query, dialect, handshake, about)

    await lobby.host(websocket, options, make_door, resume=query.resume, max_frames=query.max_steps)


def dialect_for(query: ChatQuery, lobby: Lobby, *, from_browser: bool) -> Dialect:
    """What to speak with a client that may not have said.

    Published command-line clients know kind 2 only; published browser clients (a browser sends an
    `Origin`) also know coloured text, and need it to show lookups.
    """
    if query.dialect is not None:
        return query.dialect
    if lobby.settings.dialect != "auto":
        return Dialect(lobby.settings.dialect)
    shows_lookups = from_browser and lobby.model.takes_references
    return Dialect.MOSHIRAG if shows_lookups else Dialect.MOSHI


def sampling_of(query: ChatQuery, usual: GenerationDefaults) -> tuple[Sampling, Sampling]:
    """How to draw text and audio: as asked, else the model's way."""
    asked = (
        (query.text_temperature, query.text_topk, usual.text),
        (query.audio_temperature, query.audio_topk, usual.audio),
    )
    text, audio = (
        replace(
            own,
            temperature=own.temperature if temperature is None else temperature,
            top_k=own.top_k if top_k is None else top_k,
        )
        for temperature, top_k, own in asked
    )
    return text, audio


def options_of(query: ChatQuery, lobby: Lobby, text: Sampling, audio: Sampling) -> SessionOptions:
    """The session that a URL asks for.

    Raises:
        Refusal: 400, a voice or a back end that is not there.
    """
    voice = None
    if (wanted := query.voice_id) is not None:
        voice = lobby.voices.get(wanted)
        if voice is None:
            raise Refusal(400, "parameters", "voice: there is none of this name; see /api/models")
    if query.backend is not None and query.backend not in lobby.engine.backends:
        raise Refusal(400, "parameters", "backend: there is none of this name; see /api/models")
    return SessionOptions(
        seed=query.combined_seed,
        text=text,
        audio=audio,
        wording=query.wording,
        init_speaker=query.init_speaker.value,
        backend=query.backend,
        voice=voice,
        system_prompt=query.system_prompt or query.text_prompt,
    )
