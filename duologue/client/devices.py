"""Microphone and loudspeaker through PortAudio (`sounddevice`, the extra `chat`).

The only module that knows the library, and it imports it on use. Devices that cannot run at 24 kHz
run at 48 kHz or 44.1 kHz and are converted here, on PortAudio's thread, 5 ms later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from duologue.client.errors import DeviceError
from duologue.client.events import SAMPLE_RATE, Pcm
from duologue.client.playout import Capture, Playout

RATES = (SAMPLE_RATE, 48_000, 44_100)
BLOCK_S = 0.02
INSTALL = "pip install 'duologue[chat]'"
WITHOUT = "`duologue chat --wav question.wav --out reply.wav` needs no sound card"


class SoundCard(Protocol):
    """Where `terminal` takes speech from and puts it."""

    capture: Capture
    playout: Playout
    on_frame: Callable[[], None]
    """Called on the audio thread when a frame of speech is complete."""


class _Card:
    def __init__(self) -> None:
        self.capture, self.playout = Capture(), Playout()
        self.on_frame: Callable[[], None] = lambda: None


@contextmanager
def open_sound_card(
    input_device: str | None = None, output_device: str | None = None
) -> Iterator[SoundCard]:
    """Both devices running, the system's own unless named (a number or part of a name).

    Raises:
        DeviceError: no library, or no device; says how to get one.
    """
    sound = _library()
    card = _Card()
    with ExitStack() as stack:
        for kind, name in (("input", input_device), ("output", output_device)):
            try:
                stack.enter_context(_stream(sound, card, kind, _chosen(name)))
            except (sound.PortAudioError, ValueError) as error:
                wanted = "microphone" if kind == "input" else "loudspeaker"
                raise DeviceError(
                    f"there is no usable {wanted}: {_reason(error)}; see --list-devices; {WITHOUT}"
                ) from None
        yield card


def list_devices() -> str:
    """The devices as PortAudio lists them."""
    found = str(_library().query_devices())
    return found or f"there are no sound devices; {WITHOUT}"


def _library() -> ModuleType:
    try:
        import sounddevice
    except ImportError:
        raise DeviceError(f"the microphone needs an extra: {INSTALL}; {WITHOUT}") from None
    except OSError:
        raise DeviceError(
            "the PortAudio library is missing; install it (Debian and Ubuntu: libportaudio2, "
            f"Fedora: portaudio); {WITHOUT}"
        ) from None
    return sounddevice


def _chosen(name: str | None) -> int | str | None:
    return int(name) if name is not None and name.isdecimal() else name


def _reason(error: Exception) -> str:
    return str(error.args[0]).strip().splitlines()[0] if error.args else type(error).__name__


def _stream(sound: ModuleType, card: _Card, kind: str, device: int | str | None) -> Any:
    """A stream of one direction at the first rate that the device takes."""
    check = sound.check_input_settings if kind == "input" else sound.check_output_settings
    for rate in RATES:
        try:
            check(device=device, channels=1, dtype="float32", samplerate=rate)
            break
        except sound.PortAudioError:
            if rate == RATES[-1]:
                raise
    opened = sound.InputStream if kind == "input" else sound.OutputStream
    callback = _listening(card, rate) if kind == "input" else _speaking(card, rate)
    return opened(
        samplerate=rate, blocksize=round(rate * BLOCK_S), device=device, channels=1,
        dtype="float32", latency="low", callback=callback,
    )  # fmt: skip


def _listening(card: _Card, rate: int) -> Callable[..., None]:
    convert = _converter(rate, SAMPLE_RATE)

    def callback(indata: Any, frames: int, time: object, status: object) -> None:
        if card.capture.push(convert(indata[:, 0].copy())):
            card.on_frame()

    return callback


def _speaking(card: _Card, rate: int) -> Callable[..., None]:
    convert = _converter(SAMPLE_RATE, rate)
    rest = np.zeros(0, np.float32)
    piece = round(SAMPLE_RATE * BLOCK_S)

    def callback(outdata: Any, frames: int, time: object, status: object) -> None:
        nonlocal rest
        while len(rest) < frames:
            rest = np.concatenate([rest, convert(card.playout.pull(piece))])
        outdata[:, 0] = np.clip(rest[:frames], -1.0, 1.0)
        rest = rest[frames:]

    return callback


def _converter(source_rate: int, target_rate: int) -> Callable[[Pcm], Pcm]:
    if source_rate == target_rate:
        return lambda pcm: pcm
    import torch

    from duologue.audio import Resampler

    resampler = Resampler(source_rate, target_rate)
    state = resampler.init_state(1)

    def convert(pcm: Pcm) -> Pcm:
        with torch.inference_mode():
            return resampler.step(torch.from_numpy(pcm)[None], state)[0].numpy()

    return convert
