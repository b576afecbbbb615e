"""What a reader of Modelfiles as strict as Ollama's makes of one, and Go's templates as far as ours need them.

Both follow what Ollama does (tests/peers/test_ollama.py asks it itself), in other words: one goes through the text by
regular expressions, the other through the template once, as a tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Turns = Sequence[tuple[str, str]]
WHOLE = ("num_predict", "top_k", "num_ctx", "repeat_last_n")


def commands(text: str) -> list[tuple[str, str]]:
    """(name, value) of every command. Raises ValueError where Ollama would refuse the file."""
    found, place = [], 0
    while place < len(text):
        head = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*(?:([A-Za-z]+)[ \t]|$)").match(text, place)
        if head is None:
            raise ValueError(f"no command: {text[place : place + 20]!r}")
        if head[1] is None:
            break
        name, place = head[1].lower(), head.end()
        if name == "parameter":
            key = re.compile(r"([A-Za-z0-9_]+)[ \t]").match(text, place)
            if key is None:
                raise ValueError("no name of a parameter")
            name, place = key[1], key.end()
        elif name not in ("from", "template", "system"):
            raise ValueError(f"no command is called {name}")
        for end in [m.start() for m in re.compile(r"[\r\n]").finditer(text, place)] + [len(text)]:
            value = unquoted(text[place:end])
            if value is not None:
                break
        else:
            raise ValueError(f"quotes that do not end: {text[place:][:20]!r}")
        found.append((name, value))
        place = end
    return found


def unquoted(raw: str) -> str | None:
    """A value without its quotes, and without what is not printable; None where its quotes have not ended."""
    kept = "".join(c for c in raw if c.isprintable() or c in "\t\r\n").strip()
    for quotes in ('"""', '"'):
        if kept.startswith(quotes):
            ended = len(kept) >= 2 * len(quotes) and kept.endswith(quotes)
            return kept[len(quotes) : -len(quotes)] if ended else None
    return kept


def read(text: str) -> dict[str, Any]:
    """The template, and the parameters as numbers and lists. Raises ValueError where Ollama would refuse one."""
    found: dict[str, Any] = {"stop": []}
    for name, value in commands(text):
        if name == "stop":
            found["stop"].append(value)
        elif name in ("from", "template"):
            found[name] = value
        else:
            found[name] = (whole if name in WHOLE else single)(value)
    return found


def whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError(f"no whole number: {text}")
    return int(text)


def single(text: str) -> float:
    import numpy as np

    with np.errstate(over="ignore"):
        found = np.float32(float(text))
    if not np.isfinite(found):
        raise ValueError(f"no number of 32 bits: {text}")
    return float(found)


# -- templates ---------------------------------------------------------------------------------------------------------
ACTION = re.compile(r'\{\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}\}')
STRING = r'"((?:[^"\\]|\\.)*)"'
IN_STRING = {"n": "\n", "t": "\t", "r": "\r"}


def rendered(template: str, turns: Turns) -> str:
    """What Ollama makes of a dialogue: turns of one role that follow each other are one, with an empty line between."""
    joined = list[tuple[str, str]]()
    for role, content in turns:
        if joined and joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n\n{content}")
        else:
            joined.append((role, content))
    if ".Messages" not in template:  # the template of a prompt, once for each turn and its answer
        return "".join(template.replace("{{ .Prompt }}", text) if role == "user" else text for role, text in joined)
    body, place = _block(template, 0)
    assert place == len(template)
    return _run(body, joined, None)


def _block(text: str, place: int) -> tuple[list[Any], int]:
    """Texts and actions up to what ends the block, and where that stands."""
    found: list[Any] = []
    while place < len(text):
        at = text.find("{{", place)
        if at < 0:
            return [*found, text[place:]], len(text)
        found.append(text[place:at])
        action = ACTION.match(text, at)
        if action is None:
            raise ValueError(f"no action: {text[at : at + 30]!r}")
        inner = action[1].strip()
        if inner == "end" or inner.startswith("else"):
            return found, at
        place = action.end()
        if not inner.startswith(("if ", "range ")):
            found.append((inner, [], []))
            continue
        cases, other = [(inner, *_block(text, place))], list[Any]()
        while True:
            place = cases[-1][2]
            action = ACTION.match(text, place)
            if action is None:
                raise ValueError("a block that does not end")
            inner, place = action[1].strip(), action.end()
            if inner == "end":
                break
            if inner == "else":
                other, place = _block(text, place)
                place = ACTION.match(text, place).end()  # type: ignore[union-attr]
                break
            cases.append((inner.removeprefix("else "), *_block(text, place)))
        for condition, body, _ in reversed(cases):
            other = [(condition, body, other)]
        found += other
    return found, place


def _run(block: Sequence[Any], turns: Turns, at: int | None) -> str:
    return "".join(each if isinstance(each, str) else _done(*each, turns, at) for each in block)


def _done(inner: str, body: Sequence[Any], other: Sequence[Any], turns: Turns, at: int | None) -> str:
    if inner in ("range .Messages", "range $i, $m := .Messages"):
        return "".join(_run(body, turns, i) for i in range(len(turns)))
    if inner.startswith("if "):
        return _run(body if _holds(inner.removeprefix("if "), turns, at) else other, turns, at)
    if inner == ".Content":
        assert at is not None
        return turns[at][1]
    string = re.fullmatch(STRING, inner)
    if string is None:
        raise ValueError(f"no action: {inner}")
    return re.sub(r"\\(u[0-9a-f]{4}|U[0-9a-f]{8}|.)", lambda m: _character(m[1]), string[1])


def _character(escaped: str) -> str:
    return chr(int(escaped[1:], 16)) if len(escaped) > 1 else IN_STRING.get(escaped, escaped)


def _holds(condition: str, turns: Turns, at: int | None) -> bool:
    if condition == "eq (len (slice $.Messages $i)) 1":
        return at == len(turns) - 1
    found = re.fullmatch(rf"eq (\.Role|\(index \.Messages 0\)\.Role) {STRING}", condition)
    if found is None:
        raise ValueError(f"no condition: {condition}")
    return turns[0 if "index" in found[1] else at or 0][0] == found[2]


# -- ours --------------------------------------------------------------------------------------------------------------
def spelled(specials: Mapping[str, int], segments: Sequence[Any], bos: int | None) -> str:
    """A prompt of ours as text, without the bos token, which Ollama puts there itself."""
    texts = {token: text for text, token in specials.items()}
    parts = [each.content for each in segments]
    if bos is not None and parts and parts[0] in (bos, texts[bos]):
        del parts[0]
    return "".join(texts[part] if isinstance(part, int) else str(part) for part in parts)
