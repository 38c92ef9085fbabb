"""`duologue chat` in a terminal: microphone in, loudspeaker out, and a picture of it.

Everything that has to be undone (screen, keys, signals) is a context manager, so that Ctrl-C, a
fault and a plain end leave the terminal alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.live import Live

from duologue.client.conversation import Conversation
from duologue.client.devices import SoundCard
from duologue.client.errors import ClientError, ConversationOver
from duologue.client.events import Interrupted, Opened, Resumed, Sound
from duologue.client.keys import keys
from duologue.client.levels import level_db
from duologue.client.playout import Hold
from duologue.client.screen import View, draw
from duologue.dialogue import SessionEnded, Warning

REFRESH_S = 0.08


class Terminal:
    """One conversation at the terminal; `run` returns what it amounted to in `view.chronicle`."""

    def __init__(
        self,
        conversation: Conversation,
        card: SoundCard,
        console: Console,
        *,
        key_descriptor: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conversation, self._card, self._console = conversation, card, console
        self._key_descriptor, self._clock = key_descriptor, clock
        self._hold = Hold()
        self._spoken = asyncio.Event()
        self._quit = asyncio.Event()
        self._commands: set[asyncio.Task[None]] = set()
        self.view = View(server=conversation.address.shown)

    async def run(self) -> None:
        """Talk until someone ends it.

        Raises:
            ConnectionLost: the conversation broke and could not be resumed.
        """
        loop = asyncio.get_running_loop()
        self._card.on_frame = lambda: _call(loop, self._spoken.set)
        began = self._clock()
        with (
            Live(console=self._console, screen=True, auto_refresh=False) as live,
            keys(self.press, self._key_descriptor),
            _ending_signals(self._quit.set),
        ):
            speaking = asyncio.create_task(self._speak())
            listening = asyncio.create_task(self._listen())
            quitting = asyncio.create_task(self._quit.wait())
            tasks = (speaking, listening, quitting)
            try:
                while not any(task.done() for task in tasks):
                    self.view.elapsed_s = self._clock() - began
                    size = self._console.size
                    live.update(draw(self.view, size.width, size.height), refresh=True)
                    await asyncio.wait(
                        tasks, timeout=REFRESH_S, return_when=asyncio.FIRST_COMPLETED
                    )
                if listening.done():
                    listening.result()
                elif speaking.done():
                    speaking.result()
                    await listening  # it knows why there is nobody to speak to
            finally:
                for task in (*tasks, *self._commands):
                    task.cancel()
                await asyncio.gather(*tasks, *self._commands, return_exceptions=True)

    def press(self, key: str) -> None:
        """Do what a key says; others do nothing."""
        match key:
            case "q":
                self._quit.set()
            case "m":
                self.view.muted = not self.view.muted
            case "i":
                self._card.playout.clear()
                self._hold.begin()
                self.view.holding = True
                self._command(self._conversation.interrupt())
            case "r":
                self._card.playout.clear()
                self._command(self._conversation.reset())

    def _command(self, asked: object) -> None:
        async def ask() -> None:
            try:
                await asked  # type: ignore[misc]
            except ConversationOver:
                return
            except ClientError as error:
                self.view.notice = str(error)

        task = asyncio.create_task(ask())
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _speak(self) -> None:
        """The microphone, or silence in its place while it is muted: the model is clocked by it."""
        with contextlib.suppress(ConversationOver):
            while True:
                self._spoken.clear()
                while (frame := self._card.capture.take()) is not None:
                    self.view.user_db = level_db(frame)
                    await self._conversation.send(
                        np.zeros_like(frame) if self.view.muted else frame
                    )
                await self._spoken.wait()

    async def _listen(self) -> None:
        async for event in self._conversation:
            self.view.chronicle.add(event)
            match event:
                case Sound(pcm):
                    if self._hold.passes(pcm):
                        self._card.playout.push(pcm)
                    self.view.holding = self._hold.active
                case Opened(model=model):
                    self.view.model = model or self.view.model
                case Interrupted(reason):
                    self.view.notice = f"{reason}; coming back ..."
                case Resumed(after_s):
                    self.view.notice = f"back after {after_s:.1f} s"
                case Warning(code=code):
                    self.view.notice = f"warning: {code.value.replace('_', ' ')}"
                case SessionEnded():
                    self.view.notice = "the server ended the conversation"


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """From the audio thread, which may be later than the loop's end."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


@contextmanager
def _ending_signals(end: Callable[[], None]) -> Iterator[None]:
    """A polite kill and a closed terminal end the conversation as `q` does."""
    loop = asyncio.get_running_loop()
    caught = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    with contextlib.ExitStack() as stack:
        for number in caught:
            # Only the main thread of a Unix program may do this.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, end)
                stack.callback(loop.remove_signal_handler, number)
        yield
