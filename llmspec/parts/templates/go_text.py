"""Text inside Go's language of templates, as a Modelfile of Ollama carries it."""

from __future__ import annotations


def literal(text: str) -> str:
    """What writes this text and nothing else, at any place of a template: the text itself, or an action with it as a
    string.

    A brace may join the two that begin the next action, three quotes end the template, and Ollama's reader of
    Modelfiles drops what is not printable without a word (ollama/ollama, parser/parser.go).
    """
    if all((c.isprintable() or c == "\n") and c not in '{"' for c in text):
        return text
    return f"{{{{ {_string(text)} }}}}"


def _string(text: str) -> str:
    """The text as a string of Go, on one line of printable characters."""
    return '"' + "".join(map(_character, text)) + '"'


def _character(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    if c.isprintable():
        return c
    return f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}"
