"""Seats made and packed up, on the tick thread: new ones, restored ones, snapshots of them."""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import torch

from duologue.dialogue import Conversation, LookupAnswered, SelectBackend
from duologue.engine.api import EngineSettings, SessionOptions, SnapshotError
from duologue.engine.slots import SlotSetup
from duologue.session.conductor import Conductor
from duologue.session.core import ConversationCore
from duologue.session.eventlog import LogWriter, SessionLog
from duologue.session.inputs import InputQueue
from duologue.session.options import options_to_data
from duologue.session.outputs import OutputQueue
from duologue.session.seat import Seat
from duologue.session.snapshot import SessionSnapshot


class Seating:
    """See the module. `wake` is called when a session has a whole frame waiting."""

    def __init__(
        self,
        conductor: Conductor,
        settings: EngineSettings,
        clock: Callable[[], float],
        wake: Callable[[], None],
        logs: LogWriter | None = None,
        keeps_frames: int = 0,
    ) -> None:
        self._conductor, self._settings, self._clock = conductor, settings, clock
        self._wake, self._logs, self._keeps_frames = wake, logs, keeps_frames
        self._model = conductor.bank.model.fingerprint()

    def seat(self, id: str, options: SessionOptions, brain: Conversation, setup: SlotSetup) -> Seat:
        """Let a new conversation begin."""
        with self._slot() as slot:
            seat = self._make(id, slot, options, brain, setup)
            if seat.log is not None:
                seat.log.begin({**self._header(seat), "brain": brain.snapshot()})
            self._conductor.open(seat)
        if options.backend is not None:
            self._conductor.receive(seat, SelectBackend(options.backend))
        return seat

    def seat_again(self, id: str, snapshot: SessionSnapshot, setup: SlotSetup) -> Seat:
        """Let a conversation go on; what was under way outside is in `Seat.pending`.

        Its id is a new one where somebody has it: an earlier try that nobody waited for.

        Raises:
            SnapshotError: it is not one of this model's, or not whole.
        """
        if snapshot.model != self._model:
            raise SnapshotError("this snapshot was taken with another model")
        if id in self._conductor.seats:
            id = secrets.token_hex(8)
        try:
            with self._slot() as slot:
                seat = self._load(id, slot, snapshot, setup)
                # What has come counts; asking again would say it twice.
                answered = [LookupAnswered(lookup, "") for lookup in snapshot.partly]
                self._conductor.open(seat)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise SnapshotError(f"this snapshot does not fit the engine: {error}") from error
        for reply in answered:
            self._conductor.receive(seat, reply)
        for command in snapshot.commands:
            seat.note_pending(command)
        return seat

    def snapshot(self, seat: Seat, resume_token: str) -> SessionSnapshot:
        """Everything a session is now; it goes on.

        Raises:
            SnapshotError: it has ended, or is just being made ready.
        """
        if seat.ended:
            raise SnapshotError("the session has ended")
        if seat.starting is not None:
            raise SnapshotError("the session is being made ready; ask again in a moment")
        core, tensors = seat.core.save()
        return SessionSnapshot(
            model=self._model,
            id=seat.id,
            resume_token=resume_token,
            options=seat.options,
            seed=seat.core.setup.seed,
            core=core,
            tensors=tensors,
            waiting=seat.input.save(),
            events=seat.output.save(),
            commands=[c for key, c in seat.pending.items() if key not in seat.partly],
            partly=sorted(seat.partly),
        )

    @contextlib.contextmanager
    def _slot(self) -> Iterator[int]:
        """A slot, given back when whoever it was taken for is not let in."""
        slot = self._conductor.take_slot()
        try:
            yield slot
        except BaseException:
            self._conductor.give_slot(slot)
            raise

    def _load(self, id: str, slot: int, snapshot: SessionSnapshot, setup: SlotSetup) -> Seat:
        brain = Conversation.restore(snapshot.core["brain"])
        seat = self._make(id, slot, snapshot.options, brain, setup)
        seat.core.load(snapshot.core, snapshot.tensors)
        seat.attached = False  # it stands still until somebody is there to hear it
        seat.input.load(snapshot.waiting, self._clock())
        seat.output.put(snapshot.events)
        if seat.log is not None:
            blob = base64.b64encode(snapshot.to_bytes()).decode()
            seat.log.begin({**self._header(seat), "snapshot": blob})
        return seat

    def _make(
        self, id: str, slot: int, options: SessionOptions, brain: Conversation, setup: SlotSetup
    ) -> Seat:
        settings, bank = self._settings, self._conductor.bank
        conductor = self._conductor
        core = ConversationCore(
            bank, slot, brain, setup,
            flushes=conductor.flushes, keeps_frames=self._keeps_frames,
        )  # fmt: skip
        log = None
        if self._logs is not None:
            log = SessionLog(self._logs, id, audio=settings.log_audio, max_bytes=settings.log_bytes)
        return Seat(
            id=id,
            options=options,
            core=core,
            input=InputQueue(bank.frame_size, settings.input_queue_frames, self._wake),
            output=OutputQueue(settings.output_queue_events),
            changed_s=self._clock(),
            log=log,
        )

    def _header(self, seat: Seat) -> dict[str, Any]:
        """What a replay must know to get the same bits."""
        bank = self._conductor.bank
        return {
            "id": seat.id,
            "model": bank.model.name,
            "fingerprint": self._model,
            "slots": bank.slots,
            "slot": seat.core.slot,
            "gate_db": bank.gate_db,
            "device": str(bank.model.device),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "options": options_to_data(seat.options),
            "seed": seat.core.setup.seed,
        }
