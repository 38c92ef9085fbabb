"""Tools: small things that compute an answer instead of looking it up.

A `Tool` has a name, a description and a JSON schema, which is what language models call; a
`SpokenTool` can also tell by itself whether a question is meant for it, which needs no model and no
network. `ToolRetriever` asks spoken tools. Results are text, bounded and cleaned like any other
text from outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Protocol, runtime_checkable
from zoneinfo import ZoneInfo, available_timezones

from duologue.numbers import spell_clock, spell_ordinal, spell_year, split_words
from duologue.retrieval.calculator import CalculationError, calculate, read_calculation
from duologue.retrieval.conversion import convert_spoken, read_conversion
from duologue.retrieval.protocol import (
    Outcome,
    RetrievalContext,
    RetrievalError,
    Retrieved,
    Source,
)
from duologue.retrieval.speakable import part_of_day, speakable

MAX_TOOL_RESULT_CHARS = 4_000
TOOL_CONFIDENCE = 0.95


class ToolError(RetrievalError):
    """A tool that cannot do what it was asked; the message says why, in words for a reader."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool has to say, and what that rests on."""

    text: str
    sources: tuple[Source, ...] = ()


@runtime_checkable
class Tool(Protocol):
    """Something a language model may call. `parameters` is the JSON schema of `arguments`."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    async def call(self, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        """Raises ToolError; arguments are whatever the model made up and need checking."""
        ...


@runtime_checkable
class SpokenTool(Tool, Protocol):
    """A tool that recognises its own questions."""

    def match(self, question: str) -> Mapping[str, Any] | None:
        """Arguments for `call`, or None when the question is not clearly meant for this tool."""
        ...


class ToolRetriever:
    """Answers questions that one of its tools recognises; the first in order wins."""

    def __init__(self, tools: Sequence[SpokenTool], *, name: str = "tools") -> None:
        self._tools = tuple(tools)
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        for tool in self._tools:
            arguments = tool.match(context.question)
            if arguments is None:
                continue
            result = await tool.call(arguments, deadline_s)
            reference = context.budget.trim(speakable(result.text, MAX_TOOL_RESULT_CHARS))
            return Retrieved(
                Outcome.ANSWERED if reference else Outcome.EMPTY,
                reference,
                sources=result.sources or (Source(tool.name),),
                confidence=TOOL_CONFIDENCE,
                backend=tool.name,
            )
        return Retrieved(Outcome.EMPTY, backend=self.name)

    async def aclose(self) -> None:
        """Nothing to release."""


def standard_tools(now: Callable[[], datetime] | None = None) -> tuple[SpokenTool, ...]:
    """Clock, calculator and unit converter; `now` must give a time with its zone."""
    return (ClockTool(now), CalculatorTool(), ConverterTool())


def string_argument(arguments: Mapping[str, Any], name: str, max_chars: int = 400) -> str:
    """A required argument that must be a short string."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > max_chars:
        raise ToolError(f"{name} must be a text of 1 to {max_chars} characters")
    return value


class CalculatorTool:
    """Arithmetic, written or spoken."""

    name = "calculate"
    description = "Do arithmetic. Understands written and spoken expressions."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "expression": {"type": "string", "description": "e.g. (3 + 4) * 12, or 'ten squared'"}
        },
        "required": ["expression"],
        "additionalProperties": False,
    }

    def match(self, question: str) -> Mapping[str, Any] | None:
        found = read_calculation(question)
        return None if found is None else {"expression": question}

    async def call(self, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        try:
            return ToolResult(calculate(string_argument(arguments, "expression")))
        except CalculationError as error:
            raise ToolError(str(error)) from error


class ConverterTool:
    """Units of measure."""

    name = "convert_units"
    description = "Convert a quantity between units of measure, e.g. '5 miles in kilometers'."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"question": {"type": "string", "description": "e.g. '5 miles in km'"}},
        "required": ["question"],
        "additionalProperties": False,
    }

    def match(self, question: str) -> Mapping[str, Any] | None:
        return None if read_conversion(question) is None else {"question": question}

    async def call(self, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        answer = convert_spoken(string_argument(arguments, "question"))
        if answer is None:
            raise ToolError("no quantity and unit of the same kind found")
        return ToolResult(answer)


_TIME_QUESTION = re.compile(
    r"(?:what time is it|what(?:'s| is) the (?:current )?time|(?:tell me|do you know|got) the time"
    r"|what(?:'s| is) the (?:local )?time|have you got the time)"
    r"(?: (?:right )?now| currently| at the moment)?(?: (?:in|at) (?P<place>[a-z .'-]{2,40}?))?"
    r"(?: (?:right )?now| currently| at the moment| please)?"
)
_DATE_QUESTION = re.compile(
    r"(?:what(?:'s| is)? (?:the )?(?P<what>date|day|weekday|month|year|day of the week)"
    r"(?: of the week)?(?: is it| do we have| are we in)?"
    r"(?: (?P<when>today|tomorrow|yesterday|now))?"
    r"|what(?:'s| is) (?P<when2>today|tomorrow|yesterday)(?:'s (?P<what2>date|day|weekday)"
    r"(?: of the week)?)?"
    r"|what (?P<what3>date|day|weekday|year|month) (?:is|was|will be|is it)"
    r" (?P<when3>today|tomorrow|yesterday|it))(?: please| currently| right now)?"
)
_LEADING = re.compile(
    r"^(?:(?:um|uh|er|so|hey|hi|hello|okay|ok|please|and|well|moshi|now|can you|could you|would you"
    r"|tell me(?= what)|do you know(?= what)|i(?:'d| would) like to know(?= what))[ ,]+)+"
)
_MORE_PLACES = {
    "beijing": "Asia/Shanghai", "peking": "Asia/Shanghai", "mumbai": "Asia/Kolkata",
    "delhi": "Asia/Kolkata", "new delhi": "Asia/Kolkata", "india": "Asia/Kolkata",
    "san francisco": "America/Los_Angeles", "seattle": "America/Los_Angeles",
    "california": "America/Los_Angeles", "boston": "America/New_York",
    "washington": "America/New_York", "miami": "America/New_York", "dallas": "America/Chicago",
    "houston": "America/Chicago", "munich": "Europe/Berlin", "hamburg": "Europe/Berlin",
    "frankfurt": "Europe/Berlin", "germany": "Europe/Berlin", "france": "Europe/Paris",
    "spain": "Europe/Madrid", "barcelona": "Europe/Madrid", "italy": "Europe/Rome",
    "milan": "Europe/Rome", "england": "Europe/London", "geneva": "Europe/Zurich",
    "osaka": "Asia/Tokyo", "rio de janeiro": "America/Sao_Paulo", "utc": "UTC",
}  # fmt: skip


class ClockTool:
    """Time and date, here or in a named city."""

    name = "clock"
    description = "The current time or date, here or in a city."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "what": {"type": "string", "enum": ["time", "date", "day", "month", "year"]},
            "place": {"type": "string", "description": "a city; leave out for here"},
            "days": {"type": "integer", "description": "days from today, e.g. 1 for tomorrow"},
        },
        "required": ["what"],
        "additionalProperties": False,
    }

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        self._now = now or (lambda: datetime.now().astimezone())

    def match(self, question: str) -> Mapping[str, Any] | None:
        text = " ".join(question.lower().replace("\u2019", "'").split()).strip(" .?!,")
        text = _LEADING.sub("", text)
        if found := _TIME_QUESTION.fullmatch(text):
            place = (found["place"] or "").strip().removeprefix("the ").strip()
            if place and _zone_of(place) is None:
                return None
            return {"what": "time", "place": place} if place else {"what": "time"}
        if found := _DATE_QUESTION.fullmatch(text):
            groups = found.groupdict()
            what = groups["what"] or groups["what2"] or groups["what3"] or "date"
            when = groups["when"] or groups["when2"] or groups["when3"] or "today"
            days = {"tomorrow": 1, "yesterday": -1}.get(when, 0)
            kind = {"weekday": "day", "day of the week": "day"}.get(what, what)
            return {"what": kind, "days": days}
        return None

    async def call(self, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        what, place, days = arguments.get("what"), arguments.get("place"), arguments.get("days", 0)
        if not isinstance(days, int) or abs(days) > 366_000:
            raise ToolError("days must be a whole number of at most a thousand years")
        moment = self._now()
        where = ""
        if isinstance(place, str) and place:
            zone = _zone_of(place)
            if zone is None:
                raise ToolError(f"no time zone is known for {place[:40]}")
            moment, where = moment.astimezone(ZoneInfo(zone)), f" in {place.title()}"
        if what == "time":
            told = f"{spell_clock(moment.hour, moment.minute)} {part_of_day(moment.hour)}"
            return ToolResult(f"It is {told}{where}.")
        try:
            moment += timedelta(days=days)
        except OverflowError:
            raise ToolError("that date is out of range") from None
        subject = {0: "Today", 1: "Tomorrow", -1: "Yesterday"}.get(days, "That day")
        verb = "was" if days < 0 else "is"
        if what == "year":
            return ToolResult(f"The year is {spell_year(moment.year)}.")
        if what == "month":
            return ToolResult(f"It is {_month(moment)} {spell_year(moment.year)}.")
        if what in ("date", "day"):
            day = f"{_weekday(moment)}, {_month(moment)} {spell_ordinal(moment.day)}"
            return ToolResult(f"{subject}{where} {verb} {day}, {spell_year(moment.year)}.")
        raise ToolError("what must be one of time, date, day, month, year")


_WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = """
    January February March April May June July August September October November December
""".split()  # noqa: SIM905


def _weekday(moment: datetime) -> str:
    return _WEEKDAYS[moment.weekday()]


def _month(moment: datetime) -> str:
    return _MONTHS[moment.month - 1]


def _zone_of(place: str) -> str | None:
    name = " ".join(split_words(place))
    return _MORE_PLACES.get(name) or _zones().get(name)


@cache
def _zones() -> Mapping[str, str]:
    """City names as they end the names of time zones; empty where the system has no zone data."""
    zones: dict[str, str] = {}
    for zone in sorted(available_timezones()):
        area, slash, city = zone.rpartition("/")
        if slash and not area.startswith(("Etc", "SystemV", "US", "posix", "right")):
            zones.setdefault(city.replace("_", " ").lower(), zone)
    return zones
