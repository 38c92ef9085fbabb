"""What speech recognition looks like from outside: one small interface for local models, one for
services.

Both give one `Heard` for each frame of the user's audio that they are given, in order, so a
conversation needs to know neither a model nor a wire format. `Heard` has the fields of
`duologue.dialogue.ports.UserFrame`; its notices become warnings there.

A local recogniser is tensors and explicit state, stepped inside the engine's tick for all slots at
once; what it draws becomes text on the host (`WordAssembler`, one for each conversation). A remote
one is a connection for each conversation, which outlives the connection: while the service is
away, frames go on being taken and answered (without words), the loss is reported once, and so is
the return.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from duologue.mimi.codec import Mimi
    from duologue.nn.state import State
    from duologue.stt.words import WordAssembler

SAMPLE_RATE = 24_000
FRAME_RATE = 12.5
FRAME_SIZE = 1920
"""Samples of one frame: 80 ms of mono float32 in [-1, 1]."""


@dataclass(frozen=True)
class Word:
    """A whole word. Times are seconds of the conversation's audio, from its first frame on."""

    text: str
    start_s: float
    end_s: float | None = None
    """None while it is not known; never later than the next word's start."""


@dataclass(frozen=True)
class Transcription:
    """What was said in one recording."""

    words: tuple[Word, ...]
    duration_s: float

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


class Link(Enum):
    """What became of a service; the values are those of `dialogue.events.WarningCode`."""

    LOST = "stt_lost"
    RESTORED = "stt_restored"


@dataclass(frozen=True)
class Notice:
    """The service was lost, or is back. `detail` is for people and holds no secrets."""

    link: Link
    detail: str


@dataclass(frozen=True)
class Heard:
    """What recognition said during one frame.

    `words`, `inactivity` and `transcribed_frame` mean what they mean in `UserFrame`: text pieces
    with their own spaces, as early as they are known; the probability that the user is silent,
    None without an estimate; and the last frame of audio whose words have all been handed in (-1
    before the first), which never goes back. `completed` are the same words once more, whole and
    timed. `ahead` is what a look ahead found: the words beyond those of all frames so far that
    would come if silence followed; None where nobody looked.
    """

    words: tuple[str, ...] = ()
    inactivity: float | None = None
    transcribed_frame: int | None = None
    completed: tuple[Word, ...] = ()
    notices: tuple[Notice, ...] = ()
    ahead: str | None = None


@dataclass(frozen=True)
class Drawn:
    """What one step of a local recogniser gives, on its device."""

    text: Tensor
    """int64 [B]: text token, -2 for inactive slots."""
    inactivity: Tensor
    """float32 [B] in [0, 1]; NaN without an estimate and for inactive slots."""
    vector: Tensor
    """[B, dim]: what the model makes of the user so far, before it chooses a word."""


S = TypeVar("S", bound="State")


class LocalRecogniser(Protocol[S]):
    """A model that recognises all slots of a batch, one frame at a step.

    In a tick: `drawn = recogniser.step(pcm or codes, state, active)` on the device, then, with
    `drawn` on the host, `heard = words[slot].push(token, inactivity)` for each active slot, where
    `words[slot] = recogniser.assembler()` was made when the conversation began.
    """

    @property
    def sample_rate(self) -> int: ...

    @property
    def frame_size(self) -> int: ...

    @property
    def num_codebooks(self) -> int:
        """Codes per frame that it hears."""
        ...

    @property
    def dim(self) -> int:
        """Numbers in `Drawn.vector`."""
        ...

    @property
    def delay_frames(self) -> int:
        """Frames by which words come after the audio."""
        ...

    @property
    def leans(self) -> bool:
        """Whether it can lean towards a vocabulary; set when it was made."""
        ...

    @property
    def baked(self) -> Hashable:
        """What `step` does beside reading and writing tensors depends on: equal while it does the
        same work on the same tensors (see `duologue.runtime.graph`).
        """
        ...

    @property
    def flush_frames(self) -> int:
        """Frames of silence after which all words of the audio before them are out."""
        ...

    def hears_codes_of(self, codec: Mimi) -> bool:
        """Whether `step` may be given that codec's codes, so that nothing is encoded twice."""
        ...

    def init_state(self, batch_size: int, *, encodes: bool = True) -> S:
        """Fresh slots. With `encodes=False` it will be given codes, and has no codec state."""
        ...

    def reset(self, state: S, mask: Tensor | None = None) -> None:
        """Make the slots of `mask` bool [B] (all, when `None`) fresh; others keep every bit.

        Use this, not `state.reset`: a fresh slot is not all zeros.
        """
        ...

    def step(self, heard: Tensor, state: S, active: Tensor | None = None) -> Drawn:
        """Hear one frame: float pcm [B, 1, frame_size] or int64 codes [B, >= num_codebooks, 1]."""
        ...

    def flush(self, state: S, active: Tensor | None = None, encoder: Any = None) -> list[Drawn]:
        """Hear `flush_frames` of silence at once; push them with `WordAssembler.push_silence`.

        The slots go on afterwards with the audio's next frame. On `state.select(slots)` it is a
        look ahead that the conversation does not notice. `encoder` is the state of the codec
        whose codes `step` is given; it is only read.
        """
        ...

    def set_vocabulary(self, words: Iterable[str]) -> int:
        """Lean towards these words from now on, at any time and from any thread; returns how many
        it can lean towards.
        """
        ...

    def assembler(self) -> WordAssembler:
        """Text of one conversation, from its first frame on."""
        ...


class RemoteStream(Protocol):
    """Recognition of one conversation by a service.

    All methods but `aclose` return at once. `push` takes 1920 samples of float32; `take` gives what
    has come since the last call, and is meant to be called once for each frame pushed.
    """

    def push(self, frame: NDArray[np.float32]) -> None:
        """Send a frame; when the service does not keep up, the oldest unsent frames are lost."""
        ...

    def take(self) -> Heard: ...

    def flush(self) -> None:
        """Ask for the words of all audio so far at once; `transcribed_frame` says when they came.

        Without effect on services that can not do it.
        """
        ...

    async def finish(self, timeout_s: float = 5.0) -> Heard:
        """End the audio, wait for its last words (no longer than the timeout), and give them."""
        ...

    async def aclose(self) -> None:
        """End the connection; the stream takes and gives nothing any more."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class RemoteRecogniser(Protocol):
    """A service; one stream for each conversation, all on the running event loop."""

    async def open(self) -> RemoteStream:
        """Begin a conversation. Never fails for the network: an absent service is a notice."""
        ...
