"""Many conversations over the slots of one model.

Each batched step makes the next frame of every conversation that is not waiting for the outside
world; one that waits stands still, and the others go on. A slot that is done takes the next
recording. What is said depends on a conversation's own recording alone, not on who else is there:
with the same number of slots, one recording after the other gives the same bits.

What goes wrong with one recording is its result; the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from duologue.audio import read_audio
from duologue.dialogue import Conversation, Phase
from duologue.engine.slots import SlotSetup
from duologue.errors import DuologueError
from duologue.offline.ahead import heard_ahead
from duologue.offline.equipment import Equipment
from duologue.offline.files import Recording
from duologue.offline.log import Samples, TalkLog
from duologue.offline.outside import Answered, ModelClock, Outside, Request
from duologue.offline.settings import TalkError, TalkSettings, conversation_config
from duologue.offline.stopping import Stopping
from duologue.session.core import ConversationCore, ConversationFrame, FrameGiven, advance
from duologue.session.inputs import playable
from duologue.session.options import floor_rules
from duologue.stt.ports import Heard

T = TypeVar("T")
OnFrames = Callable[[int], None]


@dataclass(frozen=True)
class Talked:
    """A conversation that is over."""

    recording: Recording
    heard: Samples
    """The user's voice, whole frames."""
    log: TalkLog
    question_frames: int
    waiting_frames: int
    """Frames that the rules wait between trigger and lookup, at most."""
    stt_delay_frames: int
    words_known: bool
    """Whether somebody wrote down what the user said."""


@dataclass(frozen=True)
class Failed:
    """A recording that could not be talked to, and why."""

    recording: Recording
    error: Exception


class Talk:
    """One conversation: a slot, a recording, and what comes of them."""

    def __init__(
        self,
        recording: Recording,
        pcm: Samples,
        core: ConversationCore,
        outside: Outside,
        settings: TalkSettings,
        ahead: Sequence[Heard] | None,
    ) -> None:
        size = core.bank.frame_size
        self.recording, self.core, self.outside, self.settings = recording, core, outside, settings
        self.frames = pcm.reshape(-1, size)
        self.log = TalkLog()
        self.stopping = Stopping(len(self.frames), settings)
        self.clock = ModelClock(_fixed_s(settings))
        self.pending: asyncio.Task[list[Answered]] | None = None
        self._ahead = ahead
        self._silence = np.zeros(size, np.float32)
        self._silent_tokens = core.bank.model.silent_tokens

    @property
    def over(self) -> bool:
        return self.stopping.over and self.pending is None

    def given(self) -> FrameGiven:
        """The next frame of the user: of the recording, then silence."""
        at = len(self.log.said)
        pcm = self.frames[at] if at < len(self.frames) else self._silence
        if self._ahead is None:
            return FrameGiven(pcm)
        late = Heard(inactivity=1.0, transcribed_frame=at)
        return FrameGiven(pcm, self._ahead[at] if at < len(self._ahead) else late)

    def take(self, made: ConversationFrame, seconds: float) -> None:
        """Note a frame, and begin what it asks for."""
        self.log.frame(made, seconds)
        self._begin(self.log.outputs(made.outputs))
        brain, token = self.core.brain, made.made.text
        self.stopping.step(
            # Negative while the delays fill.
            is_silent=token < 0 or token in self._silent_tokens,
            is_busy=brain.phase is not Phase.IDLE
            or brain.rows_left > 0
            or self.pending is not None,
        )

    def receive(self) -> None:
        """Take what the outside world has answered; the step must not be running."""
        assert self.pending is not None
        answers, self.pending = self.pending.result(), None
        requests: list[Request] = []
        for answered in answers:
            self.log.measured(answered.request, answered.measured_s)
            for reply, rows in answered.replies:
                counted = self.clock.count(answered.request, reply)
                requests += self.log.outputs(self.core.receive(counted, rows))
        self._begin(requests)

    def result(self) -> Talked:
        """What the conversation was."""
        bank, log = self.core.bank, self.log
        heard = np.zeros((len(log.said), bank.frame_size), np.float32)
        heard[: len(self.frames)] = self.frames[: len(heard)]
        config = self.core.brain.config.retrieval
        return Talked(
            self.recording,
            heard.reshape(-1),
            log,
            len(self.frames),
            config.wait.steps,
            config.wait.stt_delay_frames,
            bank.recogniser is not None or self._ahead is not None,
        )

    def _begin(self, requests: Sequence[Request]) -> None:
        if requests:
            self.pending = asyncio.create_task(self.outside.carry_out(requests))


class Talks:
    """See the module. `run` may be called once at a time."""

    def __init__(
        self, equipment: Equipment, settings: TalkSettings, on_frames: OnFrames = lambda _: None
    ) -> None:
        """`on_frames` is told how many frames each step made."""
        self.equipment, self.settings, self._on_frames = equipment, settings, on_frames
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="duologue-model")

    async def run(self, recordings: Iterable[Recording]) -> AsyncGenerator[Talked | Failed]:
        """Talk to all recordings; results come as they end."""
        waiting = deque(recordings)
        free = list(reversed(range(self.equipment.bank.slots)))
        talks: list[Talk] = []
        try:
            while waiting or talks:
                while waiting and free:
                    recording, slot = waiting.popleft(), free.pop()
                    try:
                        talks.append(await self._open(recording, slot))
                    except (DuologueError, OSError) as error:
                        free.append(slot)
                        yield Failed(recording, error)
                for talk, failure in await self._advance(talks):
                    talks.remove(talk)
                    free.append(talk.core.slot)
                    yield talk.result() if failure is None else Failed(talk.recording, failure)
        finally:
            pending = [talk.pending for talk in talks if talk.pending is not None]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            self._thread.shutdown()

    async def _open(self, recording: Recording, slot: int) -> Talk:
        """Read a recording and make a slot ready for it."""
        equipment, settings = self.equipment, self.settings
        bank = equipment.bank
        pcm = await self._on_thread(lambda: playable(read_audio(recording.path)))
        pcm = _whole_frames(pcm, bank.frame_size, drop_rest=settings.counts_as_published)
        if not len(pcm):
            raise TalkError(f"{recording.path.name}: shorter than a frame of 80 ms")
        begin = time.perf_counter()
        ahead = await self._recognise_ahead(pcm)
        recognised_s = time.perf_counter() - begin
        local, backends = bank.recogniser, equipment.backends_for(recording, settings)
        delay = local.delay_frames if local is not None else None
        floor = floor_rules(bank.model, settings.wants_floor)
        brain = Conversation(conversation_config(settings, backends.names, delay, floor))
        setup = SlotSetup(
            seed=settings.seed, text=settings.text, audio=settings.audio,
            init_speaker=settings.init_speaker, prompt=equipment.prompt,
        )  # fmt: skip
        # The published rules wait the same time whatever has been heard.
        flushes = not settings.counts_as_published
        # They look up what was heard first, too.
        keeps = equipment.rehearing.keeps(bank.frame_size) if flushes else 0
        core = ConversationCore(bank, slot, brain, setup, flushes=flushes, keeps_frames=keeps)
        begin = time.perf_counter()
        await self._on_thread(lambda: deque(core.prepare(), maxlen=0))
        again = partial(equipment.rehearing.of, core.questions)
        outside = Outside(backends, equipment.encoder, bank.dim, again)
        talk = Talk(recording, pcm, core, outside, settings, ahead)
        talk.log.preparing.add(time.perf_counter() - begin)
        if ahead is not None:
            talk.log.recognising.add(recognised_s)
        return talk

    async def _recognise_ahead(self, pcm: Samples) -> list[Heard] | None:
        service = self.equipment.ears.service
        if service is None:
            return None
        from duologue.stt.remote.offline import transcribe_remotely

        transcription = await transcribe_remotely(service, pcm)
        return heard_ahead(transcription.words, len(pcm) // self.equipment.bank.frame_size)

    async def _advance(self, talks: Sequence[Talk]) -> list[tuple[Talk, Exception | None]]:
        """One step of those that can go on; returns those that have ended."""
        for talk in talks:
            while talk.pending is not None and talk.pending.done():
                talk.receive()
        ready = [talk for talk in talks if talk.pending is None and not talk.over]
        ended: list[tuple[Talk, Exception | None]] = []
        if ready:
            given = {talk.core: talk.given() for talk in ready}
            begin = time.perf_counter()
            made = await self._on_thread(lambda: advance(self.equipment.bank, given))
            seconds = time.perf_counter() - begin
            self._on_frames(len(ready))
            for talk in ready:
                result = made[talk.core]
                if isinstance(result, (DuologueError, ValueError)):
                    ended.append((talk, result))
                elif isinstance(result, Exception):
                    raise result
                else:
                    talk.take(result, seconds)
        elif pending := [talk.pending for talk in talks if talk.pending is not None]:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        failed = {talk for talk, _ in ended}
        return ended + [(talk, None) for talk in talks if talk.over and talk not in failed]

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _fixed_s(settings: TalkSettings) -> float | None:
    """What a lookup counts as; true references are there at once (published)."""
    if settings.retrieval_delay_s is None and settings.use_gt_reference:
        return 0.0
    return settings.retrieval_delay_s


def _whole_frames(pcm: Samples, size: int, *, drop_rest: bool) -> Samples:
    """Published: the rest is dropped; else the last frame is filled up with silence."""
    if drop_rest:
        return pcm[: len(pcm) - len(pcm) % size]
    return np.pad(pcm, (0, -len(pcm) % size))
