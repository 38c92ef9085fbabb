"""A whole server as the system under test: a real socket, Ogg-Opus both ways, at the real pace.

Every conversation has a server of its own on loopback, as `duologue serve` starts it, with the
request's files as its documents; the model is loaded once. So a verdict on it is one on everything
between a caller and the answer. Unlike the systems that run in model time, it is not the same to
the bit twice: what is found arrives when it arrives.

The server cannot be asked to break: where lookups are to fail, there is nothing to be found.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duologue.client import connect
from duologue.client.host import own_server
from duologue.client.recording import play
from duologue.dialogue import Event as DialogueEvent
from duologue.dialogue import Role, TextToken
from duologue.evaluation.activity import Pcm
from duologue.evaluation.knowledge import Fault
from duologue.evaluation.systems import Notes, folder_fingerprint
from duologue.evaluation.talker import Conversation, Request
from duologue.server.assembly import load
from duologue.server.settings import ServerSettings

if TYPE_CHECKING:
    from duologue.client import Conversation as Call
    from duologue.client import Event as ClientEvent
    from duologue.client.chronicle import Chronicle


class SocketTalker:
    """See the module."""

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        temperature: float | None = None,
        floor: bool | None = None,
    ) -> None:
        """`temperature` is for text and audio, `floor` as in `SessionOptions`; the model's own if
        None.
        """
        self._settings = ServerSettings.model_validate(
            {"model": model, "device": device, "sessions": 1, "floor": floor}
        )
        self._loaded = load(self._settings, {})
        folder = self._loaded.model.folder
        assert folder is not None, "models that are served are loaded from a folder"
        self._parameters: dict[str, object] = {}
        if temperature is not None:
            self._parameters = {"text_temperature": temperature, "audio_temperature": temperature}
        self.name = f"{model}, over a socket"
        self.fingerprint = f"socket {folder_fingerprint(folder.path)} {temperature} floor {floor}"

    def converse(self, request: Request) -> Conversation:
        knowledge = request.knowledge
        files = tuple(map(str, knowledge.files)) if knowledge.fault is Fault.NONE else ("none",)
        tools = knowledge.fault is Fault.NONE
        settings = self._settings.model_copy(update={"knowledge": files, "tools": tools})
        parameters = {
            **self._parameters, "init_speaker": request.init_speaker, "seed": request.seed,
        }  # fmt: skip
        with own_server(settings, self._loaded, {}) as (url, token):
            call = connect(url, token=token, audio="opus", parameters=parameters)
            return asyncio.run(self._hold(call, request.pcm))

    async def _hold(self, call: Call, pcm: Pcm) -> Conversation:
        notes = Notes()

        def note(event: ClientEvent, chronicle: Chronicle) -> None:
            if isinstance(event, TextToken) and event.role is Role.MODEL:
                notes.written(event.frame, event.text)
            elif isinstance(event, TextToken):
                notes.hear([event.text], event.frame)
            elif isinstance(event, DialogueEvent):
                notes.events([event])

        async with call:
            recorded = await play(call, pcm, on_event=note)
        notes.speech(recorded.reply, None)
        return notes.conversation(hears=self._loaded.stt is not None)
