"""Characters that a tokenizer without bytes does not know: how many of a text, and which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmspec.parts.tokenizers import Codec

SHOWN = 8
"""Unknown characters that are named, the most frequent first; all are counted."""


class Unknown:
    """Counts the characters that become the unknown token; of tokenizers that know every text it counts nothing."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._token = codec.specials.unk
        self._known: dict[str, bool] = {}
        self._counts: Counter[str] = Counter()
        self._all = 0

    def add(self, texts: Iterable[str]) -> Unknown:
        """Count those of some texts too."""
        if self._token is None:
            return self
        for text in texts:
            self._all += len(text)
            found = set(text)
            if new := sorted(found - self._known.keys()):
                ids = self._codec.encode(new)
                self._known.update((c, self._token not in own) for c, own in zip(new, ids, strict=True))
            for character in found:
                if not self._known[character]:
                    self._counts[character] += text.count(character)
        return self

    def dump(self) -> dict[str, Any]:
        """JSON-able: `unknown` of `characters`, and the most frequent ones as `letters`."""
        ranked = sorted(self._counts, key=lambda c: (-self._counts[c], c))
        return {"unknown": self._counts.total(), "characters": self._all, "letters": ranked[:SHOWN]}


def of_prompt(codec: Codec, text: str, markers: Iterable[str] = ()) -> str:
    """What a person should know of a prompt's letters, in words; '' where all are known. Markers are no letters."""
    for marker in markers:
        text = text.replace(marker, "")
    found = Unknown(codec).add([text]).dump()
    if not found["unknown"]:
        return ""
    spelled = next(text for text, token in codec.specials.items() if token == codec.specials.unk)
    many = f"{found['unknown']:,} of its characters"
    return f"{many} are not in the vocabulary, and are read as {spelled}: {named(found)}"


def share(dumped: dict[str, Any]) -> float:
    """Unknown characters for each character, from a dump()."""
    return dumped["unknown"] / dumped["characters"] if dumped["characters"] else 0.0


def named(dumped: dict[str, Any]) -> str:
    """The most frequent unknown characters, as they can be printed."""
    spelled = [c if c.isprintable() and not c.isspace() else f"U+{ord(c):04X}" for c in dumped["letters"]]
    return " ".join(spelled) + (" ..." if len(spelled) == SHOWN else "")
