"""Clock, calculator and converter, asked as people ask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.numbers import spell_integer
from duologue.retrieval.calculator import CalculationError, calculate, read_calculation
from duologue.retrieval.conversion import convert_spoken, read_conversion
from duologue.retrieval.protocol import Outcome, RetrievalContext, Retrieved, attempt
from duologue.retrieval.speakable import speakable
from duologue.retrieval.tools import (
    CalculatorTool,
    ClockTool,
    ConverterTool,
    SpokenTool,
    Tool,
    ToolError,
    ToolRetriever,
    standard_tools,
)
from duologue.synthesis.numbers import say_clock, say_integer, say_ordinal, say_year

NOON_SATURDAY = datetime.fromisoformat("2026-11-21T17:05:00+00:00")


def now() -> datetime:
    return NOON_SATURDAY


def ask(question: str) -> Retrieved:
    retriever = ToolRetriever(standard_tools(now))
    return asyncio.run(attempt(retriever, RetrievalContext.from_question(question), 5.0))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what's twelve times seven", "Twelve times seven is eighty four."),
        ("What is the square root of two?", "The square root of two is about one point four one "
         "four two."),
        ("15 % of 80", "Fifteen percent of eighty is twelve."),
        ("so um what is three plus four times five", "Three plus four times five is twenty three."),
        ("(3 + 4)^2", "That is forty nine."),
        ("subtract four from ten", "Subtracting four from ten is six."),
        ("what is two to the tenth power", "Two to the power of ten is one thousand twenty four."),
        ("what is one third of nine", "A third of nine is three."),
        ("what is the sum of three and four", "The sum of three and four is seven."),
        ("ten divided by zero", "Nothing can be divided by zero."),
        ("two to the power of a million", "That power is too large for me."),
        ("what is 0.1 plus 0.2", "Zero point one plus zero point two is zero point three."),
        ("5 miles in kilometers", "Five miles is about eight point zero five kilometers."),
        ("how many feet are in a mile", "One mile is five thousand two hundred eighty feet."),
        ("convert seventy degrees fahrenheit to celsius", "Seventy degrees Fahrenheit is about "
         "twenty one point one one degrees Celsius."),
        ("minus forty celsius in fahrenheit", "Minus forty degrees Celsius is minus forty degrees "
         "Fahrenheit."),
        ("what time is it", "It is five past five in the afternoon."),
        ("hey what time is it in tokyo", "It is five past two in the morning in Tokyo."),
        ("what day is it today", "Today is Saturday, November twenty first, twenty twenty six."),
        ("what's tomorrow's date", "Tomorrow is Sunday, November twenty second, twenty "
         "twenty six."),
        ("what year is it", "The year is twenty twenty six."),
    ],
)  # fmt: skip
def test_questions_that_tools_answer(question: str, answer: str) -> None:
    result = ask(question)
    assert result.reference == answer
    assert result.sources
    assert result.confidence > 0.9


@pytest.mark.parametrize(
    "question",
    [
        "who is the president of france",
        "what is a hundred",
        "what time is it in narnia",
        "how tall is the eiffel tower in feet",
        "what's the weather today",
        "what is 3 and 4",
        "five to six",
        "the first of may",
        "which year did the second world war end",
        "tell me about the power of love",
        "how many people live in five cities",
        "",
    ],
)
def test_questions_that_are_for_others(question: str) -> None:
    assert ask(question).outcome is Outcome.EMPTY


_OPERATIONS = {
    "plus": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "times": lambda a, b: a * b,
    "divided by": lambda a, b: Fraction(a, b),
}


@given(st.integers(0, 10**6), st.sampled_from(sorted(_OPERATIONS)), st.integers(1, 10**6))
def test_spoken_arithmetic_is_right(a: int, operation: str, b: int) -> None:
    question = f"what is {spell_integer(a)} {operation} {spell_integer(b)}"
    found = read_calculation(question)
    assert found is not None
    assert found[1].number == _OPERATIONS[operation](a, b)
    assert found[1].exact


_PARTS = ["1", "2", "30", *"+-*/^()!%", "sqrt", "and", "power", "half of", "to the"]


@given(st.lists(st.sampled_from(_PARTS), max_size=40))
def test_no_expression_breaks_or_runs_away(parts: list[str]) -> None:
    text = " ".join(parts)
    understood = read_calculation(text) is not None
    try:
        assert len(calculate(text)) < 5_000
    except CalculationError:
        assert not understood


@given(st.text(max_size=80))
def test_no_text_breaks_a_tool(text: str) -> None:
    for tool in standard_tools(now):
        arguments = tool.match(text)
        assert arguments is None or isinstance(arguments, Mapping)
    read_conversion(text)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(CalculationError):
        calculate("(" * 60 + "1" + ")" * 60)


def test_results_of_any_size_can_be_said() -> None:
    assert "times ten to the power of" in calculate("2 ^ 500")
    assert calculate("170!").endswith("to the power of three hundred six.")
    assert calculate("1 / 3") == (
        "One divided by three is about zero point three three three three."
    )
    assert "zero point zero zero zero" in calculate("1 / 7777")


@pytest.mark.parametrize(
    "arguments", [{}, {"expression": 3}, {"expression": ""}, {"expression": "x" * 1000}]
)
def test_models_make_up_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError):
        asyncio.run(CalculatorTool().call(arguments, 1.0))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"what": "moon"}, {"what": "time", "place": "Narnia"}, {"what": "date", "days": "x"},
     {"what": "date", "days": 10**9}, {"what": "date", "days": 366_000 * 8}],
)  # fmt: skip
def test_the_clock_checks_its_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError):
        asyncio.run(ClockTool(now).call(arguments, 1.0))


def test_tools_are_tools() -> None:
    for tool in standard_tools(now):
        assert isinstance(tool, Tool)
        assert isinstance(tool, SpokenTool)
        assert tool.parameters["type"] == "object"
    assert convert_spoken("no units here") is None
    with pytest.raises(ToolError):
        asyncio.run(ConverterTool().call({"question": "nothing"}, 1.0))


@given(st.integers(0, 23), st.integers(0, 59))
def test_tools_tell_the_time_as_synthesised_people_do(hour: int, minute: int) -> None:
    moment = NOON_SATURDAY.replace(hour=hour, minute=minute)
    retriever = ToolRetriever(standard_tools(lambda: moment))
    context = RetrievalContext.from_question("what time is it")
    told = asyncio.run(attempt(retriever, context, 5.0)).reference
    assert told.startswith(f"It is {say_clock(hour, minute)} ")
    assert "-" not in told


@given(st.integers(-(10**9), 10**9), st.integers(1010, 2099), st.integers(1, 99))
def test_references_write_numbers_as_synthesised_people_do(
    number: int, year: int, day: int
) -> None:
    assert speakable(spell_integer(number)) == say_integer(number)
    assert speakable(f"the {day}th") == f"the {say_ordinal(day)}"
    assert speakable(f"in {year}") == f"in {say_year(year) if year >= 1100 else say_integer(year)}"
