"""Text as it streams out of tokens: whole characters only, and never a part of a stop sequence."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from llmspec.parts.tokenizers.base import Codec

_FIRST_STAND_IN = 0xD800
_STAND_INS = range(_FIRST_STAND_IN, 0xE000)


class TextStream:
    """Turns token ids into text that can be shown at once.

    Text is held back while it may still become a stop sequence or an unfinished UTF-8 character. The first stop
    sequence to be complete, character by character, ends the text, which is cut where it begins; of stops that are
    complete with the same character, the longest counts. So the result does not depend on token borders.

    Special tokens add no text. A stop that spells one, alone or among text, matches when that token is drawn (and
    also the same characters written as plain text).

    Attributes:
        stopped: the stop sequence that ended the text, as it was given; None while there is none.
    """

    def __init__(self, codec: Codec, stop: Sequence[str] = (), begins: bool = True) -> None:
        """`begins`: whether the text begins anew, rather than goes on with other text."""
        self._codec, self._begins = codec, begins
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped: str | None = None
        spelled = sorted((s for s in codec.specials if any(s in text for text in stop)), key=len, reverse=True)
        # A lone surrogate stands in for a special token: no text that is decoded from UTF-8 has one.
        self._stand_ins = {codec.specials[s]: chr(_STAND_INS[i]) for i, s in enumerate(spelled)}
        self._stops: dict[str, str] = {}
        for text in stop:
            marked = text
            for special in spelled:
                marked = marked.replace(special, self._stand_ins[codec.specials[special]])
            self._stops |= {text: text, marked: text}

    def push(self, token: int) -> str:
        """Text that this token makes certain; after a stop, always empty."""
        if self.stopped is not None:
            return ""
        if token in self._stand_ins:
            # A character that a special token cuts off can no longer be finished.
            return self._take(self._utf8.decode(b"", final=True) + self._stand_ins[token])
        added = self._codec.token_bytes(token, self._begins)
        self._begins = self._begins and not added
        return self._take(self._utf8.decode(added))

    def finish(self) -> str:
        """The text still held back, at the end of the answer: an unfinished character becomes U+FFFD."""
        if self.stopped is not None:
            return ""
        return self._take(self._utf8.decode(b"", final=True)) + self._release(0)

    def _take(self, text: str) -> str:
        self._held += text
        found = [(at + len(s), at, s) for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            _, at, stop = min(found)
            self.stopped = self._stops[stop]
            self._held = self._held[:at]
            return self._release(0)
        return self._release(max((_overlap(self._held, s) for s in self._stops), default=0))

    def _release(self, keep: int) -> str:
        """Let go of all but the last `keep` characters held; stand-ins are not shown."""
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return "".join(c for c in text if ord(c) not in _STAND_INS) if self._stand_ins else text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins, shorter than `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
