"""YAML text -> nodes that know where they were written. YAML 1.2 core scalars; nothing but maps, lists and scalars.

`3e-4` is a number and `no` is text. Refused, each with its place: duplicate keys, keys that are not text, tags, aliases
that grow beyond a cap, deep nesting, several documents. A syntax error spoils only the smallest block around it: the
rest of the file is still read (see recovery.py), so that its problems can be reported in the same breath.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml import events as ev

from llmspec.core.problems import Mark, Path, Problem, SpecError

MAX_NODES = 50_000
"""Values a file may hold once its aliases are written out."""
MAX_DEPTH = 48
"""Levels of nesting."""
WINDOW = 88
"""Characters of a line shown below a problem."""

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL, _HEX = re.compile(r"0o[0-7]+"), re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"(?P<inf>(?P<sign>[-+]?)\.(inf|Inf|INF))|\.(nan|NaN|NAN)")
_WORDS = {
    w: v
    for v, words in (
        (None, ("", "~", "null", "Null", "NULL")),
        (True, ("true", "True", "TRUE")),
        (False, ("false", "False", "FALSE")),
    )
    for w in words
}
_DIGITS = 250
"""Characters of a number, at most: a whole one that is longer would fit into no float, and is text."""


def scalar(text: str) -> Any:
    """The value of an unquoted scalar in YAML 1.2's core schema (section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return float(f"{special['sign']}inf") if special["inf"] else float("nan")
    return text


class Node:
    """A value and where it stands: a scalar, `{key: Node}` or `(Node, ...)`. `key` marks the key it is written under.

    `size` and `depth` count what lies below, aliases written out.
    """

    __slots__ = ("depth", "key", "mark", "size", "value")

    def __init__(self, value: Any, mark: Mark, key: Mark | None = None) -> None:
        self.value, self.mark, self.key = value, mark, key
        below = tuple(self.children())
        self.size: int = 1 + sum(n.size for n in below)
        self.depth: int = 1 + max((n.depth for n in below), default=0)

    @property
    def is_map(self) -> bool:
        return isinstance(self.value, dict)

    def children(self) -> Iterator[Node]:
        if isinstance(self.value, dict):
            yield from self.value.values()
        elif isinstance(self.value, tuple):
            yield from self.value

    def under(self, key: Mark | None) -> Node:
        """The same value written under another key."""
        return Node(self.value, self.mark, key)

    def data(self) -> Any:
        """Plain data: dicts, tuples and scalars."""
        if isinstance(self.value, dict):
            return {k: n.data() for k, n in self.value.items()}
        return tuple(n.data() for n in self.value) if isinstance(self.value, tuple) else self.value


@dataclass(frozen=True)
class Tree:
    """Plain data with, for each path, the marks of its key (None in a list, and at the root) and of its value."""

    data: dict[str, Any]
    marks: dict[Path, tuple[Mark | None, Mark]]
    broken: frozenset[Path] = frozenset()
    """Keys that a syntax error hides (a map, where any of its keys may be): there, but unknown."""

    def key_mark(self, path: Path) -> Mark | None:
        """Where the key at the end of a path is written."""
        return self.marks[path][0] if path in self.marks else None

    @classmethod
    def of(cls, root: Node, broken: frozenset[Path] = frozenset()) -> Tree:
        marks: dict[Path, tuple[Mark | None, Mark]] = {}

        def walk(node: Node, path: Path) -> None:
            marks[path] = (node.key, node.mark)
            pairs = node.value.items() if node.is_map else enumerate(node.children())
            for step, child in pairs:
                walk(child, (*path, step))

        walk(root, ())
        return cls(root.data(), marks, broken)


class Text:
    """A file's text, and marks into it by character index."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.lines: list[str] = []
        self.starts: list[int] = []
        at = 0
        for piece in re.split(r"(?<=\n)|(?<=\r)(?!\n)", text):
            self.starts.append(at)
            self.lines.append(piece.rstrip("\r\n"))
            at += len(piece)

    def place(self, index: int) -> tuple[int, int]:
        """0-based line and column. The YAML library's own count goes astray at U+2028, which no editor counts."""
        line = bisect_right(self.starts, max(0, index)) - 1
        return line, index - self.starts[line]

    def mark(self, index: int, end: int | None = None) -> Mark:
        """Mark of the characters from `index` to `end`, or of as many as stand on its line."""
        line, column = self.place(index)
        full = self.lines[line]
        length = max(1, min(len(full) - column, (end if end is not None else index + 1) - index))
        start = max(0, column - WINDOW // 3) if len(full) > WINDOW and column > WINDOW * 2 // 3 else 0
        shown = ("…" if start else "") + full[start : start + WINDOW] + ("…" if len(full) > start + WINDOW else "")
        caret = column - start + bool(start)
        return Mark(self.file, line + 1, column + 1, shown, caret, max(1, min(length, len(shown) - caret)))


class Broken(Exception):
    """Reading cannot go on from here; `final` where it should not be tried again on smaller pieces."""

    def __init__(self, problem: Problem, final: bool = False) -> None:
        self.problem, self.final = problem, final


@dataclass
class Composer:
    """Builds nodes from the parser's events; what can be passed over is noted in `problems`."""

    text: Text
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    made: int = 0
    """Keys and values read so far."""
    loader: Any = yaml.SafeLoader
    """What makes events of text."""

    def compose(self, start: int, end: int) -> Node | None:
        """The document between two character indices, None where there is none.

        Raises:
            Broken: what is fatal but not the YAML library's to see: too deep, too large, an unknown alias.
            yaml.YAMLError: a syntax error.
        """
        self.offset = start
        found: Node | None = None
        self.events = yaml.parse(self.text.text[start:end], Loader=self.loader)
        documents = 0
        for event in self.events:
            if isinstance(event, ev.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.note(
                        event,
                        "a second document starts here; a spec is one document",
                        hint="remove the `---` line, or keep the rest in a file of its own and `extends:` it",
                    )
                    return found
            elif isinstance(event, ev.NodeEvent):
                found = self.node(event, 1)
        return found

    def mark(self, event: Any) -> Mark:
        return self.text.mark(event.start_mark.index + self.offset, event.end_mark.index + self.offset)

    def note(self, event: Any, message: str, hint: str = "", consequence: str = "", path: Path = ()) -> None:
        self.problems.append(Problem(message, path, hint, consequence, self.mark(event)))

    def node(self, event: Any, depth: int, path: Path = ()) -> Node:
        mark = self.mark(event)
        if isinstance(event, ev.AliasEvent):
            return self.alias(event, depth, mark)
        if depth > MAX_DEPTH:
            raise Broken(
                Problem(
                    f"nested more than {MAX_DEPTH} levels deep", mark=mark, hint="is a bracket repeated by mistake?"
                )
            )
        if event.tag is not None:
            self.note(
                event,
                f"`{_tag(event.tag)}` is a tag, and a spec has none",
                path=path,
                hint="remove it; quote text that starts with `!`",
                consequence="tags can name code to run",
            )
        self.made += 1
        if self.made > MAX_NODES:
            raise Broken(too_many(path, mark, f"holds more than {MAX_NODES:,} keys and values"), final=True)
        if isinstance(event, ev.ScalarEvent):
            node = Node(self.scalar(event, path), mark)
        elif isinstance(event, ev.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(self.events), ev.SequenceEndEvent):
                items.append(self.node(item, depth + 1, (*path, len(items))))
            node = Node(tuple(items), mark)
        else:
            node = Node(self.map(depth, path), mark)
        if node.size > MAX_NODES:
            raise Broken(too_many(path, mark, f"holds more than {MAX_NODES:,} values once its aliases are written out"))
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: Any, depth: int, mark: Mark) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise Broken(
                Problem(
                    f"`*{event.anchor}` repeats something that is not named before it",
                    mark=mark,
                    hint=f"name it first with `&{event.anchor}`; quote text that starts with `*`",
                )
            )
        if depth + node.depth > MAX_DEPTH:
            raise Broken(Problem(f"nested more than {MAX_DEPTH} levels deep", mark=mark))
        return node

    def map(self, depth: int, path: Path) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self.events), ev.MappingEndEvent):
            key, mark = self.key(event, depth, path), self.mark(event)
            node = self.node(next(self.events), depth + 1, (*path, str(key))).under(mark)
            if key is None:
                continue
            if key in entries:
                self.problems.append(duplicate(key, path, mark, entries[key]))
            else:
                entries[key] = node
        return entries

    def key(self, event: Any, depth: int, path: Path) -> str | None:
        """The key's text; None, and a problem noted, where it is anything else."""
        node = self.node(event, depth + 1, path)
        if isinstance(event, ev.ScalarEvent) and isinstance(node.value, str):
            if node.value == "<<" and event.implicit[0]:
                self.note(
                    event,
                    "`<<` merges maps in YAML 1.1 only",
                    path=path,
                    hint="layer whole files with `extends:`, or write the keys out",
                )
                return None
            return node.value
        shown = (
            f"`{event.value}` is read as {described(node.value)}"
            if isinstance(event, ev.ScalarEvent)
            else (f"{described(node.value)} is where a key should be")
        )
        self.note(
            event,
            f"a key has to be text, and {shown}",
            path=path,
            hint=f'quote it: `"{event.value}":`' if isinstance(event, ev.ScalarEvent) and event.value else "",
        )
        return None

    def scalar(self, event: Any, path: Path) -> Any:
        if event.implicit[0] and not event.style:  # libyaml says "" of what is not quoted
            return scalar(event.value)
        try:  # JSON spells characters beyond U+FFFF as two halves
            return event.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self.note(
                event,
                "holds half of a surrogate pair, which is not a character",
                path=path,
                hint="remove the lone `\\ud800`…`\\udfff` escape",
            )
            return ""


def too_many(path: Path, mark: Mark, message: str) -> Problem:
    """What is said of a text that holds more than a spec may."""
    return Problem(message, path, "keep large data in files, and name them under `data.sources`", mark=mark)


def duplicate(key: str, path: Path, mark: Mark, first: Node) -> Problem:
    """What is said of a key that stands twice in one map."""
    line = first.key.line if first.key else first.mark.line
    return Problem(
        f"`{key}` is written twice, here and on line {line}",
        (*path, key),
        mark=mark,
        hint="keep one of the two",
        consequence="one of the two values would be silently dropped",
    )


def described(value: Any) -> str:
    """What a value is, for reading, such as `a number` or `a list`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return "a number"
    return "a map" if isinstance(value, dict) else "a list" if isinstance(value, tuple | list) else "text"


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def scalar_or_flow(text: str) -> Any:
    """The value that stands after a key, on one line: `3e-4`, `no`, `[a, b]`, `{kind: rope}`.

    Raises:
        SpecError: it is none.
    """
    composer = Composer(Text(f"value: {text.strip()}", text))
    try:
        node = composer.compose(0, len(composer.text.text))
    except (yaml.YAMLError, Broken):
        node = None
    if node is None or composer.problems or set(node.value) != {"value"}:
        raise SpecError(Problem(f"`{text}` cannot be read as a value", hint="text may need quotes"))
    return node.data()["value"]
