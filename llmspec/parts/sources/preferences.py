"""What the keys of a source say of answers that are compared with each other, or are good or bad by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmspec.parts.sources.template import parse

COMPARED = (
    "prompt",
    "chosen",
    "rejected",
    "rejected_from",
    "margin",
    "answers",
    "scores",
    "group_by",
    "completion",
    "good",
    "good_is",
    "bad_is",
)
"""Keys of a source that say which answers of a record are better than which."""
BEST = ("chosen", "answers", "completion")
"""Of those, the ones that say where the answers are; a source has one of them."""
TEMPLATES = ("prompt", "chosen", "margin", "completion", "good")
"""Of those, the ones that are templates of a record."""


def asks_alone(source: Any) -> bool:
    """Whether `prompt:` stands there without any other of the keys: the records ask something, and answer nothing."""
    return [key for key in COMPARED if getattr(source, key) is not None] == ["prompt"]


def comparison(source: Any) -> dict[str, Any]:
    """The keys that a source has, as JSON-able values; {} where it has none, or asks alone."""
    found = {key: value for key in COMPARED if (value := getattr(source, key)) is not None}
    if asks_alone(source):
        return {}
    if isinstance(scores := found.get("scores"), dict):
        found["scores"] = [[name, weight] for name, weight in scores.items()]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def rejected_templates(source: Any) -> tuple[str, ...]:
    """Templates of the answers that are worse than the chosen one, the better ones first."""
    found = source.rejected
    return () if found is None else (found,) if isinstance(found, str) else tuple(found)


def comparison_fields(source: Any) -> tuple[str, ...]:
    """Fields of records that are read for it."""
    templates = [t for key in TEMPLATES if (t := getattr(source, key)) is not None] + [*rejected_templates(source)]
    named = [piece.text for template in templates for piece in parse(template) if piece.field]
    scores = source.scores
    listed = [scores] if isinstance(scores, str) else [*(scores or ())]
    alone = [name for name in (source.answers, source.group_by) if name]
    return tuple(dict.fromkeys((*named, *alone, *listed)))


def wrong_comparison(source: Any) -> str:
    """What is wrong with the keys beside each other; '' where nothing is."""
    found = comparison(source)
    others = [key for key in ("messages", "dialogue", "source", "template") if getattr(source, key) is not None]
    if asks_alone(source) and others:
        return f"`prompt:` and `{others[0]}:` both say what is asked; keep one"
    if not found:
        return ""
    best = [key for key in BEST if key in found]
    if not best:
        first = next((key for key in found if key != "prompt"), "prompt")  # which says the least of them
        return (
            f"`{first}:` says something of answers, and nothing says where those are; write `chosen:` and `rejected:`, "
            "`answers:` and `scores:`, or `completion:` and `good:`"
        )
    if len(best) > 1:
        return f"`{best[0]}:` and `{best[1]}:` both say where a record's answers are; keep one"
    if wrong := _wrong_beside(best[0], found):
        return wrong
    if source.source is not None or source.template is not None or source.dialogue is not None:
        other = next(k for k in ("source", "template", "dialogue") if getattr(source, k) is not None)
        return f"`{best[0]}:` and `{other}:` both say what is answered; keep one, with `prompt:` for the question"
    if (source.prompt is None) == (source.messages is None):
        twice = "both say what is answered; keep one" if source.prompt else "say what is answered; write one of them"
        return f"`prompt:` (a template) and `messages:` (a field that holds the turns before the answer) {twice}"
    return ""


def _alike(found: Mapping[str, Any]) -> str:
    """Which keys say the same of every record, so that nothing would be compared; '' where none do."""
    given = found.get("rejected", [])
    rejected = [one.strip() for one in ([given] if isinstance(given, str) else given)]
    if "chosen" in found and found["chosen"].strip() in rejected:
        return "`rejected:` is the template of `chosen:`: no answer would be better than another; name the worse one"
    if twice := next((one for i, one in enumerate(rejected) if one in rejected[:i]), ""):
        return f"`rejected:` has `{twice[:40]}` twice: neither answer would be better; write it once"
    if "answers" in found and found.get("scores") == found["answers"]:
        return "`scores:` names the field of `answers:`; name the one that holds their scores"
    if "answers" in found and found.get("group_by") == found["answers"]:
        return "`group_by:` names the field of `answers:`; name the one that is alike where they answer the same"
    if "completion" in found and found.get("good", "").strip() == found["completion"].strip():
        return "`good:` is the template of `completion:`; name the field that says whether the answer is good"
    return ""


def _wrong_beside(best: str, found: Mapping[str, Any]) -> str:
    """What is missing beside the key that says where answers are, or does nothing there."""
    fitting = {
        "chosen": ("rejected", "rejected_from", "margin"),
        "answers": ("scores", "group_by"),
        "completion": ("good", "good_is", "bad_is"),
    }
    idle = [key for key in found if key not in ("prompt", best, *fitting[best])]
    if idle:
        return f"`{idle[0]}:` does nothing beside `{best}:`"
    if best == "chosen" and ("rejected" in found) == ("rejected_from" in found):
        if "rejected" in found:
            return "`rejected:` and `rejected_from:` both say what the worse answer is; keep one"
        return "`chosen:` is compared with something: write `rejected:`, or `rejected_from: other_records`"
    if wrong := _alike(found):
        return wrong
    if "bad_is" in found and "good_is" not in found:
        return "`bad_is:` stands beside `good_is:`; write both"
    for key in ("good_is", "bad_is"):
        words = found.get(key, key)
        if not words or not all(word.strip() for word in ([words] if isinstance(words, str) else words)):
            return f"`{key}:` names no word; write what `good:` says of such answers, such as `fresh`"
    if best != "chosen" and fitting[best][0] not in found:
        return f"`{best}:` without `{fitting[best][0]}:` says nothing of how good they are; write both"
    if isinstance(scores := found.get("scores"), list) and not any(weight for _, weight in scores):
        return "all weights of `scores:` are 0: no answer would be better than another"
    return ""
