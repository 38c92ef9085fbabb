"""Settings: where they come from, what is refused, and that every one has a flag."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duologue.cli.main import app
from duologue.cli.serve import serve
from duologue.server.settings import ServerSettings, SettingsError

TOKEN = "a-token-of-enough-characters"


def test_flags_then_environment_then_file_then_defaults(tmp_path: Path) -> None:
    file = tmp_path / "duologue.toml"
    file.write_text('port = 1\nhost = "a"\nidle_s = 5\nknowledge = ["x.md"]\n')
    environment = {"DUOLOGUE_PORT": "2", "DUOLOGUE_HOST": "b"}
    settings = ServerSettings.load({"port": 3, "host": None}, environment, file)
    assert (settings.port, settings.host, settings.idle_s) == (3, "b", 5.0)
    assert settings.knowledge == ("x.md",)
    assert settings.sessions == ServerSettings().sessions
    by_variable = ServerSettings.load({}, {"DUOLOGUE_CONFIG": str(file)})
    assert by_variable.port == 1


def test_lists_and_published_variables() -> None:
    settings = ServerSettings.load(
        {},
        {
            "DUOLOGUE_ALLOWED_ORIGINS": "https://a.example, https://b.example,",
            "DUOLOGUE_TOOLS": "false",
            "REFERENCE_ENCODER_URL": "http://encoder:8001/",
            "MOSHI_FEEDBACK_WEBHOOK_URL": "https://hook.example/x",
        },
    )
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.tools is False
    assert settings.encoder_url == "http://encoder:8001"
    assert settings.feedback_url == "https://hook.example/x"
    ours = {"REFERENCE_ENCODER_URL": "http://a", "DUOLOGUE_ENCODER_URL": "http://b"}
    assert ServerSettings.load({}, ours).encoder_url == "http://b"


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"port": 70_000}, {}, "--port: "),
        ({}, {"DUOLOGUE_IDLE_S": "soon"}, "DUOLOGUE_IDLE_S: "),
        ({"sessions_per_client": 0}, {}, "--sessions-per-client: "),
        ({"auth": "maybe"}, {}, "--auth: "),
        ({"tunnel": "gradio"}, {}, "tunnel: "),
        ({"tunnel": "cloudflared", "auth": "off"}, {}, "auth: "),
        ({}, {"DUOLOGUE_TOKEN": "short"}, "token: "),
        ({}, {"REFERENCE_ENCODER_URL": "http://u:secret@host"}, "REFERENCE_ENCODER_URL: "),
        ({"encoder_url": "ftp://host"}, {}, "--encoder-url: "),
        ({"other_models": ["lark"]}, {}, "--other-models: "),
        ({"other_models": ["lark=javascript:x"]}, {}, "--other-models: "),
    ],
)
def test_an_error_names_the_setting_and_its_source(
    flags: dict[str, object], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        ServerSettings.load(flags, environment)
    assert str(error.value).startswith(message)
    assert "secret" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("port = ")
    with pytest.raises(SettingsError, match="not TOML"):
        ServerSettings.load({}, {}, broken)
    with pytest.raises(SettingsError, match="cannot be read"):
        ServerSettings.load({}, {}, tmp_path / "absent.toml")
    unknown = tmp_path / "unknown.toml"
    unknown.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"^prot in .*unknown.toml: extra"):
        ServerSettings.load({}, {}, unknown)


@pytest.mark.parametrize(
    ("flags", "asks"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "192.168.1.5"}, True),
        ({"host": "0.0.0.0", "auth": "off"}, False),
        ({"auth": "on"}, True),
        ({"tunnel": "cloudflared"}, True),
        ({"token": TOKEN}, True),
    ],
)
def test_the_token_is_asked_for_off_loopback(flags: dict[str, object], asks: bool) -> None:
    assert ServerSettings.load(flags, {}).asks_token is asks


def test_what_is_shown_holds_no_secret() -> None:
    settings = ServerSettings.load({}, {"DUOLOGUE_TOKEN": TOKEN})
    assert TOKEN not in str(settings.shown())
    assert TOKEN not in repr(settings)
    assert settings.shown()["port"] == 8998


def test_the_command_without_flags_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("DUOLOGUE_")]:
        monkeypatch.delenv(variable)
    shown = CliRunner().invoke(app, ["serve", "--show-settings"])
    assert json.loads(shown.output) == ServerSettings().shown()
    chosen = CliRunner().invoke(app, ["serve", "--show-settings", "--knowledge", "a", "--no-tools"])
    assert json.loads(chosen.output) == {
        **ServerSettings().shown(),
        "knowledge": ["a"],
        "tools": False,
    }


def test_every_setting_but_the_token_is_a_flag() -> None:
    flags = set(inspect.signature(serve).parameters) - {"context", "config", "show_settings"}
    assert flags == set(ServerSettings.model_fields) - {"token"}
