"""References from language models behind any OpenAI-compatible chat endpoint.

`LLMRetriever` asks one profile; `LLMRouter` offers several and falls back to the default one.
Answers are streamed: complete clauses go out while the rest is still being written, the connection
is closed at the end of the first line or when the deadline, the budget or a newer question cancels
the lookup. A profile has its own circuit breaker, and its key goes to its own host only.

Bounds: `MAX_REFERENCE_TOKENS` asked for, `MAX_ROUNDS` rounds of tool calls, `MAX_CALLS` calls a
round, `MAX_ARGUMENT_CHARS` of arguments; streams as in `sse`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx

from duologue.faults import fault
from duologue.retrieval.breaker import CircuitBreaker
from duologue.retrieval.clauses import ClauseStream, ends_sentence
from duologue.retrieval.cleaning import clean_text, strip_label
from duologue.retrieval.compose import Cascade, LearnedDelay, hedged
from duologue.retrieval.http import Host, read_bounded
from duologue.retrieval.profiles import LLMProfile, LLMProfiles
from duologue.retrieval.prompts import reference_messages
from duologue.retrieval.protocol import (
    MAX_DEADLINE_S,
    MAX_REFERENCE_CHARS,
    BackendMalformed,
    BackendUnavailable,
    Clause,
    Clock,
    Outcome,
    RetrievalContext,
    RetrievalError,
    RetrievalTimeout,
    Retrieved,
    Source,
    handing_over,
)
from duologue.retrieval.speakable import speakable
from duologue.retrieval.sse import event_data
from duologue.retrieval.tools import MAX_TOOL_RESULT_CHARS, Tool

logger = logging.getLogger(__name__)

MAX_REFERENCE_TOKENS = 256
MAX_ROUNDS = 3
MAX_CALLS = 8
MAX_ARGUMENT_CHARS = 8_000
TOOL_TIME_SHARE = 0.6
"""Of the time left, what a round of tool calls may use; the rest is for the answer."""
MAX_RAW_CHARS = 64_000
"""Text read in search of an answer, thoughts of reasoning models included."""

_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_PLAIN_PARAMETERS_REFUSED = re.compile(r"^(?:.*/)?o\d")
"""Models that take neither temperature nor stop words, and call the token limit differently."""


@dataclass(frozen=True, slots=True)
class LLMOptions:
    """How models are asked; the defaults are the published ones.

    `spell_out` rewrites answers with `speakable`, for models that ignore that part of the prompt.
    """

    max_tokens: int = MAX_REFERENCE_TOKENS
    temperature: float = 1.0
    reasoning_effort: str = ""
    stream: bool = True
    spell_out: bool = True
    confidence: float = 0.6
    confidence_with_sources: float = 0.75


@dataclass(slots=True)
class _ToolCall:
    """A call as it is put together from the pieces of a stream."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Turn:
    """What the model has said in one round."""

    text: str = ""
    calls: dict[int, _ToolCall] = field(default_factory=dict)
    finished: bool = False


class LLMRetriever:
    """Asks one model. The label of its answers is the model's name."""

    def __init__(
        self,
        profile: LLMProfile,
        *,
        options: LLMOptions | None = None,
        tools: Sequence[Tool] = (),
        breaker: CircuitBreaker | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.profile = profile
        self._options = options or LLMOptions()
        self._tools = {tool.name: tool for tool in tools}
        self._clock = clock
        self.breaker = breaker or CircuitBreaker(profile.id, clock=clock)
        headers = {"Authorization": f"Bearer {profile.api_key}"} if profile.api_key else {}
        self._host = Host(profile.base_url, headers, transport=transport)

    @property
    def name(self) -> str:
        return self.profile.model or self.profile.id

    async def aclose(self) -> None:
        await self._host.aclose()

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        """The whole reference.

        When time or the connection runs out, the complete sentences that have arrived are the
        answer, marked as truncated; without any, the error is raised.
        """
        given: list[Clause] = []
        try:
            async with asyncio.timeout(handing_over(deadline_s)):
                async with aclosing(self.stream(context, deadline_s)) as items:
                    async for item in items:
                        if isinstance(item, Retrieved):
                            return item
                        given.append(item)
            raise BackendMalformed("the stream ended without a result")
        except (TimeoutError, RetrievalError) as error:
            while given and not ends_sentence(given[-1].text):
                given.pop()
            if not given:
                if isinstance(error, TimeoutError):
                    raise RetrievalTimeout("deadline passed") from error
                raise
            detail = "deadline passed" if isinstance(error, TimeoutError) else str(error)
            return self._answer(given, truncated=True, detail=detail)

    async def stream(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncGenerator[Clause | Retrieved]:
        """Clauses as they are completed; see `StreamingRetriever`."""
        if not context.turns:
            yield Retrieved(Outcome.EMPTY, backend=self.name, detail="nothing has been said")
            return
        self.breaker.enter()
        started = self._clock()
        reported = False
        given: list[Clause] = []
        try:
            async with aclosing(self._clauses(context, deadline_s)) as clauses:
                async for clause in clauses:
                    given.append(clause)
                    if not reported:
                        self.breaker.succeeded()
                        reported = True
                    yield clause
            if not reported:
                self.breaker.succeeded()
                reported = True
        except RetrievalError:
            if not reported:
                self.breaker.failed()
                reported = True
            raise
        finally:
            if not reported:  # cancelled, by the deadline or by a newer question
                self.breaker.cancelled(self._clock() - started, deadline_s)
        yield self._answer(given)

    def _answer(
        self, given: Sequence[Clause], *, truncated: bool = False, detail: str = ""
    ) -> Retrieved:
        return Retrieved(
            Outcome.ANSWERED if given else Outcome.EMPTY,
            " ".join(clause.text for clause in given),
            sources=given[-1].sources if given else (),
            confidence=given[-1].confidence if given else 0.0,
            backend=self.name,
            detail=detail,
            truncated=truncated,
        )

    async def _clauses(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncGenerator[Clause]:
        """Speakable clauses within the budget, across all rounds of tool calls."""
        ends_at = self._clock() + min(deadline_s, MAX_DEADLINE_S)
        messages = reference_messages(
            context, self.profile.prompt_style, with_tools=bool(self._tools)
        )
        sources: list[Source] = []
        said = ""
        for round_number in range(MAX_ROUNDS + 1):
            turn = _Turn()
            pieces = ClauseStream()
            used = 0
            may_call = bool(self._tools) and round_number < MAX_ROUNDS
            left = ends_at - self._clock()
            async with aclosing(self._ask(messages, turn, left, may_call=may_call)) as progress:
                async for _ in progress:
                    line, complete = reference_line(turn.text, final=turn.finished)
                    ready = pieces.feed(line[used:])
                    used = len(line)
                    for piece in ready + (pieces.flush() if complete else []):
                        clause = self._clause(piece, sources)
                        if clause is None:
                            continue
                        longer = f"{said} {clause.text}".strip()
                        if not context.budget.fits(longer):
                            if not said and (cut := context.budget.trim(clause.text)):
                                yield Clause(cut, clause.backend, clause.confidence, clause.sources)
                            return
                        said = longer
                        yield clause
                    if complete and not turn.calls:
                        return
            if not turn.calls:
                return
            messages = [*messages, *await self._call_tools(turn, ends_at, sources)]

    def _clause(self, text: str, sources: Sequence[Source]) -> Clause | None:
        text = clean_text(text, MAX_REFERENCE_CHARS)
        if self._options.spell_out:
            ending = text[-1:] if text[-1:] in ",;:" else ""
            text = speakable(text)
            text = f"{text}," if text and ending else text
        if not text:
            return None
        confidence = self._options.confidence_with_sources if sources else self._options.confidence
        return Clause(text, self.name, confidence, tuple(sources))

    # -- the wire

    def _payload(self, messages: Sequence[Mapping[str, object]], *, may_call: bool) -> object:
        options = self._options
        payload: dict[str, object] = {
            "model": self.profile.model,
            "messages": list(messages),
            "stream": options.stream,
        }
        if _PLAIN_PARAMETERS_REFUSED.match(self.profile.model):
            payload["max_completion_tokens"] = options.max_tokens
        else:
            payload["max_tokens"] = options.max_tokens
            payload["temperature"] = options.temperature
            if not may_call:
                payload["stop"] = "\n"
        if options.reasoning_effort:
            payload["reasoning_effort"] = options.reasoning_effort
        if may_call:
            payload["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": dict(tool.parameters),
                    },
                }
                for tool in self._tools.values()
            ]
        return payload

    async def _ask(
        self,
        messages: Sequence[Mapping[str, object]],
        turn: _Turn,
        left_s: float,
        *,
        may_call: bool,
    ) -> AsyncGenerator[None]:
        """Fill `turn`, giving control back whenever it has grown and once when it is complete."""
        payload = self._payload(messages, may_call=may_call)
        if left_s <= 0:
            raise RetrievalTimeout("deadline passed")
        async with self._host.open("POST", "chat/completions", left_s, json=payload) as response:
            kind = response.headers.get("content-type", "")
            if kind.partition(";")[0].strip().lower() == "text/event-stream":
                async with aclosing(_as_generator(event_data(response))) as events:
                    async for data in events:
                        if data.strip() == "[DONE]":
                            turn.finished = True
                            break
                        _read_chunk(_parsed(data), turn)
                        yield
            else:
                _read_completion(
                    _parsed((await read_bounded(response)).decode("utf-8", "replace")), turn
                )
        if not turn.finished:
            raise BackendUnavailable("the answer was broken off")
        yield

    async def _call_tools(
        self, turn: _Turn, ends_at: float, sources: list[Source]
    ) -> list[dict[str, object]]:
        """Run the calls of a round side by side; their messages, and their sources to `sources`."""
        calls = [turn.calls[index] for index in sorted(turn.calls)]
        left = ends_at - self._clock()
        results = await asyncio.gather(*(self._call_tool(call, left) for call in calls))
        spoken = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for call in calls
        ]
        messages: list[dict[str, object]] = [
            {"role": "assistant", "content": turn.text or None, "tool_calls": spoken}
        ]
        for call, (text, found) in zip(calls, results, strict=True):
            messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
            sources.extend(source for source in found if source not in sources)
        return messages

    async def _call_tool(self, call: _ToolCall, left_s: float) -> tuple[str, tuple[Source, ...]]:
        tool = self._tools.get(call.name)
        if tool is None:
            return f"There is no tool {clean_text(call.name, 40)}.", ()
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            return "The arguments are not valid JSON.", ()
        if not isinstance(arguments, dict):
            return "The arguments must be an object.", ()
        time_s = TOOL_TIME_SHARE * max(0.0, left_s)
        try:
            async with asyncio.timeout(time_s):
                result = await tool.call(arguments, time_s)
        except TimeoutError:
            return "Error: the tool did not answer in time.", ()
        except RetrievalError as error:
            return f"Error: {clean_text(str(error), 300)}", ()
        except Exception as error:
            logger.error("tool %s raised %s", call.name, fault(error))
            return "Error: the tool failed.", ()
        lines = [clean_text(line, MAX_TOOL_RESULT_CHARS) for line in result.text.splitlines()]
        text = "\n".join(lines)[:MAX_TOOL_RESULT_CHARS]
        return text, result.sources or (Source(tool.name),)


def reference_line(raw: str, *, final: bool) -> tuple[str, bool]:
    """(the reference as far as it is certain, whether it is complete) of what a model has said.

    Leaves out thoughts in <think> marks, blank lines before the text and a repeated "Reference:".
    """
    text = _THOUGHT.sub("", raw).lstrip()
    if text.startswith("<think>") or "<think>".startswith(text):
        return "", final
    if not final and ":" not in text and "\n" not in text and len(text) < 16:
        return "", False  # this may still become a label
    text = strip_label(text).lstrip()
    line, newline, _ = text.partition("\n")
    return line.rstrip("\r"), final or bool(newline and line.strip())


def _parsed(data: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BackendMalformed("the answer is not JSON") from error
    if not isinstance(value, dict):
        raise BackendMalformed("the answer is not an object")
    if value.get("error"):
        raise BackendUnavailable("the model reports an error")
    return value


def _choice(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = value.get("choices")
    if not isinstance(choices, list):
        raise BackendMalformed("the answer has no choices")
    if not choices:
        return None
    if not isinstance(choices[0], dict):
        raise BackendMalformed("the answer's choice is not an object")
    return choices[0]


def _read_chunk(value: Mapping[str, Any], turn: _Turn) -> None:
    """Add one streamed chunk to a turn."""
    choice = _choice(value)
    if choice is None:  # for example the usage at the end
        return
    delta = choice.get("delta") or {}
    if not isinstance(delta, dict):
        raise BackendMalformed("the answer's delta is not an object")
    _add_text(turn, delta.get("content"))
    _add_calls(turn, delta.get("tool_calls"))
    if choice.get("finish_reason"):
        turn.finished = True


def _read_completion(value: Mapping[str, Any], turn: _Turn) -> None:
    """Take an answer that was not streamed."""
    choice = _choice(value)
    message = choice.get("message") if choice else None
    if not isinstance(message, dict):
        raise BackendMalformed("the answer has no message")
    _add_text(turn, message.get("content"))
    _add_calls(turn, message.get("tool_calls"))
    turn.finished = True


def _add_text(turn: _Turn, content: object) -> None:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if content is None:
        return
    if not isinstance(content, str):
        raise BackendMalformed("the answer's content is not text")
    if len(turn.text) + len(content) > MAX_RAW_CHARS:
        raise BackendMalformed("an answer without end")
    turn.text += content


def _add_calls(turn: _Turn, calls: object) -> None:
    if not calls:
        return
    if not isinstance(calls, list):
        raise BackendMalformed("the answer's tool calls are not a list")
    for position, entry in enumerate(calls):
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict):
            raise BackendMalformed("a tool call has no function")
        index = entry.get("index", position)
        if not isinstance(index, int) or not 0 <= index < MAX_CALLS:
            raise BackendMalformed("too many tool calls")
        call = turn.calls.setdefault(index, _ToolCall())
        call.id = str(entry.get("id") or call.id or f"call-{index}")[:100]
        call.name = str(function.get("name") or call.name)[:100]
        call.arguments += str(function.get("arguments") or "")
        if len(call.arguments) > MAX_ARGUMENT_CHARS:
            raise BackendMalformed("a tool call's arguments are too long")


async def _as_generator(items: AsyncIterator[str]) -> AsyncGenerator[str]:
    async for item in items:
        yield item


class LLMRouter:
    """Several profiles, one of them the default; a conversation may choose (`backend_id`).

    The chosen profile is asked first; the default is asked too when the chosen one is slower than
    it usually is, or at once when it fails or has nothing to say. (The published server asks both
    and always waits for both.) An unknown id means the default.
    """

    def __init__(
        self,
        profiles: LLMProfiles,
        *,
        options: LLMOptions | None = None,
        tools: Sequence[Tool] = (),
        name: str = "llm",
        clock: Clock = time.monotonic,
    ) -> None:
        self.profiles = profiles
        self._name = name
        self._models = {
            profile.id: LLMRetriever(profile, options=options, tools=tools, clock=clock)
            for profile in profiles.profiles
        }
        default = self._models[profiles.default_id]
        self._routes: dict[str, Cascade] = {
            id: hedged(model, default, delay=LearnedDelay(), name=id, clock=clock)
            for id, model in self._models.items()
            if id != profiles.default_id
        }

    @property
    def name(self) -> str:
        return self._name

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        return await self._route(context).retrieve(context, deadline_s)

    async def stream(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncGenerator[Clause | Retrieved]:
        async with aclosing(self._route(context).stream(context, deadline_s)) as items:
            async for item in items:
                yield item

    async def aclose(self) -> None:
        for model in self._models.values():
            await model.aclose()

    def _route(self, context: RetrievalContext) -> Cascade | LLMRetriever:
        chosen = context.backend_id or self.profiles.default_id
        return self._routes.get(chosen) or self._models[self.profiles.default_id]
