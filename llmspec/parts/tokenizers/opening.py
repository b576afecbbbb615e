"""The `tokenizers` library's reading of a tokenizer.json, here or beside whatever else goes on."""

from __future__ import annotations

import os
from threading import Thread
from typing import Any

from llmspec.core.heap import give_back


class _Opening(Thread):
    """The library's work on a tokenizer.json, for which it needs no Python."""

    def __init__(self, text: str) -> None:
        super().__init__(daemon=True)
        self.text = text
        self.found: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.found = _read(self.text)
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join()
        if self.error is not None:
            raise self.error
        return self.found


_begun: dict[tuple[int, str], _Opening] = {}
"""The last one that was begun, by its process and text: a forked one has no such thread."""


def begin(text: str) -> None:
    """Has a tokenizer.json opened beside whatever else goes on; `opened` waits for it, and says what fails."""
    opening = _Opening(text)
    _begun.clear()
    _begun[os.getpid(), text] = opening
    opening.start()


def _read(text: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)


def opened(text: str) -> Any:
    """The library's tokenizer of a tokenizer.json, which neither cuts nor fills texts. Raises ValueError."""
    ahead = _begun.pop((os.getpid(), text), None)
    try:
        found = ahead.result() if ahead else _read(text)
    except BaseException as error:
        if isinstance(error, Exception) or of_the_library(error):
            raise ValueError(str(error)) from None
        raise
    give_back()  # the library frees twice as much as it keeps
    found.no_truncation()
    found.no_padding()
    # Not part of tokenizer.json, so it is set whenever one is opened: text never becomes a special token.
    found.encode_special_tokens = True
    return found


def of_the_library(error: BaseException) -> bool:
    """Whether the library itself fails: it raises bare Exceptions, and Rust's panics, which are no Exceptions."""
    return type(error) is Exception or type(error).__name__ == "PanicException"
