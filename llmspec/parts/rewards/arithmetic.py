"""Whether an answer is the value of an arithmetical expression."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.parts.rewards.base import Answered, Reward, filled
from llmspec.parts.sources.template import parse

_OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS: dict[type, Callable[[Fraction], Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_SAME = str.maketrans("×·÷−–:", "**/--/")
_NUMBER = re.compile(r"[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")
_EXPRESSION = re.compile(r"[-+−]?\(*\s*\d[\d\s.()+\-−–*×·/÷:]*")
LONGEST = 1000
"""Characters of an expression that is computed."""


class Arithmetic(Reward):
    """1 where the last number of the answer is the value of an expression, computed exactly; else 0."""

    kind: Literal["arithmetic"] = "arithmetic"
    formula: ClassVar[str] = "1 if the last number = value(expression), else 0"
    fielded: ClassVar[tuple[str, ...]] = ("expression",)
    expression: str | None = Field(None, min_length=1)
    """What is to be computed, of numbers, + - * / and brackets: text and `{fields}` of the prompt's record. null: the
    longest expression in the prompt."""

    @field_validator("expression")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value

    def score(self, answer: Answered) -> float:
        wanted = self.value(answer)
        said = _NUMBER.findall(answer.text)
        return float(bool(said) and wanted is not None and number(said[-1]) == wanted)

    def value(self, answer: Answered) -> Fraction | None:
        """What is right; None where there is nothing to compute."""
        if self.expression is not None:
            return value_of(filled(self.expression, answer.record))
        found = sorted((e.strip() for e in _EXPRESSION.findall(answer.prompt)), key=len)
        return value_of(found[-1]) if found else None


def number(text: str) -> Fraction | None:
    """A number as it is written; None where it divides by zero, or has more digits than Python reads."""
    try:
        return Fraction(text.replace(",", "").replace("−", "-"))
    except (ZeroDivisionError, ValueError):
        return None


def value_of(text: str) -> Fraction | None:
    """The exact value of an expression; None where it has none, or is not one of numbers, + - * / and brackets."""
    text = text.translate(_SAME).strip().rstrip("=?.! ")
    if len(text) > LONGEST:
        return None
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(repr(node.value))
    raise ValueError("this is no arithmetic")
