"""What is noted of a conversation while it goes: everything that its trace is made from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from duologue.dialogue import (
    AudioFrame,
    CancelLookup,
    Command,
    EncodeReference,
    Event,
    InjectReference,
    Output,
    StartLookup,
)
from duologue.engine.api import FRAME_SAMPLES
from duologue.session.core import ConversationFrame
from duologue.stt.ports import Word

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """One question to one back end; `sequence` is None while it is speculative."""

    lookup: int
    sequence: int | None
    frame: int
    backend: str
    question: str


@dataclass
class Measured:
    """Wall time of one part of the work."""

    seconds: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        self.count += 1


@dataclass
class TalkLog:
    """Lists have one entry a frame where they say so."""

    said: list[Samples] = field(default_factory=list)
    """The model's voice [1920], a frame each; silence while its delays fill."""
    text_tokens: list[int] = field(default_factory=list)
    """Of each frame, as given out."""
    heard: list[str] = field(default_factory=list)
    """What recognition handed in with each frame."""
    words: list[Word] = field(default_factory=list)
    """The same as whole words with times, as far as they are complete."""
    events: list[Event] = field(default_factory=list)
    """All but the audio."""
    asked: list[Asked] = field(default_factory=list)
    frame_seconds: list[float] = field(default_factory=list)
    """Wall time of the step that made each frame, shared with the others of its batch."""
    lookup_seconds: dict[int, float] = field(default_factory=dict)
    """What each lookup really took."""
    encoding_seconds: dict[int, float] = field(default_factory=dict)
    """What the encoding of each reference really took, by sequence number."""
    preparing: Measured = field(default_factory=Measured)
    recognising: Measured = field(default_factory=Measured)
    """By a service, before the conversation."""
    looking_up: Measured = field(default_factory=Measured)
    encoding: Measured = field(default_factory=Measured)

    def frame(self, made: ConversationFrame, seconds: float) -> None:
        """Note what a frame gave, except for its outputs."""
        pcm = made.made.pcm
        self.said.append(np.zeros(FRAME_SAMPLES, np.float32) if pcm is None else pcm)
        self.text_tokens.append(made.made.text)
        self.heard.append("".join(made.heard.words))
        self.words += made.heard.completed
        self.frame_seconds.append(seconds)

    def outputs(self, outputs: list[Output]) -> list[StartLookup | EncodeReference]:
        """Note events and questions; returns what is to be carried out."""
        requests: list[StartLookup | EncodeReference] = []
        for output in outputs:
            match output:
                case StartLookup():
                    question = output.context.question
                    self.asked.append(
                        Asked(
                            output.lookup, output.sequence, output.frame, output.backend, question
                        )
                    )
                    requests.append(output)
                case EncodeReference():
                    requests.append(output)
                case CancelLookup() | InjectReference() | AudioFrame():
                    pass  # it has long ended; done by the core; kept with the frame
                case _:
                    self.events.append(output)
        return requests

    def measured(self, request: Command, seconds: float) -> None:
        """Note how long something that was carried out really took."""
        if isinstance(request, StartLookup):
            self.lookup_seconds[request.lookup] = seconds
            self.looking_up.add(seconds)
        elif isinstance(request, EncodeReference):
            known = self.encoding_seconds.get(request.sequence, 0.0)
            self.encoding_seconds[request.sequence] = known + seconds
            self.encoding.add(seconds)

    @property
    def pcm(self) -> Samples:
        """The model's whole voice."""
        return np.concatenate(self.said) if self.said else np.zeros(0, np.float32)
