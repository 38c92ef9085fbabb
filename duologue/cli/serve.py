"""`duologue serve`: the server, with a flag for every setting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from duologue.server.assembly import Loaded

_MODEL, _PLACE, _ACCESS = "What is served", "Where", "For whom"
_LIMITS, _TALK, _LOOKUP, _LOGS = "How much of it", "Conversations", "Lookups", "Logs"

Text = str | None
Number = int | None
Seconds = float | None


def _flag(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def serve(
    context: typer.Context,
    model: Annotated[
        Text, _flag(_MODEL, "Bundled name, folder or hub id. [wren]", "--model", "-m")
    ] = None,
    device: Annotated[Text, _flag(_MODEL, "`auto`, `cpu`, `cuda`, `cuda:1`. [auto]")] = None,
    quantization: Annotated[
        Text, _flag(_MODEL, "`int8` or `int4`. [the file's own precision]")
    ] = None,
    threads: Annotated[Number, _flag(_MODEL, "CPU threads. [as suits the model]")] = None,
    sessions: Annotated[Number, _flag(_MODEL, "Conversations at a time. [4]")] = None,
    voices: Annotated[Path | None, _flag(_MODEL, "Folder of voices to choose from.")] = None,
    stt: Annotated[
        Text, _flag(_MODEL, "Recogniser: `auto`, `none`, `gradium`, a model. [auto]")
    ] = None,
    seed: Annotated[Number, _flag(_MODEL, "Seed of sessions without one. [random]")] = None,
    host: Annotated[Text, _flag(_PLACE, "Address to listen at. [127.0.0.1]")] = None,
    port: Annotated[Number, _flag(_PLACE, "Port; 0 takes a free one. [8998]")] = None,
    tls: Annotated[
        Text, _flag(_PLACE, "`off`, `self-signed`, or a folder with cert.pem and key.pem. [off]")
    ] = None,
    tunnel: Annotated[
        Text, _flag(_PLACE, "Public address: `cloudflared` or `ssh:[PORT:]user@host`.")
    ] = None,
    trusted_proxies: Annotated[
        list[str] | None, _flag(_PLACE, "Proxy whose X-Forwarded-For is believed.")
    ] = None,
    static: Annotated[Path | None, _flag(_PLACE, "Folder of another web page.")] = None,
    auth: Annotated[
        Text, _flag(_ACCESS, "Ask for the token: `auto` (off loopback), `on`, `off`. [auto]")
    ] = None,
    allowed_origins: Annotated[
        list[str] | None, _flag(_ACCESS, "Further origin whose pages may connect.")
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None, _flag(_ACCESS, "Further name to answer to without a token.")
    ] = None,
    sessions_per_client: Annotated[Number, _flag(_LIMITS, "Sessions of one address. [4]")] = None,
    connections: Annotated[Number, _flag(_LIMITS, "Connections in all. [512]")] = None,
    message_bytes: Annotated[Number, _flag(_LIMITS, "Largest message. [262144]")] = None,
    messages_per_s: Annotated[Seconds, _flag(_LIMITS, "Messages read of one client. [200]")] = None,
    idle_s: Annotated[Seconds, _flag(_LIMITS, "Longest time without audio. [30]")] = None,
    session_s: Annotated[Seconds, _flag(_LIMITS, "Longest session; 0: no limit. [3600]")] = None,
    send_s: Annotated[Seconds, _flag(_LIMITS, "Patience with a client not reading. [10]")] = None,
    resume_s: Annotated[Seconds, _flag(_LIMITS, "Time for a lost client to return. [60]")] = None,
    drain_s: Annotated[Seconds, _flag(_LIMITS, "Time for sessions to end on SIGTERM. [30]")] = None,
    upload_bytes: Annotated[Number, _flag(_LIMITS, "Largest document. [16777216]")] = None,
    documents: Annotated[Number, _flag(_LIMITS, "Documents in all. [1000]")] = None,
    dialect: Annotated[
        Text, _flag(_TALK, "For clients that do not say: `moshi`, `moshirag`, `events`. [auto]")
    ] = None,
    handshake: Annotated[Text, _flag(_TALK, "Likewise: `short` or `full`. [short]")] = None,
    floor: Annotated[
        bool | None,
        _flag(
            _TALK,
            "A policy decides when the model may speak. [as the model's folder says]",
            "--floor/--no-floor",
        ),
    ] = None,
    knowledge: Annotated[
        list[str] | None, _flag(_LOOKUP, "Document or folder to answer from; `none`. [factbook]")
    ] = None,
    knowledge_dir: Annotated[
        Path | None, _flag(_LOOKUP, "Keep the index and uploads here. [until the end]")
    ] = None,
    tools: Annotated[
        bool | None, _flag(_LOOKUP, "Calculator, clock and units. [on]", "--tools/--no-tools")
    ] = None,
    grounded_only: Annotated[
        bool | None,
        _flag(_LOOKUP, "Only answers with a source. [off]", "--grounded-only/--no-grounded-only"),
    ] = None,
    encoder_url: Annotated[Text, _flag(_LOOKUP, "Reference encoder service.")] = None,
    feedback_url: Annotated[Text, _flag(_LOOKUP, "Webhook that gets session feedback.")] = None,
    log_level: Annotated[Text, _flag(_LOGS, "debug, info, warning, error. [info]")] = None,
    log_format: Annotated[Text, _flag(_LOGS, "`text` or `json`. [text]")] = None,
    log_file: Annotated[Path | None, _flag(_LOGS, "Append to a file. [standard error]")] = None,
    conversation_logs: Annotated[
        Path | None, _flag(_LOGS, "Folder for conversations, SPEECH AND TEXT included.")
    ] = None,
    other_models: Annotated[
        list[str] | None, _flag(_MODEL, "`NAME=URL` of another server, for the page to offer.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print the settings as JSON and end.")
    ] = False,
) -> None:
    """Serve conversations: a web page, the chat protocol of Moshi, and an HTTP interface.

    A flag `--idle-s` is also the variable `DUOLOGUE_IDLE_S` and the key `idle_s` of a TOML file;
    flags win over variables, variables over the file. The token is `DUOLOGUE_TOKEN`: a flag would
    show it to everybody on this machine.

    Examples:

        duologue serve

        duologue serve --host 0.0.0.0 --tls self-signed --knowledge handbook.md

        duologue serve --tunnel cloudflared --sessions 2
    """
    own = ("config", "show_settings")
    flags = {name: value for name, value in context.params.items() if name not in own}
    from duologue.cli.options import use_threads
    from duologue.server.settings import ServerSettings

    settings = ServerSettings.load(flags, os.environ, config)
    if show_settings:
        typer.echo(json.dumps(settings.shown(), indent=1))
        return

    def tune(loaded: Loaded) -> None:
        use_threads(settings.threads, loaded.model.codec, loaded.model.lm)

    from duologue.server.serve import serve as run

    run(settings, os.environ, say=typer.echo, tune=tune)
