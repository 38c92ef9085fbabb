"""A whole session as bytes: one safetensors blob, plain JSON in its metadata, nothing executable.

It holds the conversation itself, so it is as private as that: what was said, the audio that waits,
and the secret with which its client comes back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.dialogue import AudioFrame, Command, Event, event_from_dict, output_from_dict
from duologue.dialogue.records import RecordError
from duologue.engine.api import SessionOptions, SnapshotError
from duologue.session.options import options_from_data, options_to_data

SNAPSHOT_VERSION = 2
_KEY = "duologue_session"


@dataclass(frozen=True)
class SessionSnapshot:
    """What a session is between two frames."""

    model: str
    """Fingerprint of the model it runs on."""
    id: str
    resume_token: str
    options: SessionOptions
    seed: int
    """The one in use, also when the options name none."""
    core: dict[str, Any]
    tensors: dict[str, Tensor]
    """Of the core, by its own names."""
    waiting: NDArray[np.float32]
    """Samples that no frame has been made of yet."""
    events: list[Event]
    """Put out and not taken yet."""
    commands: list[Command]
    """Under way outside."""
    partly: list[int]
    """Lookups under way that have answered in part; they end with that."""

    def to_bytes(self) -> bytes:
        """Write it."""
        tensors = {f"core.{name}": tensor for name, tensor in self.tensors.items()}
        tensors["waiting"] = torch.from_numpy(self.waiting)
        events: list[dict[str, Any]] = []
        for index, event in enumerate(self.events):
            if isinstance(event, AudioFrame):
                tensors[f"event.{index}"] = torch.from_numpy(np.asarray(event.payload))
                event = event.without_payload()
            events.append(event.to_dict())
        data = {
            "version": SNAPSHOT_VERSION,
            "model": self.model,
            "id": self.id,
            "resume_token": self.resume_token,
            "options": options_to_data(self.options),
            "seed": self.seed,
            "core": self.core,
            "events": events,
            "commands": [command.to_dict() for command in self.commands],
            "partly": self.partly,
        }
        return safetensors.torch.save(tensors, metadata={_KEY: json.dumps(data)})

    @classmethod
    def from_bytes(cls, blob: bytes) -> SessionSnapshot:
        """Read it.

        Raises:
            SnapshotError: these bytes are something else, or of another version.
        """
        try:
            tensors = safetensors.torch.load(blob)
            data = json.loads(_metadata(blob)[_KEY])
            if data["version"] != SNAPSHOT_VERSION:
                raise SnapshotError(
                    f"a snapshot of version {data['version']}; this program reads "
                    f"{SNAPSHOT_VERSION}"
                )
            events = [event_from_dict(event) for event in data["events"]]
            for index, event in enumerate(events):
                if isinstance(event, AudioFrame):
                    payload = tensors.pop(f"event.{index}").numpy()
                    events[index] = AudioFrame(event.frame, payload)
            commands: list[Any] = [output_from_dict(command) for command in data["commands"]]
            return cls(
                model=data["model"],
                id=data["id"],
                resume_token=data["resume_token"],
                options=options_from_data(data["options"]),
                seed=data["seed"],
                core=data["core"],
                waiting=tensors.pop("waiting").numpy(),
                tensors={name.removeprefix("core."): value for name, value in tensors.items()},
                events=events,
                commands=commands,
                partly=data["partly"],
            )
        except SnapshotError:
            raise
        except (
            safetensors.SafetensorError, RecordError, KeyError, TypeError, ValueError,
        ) as error:  # fmt: skip
            raise SnapshotError(f"these bytes are no session snapshot ({error})") from error


def _metadata(blob: bytes) -> dict[str, str]:
    """The metadata block, which the package's in-memory reader leaves out."""
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    return dict(header["__metadata__"])
