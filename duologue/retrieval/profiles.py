"""Which language models may be asked: `MOSHI_RETRIEVAL_LLMS_JSON` and `LLM_*`, as published.

The variable holds a JSON array of profiles, or an object with `profiles` and a common
`prompt_style` (also spelled `reference_prompt`). A profile has `id`, `base_url` and `model`;
optionally `api_key` (else LLM_API_KEY), `default` (true, false, "true", "false") and `prompt_style`
("original" or "simplified"). Ids are unique, and of several profiles exactly one is the default.

Without profiles, LLM_BASE_URL, LLM_API_KEY and LLM_MODEL_NAME make one. One profile is used as it
stands (the published Python server took only its prompt style and asked LLM_BASE_URL instead).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from duologue.errors import DuologueError
from duologue.urls import checked_url

logger = logging.getLogger(__name__)

PROFILES_VARIABLE = "MOSHI_RETRIEVAL_LLMS_JSON"
MAX_PROFILES = 8
"""As many back ends as a conversation can have (`dialogue.hedging.MAX_BACKENDS`)."""
_TOP_LEVEL_KEYS = frozenset({"profiles", "prompt_style", "reference_prompt"})
_PROFILE_KEYS = frozenset(
    {"id", "base_url", "model", "api_key", "default", "prompt_style", "reference_prompt"}
)


class ProfileError(DuologueError, ValueError):
    """Profiles that are not as described above; the message names the place and holds no key."""


class PromptStyle(StrEnum):
    """How the model is asked; see `prompts`."""

    ORIGINAL = "original"
    SIMPLIFIED = "simplified"


@dataclass(frozen=True, slots=True)
class LLMProfile:
    """One model at one endpoint. The key is never shown."""

    id: str
    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    prompt_style: PromptStyle = PromptStyle.ORIGINAL


@dataclass(frozen=True, slots=True)
class LLMProfiles:
    """At least one profile, and the id of the default one."""

    profiles: tuple[LLMProfile, ...]
    default_id: str

    @property
    def default(self) -> LLMProfile:
        return next(profile for profile in self.profiles if profile.id == self.default_id)


def profiles_from_environment(environment: Mapping[str, str]) -> LLMProfiles | None:
    """The profiles that the environment describes; None when it describes no model at all."""
    key = environment.get("LLM_API_KEY", "").strip()
    written = environment.get(PROFILES_VARIABLE, "").strip()
    if written:
        profiles = parse_profiles(written, fallback_key=key)
        if profiles is not None:
            return profiles
    base_url = environment.get("LLM_BASE_URL", "").strip()
    if not base_url:
        return None
    model = environment.get("LLM_MODEL_NAME", "").strip()
    profile = LLMProfile("default", _url(base_url, "LLM_BASE_URL"), model, key)
    return LLMProfiles((profile,), "default")


def parse_profiles(written: str, *, fallback_key: str = "") -> LLMProfiles | None:
    """Profiles of the JSON text, None when the list is empty; ProfileError when it is not valid."""
    try:
        value = json.loads(written)
    except ValueError as error:
        raise ProfileError(f"{PROFILES_VARIABLE} is not JSON: {error}") from error
    common: object = None
    if isinstance(value, dict):
        unknown = sorted(set(value) - _TOP_LEVEL_KEYS)
        if unknown:
            raise ProfileError(f"{PROFILES_VARIABLE} has unknown keys: {', '.join(unknown)}")
        common = value.get("prompt_style", value.get("reference_prompt"))
        value = value.get("profiles")
    if not isinstance(value, list):
        raise ProfileError(f"{PROFILES_VARIABLE} must be a list of profiles or hold one")
    if len(value) > MAX_PROFILES:
        raise ProfileError(
            f"{PROFILES_VARIABLE} has {len(value)} profiles; at most {MAX_PROFILES} can be used"
        )
    default_style = _style(common, "prompt_style") if common is not None else PromptStyle.ORIGINAL
    profiles: list[LLMProfile] = []
    defaults: list[str] = []
    for number, entry in enumerate(value):
        profile, is_default = _profile(entry, f"profile {number}", default_style, fallback_key)
        if any(profile.id == other.id for other in profiles):
            raise ProfileError(f"profile id {profile.id!r} is there twice")
        profiles.append(profile)
        if is_default:
            defaults.append(profile.id)
    if not profiles:
        return None
    if len(profiles) == 1:
        defaults = [profiles[0].id]
    if len(defaults) != 1:
        raise ProfileError(f"exactly one profile must be the default, not {len(defaults)}")
    return LLMProfiles(tuple(profiles), defaults[0])


def _profile(
    entry: Any, place: str, default_style: PromptStyle, fallback_key: str
) -> tuple[LLMProfile, bool]:
    if not isinstance(entry, dict):
        raise ProfileError(f"{place} is not an object")
    texts: dict[str, str] = {}
    for name in ("id", "base_url", "model"):
        value = entry.get(name)
        if not isinstance(value, str) or not value.strip():
            raise ProfileError(f"{place}: {name} must be a non-empty text")
        texts[name] = value.strip()
    key = entry.get("api_key")
    if key is not None and not isinstance(key, str):
        raise ProfileError(f"{place}: api_key must be a text")
    unknown = sorted(set(entry) - _PROFILE_KEYS)
    if unknown:
        logger.warning("%s: ignored keys %s", place, ", ".join(unknown))
    written_style = entry.get("prompt_style", entry.get("reference_prompt"))
    style = default_style if written_style is None else _style(written_style, place)
    profile = LLMProfile(
        texts["id"],
        _url(texts["base_url"], place),
        texts["model"],
        (key or "").strip() or fallback_key,
        style,
    )
    return profile, _truth(entry.get("default", False), place)


def _style(value: object, place: str) -> PromptStyle:
    try:
        return PromptStyle(str(value).strip().lower())
    except ValueError:
        styles = " or ".join(style.value for style in PromptStyle)
        raise ProfileError(f"{place}: prompt_style must be {styles}") from None


def _truth(value: object, place: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ProfileError(f"{place}: default must be true or false")


def _url(value: str, place: str) -> str:
    try:
        return checked_url(value)
    except ValueError as error:
        raise ProfileError(f"{place}: {error}") from error
