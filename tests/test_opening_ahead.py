"""Tokenizers that are opened beside whatever else goes on are those that are opened when they are needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gguf_files
import pytest
import tiny

from llmspec.core.problems import RunError
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.tables import tables
from llmspec.parts.tokenizers import TABLE, opening

TEXT = TABLE["bpe"](vocab=270).train(["to be or not to be, that is the question " * 9]).to_json()
OTHER = TABLE["bpe"](vocab=272).train(["the cat and the hat, and the bat on the mat " * 9]).to_json()
FORKED = """
import os, sys
from llmspec.parts.tokenizers import TABLE, opening
text = TABLE["bpe"](vocab=270).train(["to be or not to be, that is the question " * 9]).to_json()
opening.begin(text)
child = os.fork()
if not child:
    os._exit(len(opening.opened(text).encode("be").ids))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(opening.opened(text).encode("be").ids))
"""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the library has read."""
    texts, own = list[str](), opening._read
    monkeypatch.setattr(opening, "_read", lambda text: (texts.append(text), own(text))[1])
    return texts


def test_what_was_begun_is_what_is_opened(read: list[str]) -> None:
    plain = opening.opened(TEXT)
    opening.begin(TEXT)
    ahead = opening.opened(TEXT)
    assert read == [TEXT, TEXT] and ahead.to_str() == plain.to_str()
    assert ahead.encode_special_tokens and ahead.truncation is None and ahead.padding is None
    assert opening.opened(TEXT) is not ahead and len(read) == 3, "each is its own"


def test_another_text_waits_for_nothing(read: list[str]) -> None:
    opening.begin(TEXT)
    assert opening.opened(OTHER).get_vocab_size() == 272
    opening.begin(OTHER)
    assert opening.opened(TEXT).get_vocab_size() == 270 and opening.opened(OTHER).get_vocab_size() == 272


@pytest.mark.parametrize("text", ["", "{", "{}", TEXT.replace('"BPE"', '"other"')])
def test_what_fails_is_said_where_it_is_needed(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as plain:
        opening.opened(text)
    opening.begin(text)
    with pytest.raises(ValueError, match=r"\S") as ahead:
        opening.opened(text)
    assert str(ahead.value) == str(plain.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_opens_its_own() -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, cwd=tiny.ROOT, timeout=60, check=True
    )
    child, parent = map(int, found.stdout.split())
    assert child == parent > 0


def test_a_file_that_is_opened_ahead_says_the_same(tmp_path: Path, read: list[str]) -> None:
    path = gguf_files.small(tmp_path / "a.gguf", tables()["llama"])
    GGUFFile(path).plan()  # which keeps the tokenizer
    before, found = len(read), GGUFFile(path)
    found.open_ahead()
    codec = found.tokenizer(found.plan())
    assert codec.encode(["hello world"]) == GGUFFile(path).tokenizer(GGUFFile(path).plan()).encode(["hello world"])
    assert len(read) > before
    path.write_bytes(path.read_bytes()[:99])
    damaged = GGUFFile(path)
    damaged.open_ahead()
    with pytest.raises(RunError):
        damaged.plan()
