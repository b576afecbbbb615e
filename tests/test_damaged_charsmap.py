"""Tokenizers on which the library fails while it reads a text: said at once where a map of characters is read, and
never anything but a sentence."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_gguf_tokenizers import codec_of, unigram

from llmspec.core.problems import DataError, RunError
from llmspec.formats.gguf import charsmap
from llmspec.parts.tokenizers.base import Continuing, Following
from llmspec.parts.tokenizers.huggingface import HuggingFace
from llmspec.parts.tokenizers.library import LibraryCodec

A, TEXTS = 256 ^ ord("A"), "b\0é\0".encode()
USED = (0, A, 512, 512 ^ ord("a"))


def whole_map(then: int = 0) -> bytes:
    """A map in which A becomes the text at byte `then`; a trie of three blocks of which four units are looked at."""
    units = np.zeros(768, "<u4")
    units[0] = 256 << 10
    units[A] = ord("A") | 1 << 8 | (A ^ 512) << 10
    units[512] = 1 << 31 | then
    return units.nbytes.to_bytes(4, "little") + units.tobytes() + TEXTS


def file_of(raw: bytes, decoder: Any = None) -> str:
    """A tokenizer.json with this map, which the library opens."""
    model = {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -1.0]],
        "byte_fallback": False,
    }
    around = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor"))
    made = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}
    return json.dumps(
        {"version": "1.0", "added_tokens": [], **around, "normalizer": made, "decoder": decoder, "model": model}
    )


def test_a_whole_map_is_read_and_used() -> None:
    assert charsmap.wrong(whole_map()) == ""
    assert LibraryCodec(file_of(whole_map())).encode(["A", "b"]) == [[2], [2]]


places = st.sampled_from([*range(4), *(4 + 4 * unit + byte for unit in USED for byte in range(4)), *range(-4, 0)])
changes = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=5)


@given(changes, st.integers(0, 3000))
@example([(3, 255)], 0)
@example([(0, 0), (1, 0)], 0)
@example([], 3000)
@settings(max_examples=300, deadline=None)
def test_a_map_in_which_nothing_is_wrong_maps_every_text(changed: list[tuple[int, int]], cut: int) -> None:
    raw = bytearray(whole_map())
    for place, value in changed:
        raw[place] = value
    raw = raw[: len(raw) - cut]
    if charsmap.wrong(bytes(raw)):
        return
    codec = LibraryCodec(file_of(bytes(raw)))
    codec.encode([chr(c) for c in (*range(1, 256), 0x1E9E, 0xFB01, 0x1F600)] + ["A" + chr(c) for c in range(1, 256)])


DAMAGED: dict[str, bytes] = {
    "no trie": bytes(4),
    "a trie longer than the map": bytes((4, 0, 0, 0, 255, 255, 255, 127))[:6],
    "units that lead nowhere": bytes((4, 0, 0, 0, 255, 255, 255, 127)),
    "an odd trie": bytes((3, 0, 0, 0, 1, 2, 3, 4, 5)),
    "three bytes": bytes(3),
    "texts that are none": whole_map() + b"\xff",
    "a text outside": whole_map(99),
    "half a character": whole_map(3),
    "cut": whole_map()[:-2000],
    "too long": whole_map() + bytes(charsmap.LARGEST),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_map_is_named_with_its_file_and_key(what: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"small\.gguf has a damaged tokenizer: `tokenizer\.ggml\.precompiled_charsmap`"):
        codec_of(tmp_path, unigram(**{"tokenizer.ggml.precompiled_charsmap": DAMAGED[what]}))


@pytest.mark.parametrize("raw", [b"", whole_map()])
def test_a_whole_or_an_empty_map_opens(raw: bytes, tmp_path: Path) -> None:
    codec = codec_of(tmp_path, unigram(**{"tokenizer.ggml.precompiled_charsmap": raw}))
    assert codec.encode(["A"])[0] == codec.encode(["b" if raw else "A"])[0]


# -- whatever the library fails on -------------------------------------------------------------------------------------
class PanicException(BaseException):
    """As Rust's panics come out of the library."""


class Failing:
    """A tokenizer of the library that fails wherever it is asked for ids or text."""

    def __init__(self, tokenizer: Any, error: BaseException) -> None:
        self.tokenizer, self.error = tokenizer, error

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("encode", "decode")) and name != "decoder":
            return self.fail
        found = getattr(self.tokenizer, name)
        return Failing(found, self.error) if name == "decoder" else found

    def __getstate__(self) -> Any:
        return self.tokenizer.__getstate__()

    def fail(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


CALLS: dict[str, Callable[[LibraryCodec], Any]] = {
    "encode": lambda codec: codec.encode(["a"]),
    "encode flat": lambda codec: codec.encode_flat(["a"]),
    "following": lambda codec: codec.encode([Following("a")]),
    "continuing": lambda codec: codec.encode([Continuing("a")]),
    "unspelled": lambda codec: codec._unspelled("a"),
    "frame": lambda codec: codec._frame(),
    "cut": lambda codec: codec.cut("a b c d", 0, 5),
    "decode": lambda codec: codec.decode([1, 2]),
    "bytes": lambda codec: codec.token_bytes(1),
    "first bytes": lambda codec: codec.token_bytes(1, begins=True),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [Exception, PanicException])
def test_what_the_library_fails_on_is_a_damaged_tokenizer(call: str, kind: type[BaseException]) -> None:
    codec = LibraryCodec(file_of(whole_map(), {"type": "Fuse"}))
    codec._tokenizer = failing = Failing(codec._tokenizer, kind("index out of bounds"))
    vars(codec)["_without_specials"] = {str: (failing, {})}
    with pytest.raises(DataError, match=r"the tokenizer is damaged.*index out of bounds"):
        CALLS[call](codec)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError, TypeError])
def test_what_is_not_the_librarys_own_stays_what_it_is(kind: type[BaseException]) -> None:
    codec = LibraryCodec(file_of(whole_map()))
    codec._tokenizer = Failing(codec._tokenizer, kind())
    with pytest.raises(kind):
        codec.encode(["a"])


def test_a_file_that_fails_while_it_is_opened_is_named(tmp_path: Path) -> None:
    file = json.loads(file_of(bytes(4)))
    file["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(DataError, match=r"does not read tokenizer\.json: the tokenizer is damaged"):
        HuggingFace(file="tokenizer.json").opened(str(tmp_path))
