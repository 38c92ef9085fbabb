"""`duologue talk`: a conversation over recordings instead of a microphone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duologue.cli.options import DEFAULT_MODEL, Device, Force, Json, Model, Threads

if TYPE_CHECKING:
    from torch import Tensor

    from duologue.engine import Duplex, Reply
    from duologue.moshi.prompt import SavedVoice


def talk(
    sources: Annotated[
        list[Path], typer.Argument(help="Recordings of the user: WAV, FLAC, Ogg or MP3, any rate.")
    ],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for what the model says.")
    ],
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="For text and audio; the model's if not given.")
    ] = None,
    tail: Annotated[
        float, typer.Option(min=0.0, help="Seconds to go on for after a recording has ended.")
    ] = 2.0,
    quantization: Annotated[
        str | None, typer.Option(help="`int8`; the file's own precision if not given.")
    ] = None,
    voice: Annotated[
        Path | None, typer.Option(help="Voice to take on: a recording, or a saved voice.")
    ] = None,
    role: Annotated[str, typer.Option(help="Role text that the conversation starts with.")] = "",
    stereo: Annotated[
        bool, typer.Option("--stereo", help="Also write both voices, the model's on the left.")
    ] = False,
    threads: Threads = None,
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Play recordings to the model and write down what it says meanwhile.

    Each recording gives OUT/NAME.wav (the model's voice, 24 kHz, frame k answering frame k) and
    OUT/NAME.json (text per frame, settings, timings).

    Examples:

        duologue talk question.wav --output-dir out

        duologue talk *.wav -o out --model path/to/moshiko --temperature 0.7 --seed 3 --stereo
    """
    from duologue.cli.options import use_threads
    from duologue.errors import DuologueError

    names = [source.stem for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DuologueError(f"two recordings are called {twice[0]}; their results would collide")
    talker = _Talker(model, device, quantization, seed, temperature)
    use_threads(threads, talker.duplex.codec, talker.duplex.lm)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DuologueError(f"{output_dir}: cannot be made a folder: {error.strerror}") from error
    for source in sources:
        summary = talker.talk(
            source, output_dir, voice, role, tail, stereo=stereo, force=force, quiet=json_output
        )
        typer.echo(json.dumps(summary) if json_output else _sentence(summary))


class _Talker:
    """Models loaded once for all recordings of a command."""

    def __init__(
        self,
        model: str,
        device: str,
        quantization: str | None,
        seed: int,
        temperature: float | None,
    ) -> None:
        import duologue
        from duologue.checkpoints.folder import ModelFolder, resolve
        from duologue.checkpoints.tokenizer import TextTokenizer
        from duologue.engine import Duplex
        from duologue.errors import DuologueError

        path = resolve(model)
        self.folder = ModelFolder.open(path)
        lm = duologue.load_lm(path, device=device, quantization=quantization)
        codec = duologue.load_codec(path, device=device)
        if not lm.config.dep_q:
            raise DuologueError(f"{model} only writes (it has no voice), so it cannot talk")
        tokenizer = self.folder.path / self.folder.config.tokenizer_name
        self.tokenizer = TextTokenizer(tokenizer) if tokenizer.exists() else None
        self.model, self.seed = model, seed
        sampling = None if temperature is None else duologue.Sampling(temperature)
        self.duplex: Duplex = Duplex(codec, lm, 1, sampling=sampling, seed=seed)

    def talk(
        self,
        source: Path,
        output_dir: Path,
        voice: Path | None,
        role: str,
        tail: float,
        *,
        stereo: bool,
        force: bool,
        quiet: bool,
    ) -> dict[str, Any]:
        """One recording: writes the files, returns a summary."""
        import torch

        from duologue.audio import read_audio, write_wav
        from duologue.checkpoints.save import write_json
        from duologue.cli.options import check_output
        from duologue.cli.streaming import progress_bar
        from duologue.engine import converse

        duplex, codec = self.duplex, self.duplex.codec
        audio_path, trace_path = (output_dir / f"{source.stem}.{kind}" for kind in ("wav", "json"))
        for path in (audio_path, trace_path):
            check_output(path, force)
        pcm = torch.from_numpy(read_audio(source, codec.sample_rate))
        duplex.reset()
        self._prompt(voice, role)
        frame_seconds = 1 / codec.frame_rate
        with progress_bar(quiet) as bar:
            task = bar.add_task(f"talking to {source.name}", total=len(pcm) / codec.sample_rate)

            def on_frame(done: int, total: int) -> None:
                bar.update(task, completed=done * frame_seconds, total=total * frame_seconds)

            reply = converse(
                duplex, pcm, tail_frames=round(tail * codec.frame_rate), on_frame=on_frame
            )
        write_wav(audio_path, reply.pcm.numpy(), codec.sample_rate)
        if stereo:
            heard = torch.nn.functional.pad(pcm, (0, max(0, len(reply.pcm) - len(pcm))))
            both = torch.stack([reply.pcm, heard[: len(reply.pcm)]])
            write_wav(output_dir / f"{source.stem}.stereo.wav", both.numpy(), codec.sample_rate)
        trace = self._trace(source, reply, len(pcm))
        write_json(trace_path, trace)
        return {
            "input": str(source),
            "output": str(audio_path),
            "trace": str(trace_path),
            "text": trace["text"],
            **trace["timings"],
        }

    def _prompt(self, voice: Path | None, role: str) -> None:
        from duologue.errors import DuologueError

        if voice is None and not role:
            return
        import torch

        from duologue.engine.voice import frame_codes
        from duologue.moshi.prompt import Prompt, play_prompt, tagged_role

        codec, books = self.duplex.codec, self.duplex.generator.generated_q
        if role and self.tokenizer is None:
            raise DuologueError("a role needs the model's tokenizer file, which is not there")
        at = torch.arange(codec.frame_size) / codec.sample_rate
        tone = 0.5 * torch.sin(2 * torch.pi * 440.0 * at)
        prompt = Prompt(
            voice=None if voice is None else self._voice(voice),
            role=self.tokenizer.encode(tagged_role(role)) if self.tokenizer and role else (),
            silence=frame_codes(codec, torch.zeros(codec.frame_size), books),
            tone=frame_codes(codec, tone, books),
        )
        play_prompt(self.duplex.generator, prompt, frame_rate=codec.frame_rate)
        self.duplex.state.codec.reset()

    def _voice(self, path: Path) -> Tensor | SavedVoice:
        """A voice from a recording, or one that was saved."""
        from duologue.audio import read_audio
        from duologue.checkpoints.voices import load_voice
        from duologue.engine.voice import voice_codes
        from duologue.moshi.prompt import SavedVoice

        codec, books = self.duplex.codec, self.duplex.generator.generated_q
        if path.suffix not in (".pt", ".pth", ".safetensors"):
            return voice_codes(codec, read_audio(path, codec.sample_rate), books)
        saved = load_voice(path)
        if saved.codes is not None:
            return saved.codes
        assert saved.embeddings is not None
        assert saved.cache is not None
        return SavedVoice(saved.embeddings, saved.cache)

    def _trace(self, source: Path, reply: Reply, samples: int) -> dict[str, Any]:
        """What is known of a conversation, under the published keys where there are some."""
        import numpy as np

        codec, config = self.duplex.codec, self.duplex.lm.config
        silent = {0, 1, 2, config.existing_text_padding_id}
        pieces, text = [], ""
        stream = self.tokenizer.stream() if self.tokenizer else None
        for token in reply.text_tokens:
            if token in silent or self.tokenizer is None or stream is None:
                pieces.append("<pad>" if token in silent else f"<{token}>")
                continue
            pieces.append(self.tokenizer.piece(token))
            text += stream.push(token)
        times = np.array(reply.frame_seconds) * 1000
        duration = len(reply.pcm) / codec.sample_rate
        return {
            "question_end_step": max(0, -(-samples // codec.frame_size) - 1),
            "model_text": pieces,
            "text": text.strip(),
            "text_tokens": reply.text_tokens,
            "model": self.model,
            "input": source.name,
            "seed": self.seed,
            "timings": {
                "seconds": duration,
                "frame_ms_p50": float(np.percentile(times, 50)),
                "frame_ms_p95": float(np.percentile(times, 95)),
                "real_time_factor": float(times.sum() / 1000 / duration) if duration else 0.0,
            },
        }


def _sentence(summary: dict[str, Any]) -> str:
    said = f': "{summary["text"]}"' if summary["text"] else ""
    return (
        f"{summary['output']}: {summary['seconds']:.2f} s, frame {summary['frame_ms_p50']:.1f} ms "
        f"(p95 {summary['frame_ms_p95']:.1f}), {summary['real_time_factor']:.2f} of real time{said}"
    )
