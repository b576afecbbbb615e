"""Texts and dialogues as token ids, in memory-mapped files.

N tokens, n documents, R roles (the order of ROLES).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.core.problems import RunError
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.templates.base import Marker, Pieces, Turn
from llmspec.parts.tokenizers import Codec
from llmspec.parts.tokenizers.special_tokens import ROLES

if TYPE_CHECKING:
    import numpy as np

    from llmspec.data.preferences import Compared

_MAPPED = 1 << 16
"""Bytes from which a file is mapped, not read."""


class TokenSet(NamedTuple):
    """Documents as tokens: document i is tokens[offsets[i]:offsets[i+1]].

    Plain documents are their text alone. Dialogues are as their chat template renders them.
    """

    tokens: np.ndarray
    """(N,) uint16 or uint32."""
    offsets: np.ndarray
    """(n + 1,) int64."""
    characters: np.ndarray
    """(n, 1) int64 characters of each text; of dialogues (n, R), of each role's contents."""
    role_of_token: np.ndarray | None = None
    """(N,) uint8, dialogues only: 1 + role whose words the token is, the ends of its turns included; 0 for what
    the template adds around them."""
    tokens_per_role: np.ndarray | None = None
    """(n, R) int64, dialogues only: tokens of each role's contents and ends of turn."""
    labels: np.ndarray | None = None
    """(n,) int32, documents with labels only: which of `label_sets` each has."""
    label_sets: tuple[tuple[str, ...], ...] = ()
    """The sets of labels that documents have, mostly of one label."""
    tags: np.ndarray | None = None
    """(N,) uint16, documents with tags only: of a word's first token 1 + which of `label_sets` holds its tag; 0 of any
    other."""
    weights: np.ndarray | None = None
    """(n,) float32, where records have weights: how much each document counts in training."""
    texts: np.ndarray | None = None
    """(n,) int32, of answers that are compared only: how many whole dialogues a document is, one for each answer."""
    text_ends: np.ndarray | None = None
    """(m,) int64: one past the last token of each of them, of all documents one after another."""
    ranks: np.ndarray | None = None
    """(m,) int32: 0 for the best answers of their document, 1 for the next ones, ..."""
    margins: np.ndarray | None = None
    """(n,) float32: by how much the best answer is better, where its record says so; else 0."""
    vocab: int = 1 << 32
    """Ids that the tokenizer has: the files may have rotted since they were written."""
    file: Path = Path("tokens")
    """Where the tokens lie."""

    def ids(self, places: np.ndarray) -> np.ndarray:
        """Tokens at some places. Raises RunError where one is no id: nothing made of it would be told from sense."""
        found = self.tokens[places]
        if found.size and int(found.max()) >= self.vocab:
            at = int(_first(places, found >= self.vocab))
            raise damaged(self.file, f"token {at:,} is {int(self.tokens[at])}, of {self.vocab:,} in the vocabulary")
        return found

    def codes(self, places: np.ndarray) -> np.ndarray:
        """`role_of_token` at some places. Raises RunError where one is no role."""
        assert self.role_of_token is not None
        found = self.role_of_token[places]
        if found.size and int(found.max()) > len(ROLES):
            at = int(_first(places, found > len(ROLES)))
            raise damaged(_beside(self.file, "role_of_token"), f"token {at:,} has role {int(self.role_of_token[at])}")
        return found

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64 tokens of each document."""
        return self.offsets[1:] - self.offsets[:-1]

    @classmethod
    def load(cls, folder: Path, name: str, vocab: int = 1 << 32, about: Mapping[str, Any] | None = None) -> TokenSet:
        """Open the files `<name>.<field>.npy`; long arrays are mapped, so that opening costs nothing.

        Raises RunError where they are not what a TokenWriter writes, or do not fit each other and what it noted.
        """
        import numpy as np

        def open_(field: str) -> np.ndarray | None:
            file = folder / f"{name}.{field}.npy"
            if not file.exists():
                return None
            try:
                return np.load(file, mmap_mode="r" if file.stat().st_size > _MAPPED else None, allow_pickle=False)
            except (ValueError, EOFError, OSError, SyntaxError, OverflowError, MemoryError):
                raise damaged(file, "it is not an array") from None

        arrays, file = {field: open_(field) for field in FIELDS}, folder / f"{name}.tokens.npy"
        _check(arrays, file)
        sets = tuple(tuple(map(str, labels)) for labels, _ in (about or {}).get("labels", ()))
        found = cls(**arrays, label_sets=sets, vocab=vocab, file=file)  # type: ignore[arg-type]
        for field, numbers, end in (("labels", found.labels, len(sets)), ("tags", found.tags, len(sets) + 1)):
            if numbers is not None and len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < end:
                raise damaged(_beside(file, field), f"it has other labels than the {len(sets)} that were written")
        if about is not None:
            _compare(found, about)
        return found


BESIDE = ("labels", "tags", "weights", "texts", "text_ends", "ranks", "margins")
"""What lies in files of some sources only."""
FIELDS = ("tokens", "offsets", "characters", "role_of_token", "tokens_per_role", *BESIDE)
"""What lies in files."""


def _first(places: np.ndarray, wrong: np.ndarray) -> int:
    """The first place that is wrong."""
    return int(places[wrong].min())


def _beside(file: Path, field: str) -> Path:
    return file.with_name(file.name.replace(".tokens.", f".{field}."))


def _check(arrays: Mapping[str, Any], file: Path) -> None:
    """Whether types and shapes are those of a TokenSet, and offsets lead nowhere outside. Raises RunError."""
    import numpy as np

    kinds = {
        "tokens": ("u2", "u4"),
        "offsets": ("i8",),
        "characters": ("i8",),
        "role_of_token": ("u1",),
        "tokens_per_role": ("i8",),
        "labels": ("i4",),
        "tags": ("u2",),
        "weights": ("f4",),
        "texts": ("i4",),
        "text_ends": ("i8",),
        "ranks": ("i4",),
        "margins": ("f4",),
    }
    as_dialogues = arrays["role_of_token"] is not None or arrays["tokens_per_role"] is not None
    for field, array in arrays.items():
        if array is None:
            if field in ("tokens", "offsets", "characters") or (as_dialogues and field not in BESIDE):
                raise damaged(_beside(file, field), "it is not there")
            continue
        row = (len(ROLES) if as_dialogues else 1,) if field in ("characters", "tokens_per_role") else ()
        if array.dtype.str[1:] not in kinds[field] or array.shape[1:] != row or not array.flags.c_contiguous:
            raise damaged(_beside(file, field), f"it holds {array.dtype} of shape {array.shape}")
    tokens, offsets = arrays["tokens"], arrays["offsets"]
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(tokens) or np.any(offsets[1:] < offsets[:-1]):
        raise damaged(_beside(file, "offsets"), f"offsets point outside the {len(tokens)} tokens")
    a_token = ("role_of_token", "tags")
    a_text = ("text_ends", "ranks")
    a_document = ("characters", "tokens_per_role", *(f for f in BESIDE if f not in (*a_token, *a_text)))
    lengths = {**dict.fromkeys(a_document, len(offsets) - 1), **dict.fromkeys(a_token, len(tokens))}
    if any(arrays[field] is not None and len(arrays[field]) != length for field, length in lengths.items()):
        raise damaged(file, "the files beside it are of another number of documents or tokens")
    if (texts := arrays["texts"]) is not None:
        ends, ranks = arrays["text_ends"], arrays["ranks"]
        if (
            ends is None
            or ranks is None
            or arrays["margins"] is None
            or np.any(texts < 1)
            or not len(ends) == len(ranks) == int(texts.sum(dtype=np.int64))
            or np.any(np.diff(ends) < 0)
            or not np.array_equal(ends[np.cumsum(texts, dtype=np.int64) - 1], offsets[1:])
        ):
            raise damaged(_beside(file, "text_ends"), "it has other texts than the documents beside it")


def _compare(found: TokenSet, about: Mapping[str, Any]) -> None:
    """Hold the files against what their writer noted. Raises RunError."""
    of_roles = 0 if found.tokens_per_role is None else int(found.tokens_per_role.sum())
    counts = {
        "documents": len(found.lengths),
        "tokens": len(found.tokens),
        "characters": int(found.characters.sum()),
        "tokens_of_roles": of_roles,
    }
    for name, count in counts.items():
        if count != about[name]:
            raise damaged(found.file, f"there are {count} {name}, and {about[name]} were written")


def damaged(file: Path, what: str) -> RunError:
    """The error for a token file that has changed since it was written."""
    return RunError(
        f"{file} is damaged: {what}",
        f"remove the folder {file.parent} and start again: its tokens are rebuilt from the text",
        "the model would be trained on wrong text",
    )


def encode_texts(codec: Codec, texts: Iterable[Pieces]) -> TokenSet:
    """Plain documents as tokens in memory, without end tokens: the layout puts those between them."""
    writer = _in_memory(codec, None)
    for text in texts:
        writer.text(text)
    writer.close()
    return TokenSet(**writer.arrays)


def encode_dialogues(codec: Codec, template: ChatTemplate, dialogues: Iterable[list[Turn]]) -> TokenSet:
    """Dialogues as tokens in memory, as their template renders them."""
    writer = _in_memory(codec, template)
    for turns in dialogues:
        writer.dialogue(turns)
    writer.close()
    return TokenSet(**writer.arrays)


def encode_comparisons(codec: Codec, template: ChatTemplate, compared: Iterable[Compared]) -> TokenSet:
    """Answers that are compared as tokens in memory, each a dialogue as its template renders it."""
    writer = _in_memory(codec, template, True)
    for found in compared:
        writer.comparison(found.dialogues, found.ranks, found.margin)
    writer.close()
    return TokenSet(**writer.arrays)


def _in_memory(codec: Codec, template: ChatTemplate | None, compares: bool = False) -> Any:
    from llmspec.data.writing import MemoryRows, TokenWriter

    return TokenWriter(
        codec,
        lambda field, kind, shape: MemoryRows(kind, shape),
        lambda text, begin, end: len(text),
        template,
        compares=compares,
    )


def join_text(pieces: Pieces) -> str:
    """The text of pieces; markers spell none."""
    return "".join(piece for piece in pieces if not isinstance(piece, Marker))
