"""Text of others (data, models, names, arguments) made safe to look at, and commands that can be pasted."""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"
"""Zero-width characters that spelling needs (Persian, Indic scripts, emoji); they move nothing on a terminal."""
_ASCII = re.compile(r"[\x20-\x7e\n]*")
_BARE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Text in which no character acts: what a terminal would obey or hide is written as `\x1b`, `\u202e`.

    These are control characters (C0, C1, DEL), marks of direction and other unseen format characters, separators of
    lines and paragraphs, and lone surrogates; a byte of a file name that is no UTF-8 becomes `\xff`. `keep` stays.
    """
    if _ASCII.fullmatch(text) and "\n" in keep:
        return text
    return "".join(c if c in keep or not acts(c) else escaped(c) for c in text)


def acts(character: str) -> bool:
    """Whether a terminal would do something else with a character than show it."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS


def escaped(character: str) -> str:
    r"""`\x1b`, `\u202e` or `\U000e0041`; the byte where it stands for one that is no UTF-8."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def command(*words: object) -> str:
    """`llmspec` and its words as a line for a POSIX shell (bash, zsh), which does the same when it is pasted."""
    return " ".join(["llmspec", *(quoted(str(word)) for word in words)])


def quoted(word: str) -> str:
    """A word as a shell reads it back; one that a terminal would obey in the spelling `$'...'`."""
    if any(acts(c) for c in word):
        return "$'" + "".join(_dollar(c) for c in word) + "'"
    return word if _BARE.fullmatch(word) else "'" + word.replace("'", "'\"'\"'") + "'"


def path_word(path: object) -> str:
    """A path as an argument that no one takes for an option or a home folder: `-x.yaml` becomes `./-x.yaml`."""
    return f"./{path}" if str(path).startswith(("-", "~")) else str(path)


def _dollar(character: str) -> str:
    if character in "'\\":
        return "\\" + character
    if not acts(character):
        return character
    code = ord(character)
    raw = bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else character.encode("utf-8", "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in raw)  # three digits, so that what follows is never taken with it
