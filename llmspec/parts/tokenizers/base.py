"""What a tokenizer is: a map from text to ids and back, and special ids that text can never spell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field, ValidationInfo, field_validator

from llmspec.core.problems import DataError, Problem
from llmspec.parts.base import Default, Part
from llmspec.parts.tokenizers.special_tokens import EXTRAS, SENTINEL, SPECIALS, UNKNOWN, Extra, SpecialTokens

if TYPE_CHECKING:
    import numpy as np

# The name starts with a letter, so that pre-tokenizers split the spelling and no merge can ever rebuild it.
_MARKER = re.compile(r"<\|[A-Za-z][A-Za-z0-9_-]*\|>")


Cut = Callable[[str, int, int], int]
"""(text, begin, end) -> the last place after `begin`, up to `end`, where tokens always end; see Tokenizer.cut."""


class Following(str):
    """Text that stands behind other tokens rather than at the beginning: tokenizers that put a space before the first
    text alone leave it out here."""

    __slots__ = ()


class Continuing(Following):
    """Text that goes on within a stretch of text: no tokenizer puts a space of its own before it."""

    __slots__ = ()


class Codec(Protocol):
    """A trained tokenizer: what the rest of the program sees of one.

    Special tokens have ids too, but `encode` never gives them: text that spells `<|user|>` is only text.
    """

    vocab: int
    """Number of ids, specials included; a model has this many rows."""
    specials: SpecialTokens
    """The special tokens and markers: spelling -> id, and the ids of `bos`, `eos`, `mask`, the roles, ..."""

    @property
    def reversible(self) -> bool:
        """Whether every text comes back from its ids, character by character. Of one that is not, a text that was
        decoded from ids without unknown ones has these very ids again, unless others made the tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, never the id of a role, an end or a marker. Raises DataError for lone surrogates."""

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The same without a list: all ids one after another (N,) int32, and how many each text has (n,) int64."""

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        """Text of ids; special tokens are left out, or spelled where asked. Broken UTF-8 becomes U+FFFD."""

    def token_bytes(self, token: int, begins: bool = False) -> bytes:
        """The bytes that one id adds to a text that goes on with it, or begins with it (a special token's: none)."""

    def to_json(self) -> str:
        """The text of tokenizer.json; the part's `load` reads it back."""


class Tokenizer(Part):
    """How text becomes numbers."""

    learns: ClassVar[bool] = True
    """Whether training looks at the text."""
    relative: ClassVar[tuple[str, ...]] = ()
    """Keys that hold paths: relative ones start in the folder of the file that says them."""
    most_unknown: ClassVar[float] = 0.0
    """Share of a text's characters that may be unknown; of tokenizers with bytes, none is."""

    markers: tuple[str, ...] = ()
    """Task markers of this spec, such as `<|summarize|>`: special tokens that templates and prompts may contain."""
    sentinels: int | None = Field(None, gt=0, le=1 << 12)
    """Number of special tokens that stand for stretches of text which are left out, for phases of kind
    `span_corruption`; none if omitted, and of a tokenizer of others as many `<extra_id_0>`, … as it has."""

    @field_validator("markers")
    @classmethod
    def _different(cls, markers: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(markers)) < len(markers):
            raise ValueError("the markers of a spec differ from each other")
        return markers

    def opened(self, base: str) -> dict[str, Default]:
        """Values for the keys that are None, out of the files that the others name; `base` is the folder in which
        relative paths start. Raises DataError where these files cannot be read or do not say what the keys say."""
        return {}

    def ending(self, base: str, end: Callable[[SpecialTokens], int | None]) -> Tokenizer:
        """The same, which knows what ends a turn in the form of a chat template, which `end` says of special tokens."""
        return self

    def at(self, base: str) -> Tokenizer:
        """The same, which finds its files from `base` when a codec is made."""
        return self

    def size(self) -> int:
        """Number of ids, known before any text is read."""
        raise TypeError(f"{type(self).__name__} has no size")

    def meanings(self) -> SpecialTokens:
        """The special tokens that have a meaning, known before any text is read."""
        raise TypeError(f"{type(self).__name__} does not say its special tokens")

    def check(self) -> Iterable[Problem]:
        """What is wrong with these settings, as far as can be known without text."""
        return ()

    def train(self, texts: Iterable[str], tell: Callable[[str], None] = lambda what: None) -> Codec:
        """A codec learned from texts (an iterable of pieces); raises DataError where they do not suffice.

        `tell` hears each second what is being done."""
        raise TypeError(f"{type(self).__name__} cannot be trained")

    def cut(self, text: str, begin: int, end: int) -> int:
        """The last place in (begin, end] where `text`, a piece of which begins at `begin` and which goes on behind
        `end`, may be cut: both parts have together the tokens of the whole."""
        return end

    def cutter(self, codec: Codec) -> Cut:
        """`cut`, by what the codec knows."""
        return self.cut

    def load(self, text: str) -> Codec:
        """The codec that `Codec.to_json` wrote; raises DataError where it belongs to other settings."""
        raise TypeError(f"{type(self).__name__} cannot be loaded")

    def codec_identity(self, codec: Codec) -> Any:
        """JSON-able value that addresses what this tokenizer and its codec make of text."""
        return codec.to_json()


class SpelledTokenizer(Tokenizer):
    """A tokenizer whose special tokens are spelled as ours are, and have the first ids."""

    special_tokens: tuple[Extra, ...] = ()
    """Further special tokens, for objectives and heads that need them: `pad`, `mask`, `cls`, `sep`. Their ids come
    after those of all other special tokens."""

    always: ClassVar[tuple[str, ...]] = ()
    """Special tokens of this kind, beside those of every tokenizer."""

    @field_validator("markers")
    @classmethod
    def _well_spelled(cls, markers: tuple[str, ...]) -> tuple[str, ...]:
        for marker in markers:
            if not _MARKER.fullmatch(marker):
                raise ValueError(f"a marker looks like `<|name|>` (letters, digits, - and _), not `{marker}`")
            if marker in (*SPECIALS, UNKNOWN):
                raise ValueError(f"`{marker}` is a special token already; choose another name")
        return markers

    @field_validator("sentinels")
    @classmethod
    def _apart(cls, asked: int | None, info: ValidationInfo) -> int | None:
        for marker in info.data.get("markers", ()):
            if asked and marker.startswith(SENTINEL.partition("{")[0]):
                raise ValueError(f"`{marker}` is one of `markers:` already; choose another name there")
        return asked

    @field_validator("special_tokens")
    @classmethod
    def _once(cls, asked: tuple[Extra, ...], info: ValidationInfo) -> tuple[Extra, ...]:
        if len(set(asked)) < len(asked):
            raise ValueError("each special token is asked for once")
        for name in asked:
            if EXTRAS[name] in info.data.get("markers", ()):
                raise ValueError(f"`{EXTRAS[name]}` is one of `markers:` already; leave it out there")
        return asked

    def specials(self) -> tuple[str, ...]:
        """All special tokens in the order of their ids, from 0."""
        further = (EXTRAS[name] for name in self.special_tokens)
        return (*SPECIALS, *self.markers, *self.always, *further, *map(SENTINEL.format, range(self.sentinels or 0)))

    def meanings(self) -> SpecialTokens:
        return SpecialTokens.spelled(self.specials())

    def identity(self) -> dict[str, Any]:
        # `specials` says all that `special_tokens` does, so that asking for none is what it was before there were any.
        listed = ("special_tokens", "sentinels")
        settings = {key: value for key, value in super().identity().items() if key not in listed}
        return {**settings, "specials": list(self.specials())}

    def _check_room(self, vocab: int, smallest: int, why: str) -> Iterable[Problem]:
        if vocab < smallest:
            message = f"a vocabulary of {vocab} is smaller than {why}"
            yield Problem(message, ("vocab",), f"vocab: {smallest} or more", "some text could not be encoded")


VOCAB_FIELD: Any = Field(gt=0, le=1_000_000)


def utf8(text: str) -> bytes:
    """The text's UTF-8 bytes; raises DataError for lone surrogates, which stand for no character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.end + 20].encode("ascii", "backslashreplace").decode()
        raise DataError(
            f"half a surrogate pair (U+{ord(text[error.start]):04X}) is not text: {around}",
            hint="write the whole character, or leave it out",
            consequence="it could be neither written as UTF-8 nor tokenised",
        ) from None


def decode_bytes(pieces: Iterable[bytes]) -> str:
    """Text of tokens' bytes; what is not UTF-8 becomes U+FFFD."""
    return b"".join(pieces).decode(errors="replace")


def foreign(kind: str) -> DataError:
    """The error for a tokenizer.json that other settings wrote."""
    return DataError(
        f"this tokenizer.json was not written by a `{kind}` tokenizer with these special tokens",
        hint="remove it, so that it is made again",
        consequence="the model would read its ids as other text",
    )
