"""Token files as they grow: whatever the length of a corpus, no more than a few megabytes of it are in memory.

N tokens, n documents, R roles (the order of ROLES).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llmspec.data.shaping import CODES
from llmspec.parts.sources.word_lists import stretches
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.templates.base import Marker, Pieces, Segment, Turn
from llmspec.parts.tokenizers import Codec
from llmspec.parts.tokenizers.base import Continuing, Cut
from llmspec.parts.tokenizers.special_tokens import ROLES

CHARACTERS_AT_ONCE = 1_000_000
"""Text handed to the tokenizer in one go: enough to keep every core busy, little enough to stop within a second."""
PIECE = 1 << 16
"""Characters from which a text is tokenised in pieces, so that one long text keeps every core busy too."""

Report = Callable[[int], None]
"""Called with the number of characters tokenised since the last call."""


class Rows(Protocol):
    """An array that grows along its first axis."""

    def append(self, rows: np.ndarray) -> None:
        """Add rows of the array's shape."""

    def close(self) -> np.ndarray | None:
        """No more will come."""


class MemoryRows:
    """Rows in memory."""

    def __init__(self, kind: type, shape: tuple[int, ...] = ()) -> None:
        self._parts: list[np.ndarray] = [np.zeros((0, *shape), kind)]

    def append(self, rows: np.ndarray) -> None:
        self._parts.append(rows.astype(self._parts[0].dtype))

    def close(self) -> np.ndarray:
        return np.concatenate(self._parts)


class FileRows:
    """Rows in a .npy file, the same bytes as np.save writes."""

    def __init__(self, path: Path, kind: type, shape: tuple[int, ...] = ()) -> None:
        self._kind, self._shape, self._rows = np.dtype(kind), shape, 0
        self._file = path.open("w+b")
        self._begin()

    def _begin(self) -> None:
        # numpy leaves room for the first axis to grow, so that a header of more rows takes no more bytes.
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._kind),
                "fortran_order": False,
                "shape": (self._rows, *self._shape),
            },
        )

    def append(self, rows: np.ndarray) -> None:
        self._rows += len(rows)
        self._file.write(np.ascontiguousarray(rows, self._kind).data)

    def release(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def close(self) -> None:
        with self._file:
            begins = np.lib.format.MAGIC_LEN + 2
            length = self._rows * self._kind.itemsize * int(np.prod(self._shape, dtype=np.int64))
            self._begin()
            size = self._file.seek(0, 2)
            if size - length < begins or (size - length) % 64:
                raise OSError(f"{self._file.name} has {size} bytes, and {length} of rows were written")


class Cutter:
    """Text that comes in stretches, in pieces that are tokenised apart as they would be together."""

    def __init__(self, cut: Cut) -> None:
        self._cut, self._rest, self._begun = cut, "", False

    def push(self, text: str) -> Iterator[str]:
        """Pieces that are sure, now that `text` has come."""
        if not self._rest and len(text) <= PIECE:
            self._rest = text
            return
        kind = type(self._rest or text)
        text, begin = self._rest + text, 0
        while len(text) - begin > PIECE:
            end = self._cut(text, begin, begin + PIECE)
            yield self._next(text[begin:end], kind)
            begin = end
        self._rest = text[begin:]

    def end(self) -> Iterator[str]:
        """The last piece."""
        last, self._rest = self._rest, ""
        if last:
            yield self._next(last, type(last))
        self._begun = False

    def _next(self, piece: str, kind: type[str]) -> str:
        """A piece: the first is of the text's own kind, the others go on with it."""
        found = Continuing(piece) if self._begun else piece if type(piece) is kind else kind(piece)
        self._begun = True
        return found


class TokenWriter:
    """Documents to tokens, into the arrays of a TokenSet that `open_(field, kind, shape of a row)` gives."""

    def __init__(
        self,
        codec: Codec,
        open_: Callable[[str, type, tuple[int, ...]], Rows],
        cut: Cut,
        template: ChatTemplate | None,
        report: Report = lambda done: None,
        tagged: bool = False,
        compares: bool = False,
    ) -> None:
        """`template` is that of dialogues; None for plain documents. `tagged`: documents are words with their tags;
        `compares`: a document is several dialogues."""
        self._codec, self._report, self._template = codec, report, template
        # Dialogues are counted by document, and tags follow their words, so that those are written whole.
        self._cutter, self._unbroken = Cutter(cut), bool(template) or tagged
        width = len(ROLES) if template else 1
        self.rows: dict[str, Rows] = {
            "tokens": open_("tokens", np.uint16 if codec.vocab <= 1 << 16 else np.uint32, ()),
            "offsets": open_("offsets", np.int64, ()),
            "characters": open_("characters", np.int64, (width,)),
        }
        if template:
            self.rows["role_of_token"] = open_("role_of_token", np.uint8, ())
            self.rows["tokens_per_role"] = open_("tokens_per_role", np.int64, (width,))
        if tagged:
            self.rows["tags"] = open_("tags", np.uint16, ())
        if compares:
            kinds: dict[str, type] = {
                "texts": np.int32,
                "text_ends": np.int64,
                "ranks": np.int32,
                "margins": np.float32,
            }
            self.rows |= {name: open_(name, kind, ()) for name, kind in kinds.items()}
        self.compares = compares
        self._stop: int | None = None
        self.rows["offsets"].append(np.zeros(1, np.int64))
        self.documents = self.tokens = self.characters = self.tokens_of_roles = 0
        self._said = [0] * width
        self._width = width
        self._clear()

    def _clear(self) -> None:
        self._texts: list[str] = []
        self._specials, self._codes, self._ends, self._counts = array("q"), bytearray(), array("q"), array("q")
        self._tags = array("H")
        self._text_ends = array("q")
        self._size = 0

    # -- what comes ------------------------------------------------------------------------------------------------
    def text(self, pieces: Pieces, more: bool = False) -> None:
        """A plain document, or with `more` a stretch of it. It has no end token: the layout puts those between."""
        for i, piece in enumerate(pieces, 1):
            if isinstance(piece, Marker):
                self._special(self._codec.specials[piece])
                continue
            self._said[0] += len(piece)
            self._put(piece, 0, more and i == len(pieces))
        if not more:
            self._end()

    def tagged(self, words: Sequence[str], tags: Sequence[int]) -> None:
        """A document that is some words, each tokenised by itself, with the number of its tag from 0 on."""
        for word, tag in zip(stretches(words), tags, strict=True):
            before = len(self._codes)
            self._said[0] += len(word)
            self._put(word, 0)
            self._tags.extend([1 + tag] + [0] * (len(self._codes) - before - 1))
        self._end()

    def dialogue(self, turns: Sequence[Turn]) -> None:
        """The dialogue as the template renders it; each token with the role whose words it is."""
        self._segments(self._rendered(turns))
        self._end()

    def prompt(self, turns: Sequence[Turn]) -> None:
        """A dialogue that the assistant is to answer, up to where it does, and as its answer the token alone that ends
        one."""
        assert self._template is not None
        if self._stop is None:
            specials = self._codec.specials
            ends = self._template.end(specials)
            self._stop = specials.need("eos") if ends is None else ends
        asked = self._template.prompt(self._codec.specials, turns)
        self._segments([*asked, Segment(self._stop, "assistant")])
        self._end()

    def comparison(self, dialogues: Sequence[Sequence[Turn]], ranks: Sequence[int], margin: float) -> None:
        """Several dialogues that are one document, of these ranks."""
        for segments in [self._rendered(turns) for turns in dialogues]:
            self._segments(segments)
            self._text_ends.append(len(self._codes))
        self.rows["texts"].append(np.array([len(ranks)], np.int32))
        self.rows["ranks"].append(np.array(ranks, np.int32))
        self.rows["margins"].append(np.array([margin], np.float32))
        self._end()

    def _rendered(self, turns: Sequence[Turn]) -> list[Segment]:
        """A dialogue's segments, before any is written: a template that refuses one has written nothing of it."""
        assert self._template is not None
        return list(self._template.render(self._codec.specials, turns))

    def _segments(self, segments: Sequence[Segment]) -> None:
        for content, role in segments:
            code = 0 if role is None else CODES[role]
            if isinstance(content, int):
                self._special(content, code)
            elif isinstance(content, Marker):
                self._special(self._codec.specials[content], code)
            else:
                if code:
                    self._said[code - 1] += len(content)
                self._put(content, code)

    def close(self) -> dict[str, Any]:
        """Write the rest; the numbers of documents, tokens, characters, and tokens of contents and ends of turn."""
        self._flush()
        self.arrays = {name: rows.close() for name, rows in self.rows.items()}
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "characters": self.characters,
            "tokens_of_roles": self.tokens_of_roles,
        }

    # -- on the way ------------------------------------------------------------------------------------------------
    def _special(self, token: int, code: int = 0) -> None:
        self._specials.append(token)
        self._codes.append(code)

    def _put(self, text: str, code: int, more: bool = False) -> None:
        """A text; with `more`, the next one goes on with it."""
        for piece in self._cutter.push(text):
            self._piece(piece, code)
        if not more:
            for piece in self._cutter.end():
                self._piece(piece, code)

    def _piece(self, piece: str, code: int) -> None:
        self._texts.append(piece)
        self._specials.append(-1)
        self._codes.append(code)
        self._size += len(piece)
        if self._size >= CHARACTERS_AT_ONCE and not self._unbroken:
            self._flush()

    def _end(self) -> None:
        self._ends.append(len(self._codes))
        self._counts.extend(self._said)
        self._said = [0] * self._width
        if self._size >= CHARACTERS_AT_ONCE or len(self._codes) >= CHARACTERS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Tokenise and write what has gathered."""
        ids, lengths = self._codec.encode_flat(self._texts)
        specials = np.frombuffer(self._specials, np.int64)
        codes = np.frombuffer(bytes(self._codes), np.uint8)
        of_piece = np.ones(len(specials), np.int64)
        of_piece[specials < 0] = lengths
        after = np.concatenate([np.zeros(1, np.int64), np.cumsum(of_piece)])
        tokens = np.empty(after[-1], np.int32)
        text = np.ones(len(tokens), bool)
        text[after[:-1][specials >= 0]] = False
        tokens[text], tokens[~text] = ids, specials[specials >= 0]
        ends = np.frombuffer(self._ends, np.int64)
        counts = np.frombuffer(self._counts, np.int64).reshape(-1, self._width)
        self.rows["tokens"].append(tokens)
        self.rows["offsets"].append(self.tokens + after[ends])
        if self.compares:
            self.rows["text_ends"].append(self.tokens + after[np.frombuffer(self._text_ends, np.int64)])
        self.rows["characters"].append(counts)
        if "tags" in self.rows:
            of_token = np.zeros(len(tokens), np.uint16)
            begins = of_piece > 0
            of_token[after[:-1][begins]] = np.frombuffer(self._tags, np.uint16)[begins]
            self.rows["tags"].append(of_token)
        if self._template:
            self.rows["role_of_token"].append(np.repeat(codes, of_piece))
            document = np.searchsorted(ends, np.arange(len(codes)), side="right")
            said = codes > 0
            cell = document[said] * self._width + codes[said] - 1
            spoken = np.bincount(cell, of_piece[said], len(ends) * self._width).astype(np.int64)
            self.rows["tokens_per_role"].append(spoken.reshape(-1, self._width))
            self.tokens_of_roles += int(spoken.sum())
        self.tokens += len(tokens)
        self.documents += len(ends)
        self.characters += int(counts.sum())
        self._report(self._size)
        self._clear()
