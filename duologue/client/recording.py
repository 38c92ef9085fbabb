"""A recording played into a conversation, and the reply to it, sample for sample as long.

The model is clocked by what it hears: after the recording, silence is sent until the reply has
the length of the recording and its tail. Sample n of the reply is what the server said in answer to
sample n (frame k answers frame k), however the network delayed either.

In real time, a frame is sent every 80 ms, as from a microphone. Fast, frames are sent as the
server takes them, at most `AHEAD_S` ahead of its reply: a published server then runs as fast as it
can, ours goes on at 1.05 times real time after the first 1.5 s (`duologue talk` is the way to be
faster than that).
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
from duologue.client.events import FRAME_SAMPLES, SAMPLE_RATE, Event, Pcm, Sound

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE
AHEAD_S = 1.0
"""Less than what a server keeps waiting before it drops audio."""
STALL_S = 20.0
"""A server that says nothing for so long, silence included, is given up."""
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

    def stereo(self) -> Pcm:
        """Both voices [2, T], the model's on the left."""
        return np.stack([self.reply, self.heard])


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
        ConnectionLost: the conversation broke, or the server stopped answering.
    """
    frames = -(-len(pcm) // FRAME_SAMPLES) + round(tail_s / FRAME_S)
    heard = np.zeros(frames * FRAME_SAMPLES, np.float32)
    heard[: len(pcm)] = pcm
    player = _Player(conversation, heard, fast)
    sending = asyncio.create_task(player.send())
    chronicle = Chronicle()
    try:
        events = aiter(conversation)
        while player.heard < len(heard):
            async with asyncio.timeout_at(player.patience):
                event = await anext(events, None)
            if event is None:
                break
            chronicle.add(event)
            if isinstance(event, Sound):
                player.hear(event.pcm)
            on_event(event, chronicle)
    except TimeoutError:
        raise ConnectionLost(f"the server said nothing for {STALL_S:g} s") from None
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConversationOver):
            await sending
    complete = player.heard >= len(heard)
    return Recorded(heard, player.reply(), chronicle, complete)


class _Player:
    """Paces what is sent by the clock, or by what comes back."""

    def __init__(self, conversation: Conversation, pcm: Pcm, fast: bool) -> None:
        self._conversation, self._pcm, self._fast = conversation, pcm, fast
        self._pieces: list[Pcm] = []
        self._progress = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self.heard = 0
        self.patience = self._clock() + STALL_S

    def hear(self, pcm: Pcm) -> None:
        self._pieces.append(pcm)
        self.heard += len(pcm)
        self.patience = self._clock() + STALL_S
        self._progress.set()

    def reply(self) -> Pcm:
        """What was heard, cut or filled up to the length of the recording."""
        heard = np.concatenate([np.zeros(0, np.float32), *self._pieces])[: len(self._pcm)]
        return np.pad(heard, (0, len(self._pcm) - len(heard)))

    async def send(self) -> None:
        """The recording, then silence until cancelled."""
        silence = np.zeros(FRAME_SAMPLES, np.float32)
        began, sent = self._clock(), 0
        while True:
            frame = self._pcm[sent : sent + FRAME_SAMPLES]
            await self._conversation.send(frame if len(frame) else silence)
            sent += FRAME_SAMPLES
            if self._fast:
                while sent - self.heard >= AHEAD_S * SAMPLE_RATE:
                    self._progress.clear()
                    await self._progress.wait()
            else:
                await asyncio.sleep(max(0.0, began + sent / SAMPLE_RATE - self._clock()))
