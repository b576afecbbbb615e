"""specs/align-smollm2.yaml teaches a published model to speak well of films, by DPO and by PPO, seed by seed.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_align_smollm2.py      # up to 80 minutes a seed on two quiet cores
    ALIGN_SEEDS=1,2,3 pytest -n 0 -s -m benchmark tests/benchmarks/test_align_smollm2.py
    ALIGN_RUN=runs/align-smollm2 pytest -n 0 -s -m benchmark tests/benchmarks/test_align_smollm2.py   # a run of before

The untouched model, that of DPO and that of PPO answer the same prompts, of films that no phase has read of, as PPO
draws: from the whole distribution, at temperature 1. The classifier of specs/sentiment.yaml says which answers are
positive. Whether they are still text is told by what the untouched model thinks of their tokens, in nats per token,
beside what it thinks of its own. All of it is computed here, of answers that are drawn here; the run's own metrics are
not read.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from assistant_measures import log_likelihoods

import llmspec
from llmspec.backends import guest, owner
from llmspec.data.fetch import Fetch
from llmspec.data.split import chosen, text_digest
from llmspec.decoding.generate import Generation
from llmspec.formats.wheel_models import in_wheel
from llmspec.runs.run import RunFolder
from llmspec.spec.decoding import Decoding
from llmspec.training.rollouts import Prompt, draw

pytestmark = pytest.mark.benchmark
SEEDS = [int(seed) for seed in os.environ.get("ALIGN_SEEDS", "1").split(",")]
LONGEST = 40 * 60.0
"""Seconds of a phase."""
ANSWERS, DRAWS = int(os.environ.get("ALIGN_ANSWERS", "200")), 11
"""Answers that each model draws, and the seed of all."""
UNTOUCHED = "untouched"


class Run:
    """A run of the spec: its models, and what they answer."""

    def __init__(self, folder: Path, seed: int, whole: bool) -> None:
        self.folder, self.seed, self.whole = folder, seed, whole
        self.plan = RunFolder(folder).plan()
        self.model, self.drawn = cache(self._model), cache(self._drawn)
        self.positive, self.nats = cache(self._positive), cache(self._nats)
        self.ppo: Any = self.plan.phase("ppo").phase
        self.phases = [p.name for p in self.plan.phases if (folder / p.name / "timing.jsonl").exists()]

    def say(self, **found: Any) -> None:
        rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
        print("\n" + json.dumps({"spec": "align-smollm2", "seed": self.seed, **rounded}))

    def _model(self, phase: str) -> Any:
        if phase != UNTOUCHED:
            return llmspec.open(self.folder, phase=phase)
        return llmspec.open(in_wheel(self.plan.phases[0].phase.from_))  # type: ignore[arg-type]

    def prompts(self) -> list[str]:
        """Of films that validate, by the source's own template, each as often as any other."""
        source: Any = self.plan.sources[0].source
        found = dict[str, None]()
        for document in source.documents(Fetch(Path(self.plan.base), False, lambda *said: None)):
            record = source.cleaned(document.record)
            group = source.validation.group(record)
            assert group is not None
            if chosen(source.validation, document.name, text_digest(group)):
                found[source.prompt.format(**record)] = None
        return ([*found] * (ANSWERS // len(found) + 1))[:ANSWERS]

    def asked(self) -> list[Prompt]:
        """The prompts as PPO sees them: by the run's chat template, which need not be the untouched model's."""
        last = self.model(self.phases[-1])
        return [Prompt(last.tokens(text, True), text, {}, "") for text in self.prompts()]

    def _drawn(self, phase: str) -> list[Generation]:
        model, asked = self.model(phase), self.asked()
        how = Decoding().updated(max_tokens=self.ppo.max_tokens, temperature=1.0)
        with owner.turn(), guest.visit():
            return list(draw(model.drawing, model.codec, asked, how, 1, (DRAWS,)))

    def _positive(self, phase: str) -> np.ndarray:
        """(n,) bool: which answers the classifier holds positive; an answer without words is not."""
        classifier = llmspec.open(Path(self.plan.base) / self.ppo.reward.model.model)
        texts = [answer.text for answer in self.drawn(phase)]
        there = [i for i, text in enumerate(texts) if text.strip()]
        found = np.zeros(len(texts), bool)
        said = classifier.classify_batch([texts[i] for i in there])
        found[there] = [one.label == self.ppo.reward.label for one in said]
        return found

    def _nats(self, phase: str) -> float:
        """Per token of a phase's answers under the untouched model, ends of answers included."""
        prompts = [list(prompt.ids) for prompt in self.asked()]
        rows = [[*prompt, *answer.tokens] for prompt, answer in zip(prompts, self.drawn(phase), strict=True)]
        totals, counts = log_likelihoods(self.model(UNTOUCHED), rows, [len(prompt) for prompt in prompts])
        return float(-totals.sum() / counts.sum())


@pytest.fixture(scope="module", params=SEEDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if there := os.environ.get("ALIGN_RUN"):
        return Run(Path(there), RunFolder(Path(there)).plan().seed, False)
    folder, specs = tmp_path_factory.mktemp(f"seed{request.param}"), tiny.ROOT / "specs"
    judge, aligned = folder / "sentiment", folder / "align-smollm2"
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    seed = ("--set", f"seed={request.param}")
    subprocess.run(tiny.command("run", specs / "sentiment.yaml", "--out", judge), check=True, env=environment)
    asked = ("--set", f"phases.ppo.reward.model.model={judge}", "--out", aligned)
    subprocess.run(tiny.command("run", specs / "align-smollm2.yaml", *seed, *asked), check=True, env=environment)
    return Run(aligned, request.param, True)


def test_each_phase_takes_less_than_forty_minutes(run: Run) -> None:
    found = {}
    for name in run.phases:
        rows = [json.loads(line) for line in (run.folder / name / "timing.jsonl").read_text("utf-8").splitlines()]
        found[name] = sum(row["seconds"] for row in rows)
    run.say(seconds=found)
    assert not run.whole or max(found.values()) <= LONGEST


@pytest.mark.parametrize("phase", ["dpo", "ppo"])
def test_answers_are_positive_and_stay_text(run: Run, phase: str) -> None:
    if phase not in run.phases:
        pytest.skip(f"the run has not come to {phase}")
    before, after = (float(run.positive(name).mean()) for name in (UNTOUCHED, phase))
    own, theirs, texts = run.nats(UNTOUCHED), run.nats(phase), [a.text for a in run.drawn(phase)]
    run.say(
        phase=phase,
        answers=ANSWERS,
        positive_before=before,
        positive_after=after,
        nats_per_token_of_own=own,
        nats_per_token_of_theirs=theirs,
        of_own=theirs / own,
        different=len(set(texts)) / ANSWERS,
        ended={n: float(np.mean([a.finish_reason != "max_tokens" for a in run.drawn(n)])) for n in (UNTOUCHED, phase)},
        untouched=[a.text for a in run.drawn(UNTOUCHED)][:6],
        texts=texts[:12],
    )
    assert after >= 0.85
    assert theirs <= 1.5 * own
