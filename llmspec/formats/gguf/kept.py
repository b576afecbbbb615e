"""A file's tokenizer as the cache folder keeps it: making one of metadata takes longer than the rest of opening."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from llmspec.core.folders import cache_dir, private_folder, read_private, write_atomically
from llmspec.core.mapped import check_whole
from llmspec.formats.gguf.reading import Header, WrongGGUF, damaged
from llmspec.formats.gguf.tokenizers import FILE, Tokenizing, tokenizing

NOTES = "settings.json"
MADE_BY = ("kept.py", "charsmap.py", "tokenizers.py", "tokens.py", "sentencepiece.py", "pretokenizers.yaml")
"""Files that say how a tokenizer is made: what is kept was made by these very ones."""


def kept(header: Header) -> tuple[Path, Tokenizing]:
    """(folder that holds tokenizer.json, the tokenizer without that text) of what a file says before its numbers.

    Raises RunError for a tokenizer that is not understood, and CacheError.
    """
    check_whole(header.buffer)
    hashed = hashlib.sha256(header.buffer[: header.end])
    for name in MADE_BY:
        hashed.update((Path(__file__).parent / name).read_bytes())
    folder = private_folder(cache_dir() / "gguf" / hashed.hexdigest())
    found = _read(folder)
    if found is None:
        try:
            found = tokenizing(header.metadata, str(header.path))
        except WrongGGUF as error:  # a text that is none, which is seen as it is gone through
            raise damaged(header.path, str(error)) from None
        text = found.text.encode()
        sha256 = hashlib.sha256(text).hexdigest()
        found = Tokenizing("", {**found.settings, "sha256": sha256}, found.begins)
        notes = {"sha256": sha256, "settings": found.settings, "begins": found.begins}
        write_atomically(folder / FILE, text, 0o600)
        write_atomically(folder / NOTES, json.dumps(notes, ensure_ascii=False).encode(), 0o600)
    return folder, found


def _read(folder: Path) -> Tokenizing | None:
    """What was kept there; None where that is nothing whole."""
    try:
        text, notes = read_private(folder / FILE), json.loads(read_private(folder / NOTES))
        if hashlib.sha256(text).hexdigest() == notes["sha256"]:
            return Tokenizing("", notes["settings"], notes["begins"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
