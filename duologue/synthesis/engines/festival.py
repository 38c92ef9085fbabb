"""festival: diphone voices and a 32 kHz HTS voice, from one process that stays running.

Voices of other languages speak English through `foreign.py`.

Starting festival takes longer than speaking a sentence, so each Python process keeps one festival
and talks to it in Scheme. A festival that dies or hangs is replaced once per request.
"""

from __future__ import annotations

import atexit
import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from duologue.synthesis.engines import foreign
from duologue.synthesis.engines.program import (
    PACKAGES,
    TIMEOUT_S,
    MissingProgramError,
    Phone,
    Speech,
    SynthesizerError,
    find,
    parse_wav,
)

_DONE = "end-of-utterance"
_ERROR = re.compile(rb"ERROR.*\n")
_UNKNOWN_VOICE = re.compile(r"unbound variable ?: voice_(\w+)")
# Tokens are numbered from 1, for festival answers 0 where there is nothing: at a pause.
_PROGRAM = r"""
(define (say-phones u)
  (mapcar
    (lambda (s)
      (if (string-equal (item.feat s "inserted") "0")
          (format t "%s %f %s\n" (item.name s) (item.feat s "end")
            (item.feat s "R:SylStructure.parent.parent.R:Token.parent.place"))))
    (utt.relation.items u 'Segment)))
(define (number-tokens token place)
  (if token
      (begin (item.set_feat token "place" place)
             (number-tokens (item.next token) (+ 1 place)))))
(define (find-voice name)
  (let ((place (assoc_string name voice-locations)))
    (if place (format t "%s\n" (cdr place)))
    (format t "%s\n" "END")
    (fflush nil)))
(define (say voice stretch pitch text out)
  (set! foreign-pitch pitch)
  (eval (list voice))
  (Parameter.set 'Duration_Stretch stretch)
  (let ((u (eval (list 'Utterance 'Text text))))
    (utt.synth u)
    (number-tokens (utt.relation.first u 'Token) 1)
    (utt.save.wave u out 'riff)
    (say-phones u)
    (format t "%s\n" "END")
    (fflush nil)))
""".replace("END", _DONE)


class _Festival:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="festival-")
        self._out = Path(self._folder.name) / "out.wav"
        self._process = subprocess.Popen(
            [find("festival"), "--pipe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._learnt: set[str] = set()
        self._write(foreign.PROGRAM + _PROGRAM)

    def say(self, text: str, voice: str, stretch: float, pitch: float) -> Speech:
        if voice in foreign.VOICES:
            self._learn(voice)
        self._out.unlink(missing_ok=True)
        escaped = text.replace("\\", " ").replace('"', " ")
        self._write(f'(say \'voice_{voice} {stretch:.3f} {pitch:.3f} "{escaped}" "{self._out}")\n')
        lines = self._read_until_done()
        data = self._out.read_bytes() if self._out.exists() else b""
        samples, rate = parse_wav(data, "festival")
        phones, last = [], 0.0
        for name, end, place in (line.split() for line in lines if len(line.split()) == 3):
            phones.append(Phone(name, last, float(end), int(place) - 1))
            last = float(end)
        return Speech(samples, rate, tuple(phones))

    def _learn(self, voice: str) -> None:
        """Make a voice of `foreign.VOICES` known."""
        if voice in self._learnt:
            return
        name = foreign.VOICES[voice].name
        self._write(f'(find-voice "{name}")\n')
        found = [line for line in self._read_until_done() if line != _DONE]
        if not found:
            raise _missing(name, foreign.PACKAGES)
        self._write(foreign.definition(voice, Path(found[-1])))
        self._learnt.add(voice)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._folder.cleanup()

    def _write(self, scheme: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(scheme.encode("latin-1", errors="replace"))
        self._process.stdin.flush()

    def _read_until_done(self) -> list[str]:
        assert self._process.stdout
        deadline = time.monotonic() + TIMEOUT_S
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not received.endswith(f"{_DONE}\n".encode()):
                if _ERROR.search(received):
                    reason = received.decode(errors="replace").strip()[-300:]
                    if unknown := _UNKNOWN_VOICE.search(reason):
                        raise _missing(unknown[1], PACKAGES["festival"][1:])
                    raise SynthesizerError(f"festival failed: {reason}")
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise SynthesizerError(f"festival did not answer within {TIMEOUT_S:g} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise SynthesizerError("festival ended unexpectedly")
                received += chunk
        return received.decode(errors="replace").splitlines()


def _missing(voice: str, packages: Sequence[str]) -> MissingProgramError:
    return MissingProgramError(
        f"festival has no voice {voice}; on Debian or Ubuntu: apt-get install {' '.join(packages)}"
    )


_running: dict[int, _Festival] = {}


def speak(text: str, voice: str, stretch: float = 1.0, pitch: float = 1.0) -> Speech:
    """Say a text, with phone times.

    Args:
        stretch: durations relative to the voice's own; diphone voices only.
        pitch: relative to the voice's own; voices of `foreign.py` only.
    """
    try:
        return _own().say(text, voice, stretch, pitch)
    except MissingProgramError:
        close()
        raise
    except (SynthesizerError, OSError):
        close()
    try:
        return _own().say(text, voice, stretch, pitch)
    except (SynthesizerError, OSError) as error:
        close()
        raise SynthesizerError(f"festival failed twice on {text!r}: {error}") from error


def _own() -> _Festival:
    """This process's festival; one inherited through a fork is never used."""
    if os.getpid() not in _running:
        _running[os.getpid()] = _Festival()
    return _running[os.getpid()]


@atexit.register
def close() -> None:
    """End this process's festival, if it runs one."""
    if festival := _running.pop(os.getpid(), None):
        festival.close()
