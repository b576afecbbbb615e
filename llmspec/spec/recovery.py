"""Reads what can be read of a broken YAML text, and says in plain words what is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import yaml
from yaml.reader import ReaderError

from llmspec.core.problems import Mark, Path, Problem
from llmspec.spec.yaml12 import Broken, Composer, Node, Text, described, duplicate

_KEY = re.compile(
    r"""(?P<indent>\ *)(?P<key>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#\-\[\]{},&*!|>'"%@`?:][^#\n]*?)\ *:(?=\s|$)""", re.VERBOSE
)
_TOML = re.compile(r"\s*(#[^\n]*\n\s*)*(\[[\w.-]+\]\s*\n|[\w.-]+ *= *\S)")
_ONLY_KEY = re.compile(r"[^\n]*:[ \t]*(&\S+[ \t]*)?(#.*)?")
ODD_SPACES = "".join(map(chr, (0xA0, 0x2007, 0x202F, 0x3000)))
"""Characters that look like a space and are none to YAML."""
MOST = 20
"""Mistakes after which the rest of a broken text is not read."""
JOIN = 6
"""Blocks that are tried together, since a bracket may be closed at the margin some lines below."""


@dataclass(frozen=True)
class Parsed:
    """What was read of a text. `broken` are the keys that a syntax error hides; a map, where any of its may be."""

    root: Node | None
    problems: tuple[Problem, ...] = ()
    broken: frozenset[Path] = frozenset()


def parse(text: str, file: str) -> Parsed:
    """Read YAML text; never raises."""
    source = Text(text, file)
    if _TOML.match(text) and not any(map(_KEY.match, source.lines)):
        problem = Problem("this is TOML, and a spec is YAML", mark=Mark(file, 1, 1), hint="write `key: value`")
        return Parsed(None, (problem,), frozenset({()}))
    composer = Composer(source)
    try:
        root = composer.compose(0, len(text))
    except (yaml.YAMLError, Broken) as error:
        if isinstance(error, Broken) and error.final:
            return Parsed(None, (error.problem,), frozenset({()}))
        return _Recovery(source).run(_problem(error, source, 0))
    if root is None or root.value is None:
        return Parsed(
            None,
            (
                *composer.problems,
                Problem(
                    "the file is empty",
                    mark=Mark(file, 1, 1),
                    hint="a spec needs at least name, model, data and phases",
                ),
            ),
        )
    if not root.is_map:
        return Parsed(
            None,
            (
                *composer.problems,
                Problem(
                    f"a spec is a map of keys, not {described(root.value)}",
                    mark=root.mark,
                    hint="start with `name: my-model`",
                ),
            ),
        )
    return Parsed(root, tuple(composer.problems))


class _Recovery:
    """Splits a broken text into blocks by indentation, and reads each on its own."""

    def __init__(self, source: Text) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.broken: set[Path] = set()
        self.anchors: dict[str, Node] = {}

    def run(self, first: Problem) -> Parsed:
        entries = self.block(0, len(self.source.lines), (), first)
        root = Node(entries, Mark(self.source.file, 1, 1))
        if not self.problems:  # broken as a whole, though no block is
            self.problems.append(first)
        return Parsed(root, tuple(self.problems), frozenset(self.broken))

    def block(self, low: int, high: int, path: Path, error: Problem) -> dict[str, Node]:
        """The entries of the map on lines low..high; `error` is why it cannot be read in one piece."""
        entries: dict[str, Node] = {}
        borders = list(self.borders(low, high))
        if not borders:
            self.give_up(error, path, low, high)
            return entries
        borders[0] = low
        at = 0
        while at < len(borders):
            if len(self.problems) >= MOST:
                self.stop(borders[at], path)
                break
            at += self.piece(borders[at : at + JOIN] + [*borders[at + JOIN :], high][:1], path, entries)
        return entries

    def stop(self, line: int, path: Path) -> None:
        """Say that nothing was read from a line on: what stands there is not missing, but unknown."""
        if () not in self.broken:
            self.problems.append(
                Problem(
                    f"with {len(self.problems)} mistakes above, the rest of the file was not read",
                    mark=self.source.mark(self.source.starts[line]),
                    hint="fix the first ones: they often cause the others",
                )
            )
        self.broken |= {(), path}

    def borders(self, low: int, high: int) -> Iterator[int]:
        """Lines that start an entry of the block's outermost level; none in a list."""
        content = next((i for i in range(low, high) if self.source.lines[i].split("#")[0].strip()), low)
        if self.source.lines[content].lstrip().startswith("- "):
            return
        indents = [(i, m["indent"]) for i in range(low, high) if (m := _KEY.match(self.source.lines[i]))]
        if indents:
            outermost = min(len(indent) for _, indent in indents)
            yield from (i for i, indent in indents if len(indent) == outermost)

    def piece(self, borders: list[int], path: Path, entries: dict[str, Node]) -> int:
        """Read the entry between the first two borders, or down to a later one; returns how many borders it took."""
        first: Problem | None = None
        for taken in range(1, min(JOIN, len(borders) - 1) + 1):
            composer = Composer(self.source, anchors=dict(self.anchors))
            start, end = self.index(borders[0]), self.index(borders[taken])
            try:
                node = composer.compose(start, end)
            except (yaml.YAMLError, Broken) as error:
                first = first or _problem(error, self.source, start)
                if not re.search(r"[\[{\"']", self.source.text[start:end]):
                    break
                continue
            if node is None or node.is_map:
                self.problems += [replace(p, path=(*path, *p.path)) for p in composer.problems]
                self.anchors |= composer.anchors
                self.add(node.value if node else {}, path, entries)
                return taken
            first = first or Problem(
                f"{described(node.value)} is where a key should be",
                mark=node.mark,
                hint="a line of a map reads `key: value`",
            )
        assert first is not None
        self.deeper(borders[0], borders[1], path, entries, first)
        return 1

    def deeper(self, low: int, high: int, path: Path, entries: dict[str, Node], error: Problem) -> None:
        """The entry on lines low..high cannot be read: keep its key, and those of its children that can be."""
        head = next(i for i in range(low, high) if _KEY.match(self.source.lines[i]))
        line = self.source.lines[head]
        match = _KEY.match(line)
        assert match
        key = match["key"].strip("\"'")
        mark = self.source.mark(
            self.source.starts[head] + match.start("key"), self.source.starts[head] + match.end("key")
        )
        if not _ONLY_KEY.fullmatch(line) or high - head < 2 or len(path) > 8:
            self.give_up(error, path, low, high)
        else:
            for stray in (i for i in range(low, head) if self.source.lines[i].split("#")[0].strip()):
                self.give_up(_no_colon(self.source, self.source.starts[stray]), path, stray, stray + 1)
            self.add({key: Node(self.block(head + 1, high, (*path, key), error), mark, mark)}, path, entries)

    def add(self, new: dict[str, Node], path: Path, entries: dict[str, Node]) -> None:
        for key, node in new.items():
            if key in entries:
                self.problems.append(duplicate(key, path, node.key or node.mark, entries[key]))
            else:
                entries[key] = node

    def give_up(self, error: Problem, path: Path, low: int, high: int) -> None:
        self.problems.append(error)
        # The first word, where a line is no entry: its colon may be what is missing.
        lines = [
            line.strip() for line in self.source.lines[low:high] if line.strip() and not line.strip().startswith("#")
        ]
        hidden = [
            m["key"].strip("\"'") if (m := _KEY.match(line)) else re.split(r"[:=\s]", line)[0] or line for line in lines
        ]
        self.broken |= {(*path, key) for key in hidden} or {path}

    def index(self, line: int) -> int:
        return self.source.starts[line] if line < len(self.source.starts) else len(self.source.text)


def _problem(error: yaml.YAMLError | Broken, source: Text, offset: int) -> Problem:
    """A syntax error in plain words, marked where the mistake is rather than where the parser stumbled over it."""
    if isinstance(error, Broken):
        return error.problem
    if isinstance(error, ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return Problem(
            f"the character U+{code:04X} cannot stand in a YAML file",
            mark=source.mark(error.position + offset),
            hint=f'remove it, or write it as "\\u{code:04x}" in double quotes',
        )
    assert isinstance(error, yaml.MarkedYAMLError)
    what, context = error.problem or "", error.context or ""
    here = (error.problem_mark.index if error.problem_mark else 0) + offset
    there = (error.context_mark.index if error.context_mark else 0) + offset
    if "\\t" in what or "\t" in what:
        return Problem(
            "this is a tab, and YAML takes only spaces",
            mark=source.mark(here),
            hint="indent with spaces; most editors convert tabs",
        )
    if "while parsing a flow" in context:
        return _bracket(source, what, there, here, offset)
    if "end of stream" in what or "document separator" in what:
        return Problem("this quote is never closed", mark=source.mark(there), hint="close it with the same quote")
    if "quoted scalar" in context:
        return Problem(
            "a `\\` in double quotes starts an escape, and this is not one",
            mark=source.mark(here),
            hint="write the text in single quotes, or `\\\\` for one `\\`",
        )
    if "mapping values are not allowed" in what:
        return _colon(source, here)
    if "could not find expected ':'" in what:
        return _no_colon(source, there)
    if "<block end>" in what or "<document start>" in what or "node content" in what:
        return _block(source, here, there)
    if "block scalar" in context:
        return Problem(
            "`|` and `>` start a text on the lines below",
            mark=source.mark(there),
            hint="quote text that starts with them",
        )
    if "cannot start any token" in what or "keys are not allowed" in what:
        return _unquoted(source, here)
    if any(word in context for word in ("anchor", "alias", "tag", "directive")):
        return _unquoted(source, there)
    if "tag" in what:
        return _unquoted(source, here)
    if "sequence entries are not allowed" in what:
        hint = "start it on a line of its own, or write `[a, b]`"
        return Problem("a list cannot start on this line", mark=source.mark(here), hint=hint)
    return Problem(f"this is not YAML: {what}", mark=source.mark(here))


def _unquoted(source: Text, index: int) -> Problem:
    sign = source.text[index : index + 1]
    if source.text.startswith("```", index):
        return Problem("this is a Markdown code fence", mark=source.mark(index), hint="leave the lines with ``` out")
    return Problem(f"text that starts with `{sign}` has to be quoted", mark=source.mark(index), hint=f'"{sign}…"')


def _bracket(source: Text, what: str, opened: int, here: int, offset: int) -> Problem:
    if source.text[opened : opened + 1] not in ("[", "{"):
        opened = _unclosed(source.text[offset:here], here - offset) + offset
    sign = source.text[opened : opened + 1]
    close = "}" if sign == "{" else "]"
    if "stream end" in what or source.place(here)[0] != source.place(opened)[0]:
        return Problem(f"this `{sign}` is never closed", mark=source.mark(opened), hint=f"close it with `{close}`")
    if "node content" in what:
        return Problem("a value is missing before this", mark=source.mark(here), hint="remove the comma too many")
    return Problem(
        f"a comma or `{close}` is missing before this",
        mark=source.mark(here),
        hint="entries between brackets are separated by commas: `{a: 1, b: 2}`",
    )


def _unclosed(text: str, end: int) -> int:
    """Index of the innermost bracket that is open where `text` ends."""
    opened: list[int] = []
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.FlowMappingStartToken | yaml.FlowSequenceStartToken):
                opened.append(token.start_mark.index)
            elif isinstance(token, yaml.FlowMappingEndToken | yaml.FlowSequenceEndToken) and opened:
                opened.pop()
    except yaml.YAMLError:
        pass
    return opened[-1] if opened else max(0, end - 1)


def _no_colon(source: Text, index: int) -> Problem:
    """A line that should be an entry, without the colon of one or without the space behind it."""
    mark = _line(source, index)
    entry = re.fullmatch(r"\s*([\w.-]+)(:|\s*=)\s*(\S.*)", mark.text)
    if not entry:
        return Problem("this line has no `:` after its key", mark=mark, hint="write `key: value`")
    said = "a colon needs a space behind it" if entry[2] == ":" else "YAML has a colon between a key and its value"
    return Problem(said, mark=mark, hint=f"write `{entry[1]}: {entry[3].rstrip()}`")


def _colon(source: Text, here: int) -> Problem:
    line, column = source.place(here)
    first = source.lines[line][:column]
    if (odd := re.search(f":[{ODD_SPACES}]", first)) is not None:
        return Problem(
            f"a no-break space (U+{ord(odd[0][1]):04X}) is where a space is meant",
            mark=source.mark(source.starts[line] + odd.start() + 1),
            hint="type it again",
        )
    if re.search(r":\s", first):
        return Problem(
            "there is a second `: ` in this value", mark=source.mark(here), hint='quote the value: `key: "a: b"`'
        )
    indent = len(first) - len(first.lstrip())
    before = next((i for i in range(line - 1, -1, -1) if source.lines[i].strip()), line)
    if len(source.lines[before]) - len(source.lines[before].lstrip()) >= indent:
        return _no_colon(source, source.starts[before])
    return Problem(
        f"this line is indented by {indent} spaces, unlike its neighbours",
        mark=_line(source, here),
        hint="keys of one map start in the same column",
    )


def _block(source: Text, here: int, opened: int) -> Problem:
    sign = source.text[here : here + 1]
    if sign in ("}", "]"):
        return Problem(f"this `{sign}` closes nothing", mark=source.mark(here), hint="remove it")
    if sign == ",":
        return Problem("this comma is outside of brackets", mark=source.mark(here), hint="remove it, or quote the text")
    line, column = source.place(here)
    if not source.lines[line][:column].strip() and column != source.place(opened)[1]:
        return Problem(
            "this line is indented unlike its neighbours",
            mark=_line(source, here),
            hint="keys of one map start in the same column",
        )
    return Problem("this does not belong to the value before it", mark=source.mark(here), hint="quote the whole value")


def _line(source: Text, index: int) -> Mark:
    """Mark of the whole line, without its indentation."""
    line, _ = source.place(index)
    text = source.lines[line]
    start = source.starts[line] + len(text) - len(text.lstrip())
    return source.mark(start, source.starts[line] + len(text.rstrip()))
