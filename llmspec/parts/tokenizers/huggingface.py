"""A tokenizer that others trained, read from its files as it is (huggingface/tokenizers)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, model_validator

from llmspec.core.problems import DataError, Problem, one_of
from llmspec.parts.base import Default
from llmspec.parts.tokenizers import foreign_files
from llmspec.parts.tokenizers.base import Codec, Cut, Tokenizer
from llmspec.parts.tokenizers.library import LibraryCodec
from llmspec.parts.tokenizers.special_tokens import FOREIGN_SENTINEL, NAMED, SpecialTokens, numbered

FILES = ("file", "merges", "lowercase", "sentinels")
"""Keys that say where a tokenizer comes from or count what it has: what it is follows from its bytes."""
_LAST = dict[tuple[Any, ...], LibraryCodec]()
"""The codec that was made last, by what it was made of."""


class HuggingFace(Tokenizer):
    """A tokenizer.json as it is: byte-level BPE, WordPiece, Unigram and others, with its added tokens, normalisers and
    frame; or GPT-2's vocab.json with its merges.txt, or a vocab.txt of WordPiece.

    Special tokens that a text spells are only text. Whether text comes back as it was depends on the file.
    """

    kind: Literal["huggingface"] = "huggingface"
    learns: ClassVar[bool] = False
    relative: ClassVar[tuple[str, ...]] = ("file", "merges")
    most_unknown: ClassVar[float] = 1.0

    file: str = Field(min_length=1)
    """tokenizer.json, vocab.json (with `merges`) or vocab.txt. Files beside it, such as tokenizer_config.json, say
    which special tokens there are."""
    merges: str | None = None
    """merges.txt of a vocab.json."""
    lowercase: bool | None = None
    """Whether a vocab.txt is of small letters; if omitted, what tokenizer_config.json says, else yes."""
    vocab: int | None = Field(None, gt=0, le=1 << 24)
    """Number of ids; if omitted, as many as the file has."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hash (hex) that tokenizer.json is to have; noted if omitted."""
    bos: str | None = None
    """Spelling of the token that begins a text; if omitted, what the files beside say."""
    eos: str | None = None
    """Spelling of the token that ends a text and stands between documents."""
    pad: str | None = None
    """Spelling of the token that fills a row."""
    unk: str | None = None
    """Spelling of the token that stands for what the tokenizer cannot spell."""
    mask: str | None = None
    """Spelling of the token that stands for a word to be predicted."""
    cls: str | None = None
    """Spelling of the token that speaks for the whole text."""
    sep: str | None = None
    """Spelling of the token that ends each of several texts in one row."""
    turn_end: str | None = None
    """Spelling of the token that ends a turn of a dialogue."""
    ends: tuple[str, ...] | None = Field(None, strict=False)
    """Spellings of further tokens that end an answer; if omitted, what generation_config.json says."""
    ids: dict[str, int] | None = None
    """Ids of the tokens that the keys above name; noted if omitted."""

    _base: str = PrivateAttr(".")

    @model_validator(mode="after")
    def _fits(self) -> HuggingFace:
        if self.lowercase is not None and not self.file.endswith(".txt"):
            raise ValueError("`lowercase:` is for a vocab.txt; a tokenizer.json says it itself")
        if self.merges is not None and not self.file.endswith(".json"):
            raise ValueError("`merges:` belong to a vocab.json")
        return self

    # -- from files ------------------------------------------------------------------------------------------------
    def at(self, base: str) -> HuggingFace:
        found = self.model_copy()
        found._base = base
        return found

    def opened(self, base: str) -> dict[str, Default]:
        found = self._read(base)
        named = {meaning: spelling for meaning, (spelling, _) in found.named.items()}
        named |= {meaning: own for meaning in NAMED if (own := getattr(self, meaning)) is not None}
        ends = found.ends if self.ends is None else self.ends
        codec = self._codec(found.text, found.sha256, named, ends)
        known = codec.specials
        ids = {spelling: known[spelling] for spelling in (*named.values(), *ends) if spelling in known}
        self._hold_against(codec, found.sha256)
        said = {meaning: where for meaning, (_, where) in found.named.items()}
        name = self.file.rpartition("/")[2]
        return {
            "vocab": Default(codec.vocab, f"counted in {name}"),
            **({"sentinels": Default(spans, f"counted in {name}")} if (spans := len(known.sentinels)) else {}),
            "sha256": Default(found.sha256, f"the bytes of {name}"),
            **{m: Default(spelling, said.get(m, "")) for m, spelling in named.items() if spelling in ids},
            "ends": Default(tuple(end for end in ends if end in ids), "the list of eos_token_id"),
            "ids": Default(ids, f"looked up in {name}"),
        }

    def ending(self, base: str, end: Callable[[SpecialTokens], int | None]) -> HuggingFace:
        specials = self.at(base).train(()).specials if self.turn_end is None else None
        token = None if specials is None else end(specials)
        if specials is None or token is None or token in (specials.eos, *specials.ends):
            return self
        spelling = next(spelling for spelling, own in specials.items() if own == token)
        return self.model_copy(update={"turn_end": spelling, "ids": {**(self.ids or {}), spelling: token}})

    def _read(self, base: str) -> foreign_files.Found:
        merges = None if self.merges is None else foreign_files.located(base, self.merges)
        return foreign_files.read(foreign_files.located(base, self.file), merges, self.lowercase, self.sha256)

    def _codec(self, text: str, sha256: str, named: Mapping[str, str], ends: Sequence[str]) -> LibraryCodec:
        """Raises DataError where the library does not read the file, or it lacks a token that is named.

        The last one is kept: a model's tokenizer is made several times while it is opened, of megabytes.
        """
        asked = (sha256, tuple(named.items()), tuple(ends))
        if asked in _LAST:
            return _LAST[asked]
        try:
            codec = LibraryCodec(text, lambda ids: self._meant(ids, named, ends), (*named.values(), *ends))
        except ValueError as error:
            raise DataError(
                Problem(f"the tokenizers library does not read {self.file}: {error}", ("file",), "give a whole file")
            ) from None
        _LAST.clear()
        _LAST[asked] = codec
        return codec

    def _meant(self, ids: Mapping[str, int], named: Mapping[str, str], ends: Sequence[str]) -> SpecialTokens:
        found: dict[str, Any] = {meaning: ids[spelling] for meaning, spelling in named.items() if spelling in ids}
        spans = numbered(ids, FOREIGN_SENTINEL)
        return SpecialTokens(
            ids=ids, named=True, ends=tuple(ids[end] for end in ends if end in ids), sentinels=spans, **found
        )

    def _hold_against(self, codec: LibraryCodec, digest: str) -> None:
        """Raises DataError with everything that the file does not have as the keys say."""
        problems = []
        if self.sha256 not in (None, digest):
            problems.append(
                Problem(
                    f"{self.file} is not the tokenizer of this hash: it has {digest}",
                    ("sha256",),
                    "put back the file that was meant, or leave `sha256:` out",
                    "the same ids would be other text",
                )
            )
        if self.vocab not in (None, codec.vocab):
            problems.append(
                Problem(f"{self.file} has {codec.vocab:,} ids, not {self.vocab:,}", ("vocab",), "leave it out")
            )
        if self.sentinels is not None and self.sentinels != (found := len(codec.specials.sentinels)):
            problems.append(
                Problem(
                    f"{self.file} has {found} sentinel tokens, not {self.sentinels}", ("sentinels",), "leave it out"
                )
            )
        for meaning in NAMED:
            if (own := getattr(self, meaning)) is not None and not codec.knows(own):
                hint = one_of(own, list(codec.specials)) if len(codec.specials) else "leave it out"
                problems.append(Problem(f"{self.file} has no token `{own}`", (meaning,), hint))
        for key, tokens in (("markers", self.markers), ("ends", self.ends or ())):
            for i, token in enumerate(tokens):
                if token not in codec.specials:
                    hint = one_of(token, list(codec.specials)) if len(codec.specials) else "leave it out"
                    problems.append(Problem(f"{self.file} has no special token `{token}`", (key, i), hint))
        if problems:
            raise DataError(problems)

    # -- known afterwards --------------------------------------------------------------------------------------------
    @property
    def named(self) -> dict[str, str]:
        """Meaning -> spelling."""
        return {meaning: own for meaning in NAMED if (own := getattr(self, meaning)) is not None}

    def size(self) -> int:
        if self.vocab is None:
            raise TypeError("a tokenizer of a file has no size before the file is opened")
        return self.vocab

    def meanings(self) -> SpecialTokens:
        return self._meant(self.ids or {}, self.named, self.ends or ())

    def train(self, texts: Iterable[str], tell: Callable[[str], None] = lambda what: None) -> Codec:
        """The codec of the file as it stands. Raises DataError where it has changed since it was opened."""
        found = self._read(self._base)
        codec = self._codec(found.text, found.sha256, self.named, self.ends or ())
        self._hold_against(codec, found.sha256)
        return codec

    def load(self, text: str) -> Codec:
        if (sha256 := foreign_files.hashed(text)) != self.sha256:
            raise DataError(
                f"this tokenizer.json is not the one that the spec's `{self.file}` is",
                hint="put it back, or remove it, so that it is made again",
                consequence="the model would read its ids as other text",
            )
        codec = self._codec(text, sha256, self.named, self.ends or ())
        if codec.vocab != self.vocab or any(codec.specials.get(s) != i for s, i in (self.ids or {}).items()):
            raise DataError("this tokenizer.json does not have the ids that the plan notes", "open the plan's own file")
        return codec

    def cutter(self, codec: Codec) -> Cut:
        assert isinstance(codec, LibraryCodec)
        return codec.cut

    def identity(self) -> dict[str, Any]:
        # Where the file lies shapes nothing; its hash says what it is.
        return {key: value for key, value in super().identity().items() if self.sha256 is None or key not in FILES}

    def codec_identity(self, codec: Codec) -> Any:
        return {"sha256": self.sha256, "named": self.named, "ends": self.ends, "markers": list(self.markers)}
