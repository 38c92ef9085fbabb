"""Replaying an event log: the same conversation again, and whether it is the same to the bit.

Every frame's audio and every reply and control are given to a fresh slot as they were then; what
comes of them is compared with what the log says came of them. The bits are those of the same model
on the same kind of device with the same number of slots and threads, which the log names.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duologue.dialogue import AudioFrame, Conversation, FrameInput, Output, input_from_dict
from duologue.dialogue.records import RecordError
from duologue.engine.model import LoadedModel
from duologue.engine.slots import SlotBank
from duologue.errors import DuologueError
from duologue.session.core import ConversationCore, FrameGiven, advance, frame_digest
from duologue.session.eventlog import (
    LOG_VERSION,
    plain_outputs,
    unpack_floats,
    unpack_heard,
    unpack_pcm,
    unpack_rows,
)
from duologue.session.options import options_from_data, slot_setup
from duologue.session.snapshot import SessionSnapshot

_HEADER_KEYS = frozenset(
    {"model", "fingerprint", "slots", "gate_db", "threads", "slot", "seed", "options"}
)


class LogError(DuologueError, ValueError):
    """A file that is no event log, or one that cannot be replayed; the message says why."""


@dataclass(frozen=True)
class ReplayReport:
    """How a replay went."""

    frames: int
    difference: str
    """Where the replay and the log first differ, empty when they are the same."""
    complete: bool
    """Whether the log goes on to the session's end."""
    pcm: NDArray[np.float32] = field(repr=False)
    """What the model said, one frame after the other."""


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log, checked to begin with a `session` of a known version.

    A last line that was cut short is left out: its writer was killed, or the disk was full.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line.decode())
                kind = record["record"]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if number > 1 and not line.endswith(b"\n"):
                    return
                raise LogError(f"{path}:{number}: not a record of an event log") from error
            if number == 1:
                if kind != "session" or record.get("version") != LOG_VERSION:
                    raise LogError(f"{path}: not an event log of version {LOG_VERSION}")
                if missing := _HEADER_KEYS - record.keys():
                    lacks = ", ".join(sorted(missing))
                    raise LogError(f"{path}: damaged, its first record lacks {lacks}")
            yield record


def read_header(path: Path) -> dict[str, Any]:
    """What a log says about its session's beginning."""
    for record in read_log(path):
        return record
    raise LogError(f"{path}: empty")


def replay(
    path: Path, model: LoadedModel, *, on_frame: Callable[[int], None] | None = None
) -> ReplayReport:
    """Replay a log; `on_frame` is told how many frames are done.

    Raises:
        LogError: it is of another model, holds no audio, or is damaged.
    """
    records = read_log(path)
    header = next(records, None)
    if header is None:
        raise LogError(f"{path}: empty")
    complete = False
    try:
        player = _Player(_core(header, model, path))
        for record in records:
            player.play(record)
            complete = record["record"] == "end"
            if player.difference:
                break
            if on_frame is not None:
                on_frame(player.frames)
    except LogError:
        raise
    except (KeyError, TypeError, ValueError, RecordError) as error:
        raise LogError(f"{path}: a damaged record ({error})") from error
    pcm = np.concatenate(player.said) if player.said else np.zeros(0, np.float32)
    return ReplayReport(player.frames, player.difference, complete, pcm)


def _core(header: Mapping[str, Any], model: LoadedModel, path: Path) -> ConversationCore:
    """The conversation as it was at the log's beginning."""
    if header["fingerprint"] != model.fingerprint():
        raise LogError(f"{path}: made with another model ({header['model']})")
    bank = SlotBank(model, header["slots"], gate_db=header["gate_db"])
    setup = slot_setup(model, options_from_data({**header["options"], "seed": header["seed"]}))
    if "snapshot" in header:
        saved = SessionSnapshot.from_bytes(base64.b64decode(header["snapshot"]))
        brain = Conversation.restore(saved.core["brain"])
        core = ConversationCore(bank, header["slot"], brain, setup)
        core.load(saved.core, saved.tensors)
        return core
    return ConversationCore(bank, header["slot"], Conversation.restore(header["brain"]), setup)


@dataclass
class _Player:
    core: ConversationCore
    frames: int = 0
    difference: str = ""
    said: list[NDArray[np.float32]] = field(default_factory=list)

    def play(self, record: Mapping[str, Any]) -> None:
        """Give one record to the conversation and compare."""
        match record["record"]:
            case "frame":
                self._frame(record)
            case "receive":
                given = input_from_dict(record["given"])
                if isinstance(given, FrameInput):
                    raise LogError("a frame where a reply or control belongs")
                rows = None if record["rows"] is None else unpack_rows(record["rows"])
                self._compare(record, self.core.receive(given, rows))

    def _frame(self, record: Mapping[str, Any]) -> None:
        core = self.core
        if record["pcm"] is None:
            raise LogError("this log was written without audio; it cannot be replayed")
        if core.needs_start:
            for _ in core.prepare():
                pass
        told = record.get("told")
        given = FrameGiven(
            unpack_pcm(record["pcm"]),
            unpack_heard(record["heard"]),
            None if told is None else unpack_floats(told),
        )
        made = advance(core.bank, {core: given})[core]
        if isinstance(made, Exception):
            self.difference = f"frame {record['frame']}: {made}"
            return
        self.frames += 1
        self.said += [e.payload for e in made.outputs if isinstance(e, AudioFrame)]  # type: ignore[misc]
        if frame_digest(made.made) != record["digest"]:
            self.difference = f"frame {record['frame']}: the model made other bits"
            return
        self._compare(record, made.outputs)

    def _compare(self, record: Mapping[str, Any], outputs: list[Output]) -> None:
        plain = json.loads(json.dumps(plain_outputs(outputs)))
        if plain == record["outputs"]:
            return
        at = self.core.brain.frame
        pairs = zip([*plain, None], [*record["outputs"], None], strict=False)
        mine, theirs = next(((a, b) for a, b in pairs if a != b), (None, None))
        names = [one["type"] if one else "nothing" for one in (mine, theirs)]
        self.difference = f"after frame {at}: {names[0]} in the replay, {names[1]} in the log"
