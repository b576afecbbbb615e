"""Token files that have rotted: made anew where that is seen at once, else a sentence; never ids that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sources import all_tokens, cache, small_plan  # noqa: F401

from llmspec.core.problems import RunError
from llmspec.data import artifact_cache
from llmspec.data.prepare import prepare
from llmspec.parts import tokenizers


def middle(file: Path, byte: bytes) -> None:
    """Overwrite the file behind its header."""
    raw = file.read_bytes()
    file.write_bytes(raw[:128] + byte * (len(raw) - 128))


def again(file: Path, change: Callable[[Any], Any]) -> None:
    """Write a changed array in its place."""
    np.save(file, change(np.load(file)))


ROT: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda f: f.write_bytes(b""),
    "no header": lambda f: f.write_bytes(b"\0" * 300),
    "cut": lambda f: f.write_bytes(f.read_bytes()[:-3]),
    "only its header": lambda f: f.write_bytes(f.read_bytes()[:128]),
    "longer": lambda f: f.write_bytes(f.read_bytes() + b"\0" * 64),
    "ones": lambda f: middle(f, b"\xff"),
    "sevens": lambda f: middle(f, b"\x77"),
    "zeros": lambda f: middle(f, b"\0"),
    "other type": lambda f: again(f, lambda a: a.astype(np.float64)),
    "other order": lambda f: again(f, lambda a: np.asfortranarray(np.stack([a, a], -1))),
    "backwards": lambda f: again(f, lambda a: a[::-1].copy()),
    "twice": lambda f: again(f, lambda a: np.concatenate([a, a])),
    "big-endian": lambda f: again(f, lambda a: a.astype(a.dtype.newbyteorder(">"))),
    "huge": lambda f: f.write_bytes(f.read_bytes().replace(b"'shape': (", b"'shape': (9999999999999,")[:-14]),
    "gone": lambda f: f.unlink(),
    "a folder": lambda f: (f.unlink(), f.mkdir()),
}


def read_all(prepared: Any) -> None:
    """Every batch of every phase; ids are those of the vocabulary."""
    vocab = prepared.codec.vocab
    for name in prepared.phases:
        stream = prepared.stream(name)
        batches = [stream.batch(step) for step in range(stream.steps)]
        for found in (*batches, *(b for held in prepared.validation(name).values() for b in held)):
            assert found.tokens.min() >= 0 and found.tokens.max() < vocab and found.targets.max() < vocab
            assert found.targets.min() >= 0 and set(np.unique(found.weights)) <= {0.0, 1.0}


@pytest.mark.parametrize("rot", ROT)
@pytest.mark.parametrize("mapped", [False, True])
def test_rotten_token_files_never_give_other_ids(
    rot: str,
    mapped: bool,
    tmp_path: Path,
    cache: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmspec.data.tokens._MAPPED", 0 if mapped else 1 << 30)
    # As where a disk has lost what it kept, behind the back of the file's times.
    monkeypatch.setattr(artifact_cache, "_holds", lambda *args: True)
    plan = small_plan(tmp_path, tokenizer=tokenizers.TABLE["byte"]())
    whole = all_tokens(prepare(plan))
    files = sorted(path.relative_to(cache) for path in (cache / "tokens").glob("*/*.npy"))
    assert len(files) > 12
    said = made = 0
    for file in files:
        ROT[rot](cache / file)
        try:
            prepared = prepare(plan)
            read_all(prepared)
            made += all_tokens(prepared) == whole
        except RunError as error:
            said += 1
            assert str(file.parent) in str(error) and "rebuilt from the text" in str(error)
        artifact_cache.discard(cache / file.parent)
        prepare(plan)
    # What is still of the right type, length and range cannot be told from what was written without reading it all.
    assert said + made == len(files) or rot in ("zeros", "sevens", "ones", "backwards")
    assert made or rot in ("zeros", "sevens", "ones", "backwards")


def test_ids_beyond_the_vocabulary_are_named_with_their_file(
    tmp_path: Path,
    cache: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artifact_cache, "_holds", lambda *args: True)
    plan = small_plan(tmp_path, tokenizer=tokenizers.TABLE["byte"]())
    prepare(plan)
    for file in (cache / "tokens").glob("*/train.tokens.npy"):
        middle(file, b"\xff")
    with pytest.raises(RunError, match=r"train\.tokens\.npy is damaged: token [\d,]+ is 65535, of 262 in the voc"):
        prepare(plan).stream("pre").batch(0)
