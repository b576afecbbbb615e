"""Specs written to hurt: each ends in a sentence, soon, in little memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from llmspec.compiler import check_sections, compile_spec
from llmspec.core.problems import SpecError, dotted
from llmspec.spec import load_spec, read_spec

SECONDS, TIMES, BYTES = 2.5, 8, 200e6
"""Processor time and memory of a refusal, at most; of slow machines, times that which a small sound spec takes."""

HOSTILE = (
    "9" * 399,
    "-" + "9" * 399,
    "9" * 5000,
    "1e999",
    "-1e999",
    "1e308",
    "5e-324",
    "0",
    "-1",
    ".nan",
    "1e999 tokens",
    "1e300 tokens",
    "1e300 YFLOPs",
    "1e999 epochs of docs",
    "9" * 399 + "%",
    "9" * 399 + " TB",
    "1e999 steps",
    "1e17 steps",
    "''",
    "[[[[]]]]",
    "{}",
    '"\\U0001F600"',
)
FULL = [
    "model.attention={kind: grouped_query, heads: 2, kv_heads: 1}",
    "model.init={kind: fan_in}",
    "tokenizer={kind: bpe, vocab: 300}",
    "memory_limit=8 GiB",
    "decoding.seed=1",
    "decoding.top_k=5",
    "decoding.top_p=0.9",
    "decoding.min_p=0.1",
    "phases.chat.optimizer={kind: adamw}",
    "phases.chat.max_grad_norm=1",
    "phases.chat.schedule={kind: wsd}",
    "model.position={kind: rope}",
]
"""Settings that bring keys into play which the tiny spec leaves out."""


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values that are no maps."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    elif path[-1] != "kind" and "records" not in path:
        yield path


def keys(tmp: Path) -> list[str]:
    return [dotted(path) for path in leaves(load_spec(tiny.write(tmp), FULL).spec.dump())]


def test_no_value_at_any_key_ends_in_a_traceback(tmp_path: Path) -> None:
    path, found = tiny.write(tmp_path), keys(tmp_path)
    assert len(found) > 70 and {"seed", "memory_limit", "phases.pretrain.optimizer.adamw.lr"} <= set(found)
    slow = []
    for i, key in enumerate(found):
        for value in HOSTILE[i % 3 :: 3]:  # each key meets a third; neighbours, often of one kind, meet the others
            began = time.process_time()
            reading = read_spec(path, [*FULL, f"{key}={value}"])
            problems = (*reading.problems, *check_sections(reading.sections))
            if not problems and reading.sections.spec is not None:
                try:
                    compile_spec(reading.sections.spec)
                except SpecError as error:
                    problems = error.problems
            assert all(len(str(problem)) < 1500 for problem in problems), (key, value)
            if time.process_time() - began > SECONDS:
                slow.append((key, value))
    assert not slow


def test_every_whole_number_has_a_largest_value(tmp_path: Path) -> None:
    path, sound = tiny.write(tmp_path), load_spec(tiny.write(tmp_path), FULL).spec.dump()
    for key in keys(tmp_path):
        value: Any = sound
        for step in key.split("."):
            value = value[step] if isinstance(value, dict) and step in value else None
        if isinstance(value, int) and not isinstance(value, bool):
            assert read_spec(path, [*FULL, f"{key}={'9' * 30}"]).problems, key


def largest(sound: dict[str, Any]) -> dict[str, Any]:
    """The spec with every whole number at its largest."""
    from llmspec.spec.shape import spec_shape

    def grow(shape: Any, data: Any) -> Any:
        out = dict(data)
        for key, value in data.items():
            child = shape.child(key, data)
            info = None if shape.item else shape.fields(shape.kind(data)).get(key)
            if child is not None and isinstance(value, dict) and (child.parts or child.item):
                out[key] = {n: grow(child.item, v) for n, v in value.items()} if child.item else grow(child, value)
            elif info is not None and isinstance(value, int) and not isinstance(value, bool):
                limits = [
                    getattr(m, "le", None) or (getattr(m, "lt", None) or 1) - 1
                    for m in info.metadata
                    if hasattr(m, "le") or hasattr(m, "lt")
                ]
                out[key] = limits[0] if limits else value
        return out

    return grow(spec_shape(), sound)


def plain_texts() -> dict[str, str]:
    """Specs that are one text, by name."""
    spec = tiny.TINY
    return {
        "unknown keys": spec + "".join(f"k{i}: 1\n" for i in range(40_000)),
        "unknown keys in a map": spec.replace(
            "kind: rope", "kind: rope, " + ", ".join(f"k{i}: 1" for i in range(20_000))
        ),
        "unknown sources": spec.replace("docs: 100%", "docs: 100%, " + ", ".join(f"s{i}: 0%" for i in range(20_000))),
        "broken lines": "".join(f"k{i}: [\n" for i in range(20_000)),
        "brackets": "a: " + "[" * 3000 + "]" * 3000 + "\n",
        "steps to the right": "".join(" " * i + f"k{i}:\n" for i in range(1500)),
        "aliases": "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
        "a long line": 'a: "' + "x" * 1_900_000 + '"\n',
        "a large batch": spec.replace("micro_batch_size: 4", f"micro_batch_size: {(1 << 24) - 3}"),
        "a batch with many divisors": spec.replace("micro_batch_size: 4", "micro_batch_size: 14414400").replace(
            "context: 16", "context: 1048576"
        ),
        "phases": spec.replace(
            "phases:\n",
            "phases:\n"
            + "".join(f"  p{i}: {{kind: sft, mixture: {{facts: 100%}}, budget: 12 steps}}\n" for i in range(500)),
        ),
        "a name of 300 letters": spec.replace("name: tiny", "name: " + "a" * 300),
    }


def many(name: str, folder: Path) -> list[str]:
    """Writes the files of a case into a folder; the arguments of `check`."""
    if name == "a chain":
        for i in range(1200):
            (folder / f"c{i}.yaml").write_text(f"extends: c{i + 1}.yaml\n")
        tiny.write(folder, name="c1200.yaml")
        return [str(folder / "c0.yaml")]
    if name == "doubling":
        for i in range(25):
            (folder / f"e{i}.yaml").write_text(f"extends: [e{i + 1}.yaml, e{i + 1}.yaml]\n")
        tiny.write(folder, name="e25.yaml")
        return [str(folder / "e0.yaml")]
    if name == "all maxima":
        import yaml

        (folder / "max.yaml").write_text(yaml.safe_dump(largest(load_spec(tiny.write(folder)).spec.dump())))
        return [str(folder / "max.yaml")]
    if name == "a deep setting":
        return [str(tiny.write(folder)), "--set", ".".join(["model"] * 3000) + "=1"]
    if name == "a deep value":
        return [str(tiny.write(folder)), "--set", "model=" + "{a: " * 3000 + "}" * 3000]
    if name == "zeros":
        (folder / "zero.yaml").symlink_to("/dev/zero")
        return [str(folder / "zero.yaml")]
    if name == "a pipe":
        os.mkfifo(folder / "pipe.yaml")
        return [str(folder / "pipe.yaml")]
    if name == "a terabyte":
        with (folder / "sparse.yaml").open("wb") as file:
            file.truncate(1 << 40)
        return [str(folder / "sparse.yaml")]
    if name == "a file name that is no text":
        (folder / os.fsdecode(b"n\xff.yaml")).write_text(tiny.TINY)
        return [str(folder / os.fsdecode(b"n\xff.yaml"))]
    if name == "a long file name":
        return [str(folder / ("x" * 300 + ".yaml"))]
    (folder / "spec.yaml").write_text(plain_texts()[name])
    return [str(folder / "spec.yaml")]


CASES = (
    "unknown keys",
    "unknown keys in a map",
    "unknown sources",
    "broken lines",
    "brackets",
    "steps to the right",
    "aliases",
    "a long line",
    "a large batch",
    "a batch with many divisors",
    "phases",
    "a name of 300 letters",
    "a chain",
    "doubling",
    "all maxima",
    "a deep setting",
    "a deep value",
    "zeros",
    "a pipe",
    "a terabyte",
    "a file name that is no text",
    "a long file name",
)
SOUND = ("phases", "doubling", "a file name that is no text", "a name of 300 letters")


def checked(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """(what `llmspec check` and its peak of memory say, processor seconds that it took)."""
    code = (
        "import atexit, sys; from llmspec.forecast.process_memory import peak_bytes; from llmspec.cli import main\n"
        "atexit.register(lambda: print('\\npeak', peak_bytes()))\n"
        "sys.argv[1:] = ['check', *sys.argv[1:]]; main()"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tiny.ROOT,
        errors="replace",
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def soon(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds of a refusal at most, on this machine."""
    sound = str(tiny.write(tmp_path_factory.mktemp("sound")))
    return max(SECONDS, TIMES * min(checked(sound)[1] for _ in range(2)))


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_spec_is_a_sentence_soon_and_in_little_memory(name: str, soon: float, tmp_path: Path) -> None:
    done, spent = checked(*many(name, tmp_path))
    *said, peak = done.stdout.strip().splitlines()
    assert done.returncode == (0 if name in SOUND else 2), done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    assert len(said) < 1500
    assert spent < soon and int(peak.split()[1]) < BYTES, (spent, soon, peak)


def test_what_is_cut_short_is_counted(tmp_path: Path) -> None:
    many("unknown keys in a map", tmp_path)
    found = read_spec(tmp_path / "spec.yaml").problems
    assert any(problem.message == "and 19,980 more unknown keys here" for problem in found)
    many("broken lines", tmp_path)
    assert any(
        "the rest of the file was not read" in problem.message for problem in read_spec(tmp_path / "spec.yaml").problems
    )
