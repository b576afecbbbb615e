"""Whether an answer to a question about specs/data/handbook.jsonl is right: whether it says what was asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import tiny

from llmspec.core.text_scores import rouge_l

ROWS = [json.loads(row) for row in (tiny.ROOT / "specs/data/handbook.jsonl").read_text("utf-8").splitlines()]
"""Questions and answers in the order of the file."""
HELD_OUT = 100
"""How many of the last ones are held out, counted as questions that no other asks."""
LIKE = 0.5
"""ROUGE-L from which on an answer without any fact counts as right."""
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
)
_ONES += "eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {word: i for i, word in enumerate(_ONES.split())} | {w: 20 + 10 * i for i, w in enumerate(_TENS.split())}
_WORD = re.compile(r"\d[\d,.:]*\d|\d|[^\W\d_]+")
_COMMON = {"a", "an", "the", "in", "on", "at", "with", "of", "to", "it", "we", "i", "for", "by", "from", "if", "once"}


def facts(text: str) -> list[str]:
    """What of a text can be right or wrong: yes and no, numbers, however they are written, and names; in its order."""
    found, words = [], [(m.group(), m.start()) for m in _WORD.finditer(text)]
    i = 0
    while i < len(words):
        word, at = words[i]
        small = word.lower()
        if word[0].isdigit():
            found.append(word.replace(",", ""))
        elif small in _NUMBERS:
            number = _NUMBERS[small]
            follows = words[i + 1][0].lower() if i + 1 < len(words) and text[at + len(word)] == "-" else ""
            if number >= 20 and 0 < _NUMBERS.get(follows, 0) < 10:
                number, i = number + _NUMBERS[follows], i + 1
            found.append(str(number))
        elif (small in ("yes", "no") and not i) or (word[0].isupper() and small not in _COMMON and _is_name(text, at)):
            found.append(small)
        i += 1
    return found


def _is_name(text: str, at: int) -> bool:
    """Whether a capital stands there that no sentence begins with, or one of a word that is a name elsewhere."""
    inside = at and text[:at].rstrip()[-1:] not in (".", ":", ";", "!", "?", "")
    return bool(inside) or _word(text, at) in NAMES


def _word(text: str, at: int) -> str:
    found = _WORD.match(text, at)
    return found.group() if found else ""


def _names() -> frozenset[str]:
    """Words that have a capital inside a sentence of the handbook, and never a small letter."""
    inside, small = set[str](), set[str]()
    for text in (text for row in ROWS for text in row.values()):
        for m in _WORD.finditer(text):
            word, before = m.group(), text[: m.start()].rstrip()[-1:]
            (inside if word[0].isupper() and before not in (".", ":", ";", "!", "?", "") else small).add(word.lower())
            small.discard(word.lower()) if word[0].isupper() else None
    return frozenset(word.capitalize() for word in inside - small)


NAMES = frozenset[str]()
NAMES = _names()


def right(question: str, answer: str, reference: str) -> bool:
    """Whether an answer says what the reference says first, besides what the question says itself: yes or no, and the
    first number or name. Where the reference has neither, whether the two have enough words in common."""
    asked, wanted, said = set(facts(question)), facts(reference), set(facts(answer))
    wanted = [fact for fact in wanted if fact not in asked]
    first = [fact for fact in wanted if fact in ("yes", "no")][:1]
    first += [fact for fact in wanted if fact not in ("yes", "no")][:1]
    return set(first) <= said if first else rouge_l([answer], [reference]) >= LIKE


def recall(answers: dict[str, str]) -> float:
    """Share of the answers, by question, that are right."""
    references = {row["question"]: row["answer"] for row in ROWS}
    return sum(right(q, a, references[q]) for q, a in answers.items()) / len(answers)


def held_out(count: int = HELD_OUT) -> list[str]:
    """The questions that are held out."""
    return [row["question"] for row in ROWS[-count:]]


def main(path: Path) -> None:
    """Prints how many of the questions a model answers rightly, and its answers."""
    import llmspec

    model = llmspec.open(path)
    asked = held_out()
    found = dict(zip(asked, (g[0].text for g in model.generate_batch(asked, chat=True, temperature=0)), strict=True))
    references = {row["question"]: row["answer"] for row in ROWS}
    for question, answer in found.items():
        print("right" if right(question, answer, references[question]) else "WRONG", question, "->", answer)
    print(json.dumps({"asked": len(found), "right": recall(found)}))


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]))
