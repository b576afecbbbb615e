"""A file's bytes, and its text: read in pieces, unpacked, decoded, hashed on the way. Nothing is held whole."""

from __future__ import annotations

import bz2
import codecs
import hashlib
import io
import lzma
import os
import shlex
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.problems import DataError, Mark, Problem
from llmspec.core.regular import NotRegular, open_regular
from llmspec.parts.sources import encodings
from llmspec.parts.sources.base import Fetcher, Found
from llmspec.parts.sources.notes import Notes, Problems

PIECE = 1 << 20
"""Bytes that are read, or unpacked, at a time."""
_ZSTD_PIECE = 1 << 12
"""Packed bytes given to Zstandard at a time: its blocks may unpack to 32,000 times their size."""
FREE = 64 << 20
RATIO = 200
"""A compressed file may unpack to FREE bytes, or to RATIO times its size: text shrinks to a third, bombs to nothing."""
LONGEST = 64 << 20
"""Characters of one record, at most."""
_TOLD = 16 << 20
"""Bytes between two reports of progress."""


def opened(found: Found, hashed: Any) -> Iterator[bytes]:
    """The bytes of a file, as they are; `hashed` (of hashlib) is updated with them.

    Raises:
        DataError: it cannot be read, or is no regular file any more.
    """
    try:
        with open_regular(found.path) as file:
            while piece := file.read(PIECE):
                hashed.update(piece)
                yield piece
    except NotRegular as error:
        raise DataError(
            f"{found.name} is {error.strerror} any more",
            "put the file back, and run again",
            "reading it might never end",
        ) from None
    except OSError as error:
        raise DataError(
            f"{found.name} cannot be read: {error.strerror or error}",
            "give it read permission, put it back, or narrow the pattern",
            "its text would be missing",
        ) from None


def pieces(found: Found, fetch: Fetcher) -> Iterator[bytes]:
    """The bytes of a file. At its end they are compared with the hash that the source's fingerprint promised.

    Raises:
        DataError: as `opened`, or it changed since it was hashed.
    """
    hashed, done, told = hashlib.sha256(), 0, 0
    for piece in opened(found, hashed):
        done += len(piece)
        if done - told >= _TOLD:
            told = done
            fetch.progress(f"reading {found.name}", done, found.state[0])
        yield piece
    promised = fetch.promised(found.path)
    if promised is None or hashed.hexdigest() == promised:
        return
    if fetch.cache in Path(found.path).parents:
        raise DataError(
            f"{found.path} is not what was unpacked there", "remove it, and run again", "its text could be anything"
        )
    raise DataError(
        f"{found.name} changed while it was read",
        "let whatever writes to it end, and run again",
        "its text would be kept under the name of what it held before",
    )


def texts(found: Found, fetch: Fetcher, encoding: str = "utf-8") -> Iterator[str]:
    r"""The text of a file in pieces, unpacked by its suffix; every line ends with `\n`, a byte-order mark is left out.

    Raises:
        DataError: damaged compression, another encoding, NUL characters.
    """
    raw = pieces(found, fetch)
    new = PACKED.get(os.path.splitext(found.path)[1].lower())
    return _Decoding(found, encoding).run(raw if new is None else _unpacked(found, raw, new))


class Text(NamedTuple):
    r"""What a reader reads: the text of a file in pieces, in which every line ends with `\n`."""

    name: str
    pieces: Iterator[str]
    notes: Notes
    problems: Problems
    """What is wrong with single records."""


def lines(text: Text) -> Iterator[str]:
    """The lines of a text, without their ends. Raises DataError for one longer than any record."""
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    rest: list[str] = []
    held, number = 0, 0
    for piece in text.pieces:
        first, *more = piece.split("\n")
        rest.append(first)
        held += len(first)
        if held > LONGEST:
            raise too_long(text.name, number + 1)
        if more:
            yield "".join(rest)
            yield from more[:-1]
            number += len(more)
            rest, held = [more[-1]], len(more[-1])
    if last := "".join(rest):
        yield last


def too_long(name: str, line: int) -> DataError:
    """What is said of a record longer than any."""
    return DataError(
        Problem(
            f"a record of more than {LONGEST >> 20} million characters",
            hint="is it one of the format that the suffix says? give a record its own line",
            consequence="it would be held in memory whole",
            mark=Mark(name, line, 1),
        )
    )


# -- compression -----------------------------------------------------------------------------------------------------


def _unpacked(found: Found, raw: Iterator[bytes], new: Callable[[], _Unpacker]) -> Iterator[bytes]:
    """What compressed bytes hold; several members follow each other as one."""
    packed = unpacked = 0
    member: _Unpacker | None = None
    try:
        for data in raw:
            packed += len(data)
            while data:
                if member is None:
                    data = data.lstrip(b"\0")  # padding between members
                    if not data:
                        break
                    member = new()
                for out in member.feed(data):
                    unpacked += len(out)
                    if unpacked > FREE and unpacked > RATIO * packed:
                        raise DataError(
                            f"{found.name} unpacks to more than {RATIO} times its size",
                            "if that is meant, unpack it yourself and name what comes out",
                            "it could fill memory and disk",
                        )
                    if out:
                        yield out
                data = member.rest
                member = None if member.ended else member
    except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, MemoryError, _zstd_error()) as error:
        raise DataError(
            f"{found.name} is damaged, or not compressed as its name says: {error}",
            "fetch or compress it again; `file` shows what it is",
            "its text would be cut short",
        ) from None
    if member is not None:
        raise DataError(
            f"{found.name} ends too early: its compressed data are cut off",
            "fetch or compress it again",
            "its text would be cut short",
        )


class _Unpacker:
    """One compressed member, fed with bytes; gives at most PIECE bytes at a time."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self.stream.decompress(data, PIECE)
        while not self.ended and not self.stream.needs_input:
            yield self.stream.decompress(b"", PIECE)

    @property
    def ended(self) -> bool:
        return bool(self.stream.eof)

    @property
    def rest(self) -> bytes:
        """Bytes after the end of the member."""
        return self.stream.unused_data if self.ended else b""


class _Deflate(_Unpacker):
    def feed(self, data: bytes) -> Iterator[bytes]:
        out = b" " * PIECE
        while (data or len(out) == PIECE) and not self.ended:
            out = self.stream.decompress(data, PIECE)
            data = self.stream.unconsumed_tail
            yield out


class _Zstandard(_Unpacker):
    after = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _ZSTD_PIECE):
            yield self.stream.decompress(data[at : at + _ZSTD_PIECE])
            if self.ended:
                self.after = self.stream.unused_data + data[at + _ZSTD_PIECE :]
                return

    @property
    def rest(self) -> bytes:
        return self.after


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            "reading .zst files takes a package that is not installed",
            "pip install zstandard",
            "its text would be missing",
        ) from None
    return zstandard


def _zstd_error() -> type[Exception]:
    try:
        found: type[Exception] = _zstandard().ZstdError
        return found
    except DataError:
        return zlib.error


PACKED: dict[str, Callable[[], _Unpacker]] = {
    ".gz": lambda: _Deflate(zlib.decompressobj(wbits=31)),
    ".bz2": lambda: _Unpacker(bz2.BZ2Decompressor()),
    ".xz": lambda: _Unpacker(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)),
    ".zst": lambda: _Zstandard(_zstandard().ZstdDecompressor(max_window_size=1 << 27).decompressobj()),
}
"""Suffix -> what unpacks it."""


# -- text ------------------------------------------------------------------------------------------------------------

_MAGIC = {
    b"%PDF-": "a PDF document",
    b"PK\3\4": "a zip archive, as .docx, .xlsx and .epub are",
    b"PAR1": "Parquet data",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF": "HDF5 data",
    b"ARROW1": "Arrow data",
    b"\x93NUMPY": "a numpy array",
}


class _Decoding:
    """Bytes to text of one file, and where in it something is wrong."""

    def __init__(self, found: Found, encoding: str) -> None:
        self.found, self.encoding = found, encoding
        self.first = self.last = b""
        self.line, self.column = 1, 1
        """Of what comes next, counted from 1."""

    def run(self, raw: Iterator[bytes]) -> Iterator[str]:
        utf8 = codecs.lookup(self.encoding).name == "utf-8"
        codec = codecs.getincrementaldecoder("utf-8-sig" if utf8 else self.encoding)()
        decoder = io.IncrementalNewlineDecoder(codec, translate=True)
        for data in raw:
            if not self.first:
                self.first = data[: encodings.SAMPLE]
                self.check(utf8)
            self.last = data
            yield from self.piece(decoder, data)
        yield from self.piece(decoder, b"", final=True)

    def check(self, utf8: bool) -> None:
        """Refuse what begins as no text does."""
        if self.first.startswith(tuple(_MAGIC)):
            what = next(what for magic, what in _MAGIC.items() if self.first.startswith(magic))
            packed = "compressed" in what
            raise DataError(
                f"{self.found.name} is {what}, not plain text",
                "give it the suffix that says so (.gz, .bz2, .xz, .zst)"
                if packed
                else "take its text out into a file of its own, or narrow the pattern",
                "its bytes would be learned as text",
            )
        if utf8 and (marked := encodings.marked(self.first)):
            raise DataError(
                f"{self.found.name} is {encodings.iconv(marked)}, as its byte-order mark says, not UTF-8",
                self.convert(marked),
                "its characters would be guessed",
            )

    def piece(self, decoder: io.IncrementalNewlineDecoder, data: bytes, final: bool = False) -> Iterator[str]:
        try:
            text = decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise DataError(self.undecodable(error)) from None
        except UnicodeError as error:  # UTF-16 without a mark, when a mark is asked for
            raise DataError(f"{self.found.name} is not {self.encoding}: {error}", "name another `encoding:`") from None
        if (at := text.find("\0")) >= 0:
            raise DataError(self.null(text, at))
        if text:
            self.move(text)
            yield text

    def move(self, text: str) -> None:
        ends = text.count("\n")
        self.line += ends
        self.column = len(text) - text.rfind("\n") if ends else self.column + len(text)

    def undecodable(self, error: UnicodeDecodeError) -> Problem:
        raw, start = error.object, error.start
        self.move(raw[:start].decode(error.encoding, "replace").replace("\r\n", "\n").replace("\r", "\n"))
        if len(raw) < len(self.last):  # the text ends within a character: what came before shows what it is
            raw, start = self.last, len(self.last) - len(raw) + start
        before = raw[max(raw.rfind(b"\n", 0, start) + 1, start - 40) : start]
        around = (before + raw[start : start + 40].split(b"\n")[0]).decode("utf-8", "backslashreplace")
        sample = raw[raw.rfind(b"\n", 0, max(0, start - encodings.SAMPLE // 2)) + 1 :][: encodings.SAMPLE]
        likely = encodings.likely(self.first if b"\0" in self.first else sample)
        name = "UTF-8" if error.encoding.startswith("utf-8") else self.encoding
        return Problem(
            f"not {name}: byte 0x{raw[start]:02x}" + (f"; it looks like {encodings.iconv(likely)}" if likely else ""),
            hint=self.convert(likely),
            consequence="its characters would be guessed",
            mark=Mark(self.found.name, self.line, self.column, around),
        )

    def null(self, text: str, at: int) -> Problem:
        self.move(text[:at])
        likely = encodings.likely(self.first)
        hint = self.convert(likely) if likely else "fix it, or narrow the pattern so that only text is read"
        what = f"; it looks like {encodings.iconv(likely)}" if likely else ", as no text has: it is binary or damaged"
        return Problem(
            f"a NUL character{what}",
            hint=hint,
            consequence="NULs would be learned as text",
            mark=Mark(self.found.name, self.line, self.column),
        )

    def convert(self, likely: str) -> str:
        """What to do about another encoding."""
        file = self.found.path
        convert = f"-t UTF-8 {shlex.quote(file)} > {shlex.quote(file + '.utf8')}"
        if not likely:
            return (
                "its encoding is unclear; name it with `encoding:` in the source, or convert the file: "
                f"iconv -f ENCODING {convert}"
            )
        return (
            f"say `encoding: {likely.replace('_', '-')}` in the source if all its files are so, or convert this "
            f"one: iconv -f {encodings.iconv(likely)} {convert}"
        )
