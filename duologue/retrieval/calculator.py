"""Arithmetic on spoken or written expressions, by a parser of its own: nothing is ever evaluated.

"twelve times seven", "the square root of two", "15 % of 80", "(3 + 4)^2", "subtract four from ten".
Arithmetic is exact (fractions) except for roots that do not come out even. Bounds: `MAX_TOKENS`
tokens, `MAX_DEPTH` nesting, powers up to `MAX_EXPONENT`, results up to `MAX_BITS` bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from math import isqrt

from duologue.numbers import (
    SpokenNumber,
    find_numbers,
    spell_integer,
    spell_number,
    split_words,
)

MAX_TOKENS = 128
MAX_DEPTH = 32
MAX_EXPONENT = 512
MAX_BITS = 4_096
MAX_FACTORIAL = 170
SPOKEN_DIGITS = 4
"""Digits spoken after the point."""


class CalculationError(ValueError):
    """An expression that cannot be read or has no value; the message can be spoken."""


@dataclass(frozen=True, slots=True)
class Value:
    """A number, and whether it is exactly the result."""

    number: Fraction
    exact: bool = True


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, infix, prefix, postfix, pair, separator, open, close
    spoken: str
    symbol: str = ""
    number: Fraction | None = None


# Phrases, longest first; pairs ("the sum of A and B") name the separator they wait for.
_PHRASES: tuple[tuple[str, str, str, str], ...] = (
    ("to the power of", "infix", "^", "to the power of"),
    ("raised to the power of", "infix", "^", "to the power of"),
    ("raised to", "infix", "^", "to the power of"),
    ("multiplied by", "infix", "*", "times"),
    ("divided by", "infix", "/", "divided by"),
    ("percent of", "infix", "%*", "percent of"),
    ("per cent of", "infix", "%*", "percent of"),
    ("% of", "infix", "%*", "percent of"),
    ("square root of", "prefix", "sqrt", "the square root of"),
    ("cube root of", "prefix", "cbrt", "the cube root of"),
    ("root of", "prefix", "sqrt", "the square root of"),
    ("half of", "prefix", "half", "half of"),
    ("one half of", "prefix", "half", "half of"),
    ("one third of", "prefix", "third", "a third of"),
    ("one quarter of", "prefix", "quarter", "a quarter of"),
    ("one fifth of", "prefix", "fifth", "a fifth of"),
    ("one tenth of", "prefix", "tenth", "a tenth of"),
    ("a half of", "prefix", "half", "half of"),
    ("a third of", "prefix", "third", "a third of"),
    ("a quarter of", "prefix", "quarter", "a quarter of"),
    ("a fifth of", "prefix", "fifth", "a fifth of"),
    ("a tenth of", "prefix", "tenth", "a tenth of"),
    ("sum of", "pair", "+", "the sum of"),
    ("product of", "pair", "*", "the product of"),
    ("difference between", "pair", "-", "the difference between"),
    ("difference of", "pair", "-", "the difference between"),
    ("factorial of", "prefix", "!", "the factorial of"),
    ("add", "pair", "+", "adding"),
    ("multiply", "pair", "*", "multiplying"),
    ("divide", "pair", "/", "dividing"),
    ("subtract", "pair", "from", "subtracting"),
    ("plus", "infix", "+", "plus"),
    ("minus", "infix", "-", "minus"),
    ("take away", "infix", "-", "minus"),
    ("times", "infix", "*", "times"),
    ("x", "infix", "*", "times"),
    ("over", "infix", "/", "over"),
    ("modulo", "infix", "mod", "modulo"),
    ("mod", "infix", "mod", "modulo"),
    ("squared", "postfix", "^2", "squared"),
    ("cubed", "postfix", "^3", "cubed"),
    ("factorial", "postfix", "!", "factorial"),
    ("percent", "postfix", "%", "percent"),
    ("double", "prefix", "double", "double"),
    ("twice", "prefix", "double", "twice"),
    ("negative", "prefix", "neg", "minus"),
    ("and", "separator", "and", "and"),
    ("from", "separator", "from", "from"),
    ("to", "separator", "to", "to"),
    ("by", "separator", "by", "by"),
    ("with", "separator", "with", "with"),
    ("+", "infix", "+", "plus"),
    ("-", "infix", "-", "minus"),
    ("*", "infix", "*", "times"),
    ("\u00d7", "infix", "*", "times"),
    ("/", "infix", "/", "divided by"),
    ("÷", "infix", "/", "divided by"),
    ("^", "infix", "^", "to the power of"),
    ("%", "postfix", "%", "percent"),
    ("!", "postfix", "!", "factorial"),
    ("√", "prefix", "sqrt", "the square root of"),
    ("(", "open", "(", ""),
    (")", "close", ")", ""),
)  # fmt: skip
_BY_PHRASE = {tuple(phrase.split()): rest for phrase, *rest in _PHRASES}
_LONGEST = max(map(len, _BY_PHRASE))
_SKIPPED = frozenset({"the"})
_LEAD = re.compile(
    r"^(?:(?:what(?:'s| is| are| does| do)|how much (?:is|are|does)|how many (?:is|are)|calculate"
    r"|compute|work out|tell me|can you|could you|please|so|um|uh|hey|okay|ok|and|now|give me|find"
    r"|do you know|the (?:value|result|answer) (?:of|to)|solve|evaluate|what)\b[ ,]*)+"
)
_TAIL = re.compile(r"(?:\s*(?:=|\?|\.|,|please|equal to|equals?|make|is|right|then))+$")
_SYMBOLS = re.compile(r"([-+*/^()%!\u00d7÷√])")
_BINDING = {"+": 10, "-": 10, "*": 20, "/": 20, "mod": 20, "%*": 20, "^": 40}
_PREFIX_BINDING = 30
_PAIR_SEPARATORS = {"+": ("and", "to", "with"), "*": ("and", "by", "with"), "/": ("and", "by"),
                    "-": ("and",), "from": ("from",)}  # fmt: skip


def read_calculation(question: str) -> tuple[str, Value] | None:
    """(the expression in words, its value), or None when the question is not plain arithmetic."""
    try:
        tokens = _tokens(question)
        if not any(token.kind in ("infix", "prefix", "postfix", "pair") for token in tokens):
            return None
        value = _Parser(tokens).parse()
    except _NotArithmetic:
        return None
    except CalculationError:
        value = Value(Fraction(0), exact=False)
    return _in_words(tokens), value


def calculate(question: str) -> str:
    """The answer as a sentence: "Twelve times seven is eighty-four."

    An expression without a value gives the sentence that says so; CalculationError means that the
    text is no expression.
    """
    try:
        tokens = _tokens(question)
        value = _Parser(tokens).parse()
    except _NotArithmetic as error:
        raise CalculationError(f"not an expression: {error}") from error
    except CalculationError as error:
        return str(error)
    spoken, exact = speak_value(value)
    grouped = any(token.kind == "open" for token in tokens)  # parentheses cannot be said
    words = "that" if grouped else _in_words(tokens)
    return f"{words[:1].upper()}{words[1:]} is {'' if exact else 'about '}{spoken}."


def speak_value(value: Value) -> tuple[str, bool]:
    """A value in words, `SPOKEN_DIGITS` digits after the point; and whether that is exact."""
    number = value.number
    if number.denominator == 1 and abs(number) < 10**18:
        return spell_integer(int(number)), value.exact
    if abs(number) >= 10**18:
        return _scientific(number), False
    digits = SPOKEN_DIGITS
    while number and abs(number) < Fraction(1, 10 ** (digits - 2)) and digits < 12:
        digits += 1
    rounded = Fraction(round(number * 10**digits), 10**digits)
    with localcontext() as context:
        context.prec = 60
        text = Decimal(rounded.numerator) / Decimal(rounded.denominator)
    return spell_number(text.normalize()), value.exact and rounded == number


def _scientific(number: Fraction) -> str:
    sign = "minus " if number < 0 else ""
    whole = str(abs(int(number)))
    mantissa = Decimal(f"{whole[0]}.{whole[1:4]}").normalize()
    return (
        f"{sign}{spell_number(mantissa)} times ten to the power of {spell_integer(len(whole) - 1)}"
    )


class _NotArithmetic(ValueError):
    """The words are something else than an expression."""


def _tokens(question: str) -> list[_Token]:
    text = " ".join(question.lower().replace("\u2212", "-").replace("\u2019", "'").split())
    text = _TAIL.sub("", _LEAD.sub("", text.lstrip(" ,.")))
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)
    words = _words_and_symbols(text)
    if not words or len(words) > MAX_TOKENS:
        raise _NotArithmetic("nothing, or too much")
    numbers = {number.start: number for number in find_numbers(words)}
    tokens: list[_Token] = []
    position = 0
    while position < len(words):
        length = _phrase_length(words, position)
        if length == 0 or (length == 1 and position in numbers):
            position = _take_number(words, position, numbers.get(position), tokens)
            continue
        kind, symbol, spoken = _BY_PHRASE[tuple(words[position : position + length])]
        tokens.append(_Token(kind, spoken, symbol))
        position += length
    return tokens


def _phrase_length(words: Sequence[str], position: int) -> int:
    """Words of the longest phrase that starts here, 0 for none."""
    for length in range(min(_LONGEST, len(words) - position), 0, -1):
        if tuple(words[position : position + length]) in _BY_PHRASE:
            return length
    return 0


def _take_number(
    words: Sequence[str], position: int, number: SpokenNumber | None, tokens: list[_Token]
) -> int:
    """Add the number (or skip the article) at `position`; returns where it ends."""
    if number is None:
        if words[position] not in _SKIPPED:
            raise _NotArithmetic(words[position])
        return position + 1
    end = number.end
    if number.ordinal:  # only as in "two to the tenth power"
        if words[end : end + 1] != ["power"] or not tokens or tokens[-1].symbol != "to":
            raise _NotArithmetic(words[position])
        tokens[-1] = _Token("infix", "to the power of", "^")
        end += 1
    tokens.append(_Token("number", spell_number(number.value), number=Fraction(number.value)))
    return end


def _words_and_symbols(text: str) -> list[str]:
    """Words and operator signs; a comma between digits belongs to the number."""
    words: list[str] = []
    for piece in _SYMBOLS.sub(r" \1 ", text).split():
        words.extend([piece] if _SYMBOLS.fullmatch(piece) else split_words(piece))
    return words


def _in_words(tokens: Sequence[_Token]) -> str:
    return " ".join(token.spoken for token in tokens if token.spoken)


class _Parser:
    """Precedence climbing over tokens."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def parse(self) -> Value:
        value = self._expression(0)
        if self._at != len(self._tokens):
            raise _NotArithmetic(self._tokens[self._at].spoken)
        return value

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _expression(self, least: int) -> Value:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _NotArithmetic("too deeply nested")
        left = self._operand()
        while (token := self._peek()) is not None:
            if token.kind == "postfix":
                self._at += 1
                left = _apply_postfix(token.symbol, left)
            elif token.kind == "infix" and _BINDING[token.symbol] >= least:
                self._at += 1
                tighter = 0 if token.symbol == "^" else 1  # powers group to the right
                right = self._expression(_BINDING[token.symbol] + tighter)
                left = _apply_infix(token.symbol, left, right)
            else:
                break
        self._depth -= 1
        return left

    def _operand(self) -> Value:
        token = self._peek()
        if token is None:
            raise _NotArithmetic("it ends too early")
        self._at += 1
        if token.kind == "number" and token.number is not None:
            return Value(token.number)
        if token.kind == "open":
            value = self._expression(0)
            closing = self._peek()
            if closing is None or closing.kind != "close":
                raise _NotArithmetic("a parenthesis is open")
            self._at += 1
            return value
        if token.kind == "prefix":
            return _apply_prefix(token.symbol, self._expression(_PREFIX_BINDING))
        if token.symbol in ("-", "+") and token.kind == "infix":
            value = self._expression(_PREFIX_BINDING)
            return _apply_prefix("neg", value) if token.symbol == "-" else value
        if token.kind == "pair":
            return self._pair(token.symbol)
        raise _NotArithmetic(token.spoken)

    def _pair(self, symbol: str) -> Value:
        first = self._expression(0)
        separator = self._peek()
        if separator is None or separator.symbol not in _PAIR_SEPARATORS[symbol]:
            raise _NotArithmetic("one of two numbers is missing")
        self._at += 1
        second = self._expression(0)
        if symbol == "from":
            return _apply_infix("-", second, first)
        value = _apply_infix(symbol, first, second)
        return Value(abs(value.number), value.exact) if symbol == "-" else value


def _apply_infix(symbol: str, left: Value, right: Value) -> Value:
    a, b = left.number, right.number
    exact = left.exact and right.exact
    if symbol in ("/", "mod") and b == 0:
        raise CalculationError("Nothing can be divided by zero.")
    if symbol == "^":
        return _power(left, right)
    operations: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "+": lambda x, y: x + y,
        "-": lambda x, y: x - y,
        "*": lambda x, y: x * y,
        "/": lambda x, y: x / y,
        "mod": lambda x, y: x % y,
        "%*": lambda x, y: x * y / 100,
    }
    return _bounded(operations[symbol](a, b), exact)


def _apply_prefix(symbol: str, value: Value) -> Value:
    number = value.number
    if symbol == "neg":
        return Value(-number, value.exact)
    if symbol == "sqrt":
        return _root(value, 2)
    if symbol == "cbrt":
        return _root(value, 3)
    if symbol == "!":
        return _factorial(value)
    factor = {
        "half": Fraction(1, 2),
        "third": Fraction(1, 3),
        "quarter": Fraction(1, 4),
        "fifth": Fraction(1, 5),
        "tenth": Fraction(1, 10),
        "double": Fraction(2),
    }[symbol]
    return Value(number * factor, value.exact)


def _apply_postfix(symbol: str, value: Value) -> Value:
    if symbol == "%":
        return Value(value.number / 100, value.exact)
    if symbol == "!":
        return _factorial(value)
    return _power(value, Value(Fraction(int(symbol[1]))))


def _power(base: Value, exponent: Value) -> Value:
    exact = base.exact and exponent.exact
    power = exponent.number
    if power.denominator == 2 and abs(power.numerator) <= MAX_EXPONENT:
        return _root(_power(base, Value(Fraction(power.numerator), exponent.exact)), 2)
    if power.denominator != 1 or abs(power) > MAX_EXPONENT:
        raise CalculationError("That power is too large for me.")
    if base.number == 0 and power < 0:
        raise CalculationError("Nothing can be divided by zero.")
    bits = max(base.number.numerator.bit_length(), base.number.denominator.bit_length())
    if bits * abs(power) > MAX_BITS:
        raise CalculationError("That number is too large for me.")
    return _bounded(base.number ** int(power), exact)


def _root(value: Value, degree: int) -> Value:
    number = value.number
    if number < 0 and degree == 2:
        raise CalculationError("A negative number has no real square root.")
    sign = -1 if number < 0 else 1
    top, bottom = abs(number.numerator), number.denominator
    root_of_top, root_of_bottom = _integer_root(top, degree), _integer_root(bottom, degree)
    if root_of_top**degree == top and root_of_bottom**degree == bottom:
        return Value(sign * Fraction(root_of_top, root_of_bottom), value.exact)
    scale = 10**30
    scaled = _integer_root(top * scale**degree // bottom, degree)
    return Value(sign * Fraction(scaled, scale), exact=False)


def _integer_root(number: int, degree: int) -> int:
    """Largest integer whose power is at most `number`."""
    if degree == 2:
        return isqrt(number)
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**degree <= number:
            low = middle
        else:
            high = middle - 1
    return low


def _factorial(value: Value) -> Value:
    number = value.number
    if number.denominator != 1 or number < 0:
        raise CalculationError("Only whole numbers from zero have a factorial.")
    if number > MAX_FACTORIAL:
        raise CalculationError("That number is too large for me.")
    product = 1
    for factor in range(2, int(number) + 1):
        product *= factor
    return Value(Fraction(product), value.exact)


def _bounded(number: Fraction, exact: bool) -> Value:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise CalculationError("That number is too large for me.")
    return Value(number, exact)
