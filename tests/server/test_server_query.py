"""What a URL may ask for."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.engine.api import MAX_REPETITION_CONTEXT, Wording
from duologue.server.protocols.kyutai.query import AudioFormat, ChatQuery, Dialect
from duologue.server.refusals import Refusal

WEB_CLIENT = (
    "text_temperature=0.7&text_topk=25&audio_temperature=0.8&audio_topk=250&pad_mult=0"
    "&repetition_penalty_context=64&repetition_penalty=1&text_seed=571291&audio_seed=998123"
    "&worker_auth_id=abc&email=me%40example.org&image_url=&image_resolution=448"
)
"""What the published web client sends."""


def test_published_web_client() -> None:
    query = ChatQuery.parse(dict(parse_qsl(WEB_CLIENT, keep_blank_values=True)))
    assert (query.text_temperature, query.text_topk) == (0.7, 25)
    assert (query.audio_temperature, query.audio_topk) == (0.8, 250)
    assert query.combined_seed == 998123 << 32 ^ 571291
    assert query.dialect is None
    assert query.audio is AudioFormat.OPUS
    assert query.wording == Wording(repetition_context=64), "its defaults change nothing"


def test_personaplex_client() -> None:
    query = ChatQuery.parse(
        {"text_prompt": "You are kind.", "voice_prompt": "NATF2.pt", "seed": "-1"}
    )
    assert query.text_prompt == "You are kind."
    assert query.voice_id == "NATF2"
    assert query.combined_seed is None, "-1 asks for a random one"


def test_wording() -> None:
    def wording(**given: str) -> Wording:
        return ChatQuery.parse(given).wording

    assert wording() == Wording()
    assert wording(pad_mult="-1.5") == Wording(pad_mult=-1.5)
    both = wording(repetition_penalty="1.2", repetition_penalty_context="40")
    assert both == Wording(repetition_penalty=1.2, repetition_context=40)
    assert wording(repetition_penalty="1.2") == Wording(), "needs both, as published"
    assert wording(repetition_penalty_context="40") == Wording()
    longest = wording(repetition_penalty="2", repetition_penalty_context="100000")
    assert longest.repetition_context == MAX_REPETITION_CONTEXT


def test_seeds() -> None:
    def seed(**given: str) -> int | None:
        return ChatQuery.parse(given).combined_seed

    assert seed() is None
    assert seed(seed="0") == 0
    assert seed(text_seed="5") == 5
    assert seed(audio_seed="5") == 5 << 32
    assert seed(text_seed="-1", audio_seed="-1") is None
    assert seed(text_seed="-1", audio_seed="3") == 3 << 32
    assert seed(seed="7", text_seed="5") == 7
    assert seed(text_seed="5", audio_seed="6") != seed(text_seed="6", audio_seed="5")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text_temperature", "warm"),
        ("text_temperature", "-1"),
        ("audio_temperature", "nan"),
        ("audio_temperature", "1e9"),
        ("text_topk", "2.5"),
        ("audio_topk", "-3"),
        ("max_steps", "0"),
        ("pad_mult", "101"),
        ("repetition_penalty", "0"),
        ("repetition_penalty_context", "-1"),
        ("seed", "-2"),
        ("seed", str(2**63)),
        ("audio", "mp3"),
        ("dialect", "latin"),
        ("handshake", "firm"),
        ("init_speaker", "nobody"),
        ("text_prompt", "x" * 8001),
        ("resume", "x" * 201),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: str) -> None:
    with pytest.raises(Refusal) as refused:
        ChatQuery.parse({name: value})
    assert refused.value.status == 400
    assert refused.value.message.startswith(f"{name}: ")
    assert len(refused.value.message) < 200, "a value is not repeated at length"


def test_unknown_and_empty_parameters_are_ignored() -> None:
    assert ChatQuery.parse({"foo": "bar", "text_topk": "", "audio": " "}) == ChatQuery()
    assert ChatQuery.parse({"dialect": "events"}).dialect is Dialect.EVENTS


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(ChatQuery.__struct_fields__), st.text(max_size=30)))
def test_any_query_is_read_or_refused(parameters: dict[str, str]) -> None:
    try:
        query = ChatQuery.parse(parameters)
    except Refusal:
        return
    assert query.combined_seed is None or 0 <= query.combined_seed < 2**63
