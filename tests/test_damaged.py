"""Every verb over every damaged file of a run, a cache and a source: a sentence and an exit status, nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import caches
import damage
import pytest
import small
from small import call

VERBS: dict[str, list[str]] = {
    "explain": ["explain", "run"],
    "explain --json": ["explain", "run", "--json"],
    "sample": ["sample", "run", "--prompt", "one", "--seed", "1"],
    "run": ["run", "small.yaml", "--out", "run"],
    "run --locked": ["run", "small.yaml", "--out", "run", "--locked"],
    "explain A B": ["explain", "run", "small.yaml"],
    "explain --prompt": ["explain", "run", "--prompt", "one"],
    "explain SPEC": ["explain", "small.yaml"],
    "check": ["check", "small.yaml"],
    "check --data": ["check", "small.yaml", "--data"],
}
READ_BY = {
    "run": list(VERBS)[:7],
    "cache": ["check --data", "explain SPEC", "run"],
    "texts": ["check --data", "explain SPEC", "run"],
    "small.yaml": ["run", "explain SPEC", "check"],
}
"""What reads the files of each place."""
SECONDS = 30
CODE = ("libraries", "programs", "kernels", "zig", "shims")
"""Folders of the cache whose files this very process has mapped: another test damages them before it starts."""


def world(folder: Path) -> None:
    """A spec, its texts in every format, a run of it and a cache, as a user has them."""
    words = {"one": "uno", "two": "dos", "three": "tres", "four": "cuatro", "five": "cinco", "six": "seis"}
    texts = folder / "texts"
    texts.mkdir()
    records = [{"q": q, "a": a} for q, a in words.items()]
    (texts / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (texts / "b.json").write_text(json.dumps([{"q": f"{q}s", "a": a} for q, a in words.items()]))
    (texts / "c.csv").write_text("q,a\n" + "".join(f"{q} more,{a}\n" for q, a in words.items()))
    begin, end = small.SPEC.index("    facts:\n"), small.SPEC.index("phases:\n")
    source = (
        '    facts: {kind: files, path: "texts/*", validation: tail 20%, max_epochs: 500, max_dropped: 100%, '
        'text: "{q}: {a}", dialogue: {user: "{q}", assistant: "{a}"}}\n'
    )
    spec = small.SPEC[:begin] + source + small.SPEC[end:]
    (folder / "small.yaml").write_text(spec.replace("kind: bpe, vocab: 267", "kind: char"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with all of it, which this process stands in; its cache is the process's."""
    folder, before = tmp_path_factory.mktemp("world"), os.getcwd()
    world(folder)
    patch = pytest.MonkeyPatch()
    patch.setenv("LLMSPEC_CACHE", str(caches.copied(folder / "cache")))
    patch.chdir(folder)
    try:
        status, said = call("run", "small.yaml", "--out", "run")
        assert status == 0, said
        shutil.copytree(folder / "run", folder / "kept-run")
        shutil.copytree(folder / "cache", folder / "kept-cache")
        yield folder
    finally:
        patch.undo()
        assert os.getcwd() == before


def cases() -> list[tuple[str, str, str]]:
    """(place, kind of damage, verb); files are only known once they are made, and drawn by number."""
    return [(place, kind, verb) for place, verbs in READ_BY.items() for kind in damage.DAMAGES for verb in verbs]


def files_of(made: Path, place: str) -> list[Path]:
    if place == "small.yaml":
        return [made / place]
    return [p for p in damage.files_below(made / place) if p.relative_to(made / place).parts[0] not in CODE]


def judge(made: Path, path: Path, kind: str, verb: str) -> None:
    """One file damaged in one way, one verb: its status and words are a user's."""
    began = time.monotonic()
    with damage.done_to(path, kind):
        status, said = call(*VERBS[verb])
    took = time.monotonic() - began
    for place in ("run", "cache"):
        if verb.startswith("run") or place == "cache":
            shutil.rmtree(made / place)
            shutil.copytree(made / f"kept-{place}", made / place, copy_function=shutil.copy2)
    where = f"{path.relative_to(made)} {kind}, {verb}"
    assert status in (0, 2), f"{where}: status {status}: {said[-1500:]}"
    assert "Traceback" not in said and said.strip(), f"{where}: {said[-1500:]}"
    assert took < SECONDS, f"{where} took {took:.0f} s"


SHARE = 6
"""Cases tried of each place in an ordinary run of the tests; the night tries all."""


@pytest.mark.parametrize("place", READ_BY)
def test_some_damage_is_told_in_a_sentence(made: Path, place: str) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _, kind, verb in chance.sample([c for c in cases() if c[0] == place], SHARE):
        judge(made, chance.choice(files_of(made, place)), kind, verb)


@pytest.mark.parametrize("kind", ["pipe", "sparse"])
def test_nothing_in_the_cache_is_waited_for(made: Path, kind: str) -> None:
    """A file of each folder and ending of the cache."""
    files = {(p.relative_to(made / "cache").parts[0], p.suffix): p for p in files_of(made, "cache")}
    for path in files.values():
        judge(made, path, kind, "check --data")


@pytest.mark.nightly
@pytest.mark.parametrize("kind", damage.DAMAGES)
@pytest.mark.parametrize("place", READ_BY)
def test_all_damage_is_told_in_a_sentence(made: Path, place: str, kind: str) -> None:
    for path in files_of(made, place):
        for verb in READ_BY[place]:
            judge(made, path, kind, verb)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "folder", "pipe", "link", "not utf-8", "flipped"])
def test_what_a_run_leaves_is_a_run(made: Path, kind: str) -> None:
    """Of what a run writes beside its phases, any may be damaged: running again makes it whole, or says why not."""
    for name in ("tokenizer.json", "lock.json", "resolved.yaml", "sources.json", "checks.json", "facts.json"):
        with damage.done_to(made / "run" / name, kind):
            status, said = call(*VERBS["run"])
            assert status in (0, 2), said
            assert status == 2 or kind == "folder" or call(*VERBS["explain"])[0] == 0, said
        shutil.rmtree(made / "run")
        shutil.copytree(made / "kept-run", made / "run")
