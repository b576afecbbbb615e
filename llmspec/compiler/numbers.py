"""Passes that look at settings as the graph will see them: in float32, where some numbers are 0, 1 or infinite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isinf
from typing import Any, get_args

from pydantic.fields import FieldInfo

from llmspec.compiler.draft import Draft
from llmspec.core.float32 import lost, rounded
from llmspec.core.problems import Problem
from llmspec.parts.base import Frozen, Part, limits
from llmspec.parts.dropout import Dropout, Site
from llmspec.parts.phases import Phase

SPREAD = 8.0
"""Standard deviations from 0 that no weight of a normal start exceeds."""


def check_numbers(draft: Draft) -> Draft:
    """Settings of the model and of the phases that float32 cannot hold are refused, with what would happen."""
    sections = draft.sections
    model = sections.model or sections.rough_model
    found = [p.at("phases", name) for name, phase in sections.phases.items() for p in phase_problems(phase)]
    if model is not None:
        keys = set(type(model).model_fields) if sections.model else sections.sound
        found += [p.at("model") for p in number_problems(model) if p.path[0] in keys]
        if "dropout" in keys:
            found += [p.at("model", "dropout") for p in small_shares(model.dropout)]
    return draft.with_problems(found)


def small_shares(dropout: float | Dropout) -> Iterator[Problem]:
    """Of shares of numbers to drop: those that no random number is less than."""
    shares = (
        {(key,): getattr(dropout, key) for key in get_args(Site)} if isinstance(dropout, Dropout) else {(): dropout}
    )
    for path, share in shares.items():
        if 0 < share < 2.0**-32 and not lost(share):
            yield Problem(
                f"{share:g} is less than the smallest random number that it is compared with",
                path,
                f"{(*path, 'dropout')[0]}: 0.1 is usual, 0 is none",
                "nothing would be dropped",
            )


def number_problems(value: Frozen) -> Iterator[Problem]:
    """Of every number in a value, however deep, that the graph holds."""
    alone = True
    for key, info in type(value).model_fields.items():
        found = getattr(value, key)
        below = {(key, name): one for name, one in found.items()} if isinstance(found, Mapping) else {(key,): found}
        for path, one in below.items():
            if isinstance(one, Frozen):
                yield from (p.at(*path) for p in number_problems(one))
        if isinstance(found, Part):
            continue
        if isinstance(found, float) and key not in getattr(value, "in_float64", ()):
            for problem in number_problem(value, key, info, found):
                alone = False
                yield problem
    if alone and isinstance(value, Part):
        yield from value.strained()


def number_problem(value: Frozen, key: str, info: FieldInfo, number: float) -> Iterator[Problem]:
    """What is wrong with one number: it becomes 0, infinite, or a 1 that it may not be."""
    effects = getattr(value, "effects", {}).get(key, ("it would count as 0", "it would count as infinite"))
    below_one = any(getattr(rule, "lt", None) == 1 for rule in rules(info))
    what, effect = lost(number), effects[isinf(rounded(number))]
    if below_one and rounded(number) == 1:
        what, effect = "is 1 in float32, and has to be less", effects[1]
    if what:
        default = info.get_default(call_default_factory=True)
        usual = f"{key}: {default:g} is the default" if isinstance(default, float) else ""
        yield Problem(f"{number!r} {what}", (key,), usual, effect)


def rules(info: FieldInfo) -> Iterator[Any]:
    """The limits of a field, or of a number that its value may be."""
    yield from info.metadata
    for one in get_args(info.annotation):
        yield from limits(one)


def phase_problems(phase: Phase) -> Iterator[Problem]:
    """Numbers of a phase, and what becomes of one beside another."""
    alone = list(number_problems(phase))
    yield from alone
    if not alone:
        yield from phase.together()


def check_start(draft: Draft) -> Draft:
    """Weights have to start as numbers that are not all 0, and whose squares a norm can sum."""
    assert draft.network is not None
    for tensor in draft.network.tensors:
        std = tensor.init.std
        if tensor.init.distribution != "normal":
            continue
        what = lost(std) or (
            "has squares that are infinite in float32" if lost((SPREAD * std) ** 2).startswith("is infinite") else ""
        )
        if what and not any(p.path[:2] == ("model", "init") for p in draft.problems):
            return draft.with_problems(
                [
                    Problem(
                        f"{tensor.name} would start with a standard deviation of {std:g}, which {what}",
                        ("model", "init"),
                        "a standard deviation of 0.02 is usual",
                        "all its weights would start as 0 and get the same gradients"
                        if std < 1
                        else "the first forward pass would give infinities",
                    )
                ]
            )
    return draft
