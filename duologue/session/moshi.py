"""The whole of Duologue as a library: a model, and conversations with it, recorded or live.

    model = duologue.Moshi.from_pretrained("wren")
    session = model.create_session(knowledge="facts.md", seed=0)
    reply = session.process(pcm)                     # a recording, as fast as the machine allows

    async with session.stream() as stream:           # or live, frame by frame
        await stream.send(pcm)
        async for event in stream: ...

Frames are made on a thread of the model's own and lookups on another, so nothing blocks a caller's
event loop. Servers use `duologue.session.Engine`, which steps all its sessions together.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from duologue.dialogue import Event, Role, TextToken, Turn
from duologue.engine.api import EngineFull, SessionOptions
from duologue.engine.model import LoadedModel, load_model
from duologue.engine.slots import SlotBank
from duologue.engine.timing import RETRY_AFTER_S, is_quick
from duologue.retrieval.settings import RetrievalSettings, build_retriever, open_knowledge
from duologue.session.core import ConversationCore, FrameGiven, advance
from duologue.session.inputs import playable
from duologue.session.lookups import Backends
from duologue.session.model_time import LoopThread, ModelTime
from duologue.session.options import conversation, floor_rules, slot_setup
from duologue.session.questions import Rehearing
from duologue.session.stream import SessionStream
from duologue.session.vocabulary import tell_names
from duologue.stt.second_hearing import SecondHearing

if TYPE_CHECKING:
    from duologue.encoder.ports import RowEncoder
    from duologue.moshi.sampling import Sampling
    from duologue.retrieval.knowledge import KnowledgeBase
    from duologue.retrieval.protocol import Retriever
    from duologue.stt.ports import LocalRecogniser


@dataclass(frozen=True)
class Reply:
    """What the model did while it listened to a recording; frame k was said while k was heard."""

    pcm: NDArray[np.float32]
    """float32 [frames * 1920], silent where the model had not begun."""
    text: str
    """What the model said."""
    transcript: tuple[Turn, ...]
    """Who said what, from the conversation's beginning."""
    events: tuple[Event, ...]


class Moshi:
    """A model for up to `max_sessions` conversations at a time."""

    def __init__(
        self,
        model: LoadedModel,
        max_sessions: int = 1,
        *,
        encoder: RowEncoder | None = None,
        recogniser: LocalRecogniser[Any] | None = None,
    ) -> None:
        """See `from_pretrained`; the encoder is closed by the caller."""
        self.model = model
        self.bank = SlotBank(model, max_sessions, recogniser=recogniser)
        self.rehearing = Rehearing(SecondHearing.of(recogniser))
        self.loop = LoopThread()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="duologue-model")
        self._encoder, self._own_encoder = encoder, False
        self._free = list(range(max_sessions))
        self._catches_up: bool | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str | None = "auto",
        quantization: str | None = None,
        max_sessions: int = 1,
    ) -> Self:
        """Load a model folder: a bundled model's name, a path, or a hub id.

        Its own speech recognition and reference encoder are loaded too, when it has them.

        Raises:
            CheckpointError: names the file and what is wrong.
        """
        from duologue.stt.opening import own_recogniser

        loaded = load_model(model, device=device, quantization=quantization)
        return cls(loaded, max_sessions, recogniser=own_recogniser(loaded))

    def create_session(
        self,
        *,
        knowledge: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        retriever: Retriever | None = None,
        init_speaker: str = "model",
        seed: int = 0,
        voice: str | os.PathLike[str] | None = None,
        system_prompt: str | None = None,
        text: Sampling | None = None,
        audio: Sampling | None = None,
        floor: bool | None = None,
    ) -> MoshiSession:
        """Begin a conversation.

        Args:
            knowledge: documents, folders of documents, or an index, to look things up in, beside
                the built-in tools.
            retriever: who is asked instead; the caller closes it.
            voice, system_prompt: for models that take a prompt (PersonaPlex).
            floor: whether a floor policy decides when the model may speak; its own way if `None`.

        Raises:
            EngineFull: `max_sessions` are open; close one.
        """
        if not self._free:
            raise EngineFull("all sessions of this model are in use", RETRY_AFTER_S)
        options = SessionOptions(
            seed=seed, text=text, audio=audio, init_speaker=init_speaker,
            voice=None if voice is None else Path(voice), system_prompt=system_prompt,
            floor=floor,
        )  # fmt: skip
        setup = slot_setup(self.model, options)
        own = base = None
        stt = self.bank.recogniser
        if retriever is None and self.model.takes_references:
            base = _knowledge(knowledge)
            retriever = own = build_retriever(RetrievalSettings(), base=base)
        # Several sessions share one recogniser, and none may hear by another one's documents, nor
        # by those of the session before.
        if stt is not None and self.bank.slots == 1:
            tell_names(base, stt)
        backends = Backends.of(retriever, ("default",))
        brain = conversation(
            options, backends.names, simulated=True, floor=floor_rules(self.model, floor),
            stt_delay_frames=stt.delay_frames if stt is not None else None,
        )  # fmt: skip
        core = ConversationCore(
            self.bank, self._free.pop(0), brain, setup,
            keeps_frames=self.rehearing.keeps(self.bank.frame_size),
        )  # fmt: skip
        return MoshiSession(self, core, options, backends, own)

    def encoder(self) -> RowEncoder | None:
        """The reference encoder; the model folder's own is opened when it is first needed."""
        if self._encoder is None and self.model.takes_references and self.model.folder is not None:
            from duologue.encoder.opening import open_encoder

            conditioner = self.model.lm.condition_provider.reference
            self._encoder = open_encoder(
                self.model.folder, conditioner=conditioner, device=self.model.device
            )
            self._own_encoder = True
        return self._encoder

    def catches_up(self) -> bool:
        """Whether its recognition is quick enough to catch up between two frames of live
        conversations; measured once."""
        if self._catches_up is None:
            self._catches_up = is_quick(self.thread.submit(self.bank.measure_flush).result())
        return self._catches_up

    def give_back(self, slot: int) -> None:
        """A session is closed; its slot is free again."""
        self._free.append(slot)

    def close(self) -> None:
        """Stop the threads."""
        self.thread.shutdown()
        self.rehearing.close()
        if self._own_encoder and self._encoder is not None:
            self.loop.run(self._encoder.aclose())
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class MoshiSession:
    """One conversation, from `Moshi.create_session`."""

    def __init__(
        self,
        moshi: Moshi,
        core: ConversationCore,
        options: SessionOptions,
        backends: Backends,
        retriever: Retriever | None,
    ) -> None:
        self.moshi, self.core, self.options, self.backends = moshi, core, options, backends
        self._retriever = retriever

    @property
    def transcript(self) -> tuple[Turn, ...]:
        """Who said what so far."""
        return self.core.brain.transcript.turns

    def process(self, pcm: NDArray[np.float32]) -> Reply:
        """Play a recording (float32 [T] at 24 kHz) to the model as the user's voice.

        The last frame is filled up with silence. Lookups take their measured time in frames, while
        the model waits for them. The conversation goes on with the next call, also when this one
        was interrupted (Ctrl-C), which leaves the frames that are not made yet unheard.

        Raises:
            ValueError: the recording is not of one channel [T].
        """
        stopped = threading.Event()
        playing = self.moshi.thread.submit(self._process, playable(pcm), stopped)
        try:
            return playing.result()
        except BaseException:
            stopped.set()
            raise

    def stream(self) -> SessionStream:
        """Hold the conversation live; lookups run beside it."""
        self.core.check_open()
        return SessionStream(
            self.core,
            self.moshi.thread,
            self.moshi.loop,
            self.backends,
            self._open_live,
            system_prompt=self._retrieval_prompt,
            rehearing=self.moshi.rehearing,
        )

    def close(self) -> None:
        """Give the slot back; may be called twice."""
        if self.core.closed:
            return
        self.core.closed = True
        self.moshi.thread.submit(self.core.bank.reset, self.core.slot).result()
        self.moshi.give_back(self.core.slot)
        if self._retriever is not None:
            self.moshi.loop.run(self._retriever.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_live(self) -> RowEncoder | None:
        """What a stream needs beforehand; takes a while."""
        self.core.flushes = self.moshi.catches_up()
        return self.moshi.encoder()

    def _process(self, pcm: NDArray[np.float32], stopped: threading.Event) -> Reply:
        self.core.check_open()
        core, size = self.core, self.core.bank.frame_size
        core.flushes = True
        world = ModelTime(
            self.moshi.loop,
            self.backends,
            self.moshi.encoder(),
            system_prompt=self._retrieval_prompt,
            rehearing=self.moshi.rehearing,
        )
        pcm = np.pad(pcm, (0, -len(pcm) % size))
        said = np.zeros_like(pcm)
        events: list[Event] = []
        for index, frame in enumerate(pcm.reshape(-1, size)):
            if stopped.is_set():
                break
            if core.needs_start:
                for _ in core.prepare():
                    pass
            made = advance(core.bank, {core: FrameGiven(frame)})[core]
            if isinstance(made, Exception):
                raise made
            if made.made.pcm is not None:
                said[index * size : (index + 1) * size] = made.made.pcm
            events += world.settle(core, made.outputs)
        text = "".join(
            event.text
            for event in events
            if isinstance(event, TextToken) and event.role is Role.MODEL
        )
        return Reply(said, text.strip(), self.transcript, tuple(events))

    @property
    def _retrieval_prompt(self) -> str | None:
        return None if self.moshi.model.takes_prompts else self.options.system_prompt


def _knowledge(
    knowledge: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
) -> KnowledgeBase | None:
    """What a session looks things up in, opened; `None` for nothing."""
    if isinstance(knowledge, (str, os.PathLike)):
        knowledge = (knowledge,)
    return open_knowledge([Path(place) for place in knowledge]) if knowledge else None
