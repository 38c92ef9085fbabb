"""`duologue encoder`: the reference encoder as a service of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duologue.cli.options import DEFAULT_MODEL, Device, Model, Threads

if TYPE_CHECKING:
    from starlette.applications import Starlette

app = typer.Typer(help="Serve the reference encoder to other processes.", no_args_is_help=True)

KEY_VARIABLE = "REFERENCE_ENCODER_API_KEY"
MAX_CONNECTIONS = 256
"""Requests at once; further ones are refused before they are read."""


@app.callback()
def _group() -> None:
    """Serve the reference encoder to other processes."""


@app.command()
def serve(
    model: Model = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8001,
    device: Device = "auto",
    conditioner: Annotated[
        str | None, typer.Option(help="Its name in the configuration; found if not given.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="Weights of the encoder, where not the model's own.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Its tokenizer.json or .model, where not the model's own.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="As published: configuration file, path or hf://.")
    ] = None,
    moshi_weight: Annotated[
        str | None, typer.Option(help="As published: the model's safetensors, path or hf://.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=KEY_VARIABLE, help="Bearer token that callers must send."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve other machines without a key.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Texts of one batch.")] = 8,
    max_waiting: Annotated[int, typer.Option(min=1, help="Texts in the queue.")] = 64,
    cache_mb: Annotated[int, typer.Option(min=0, help="Rows kept for texts seen before.")] = 64,
    threads: Threads = None,
) -> None:
    """Answer `/embed`, `/spec`, `/health` and `/metrics`; set REFERENCE_ENCODER_URL to use it.

    Examples:

        duologue encoder serve

        duologue encoder serve -m path/to/moshika-rag --device cuda --host 0.0.0.0 --api-key KEY

        duologue encoder serve --config config.json --moshi-weight model.safetensors
    """
    from duologue.errors import DuologueError

    if not (api_key or no_auth or _is_loopback(host)):
        raise DuologueError(
            f"{host} is open to other machines: give --api-key (or {KEY_VARIABLE}), or --no-auth "
            "behind a firewall"
        )
    from duologue.checkpoints.reference import reference_conditioner_name
    from duologue.cli.options import use_threads
    from duologue.encoder.cache import CachedEncoder
    from duologue.encoder.local import LocalEncoder
    from duologue.encoder.metrics import EncoderMetrics
    from duologue.encoder.opening import as_folder, load_row_model, published_folder
    from duologue.encoder.service import create_app
    from duologue.encoder.wire import ServiceSpec

    if (config is None) != (moshi_weight is None):
        raise DuologueError("--config and --moshi-weight go together")
    if config is not None and moshi_weight is not None:
        folder = published_folder(config, moshi_weight)
    else:
        folder = as_folder(model)
    name = reference_conditioner_name(folder, conditioner)
    rows = load_row_model(folder, name=name, weights=encoder, tokenizer=tokenizer, device=device)
    use_threads(threads, rows.encoder)
    rows.encode(["The first text takes longer than all others."])
    metrics = EncoderMetrics()
    batched = LocalEncoder(rows, max_batch=max_batch, max_waiting=max_waiting, metrics=metrics)
    cached = CachedEncoder(batched, max_bytes=cache_mb << 20, metrics=metrics)
    app_ = create_app(cached, ServiceSpec(name), metrics=metrics, api_key=api_key)
    _run(app_, host, port)


def _run(service: Starlette, host: str, port: int) -> None:
    """Listen, say where, and serve until interrupted."""
    import socket

    import uvicorn

    from duologue.errors import DuologueError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise DuologueError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    config = uvicorn.Config(
        service,
        log_level="warning",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"reference encoder at http://{shown}:{listener.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
