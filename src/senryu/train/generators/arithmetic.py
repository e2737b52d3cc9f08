"""Questions of one and two steps, in words and symbols, whose answer a calculator tool gives; a few need no tool."""

from __future__ import annotations

import ast
import operator
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from senryu.train.generators.common import Row, Split, Talk, banks, capital, stream, tool

LONGEST = 200  # characters of an expression that is still worked out
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
FORMS = {  # the expression of each kind of question
    "plus": "{a} + {b}",
    "minus": "{a} - {b}",
    "times": "{a} * {b}",
    "over": "{a} / {b}",
    "plus_minus": "{a} + {b} - {c}",
    "times_plus": "{a} * {b} + {c}",
    "times_minus": "{a} * {b} - {c}",
    "sum_times": "({a} + {b}) * {c}",
}


def evaluate(expression: str) -> str:
    """What the calculator answers: a whole number, or a decimal of at most four places. Raises ValueError."""
    if len(expression) > LONGEST:
        raise ValueError("too long")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
        return str(value.numerator) if value.denominator == 1 else f"{float(value):.4f}".rstrip("0").rstrip(".")
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot calculate: {error}") from error


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError("only numbers, + - * / and brackets are known")


def rows(seed: int, split: Split = "train", *, digits: int | None = None, called: bool | None = None) -> Iterator[Row]:
    """Rows without end; `expression` (empty without a call) and `answer` stand beside the conversation.

    digits: of the numbers; 2 or 3 by default. called: whether the calculator is needed; nearly always by default.
    """
    return stream("arithmetic", seed, split, lambda draw: _row(draw, split, digits, called))


def _row(draw: random.Random, split: Split, digits: int | None, called: bool | None) -> Row:
    bank = banks("arithmetic", split)
    name, argument = draw.choice(bank["tools"]), draw.choice(bank["arguments"])
    entry = tool(name, draw.choice(bank["descriptions"]), {argument: {"type": "string"}}, [argument])
    talk = Talk("arithmetic", draw.choice(bank["systems"]) if draw.random() < 0.5 else "", [entry])
    if called is None:
        called = draw.random() < 0.92
    if not called:
        question, answer = _without_tool(draw, split)
        return talk.user(question).say(answer).row(expression="", answer=answer)
    kind = draw.choice(list(FORMS))
    numbers = _numbers(draw, kind, digits or draw.choice((2, 3)))
    expression = FORMS[kind].format(**numbers)
    wording = draw.choice(bank["symbols" if draw.random() < 0.4 else kind])
    question = wording.format(**numbers, e=expression, **_slots(draw, bank))
    answer = evaluate(expression)
    talk.user(question).call((name, {argument: expression})).results(answer)
    return talk.say(draw.choice(bank["results"]).format(r=answer)).row(expression=expression, answer=answer)


def _slots(draw: random.Random, bank: dict[str, Any]) -> dict[str, str]:
    """Words for the places of a wording, where the bank has such; W is w with a capital."""
    if "slots" not in bank:
        return {}
    chosen = {key: draw.choice(words) for key, words in bank["slots"].items()}
    box, boxes = draw.choice(list(bank["containers"].items()))
    asked = {key: chosen[key].format(n=chosen["n"]) for key in ("count", "left")}
    return {**chosen, **asked, "W": capital(chosen["w"]), "box": box, "boxes": boxes}


def _numbers(draw: random.Random, kind: str, digits: int) -> dict[str, int]:
    """Numbers of so many digits whose result is whole and not negative."""
    low, high = 10 ** (digits - 1), 10**digits - 1
    a, b, c = (draw.randint(low, high) for _ in range(3))
    if kind == "minus":
        a, b = max(a, b), min(a, b)
    elif kind == "plus_minus":
        c = draw.randint(low, min(high, a + b))
    elif kind == "over":
        b = draw.randint(2, min(high // 2, 99))
        a = b * draw.randint(-(-low // b), high // b)
    return {"a": a, "b": b, "c": c}


def _without_tool(draw: random.Random, split: Split) -> tuple[str, str]:
    """A comparison, or a sum that is known by heart."""
    bank = banks("arithmetic", split)
    if draw.random() < 0.5:
        a, b = draw.sample(range(10, 1000), 2)
        return draw.choice(bank["larger"]).format(a=a, b=b), str(max(a, b))
    a, b = draw.randint(1, 9), draw.randint(1, 9)
    return draw.choice(bank["small"]).format(a=a, b=b), str(a + b)
