"""A recording played into a conversation, and the reply to it, sample for sample as long.

The model is clocked by what it hears: after the recording, silence is sent until the reply has
the length of the recording and its tail. Sample n of the reply is what the server said in answer to
sample n (frame k answers frame k), however the network delayed either.

In real time, a frame is sent every 80 ms, as from a microphone. Fast, frames are sent as the
server takes them, at most `AHEAD_S` ahead of its reply: a published server then runs as fast as it
can, ours goes on at 1.05 times real time after the first 1.5 s (`duologue talk` is the way to be
faster than that).

When the connection breaks, nothing is sent until it is back and has been quiet for `SETTLE_S`. What
was sent and has no answer by then is lost: it is counted, and silence stands for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from duologue.client.chronicle import Chronicle
from duologue.client.conversation import Conversation
from duologue.client.errors import ConnectionLost, ConversationOver
from duologue.client.events import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    Event,
    Interrupted,
    Pcm,
    Resumed,
    Sound,
)

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE
AHEAD_S = 1.0
"""Less than what a server keeps waiting before it drops audio."""
STALL_S = 20.0
"""A server that says nothing for so long, silence included, is given up."""
SETTLE_S = 2.0
"""How long the answers to what a server had still waiting are waited for after a break."""
MAX_RECORDING_S = 3600.0


@dataclass(frozen=True)
class Recorded:
    """A conversation over a recording."""

    heard: Pcm
    """What the user said [T], with the silence of the tail."""
    reply: Pcm
    """What the model said [T]; silence where the server ended before."""
    chronicle: Chronicle
    complete: bool
    """Whether the server spoke to the end."""
    lost_s: float = 0.0
    """What broken connections took of the conversation; the reply is silent there."""

    def stereo(self) -> Pcm:
        """Both voices [2, T], the model's on the left."""
        return np.stack([self.reply, self.heard])


class CutShort(ConnectionLost):
    """A conversation over a recording broke; `recorded` is what there is of it."""

    def __init__(self, message: str, recorded: Recorded) -> None:
        super().__init__(message)
        self.recorded = recorded


async def play(
    conversation: Conversation,
    pcm: Pcm,
    *,
    tail_s: float = 0.0,
    fast: bool = False,
    on_event: Callable[[Event, Chronicle], None] = lambda event, chronicle: None,
) -> Recorded:
    """Play samples [n] at 24 kHz to an open conversation and collect the reply.

    Raises:
        CutShort: the conversation broke, or the server stopped answering.
    """
    frames = -(-len(pcm) // FRAME_SAMPLES) + round(tail_s / FRAME_S)
    heard = np.zeros(frames * FRAME_SAMPLES, np.float32)
    heard[: len(pcm)] = pcm
    player = _Player(conversation, heard, fast)
    sending = asyncio.create_task(player.send())
    chronicle, fault = Chronicle(), ""
    try:
        events = aiter(conversation)
        while player.heard < len(heard):
            async with asyncio.timeout_at(player.patience):
                event = await anext(events, None)
            if event is None:
                break
            chronicle.add(event)
            match event:
                case Sound(pcm=said):
                    player.hear(said)
                case Interrupted():
                    player.interrupt()
                case Resumed():
                    player.resume()
            on_event(event, chronicle)
    except ConnectionLost as error:
        fault = str(error)
    except TimeoutError:
        fault = f"the server said nothing for {STALL_S:g} s"
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConversationOver):
            await sending
    complete = player.heard >= len(heard)
    recorded = Recorded(heard, player.reply(), chronicle, complete, player.lost / SAMPLE_RATE)
    if fault:
        raise CutShort(fault, recorded)
    return recorded


class _Player:
    """Paces what is sent by the clock, or by what comes back."""

    def __init__(self, conversation: Conversation, pcm: Pcm, fast: bool) -> None:
        self._conversation, self._pcm, self._fast = conversation, pcm, fast
        self._pieces: list[Pcm] = []
        self._progress = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._began, self._sent = self._clock(), 0
        self._broken, self._back = False, asyncio.Event()
        self.heard = self.lost = 0
        self.patience: float | None = self._clock() + STALL_S

    def hear(self, pcm: Pcm) -> None:
        self._pieces.append(pcm)
        self.heard += len(pcm)
        self.patience = self._clock() + STALL_S
        self._progress.set()

    def interrupt(self) -> None:
        """The connection broke; the conversation knows how long it may take to come back."""
        self._broken, self.patience = True, None
        self._back.clear()
        self._progress.set()

    def resume(self) -> None:
        """It is back."""
        self.patience = self._clock() + STALL_S
        self._back.set()

    def reply(self) -> Pcm:
        """What was heard, cut or filled up to the length of the recording."""
        heard = np.concatenate([np.zeros(0, np.float32), *self._pieces])[: len(self._pcm)]
        return np.pad(heard, (0, len(self._pcm) - len(heard)))

    async def send(self) -> None:
        """The recording, then silence until cancelled."""
        silence = np.zeros(FRAME_SAMPLES, np.float32)
        self._began = self._clock()
        while True:
            if self._broken:
                await self._recover()
            frame = self._pcm[self._sent : self._sent + FRAME_SAMPLES]
            await self._conversation.send(frame if len(frame) else silence)
            self._sent += FRAME_SAMPLES
            if self._fast:
                while self._unanswered >= AHEAD_S * SAMPLE_RATE and not self._broken:
                    self._progress.clear()
                    await self._progress.wait()
            else:
                due = self._began + self._sent / SAMPLE_RATE
                await asyncio.sleep(max(0.0, due - self._clock()))

    @property
    def _unanswered(self) -> int:
        return max(0, self._sent - self.heard)

    async def _recover(self) -> None:
        """Wait for the connection and for what survived its break, and write off the rest."""
        while self._broken:
            await self._back.wait()
            if self._unanswered and await self._progresses():
                continue
            if self._back.is_set():
                self._write_off()
                self._broken = False

    async def _progresses(self) -> bool:
        """Whether something is heard, or breaks again, before long."""
        self._progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._progress.wait()
        return self._progress.is_set()

    def _write_off(self) -> None:
        """Nothing will answer what was lost; the clock goes on from here, with no arrears."""
        gone = self._unanswered
        self._pieces.append(np.zeros(gone, np.float32))
        self.heard += gone
        self.lost += gone
        self._began = self._clock() - self._sent / SAMPLE_RATE
