"""Settings of `duologue serve`: flags, then environment, then a TOML file, then these defaults.

Each field is a flag (`--idle-s`), an environment variable (`DUOLOGUE_IDLE_S`) and a key of the TOML
file (`idle_s`); lists are comma-separated in the environment. The published variables in
`PUBLISHED_VARIABLES` count as environment too; those for language models and web search are read by
`duologue.retrieval`. Values are checked once, here: an error names the field and where it was set.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from duologue.errors import DuologueError
from duologue.server.access import MIN_TOKEN_CHARACTERS, is_loopback
from duologue.urls import checked_url

ENV_PREFIX = "DUOLOGUE_"
CONFIG_VARIABLE = "DUOLOGUE_CONFIG"
PUBLISHED_VARIABLES = {
    "REFERENCE_ENCODER_URL": "encoder_url",
    "MOSHI_FEEDBACK_WEBHOOK_URL": "feedback_url",
}
MAX_CONFIG_BYTES = 1 << 20


class SettingsError(DuologueError, ValueError):
    """A setting is not what it should be."""


def _split(value: Any) -> Any:
    """`a, b` -> ("a", "b")."""
    if isinstance(value, str):
        return tuple(item for part in value.split(",") if (item := part.strip()))
    return value


def _url(value: Any) -> Any:
    return checked_url(value) if isinstance(value, str) and value else value


def _named_url(entry: str) -> tuple[str, str]:
    """`NAME=URL` -> (NAME, URL)."""
    name, _, url = entry.partition("=")
    if not name.strip():
        raise ValueError("`NAME=URL` is needed, where that model is served")
    return name.strip(), checked_url(url)


def _named_urls(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        _named_url(entry)
    return entries


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Url = Annotated[str, BeforeValidator(_url)]


class ServerSettings(BaseModel):
    """All settings; what each means is in `docs/server.md`. Durations end in `_s`, in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    # What is served
    model: str = "wren"
    device: str = "auto"
    quantization: str | None = None
    threads: int | None = Field(None, ge=1, le=1024)
    sessions: int = Field(4, ge=1, le=4096)
    voices: Path | None = None
    other_models: Annotated[Names, AfterValidator(_named_urls)] = ()
    stt: str = "auto"
    seed: int | None = Field(None, ge=0, lt=2**63)

    # Where
    host: str = "127.0.0.1"
    port: int = Field(8998, ge=0, le=65535)
    tls: str = "off"
    tunnel: str = ""
    trusted_proxies: Names = ()
    static: Path | None = None

    # For whom
    auth: Literal["auto", "on", "off"] = "auto"
    token: SecretStr | None = None
    allowed_origins: Names = ()
    allowed_hosts: Names = ()

    # How much of it
    sessions_per_client: int = Field(4, ge=1, le=4096)
    connections: int = Field(512, ge=8, le=65_536)
    message_bytes: int = Field(256 * 1024, ge=4096, le=2**20)
    messages_per_s: float = Field(200.0, ge=20, le=100_000)
    idle_s: float = Field(30.0, gt=0, le=3600)
    session_s: float = Field(3600.0, ge=0, le=86_400)
    send_s: float = Field(10.0, gt=0, le=600)
    resume_s: float = Field(60.0, ge=0, le=3600)
    drain_s: float = Field(30.0, ge=0, le=86_400)
    upload_bytes: int = Field(16 * 2**20, ge=1024, le=256 * 2**20)
    documents: int = Field(1000, ge=0, le=1_000_000)

    # How conversations look to clients that do not say
    dialect: Literal["auto", "moshi", "moshirag", "events"] = "auto"
    handshake: Literal["short", "full"] = "short"

    # Who speaks when: whether a policy decides, as the model's folder says when `None`
    floor: bool | None = None

    # What is looked up
    knowledge: Names = ("factbook",)
    knowledge_dir: Path | None = None
    tools: bool = True
    grounded_only: bool = False
    encoder_url: Url = ""
    feedback_url: Url = ""

    # What is written down
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    log_file: Path | None = None
    conversation_logs: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.token and len(self.token.get_secret_value()) < MIN_TOKEN_CHARACTERS:
            raise ValueError(f"token: at least {MIN_TOKEN_CHARACTERS} characters are needed")
        if self.auth == "off" and (self.token or self.tunnel):
            raise ValueError("auth: `off` fits neither a token nor a public tunnel")
        if self.tunnel not in ("", "cloudflared") and not self.tunnel.startswith("ssh:"):
            raise ValueError("tunnel: `cloudflared` or `ssh:DESTINATION`")
        return self

    @property
    def choices(self) -> tuple[tuple[str, str], ...]:
        """Other models that the page offers, by name, and the address of the server of each."""
        return tuple(map(_named_url, self.other_models))

    @property
    def asks_token(self) -> bool:
        """Whether clients must show a token; one is made if none is set."""
        if self.auth != "auto":
            return self.auth == "on"
        return bool(self.token or self.tunnel) or not is_loopback(self.host)

    def shown(self) -> dict[str, Any]:
        """All values as plain data, secrets masked."""
        return self.model_dump(mode="json")

    @classmethod
    def load(
        cls,
        flags: Mapping[str, Any],
        environment: Mapping[str, str],
        config: Path | None = None,
    ) -> Self:
        """Put the sources together; flags that are None or an empty list were not given.

        Raises:
            SettingsError: names the setting, its source and what is wrong.
        """
        if config is None and environment.get(CONFIG_VARIABLE):
            config = Path(environment[CONFIG_VARIABLE])
        sources: dict[str, str] = {}
        values: dict[str, Any] = {}
        for key, value in (_read(config) if config else {}).items():
            values[key], sources[key] = value, f"{key} in {config}"
        for name in cls.model_fields:
            variables = [key for key, field in PUBLISHED_VARIABLES.items() if field == name]
            for variable in (*variables, ENV_PREFIX + name.upper()):
                if given := environment.get(variable, "").strip():
                    values[name], sources[name] = given, variable
        for name, value in flags.items():
            if value is not None and value not in ([], ()):
                values[name], sources[name] = value, f"--{name.replace('_', '-')}"
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = str(first["loc"][0]) if first["loc"] else ""
            reason = first["msg"].removeprefix("Value error, ")
            place = f"{sources.get(field, field)}: " if field else ""
            raise SettingsError(f"{place}{reason[:1].lower()}{reason[1:]}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
