"""`duologue codec`: speech to codes and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from duologue.cli.options import DEFAULT_MODEL, CodecModel, Device, Force, Json, Threads

app = typer.Typer(help="Compress speech into codes, and bring it back.", no_args_is_help=True)

Codebooks = Annotated[
    int | None,
    typer.Option("--codebooks", "-k", min=1, help="Codes per frame; the model's if not given."),
]
CHUNK_SECONDS = 10.0
"""How much is coded at a time: enough for speed, little enough for any recording to fit."""


@app.command()
def encode(
    source: Annotated[Path, typer.Argument(help="Recording: WAV, FLAC, Ogg or MP3, any rate.")],
    target: Annotated[Path, typer.Argument(help="File of codes to write.")],
    model: CodecModel = DEFAULT_MODEL,
    codebooks: Codebooks = None,
    device: Device = "auto",
    threads: Threads = None,
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Encode a recording.

    Examples:

        duologue codec encode speech.wav speech.codes

        duologue codec encode speech.mp3 speech.codes -k 4 --model path/to/mimi.safetensors
    """
    import duologue
    from duologue.audio import read_audio
    from duologue.cli.options import check_output, use_threads
    from duologue.cli.streaming import encode_recording
    from duologue.mimi.codesfile import CodesHeader, pack_codes

    check_output(target, force)
    codec = duologue.load_codec(model, device=device, num_codebooks=codebooks)
    use_threads(threads, codec)
    pcm = read_audio(source, codec.sample_rate)
    begin = time.perf_counter()
    codes = encode_recording(codec, pcm, quiet=json_output)
    seconds = time.perf_counter() - begin
    header = CodesHeader(
        num_codebooks=codes.shape[0],
        frames=codes.shape[1],
        bins=codec.config.quantizer.bins,
        sample_rate=codec.sample_rate,
        frame_rate=codec.frame_rate,
        samples=len(pcm),
        codec=str(model),
    )
    data = pack_codes(codes, header)
    _write(target, data)
    duration = len(pcm) / codec.sample_rate
    _report(
        json_output,
        f"{target}: {duration:.2f} s in {header.frames} frames of {header.num_codebooks} codes, "
        f"{len(data)} bytes ({header.bitrate / 1000:.2f} kbit/s), "
        f"{duration / seconds:.1f} times real time",
        output=str(target),
        seconds=duration,
        frames=header.frames,
        num_codebooks=header.num_codebooks,
        bytes=len(data),
        wall_seconds=seconds,
    )


@app.command()
def decode(
    source: Annotated[Path, typer.Argument(help="File of codes.")],
    target: Annotated[Path, typer.Argument(help="WAV file to write.")],
    model: CodecModel = DEFAULT_MODEL,
    codebooks: Codebooks = None,
    device: Device = "auto",
    threads: Threads = None,
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Decode codes to a 16-bit WAV.

    Examples:

        duologue codec decode speech.codes speech.wav

        duologue codec decode speech.codes rough.wav -k 2
    """
    import duologue
    from duologue.audio import write_wav
    from duologue.cli.options import check_output, use_threads
    from duologue.cli.streaming import decode_recording
    from duologue.mimi.codesfile import CodesError, read_codes

    check_output(target, force)
    codes, header = read_codes(source)
    codec = duologue.load_codec(model, device=device)
    use_threads(threads, codec)
    if header.bins != codec.config.quantizer.bins or header.sample_rate != codec.sample_rate:
        raise CodesError(
            f"{source}: made by a codec ({header.codec or 'unnamed'}) of {header.bins} entries at "
            f"{header.sample_rate} Hz; {model} has {codec.config.quantizer.bins} at "
            f"{codec.sample_rate} Hz"
        )
    begin = time.perf_counter()
    pcm = decode_recording(codec, codes[:codebooks], quiet=json_output)[: header.samples]
    seconds = time.perf_counter() - begin
    write_wav(target, pcm, codec.sample_rate)
    duration = len(pcm) / codec.sample_rate
    _report(
        json_output,
        f"{target}: {duration:.2f} s, {duration / max(seconds, 1e-9):.1f} times real time",
        output=str(target),
        seconds=duration,
        wall_seconds=seconds,
    )


def _write(path: Path, data: bytes) -> None:
    from duologue.errors import DuologueError

    try:
        path.write_bytes(data)
    except OSError as error:
        raise DuologueError(f"{path}: cannot be written: {error.strerror}") from error


def _report(as_json: bool, sentence: str, **values: object) -> None:
    import json

    typer.echo(json.dumps(values) if as_json else sentence)
