"""Texts and dialogues as token ids, in memory-mapped files.

N tokens, n documents, R roles (the order of ROLES).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmspec.data.shaping import Marker, Pieces, Turn
from llmspec.parts.tokenizers import Codec
from llmspec.parts.tokenizers.base import END, END_OF_TURN, ROLES

if TYPE_CHECKING:
    import numpy as np

CHARACTERS_AT_ONCE = 4_000_000
"""Text handed to the tokenizer in one go."""
_MAPPED = 1 << 16
"""Bytes from which a file is mapped, not read."""


class TokenSet(NamedTuple):
    """Documents as tokens: document i is tokens[offsets[i]:offsets[i+1]].

    Plain documents are their text alone. Dialogues are `END <|role|> content <|end_of_turn|> <|role|> ...`.
    """

    tokens: np.ndarray
    """(N,) uint16 or uint32."""
    offsets: np.ndarray
    """(n + 1,) int64."""
    characters: np.ndarray
    """(n, 1) int64 characters of each text; of dialogues (n, R), of each role's contents."""
    speakers: np.ndarray | None = None
    """(N,) uint8, dialogues only: 1 + role of whose content or end of turn the token is; 0 for END and role tokens."""
    spoken: np.ndarray | None = None
    """(n, R) int64, dialogues only: tokens of each role's contents and ends of turn."""

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64 tokens of each document."""
        return self.offsets[1:] - self.offsets[:-1]

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.<field>.npy` files."""
        import numpy as np

        for field, array in self._asdict().items():
            if array is not None:
                np.save(folder / f"{name}.{field}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, name: str) -> TokenSet:
        """Open what `save` wrote; long arrays are mapped, so that opening costs nothing."""
        import numpy as np

        def open_(field: str) -> np.ndarray | None:
            file = folder / f"{name}.{field}.npy"
            if not file.exists():
                return None
            return np.load(file, mmap_mode="r" if file.stat().st_size > _MAPPED else None, allow_pickle=False)

        return cls(*(open_(field) for field in cls._fields))  # type: ignore[arg-type]


Report = Callable[[int], None]
"""Called with the number of characters tokenised since the last call."""


def encode_texts(codec: Codec, texts: Sequence[Pieces], report: Report = lambda done: None) -> TokenSet:
    """Plain documents as tokens, without end tokens: the layout puts those between them."""
    import numpy as np

    parts = [piece for text in texts for piece in text]
    encoded = _encode(codec, parts, report)
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    offsets = _offsets(lengths)[_offsets(np.array([len(text) for text in texts], np.int64))]
    characters = np.array([[len(spelled(text))] for text in texts], np.int64).reshape(-1, 1)
    return TokenSet(_joined(encoded, codec), offsets, characters)


def encode_dialogues(codec: Codec, dialogues: Sequence[list[Turn]], report: Report = lambda done: None) -> TokenSet:
    """Dialogues as tokens: END, and for every turn its role's token, its content and the end of turn."""
    import numpy as np

    pieces = [piece for turns in dialogues for turn in turns for piece in turn.content]
    contents = iter(_encode(codec, pieces, report))
    special = {name: np.array([i], np.int32) for name, i in codec.specials.items()}
    chunks: list[np.ndarray] = []
    codes: list[int] = []
    counts = np.zeros((len(dialogues), len(ROLES)), np.int64)
    characters = np.zeros_like(counts)
    ends = np.zeros(len(dialogues), np.int64)
    for i, turns in enumerate(dialogues):
        chunks.append(special[END])
        codes.append(0)
        for turn in turns:
            role = ROLES.index(turn.role)
            said = [next(contents) for _ in turn.content]
            chunks += [special[f"<|{turn.role}|>"], *said, special[END_OF_TURN]]
            codes += [0, *([role + 1] * (len(said) + 1))]
            counts[i, role] += sum(map(len, said)) + 1
            characters[i, role] += len(spelled(turn.content))
        ends[i] = len(chunks)
    lengths = np.array([len(chunk) for chunk in chunks], np.int64)
    offsets = _offsets(lengths)[np.concatenate([[0], ends])] if len(dialogues) else np.zeros(1, np.int64)
    speakers = np.repeat(np.array(codes, np.uint8), lengths)
    return TokenSet(_joined(chunks, codec), offsets, characters, speakers, counts)


def spelled(pieces: Pieces) -> str:
    """The text of pieces; markers spell none."""
    return "".join(piece for piece in pieces if not isinstance(piece, Marker))


def _encode(codec: Codec, pieces: Sequence[str], report: Report) -> list[np.ndarray]:
    """Each piece's ids (int32); a marker is its one id."""
    import numpy as np

    out: list[np.ndarray] = []
    start = size = 0
    for i, piece in enumerate(pieces):
        size += len(piece)
        if size < CHARACTERS_AT_ONCE and i + 1 < len(pieces):
            continue
        batch = pieces[start : i + 1]
        plain = iter(codec.encode([text for text in batch if not isinstance(text, Marker)]))
        out += [np.array([codec.specials[text]] if isinstance(text, Marker) else next(plain), np.int32)
                for text in batch]
        report(size)
        start, size = i + 1, 0
    return out


def _offsets(lengths: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _joined(chunks: Sequence[np.ndarray], codec: Codec) -> np.ndarray:
    import numpy as np

    kind = np.uint16 if codec.vocab <= 1 << 16 else np.uint32
    return np.concatenate(chunks).astype(kind) if chunks else np.zeros(0, kind)
