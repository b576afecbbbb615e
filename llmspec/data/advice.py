"""What helps against each reason for which records are not read."""

from __future__ import annotations

from typing import get_args

from llmspec.data.preferences import (
    ASSISTANT_FIRST,
    EQUAL,
    ONE_SIDED,
    PROMPTS_DIFFER,
    TIED,
    UNJUDGED,
    UNMEASURED,
    UNSCORED,
)
from llmspec.data.shaping import (
    EMPTY,
    FORMAT,
    MISFIT,
    NO_PAIR,
    NOTHING_BEFORE,
    NOTHING_LEARNED,
    ROLE,
    SEVERAL,
    TOO_LONG,
    UNLABELLED,
    UNLISTED,
    UNNAMED,
    UNNUMBERED,
    UNTAGGED,
    VALIDATED,
)
from llmspec.data.weighing import UNWEIGHTED
from llmspec.parts.phases import Phase

ADVICE = {
    EMPTY: "in a template, a field that may be empty needs a line or a turn of its own",
    UNLABELLED: "give those records a label, or take them out",
    UNWEIGHTED: "give those records a positive number where `weight:` reads it, or take them out",
    UNTAGGED: "give those records a list of tags, or take them out",
    MISFIT: "give each word one tag, or take those records out",
    UNNAMED: "name all numbers in the source's `tag_names:`, from 0 on",
    UNLISTED: "list their labels in the phase's `labels:`, or take them out",
    UNNUMBERED: "correct those labels, or take the records out",
    SEVERAL: "multi_label: true learns several labels of a document",
    TOO_LONG: "raise model.context: at {needed}, no more than a tenth would be too long",
    ROLE: "rename the roles to system, developer, user or assistant",
    FORMAT: "say with `dialogue:` or `messages:` how a record is read",
    NOTHING_LEARNED: "look at which roles `train_on:` names",
    NOTHING_BEFORE: "an encoder needs something to read: a chat template that begins with a token, or a turn before",
    NO_PAIR: "a phase of pairs reads records of two turns, or `source:` and `target:`",
    VALIDATED: "take those documents out of the source",
    EQUAL: "give each prompt answers that differ, or take those records out",
    TIED: "give their answers scores that differ, or weights of `scores:` by which they do",
    ONE_SIDED: "give each prompt a second answer, or learn from single ones by `kind: kto`, with `good:`",
    ASSISTANT_FIRST: "begin those dialogues with a turn of user",
    PROMPTS_DIFFER: "compare answers to one prompt: the turns before both of them are to be the same",
    UNSCORED: "give each answer a number in the fields that `scores:` names",
    UNJUDGED: "name the words that `good:` says: `good_is:` and `bad_is:`",
    UNMEASURED: "write a number from 0 on where `margin:` reads it, or nothing",
}
"""Reason -> what helps against it."""
OF_PAIRS = {EMPTY: "give those records a text on both sides, or look at which fields `source:` and `target:` name"}
"""The same where a phase reads two texts of each record."""
CUTS = "truncation"
"""The key of phases that can cut what is too long."""


def advice(reason: str, phase: Phase, needed: int = 0) -> str:
    """What helps a phase against a reason; '' where nothing is known. `needed`: tokens that hold nine tenths of what
    it reads."""
    said = OF_PAIRS.get(reason, "") if phase.pairs or phase.apart else ""
    if reason == TOO_LONG and getattr(phase, CUTS, "") == "none":
        kinds = [kind for kind in get_args(type(phase).model_fields[CUTS].annotation) if kind != "none"]
        said = f"{ADVICE[reason]}; or `{CUTS}: {kinds[0]}`" + (f" ({', '.join(kinds[1:])})" if kinds[1:] else "")
    return (said or ADVICE.get(reason, "")).format(needed=needed)
