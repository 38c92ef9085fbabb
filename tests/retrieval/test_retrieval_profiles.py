"""The published environment variables, with their validation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from duologue.retrieval.profiles import (
    LLMProfiles,
    ProfileError,
    PromptStyle,
    parse_profiles,
    profiles_from_environment,
)
from duologue.urls import checked_url

A: dict[str, Any] = {"id": "a", "base_url": "http://a/v1", "model": "ma"}
B: dict[str, Any] = {"id": "b", "base_url": "https://b/v1/", "model": "mb", "default": True}


def parse(value: object) -> LLMProfiles:
    profiles = parse_profiles(json.dumps(value), fallback_key="common")
    assert profiles is not None
    return profiles


def test_a_list_of_profiles() -> None:
    profiles = parse([A | {"api_key": "own"}, B | {"prompt_style": "simplified"}])
    first, second = profiles.profiles
    assert (first.api_key, second.api_key) == ("own", "common")
    assert (first.prompt_style, second.prompt_style) == (
        PromptStyle.ORIGINAL,
        PromptStyle.SIMPLIFIED,
    )
    assert second.base_url == "https://b/v1"
    assert profiles.default is second


@pytest.mark.parametrize("key", ["prompt_style", "reference_prompt"])
def test_an_object_with_a_common_style(key: str) -> None:
    profiles = parse({"profiles": [A | {"default": "true"}], key: "simplified"})
    assert profiles.default.prompt_style is PromptStyle.SIMPLIFIED
    profiles = parse({"profiles": [A | {key: "original"}], key: "simplified"})
    assert profiles.default.prompt_style is PromptStyle.ORIGINAL


def test_one_profile_is_the_default_by_itself() -> None:
    assert parse([A]).default_id == "a"
    assert parse([A | {"default": "false"}]).default_id == "a"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"profiles": [A], "extra": 1}, "unknown keys: extra"),
        ({"prompt_style": "original"}, "list of profiles"),
        ("text", "list of profiles"),
        ([A, A | {"default": True}], "twice"),
        ([A, {**A, "id": "c"}], "exactly one"),
        ([B, {**B, "id": "c"}], "exactly one"),
        ([{**A, "id": " "}], "profile 0: id"),
        ([{**A, "model": None}], "profile 0: model"),
        ([{"id": "a", "model": "m"}], "profile 0: base_url"),
        ([A | {"default": "maybe"}, B], "profile 0: default"),
        ([A | {"prompt_style": "fancy"}], "original or simplified"),
        ([A | {"api_key": 7}], "api_key"),
        ([A | {"base_url": "ftp://a"}], "http://"),
        ([A | {"base_url": "http://user:pass@a/v1"}], "credentials"),
        (["a"], "not an object"),
    ],
)
def test_mistakes_are_named(value: object, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        parse_profiles(json.dumps(value))


def test_no_json_is_named_too() -> None:
    with pytest.raises(ProfileError, match="not JSON"):
        parse_profiles("[")


def test_the_environment() -> None:
    assert profiles_from_environment({}) is None
    single = {"LLM_BASE_URL": "http://x/v1", "LLM_API_KEY": "k", "LLM_MODEL_NAME": "m"}
    profiles = profiles_from_environment(single)
    assert profiles is not None
    assert (profiles.default.model, profiles.default.api_key) == ("m", "k")
    for empty in ("", " ", "[]"):
        assert profiles_from_environment(single | {"MOSHI_RETRIEVAL_LLMS_JSON": empty}) == profiles
    several = single | {"MOSHI_RETRIEVAL_LLMS_JSON": json.dumps([A, B])}
    profiles = profiles_from_environment(several)
    assert profiles is not None
    assert profiles.default_id == "b"
    assert "k" not in {part.strip("'\"") for part in repr(profiles).replace("=", ",").split(",")}


@pytest.mark.parametrize("url", ["", "x", "http://", "http://a?b=c", "http://a#b", "file:///a"])
def test_base_urls_are_checked(url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        checked_url(url)
