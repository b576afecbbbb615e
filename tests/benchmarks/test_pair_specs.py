"""specs/translate.yaml and specs/summarise.yaml learn, seed by seed, beside models without the source.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_pair_specs.py -k translated    # 4 runs of a minute
    pytest -n 0 -s -m benchmark tests/benchmarks/test_pair_specs.py -k summed_up     # 4 runs of some six minutes

Minutes are those of two quiet cores.

Translation: no held-out German name occurs in training, so that the nearest neighbour's answer is never right.
Summaries: an article's own first sentence is what answers without learning.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import tiny

import llmspec
from llmspec.core.text_scores import rouge_l
from llmspec.data.prepare import prepare
from llmspec.runs.run import RunFolder

pytestmark = pytest.mark.benchmark
SEEDS = (1, 2, 3)
TEXT = r'"{emoji.en}\n\n{emoji_de}"'
"""What tells which names are held out: the same without the source."""
REACHED, BELOW = 0.40, 0.75
"""Exact match to reach, and the share that the loss may have of the loss without a source."""


def trained(folder: Path, *overrides: str, spec: str = "translate") -> dict[str, float]:
    """Last validation of a run of the spec by metric; its loss is in nats per token."""
    given = [word for override in overrides for word in ("--set", override)]
    done = tiny.call("run", tiny.ROOT / "specs" / f"{spec}.yaml", "--out", folder, *given, timeout=None)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "learn" / "metrics.jsonl").read_text("utf-8").splitlines()]
    *_, last = (row["validation"] for row in rows if "validation" in row)
    return {metric["name"]: metric["value"] for metric in last}


def test_held_out_names_are_translated(tmp_path: Path) -> None:
    found = [trained(tmp_path / f"seed{seed}", f"seed={seed}") for seed in SEEDS]
    # The same target, and a source that says nothing.
    blind = trained(tmp_path / "blind", "data.sources.emoji.source='{emoji.status}'", f"data.sources.emoji.text={TEXT}")
    plan = RunFolder(tmp_path / "seed1").plan()
    ((_, train, held_out),) = prepare(plan).sides()["pair"]

    def targets(data: object) -> set[tuple[int, ...]]:
        tokens, roles, ends = data.tokens, data.role_of_token, data.offsets  # type: ignore[attr-defined]
        return {tuple(tokens[a:b][roles[a:b] == 4].tolist()) for a, b in pairwise(ends)}

    known = len(targets(train) & targets(held_out))
    print({"seeds": SEEDS, "found": found, "without the source": blind, "held-out targets seen in training": known})
    assert known == 0
    assert min(one["exact match"] for one in found) >= REACHED
    assert max(one["loss"] for one in found) < BELOW * blind["loss"]


def first_sentences() -> float:
    """ROUGE-L of the first sentences of the held-out articles, as answers."""
    prepared = prepare(llmspec.compile(llmspec.load_spec(tiny.ROOT / "specs" / "summarise.yaml").spec))
    ((_, _, held_out),) = prepared.sides()["pair"]
    tokens, roles = held_out.tokens, held_out.role_of_token
    assert roles is not None
    answers, targets = [], []
    for begin, end in pairwise(held_out.offsets):
        target = roles[begin:end] == 4
        article, wanted = (prepared.codec.decode(tokens[begin:end][side].tolist()) for side in (~target, target))
        if wanted.strip():
            answers.append(re.split(r"(?<=[.!?])\s", article.strip())[0])
            targets.append(wanted)
    return rouge_l(answers, targets)


def test_held_out_articles_are_summed_up(tmp_path: Path) -> None:
    found = [trained(tmp_path / f"seed{seed}", f"seed={seed}", spec="summarise") for seed in SEEDS]
    # The same targets, and a source that says nothing.
    text = r'"{extract}\n\n{description}"'
    blind = trained(
        tmp_path / "blind",
        "data.sources.wiki.source=What is it?",
        f"data.sources.wiki.text={text}",
        spec="summarise",
    )
    first = first_sentences()
    print({"seeds": SEEDS, "found": found, "without the source": blind, "the first sentence": first})
    assert min(one["ROUGE-L"] for one in found) > first
    assert max(one["loss"] for one in found) < blind["loss"]
