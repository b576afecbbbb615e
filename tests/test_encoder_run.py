"""A run of a model with an encoder: it learns from real text, goes on where it was killed, and answers prompts."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

import pytest
import tiny
from test_resume import facts, kill_after, same

import llmspec
from llmspec.core.problems import LlmspecError

CHANGES = {
    "  dropout: 0.1\n": "  dropout: 0.1\n  encoder: {layers: 1, context: 24}\n",
    "    document_mask: true\n": "",
    "{kind: muon, lr: 1e-2, adamw: {lr: 1e-3}}": "{kind: muon, lr: 5e-2, adamw: {lr: 2e-2}}",
}
ENCODER = functools.reduce(lambda text, change: text.replace(*change), CHANGES.items(), tiny.TINY)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(spec, run directory) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("encoder")
    spec = tiny.write(folder, ENCODER)
    done = tiny.call("run", spec, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return spec, folder / "run"


def test_it_learns(straight: tuple[Path, Path]) -> None:
    rows = [json.loads(line) for line in (straight[1] / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 24 and sum(losses[-4:]) / 4 < losses[0] - 0.8, losses[-4:]
    found = [m for row in rows for m in row.get("validation", ())]
    assert {m["unit"] for m in found if m["name"] == "loss"} == {"nats/token", "nats/character"}
    ledger = json.loads((straight[1] / "chat" / "phase.json").read_text())["ledger"]
    assert all(row["tokens_read"] > row["tokens_supervised"] > 0 for row in ledger)


def test_it_goes_on_where_it_was_killed(straight: tuple[Path, Path], tmp_path: Path) -> None:
    spec, run = straight
    out = tmp_path / "killed"
    process = subprocess.Popen(
        tiny.command("run", spec, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert kill_after(process, out, 9, 0.0)
    assert tiny.call("run", spec, "--out", out).returncode == 0
    same(facts(run), facts(out))


def test_its_answers_follow_the_prompt(straight: tuple[Path, Path], tmp_path: Path) -> None:
    model = llmspec.open(straight[1])
    prompts = ["one", "twenty", "a"]
    together = [answers[0].tokens for answers in model.generate_batch(prompts, max_tokens=9, seed=3)]
    alone = [model.generate(prompt, max_tokens=9, seed=3)[0].tokens for prompt in prompts]
    assert together == alone
    assert len(model.generate("one", n=3, max_tokens=99)[0].tokens) <= 15  # of 16 places one is the start token's
    saved = llmspec.open(model.save(tmp_path / "saved"))
    assert saved.generate("one", max_tokens=9, seed=3)[0].tokens == alone[0]
    with pytest.raises(LlmspecError, match="encoder reads 24"):
        model.generate("a prompt that is longer than that")
