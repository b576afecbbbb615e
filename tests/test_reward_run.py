"""A reward model from a run: what it learns, tells and shows; as a reward; and pairs that are made of other records."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError, SpecError
from llmspec.data.checks import data_checks
from llmspec.data.notices import notices
from llmspec.data.prepare import PreparedData, prepare
from llmspec.parts.rewards import TABLE, Answered
from llmspec.runs.run import RunFolder, no_text
from llmspec.spec import load_spec
from llmspec.training import rollouts
from llmspec.training.judging import dialogue_read, judge_problems, opener
from llmspec.training.other_models import closed

SPEC = """\
name: judge
seed: 7
device: CPU
model:
  context: 64
  d_model: 16
  layers: 1
  position: {kind: rope}
  attention: {heads: 2}
  mlp: {kind: swiglu, d_ff: 24}
tokenizer: {kind: byte}
data:
  sources:
    pairs:
      kind: files
      path: pairs.jsonl
      validation: hash 25%
      max_epochs: 1000
      prompt: "{q}"
      chosen: "{good}"
      rejected: "{bad}"
phases:
  judge:
    kind: reward
    mixture: {pairs: 100%}
    budget: 30 steps
    micro_batch_size: 4
    objective: {center_rewards_coefficient: 0.01}
    optimizer: {kind: adamw, lr: 1e-2}
    evaluate_every: 30 steps
    checkpoint_every: 30 steps
    sample_every: 30 steps
"""
"""Kind words are better."""
CHAIN = """\
  grpo:
    kind: grpo
    from: start
    reward: judge
    mixture: {pairs: 100%}
    budget: 2 steps
    prompts_per_rollout: 2
    answers_per_prompt: 2
    max_tokens: 6
    validation_prompts: 2
    micro_batch_size: 4
  start:
    kind: sft
    mixture: {pairs: 100%}
    budget: 4 steps
    micro_batch_size: 4
"""


def written(
    folder: Path, *changes: tuple[str, str], more: str = "", records: list[dict[str, Any]] | None = None
) -> Path:
    things = ["cat", "dog", "hen", "cow", "fox", "ant", "bee", "owl"]
    lines = records or [
        {"q": f"a {t} {n}?", "good": f"kind {t}", "bad": f"rude {t} {t}"} for t in things for n in ("now", "then", "so")
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    spec = SPEC + more
    for old, new in changes:
        assert old in spec
        spec = spec.replace(old, new)
    return tiny.write(folder, spec)


def read(spec: Path) -> PreparedData:
    return prepare(compile_spec(load_spec(spec).spec, base=str(spec.parent)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    done = tiny.call("run", written(folder), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_it_learns_which_answers_are_better(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "judge/metrics.jsonl").read_text().splitlines()]
    last = {m["name"]: m["value"] for m in [row for row in rows if "validation" in row][-1]["validation"]}
    assert last["accuracy"] == 1 and last["loss"] < 0.4 and last["margin"] > 0.5
    assert last["longer is better"] == 0  # the rude answers are longer
    assert last["ECE"] < 0.5 and "length correlation" in last
    shown = [json.loads(line) for line in (run / "judge/samples.jsonl").read_text().splitlines()][-1]
    assert "kind" in shown["text"].split(" > ")[0] and "rude" in shown["text"].split(" > ")[1]


def test_it_is_a_reward(run: Path) -> None:
    reward = TABLE["reward_model"].model_validate({"kind": "reward_model", "model": str(run)})
    open_ = opener()
    assert list(reward.unfit(open_)) == []
    asked = [("a cat now?", "kind cat"), ("a cat now?", "rude cat"), ("a bee so?", "kind bee"), ("a bee so?", "")]
    found = reward.scores([Answered(prompt, text) for prompt, text in asked], open_)
    assert found[0] > found[1] + 0.5 and np.isfinite(found).all()
    # What is written out as a dialogue is the same; what is before it is read, too.
    same = reward.scores([Answered("", "kind cat", turns=(("user", "a cat now?"),))], open_)
    assert same == [pytest.approx(found[0], abs=1e-5)]
    long = reward.scores([Answered("x" * 500, "kind cat")], open_)
    assert np.isfinite(long).all()
    reward = TABLE["reward_model"].model_validate({"kind": "reward_model", "model": {"model": str(run)}})
    codec = read(written(run.parent)).codec
    assert list(judge_problems(reward, codec, "")) == []
    other = read(written(run.parent, ("{kind: byte}", "{kind: char, vocab: 64}"))).codec
    (problem,) = judge_problems(reward, other, "")
    assert "another tokenizer" in problem.message and problem.path == ("model",)
    whole = TABLE["sum"].model_validate({"kind": "sum", "of": {"kind words": reward.model_dump()}})
    (problem,) = judge_problems(whole, other, "")
    assert "another tokenizer" in problem.message and problem.path == ("of", "kind words", "model")
    reads = RunFolder(run).plan().model.context
    assert list(judge_problems(reward, codec, "", reads)) == []
    (problem,) = judge_problems(whole, codec, "", reads + 1)
    assert f"reads {reads}" in problem.message and problem.path == ("of", "kind words", "model")
    nowhere = TABLE["reward_model"].model_validate({"kind": "reward_model", "model": {"model": str(run / "nowhere")}})
    (problem,) = judge_problems(nowhere, codec, "")
    assert "nowhere" in problem.message


@pytest.mark.parametrize("reads", [64, 33])
def test_a_judge_of_the_same_spec_has_to_read_whole_dialogues(tmp_path: Path, reads: int) -> None:
    changes = (
        ("    kind: reward\n", f"    kind: reward\n    max_tokens: {reads}\n"),
        ("max_tokens: 6", "max_tokens: 30"),
    )
    spec = written(tmp_path, *changes, more=CHAIN)
    plan = compile_spec(load_spec(spec).spec, base=str(tmp_path))
    assert dialogue_read(plan.phase("judge").model) == reads
    found = [p for p in rollouts.problems(plan, plan.phase("grpo"), prepare(plan)) if p.path[0] == "reward"]
    assert [f"reads {reads}" in problem.message for problem in found] == [True] * (reads < 64)
    assert all(problem.path == ("reward", "model") for problem in found)


def test_it_draws_no_text_and_says_what_it_gives(run: Path) -> None:
    for verb in ("sample", "chat"):
        sent = {"args": tiny.command(verb, run, "--phase", "judge"), "input": "a\n", "timeout": 300}
        done = subprocess.run(**sent, capture_output=True, text=True, cwd=tiny.ROOT)
        told = " ".join(done.stderr.split())
        assert done.returncode == 2 and "makes rewards of answers, and draws no text" in told and not done.stdout


@pytest.mark.parametrize("kind", ["alone", "in a sum"])
def test_models_that_rewards_ask_are_known_by_their_weights(run: Path, tmp_path: Path, kind: str) -> None:
    """A phase that learned from one is not taken for one that learned from another; folders start in the spec's."""
    part = "{kind: reward_model, model: {model: run}}"
    spec = written(
        tmp_path, more=CHAIN.replace("judge", part if kind == "alone" else f"{{kind: sum, of: {{a: {part}}}}}")
    )
    plan = compile_spec(load_spec(spec).spec, base=str(tmp_path))
    with pytest.raises(SpecError, match="there is no model at"):
        closed(plan)
    shutil.copytree(run, tmp_path / "run")

    def digests() -> list[str]:
        (phase,) = [p.phase for p in closed(plan).phases if p.name == "grpo"]
        return [model.digest for _, model, _ in phase.judge.models()]

    (first,) = digests()
    assert first and len(first) == 64
    assert digests() == [first]
    other = tiny.call(
        "run", written(tmp_path, ("seed: 7", "seed: 8"), ("30 steps", "1 steps")), "--out", tmp_path / "other"
    )
    assert other.returncode == 0, other.stderr
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "other").rename(tmp_path / "run")
    assert digests() != [first]


@pytest.mark.parametrize("twice", [False, True])
def test_models_that_rewards_ask_are_in_the_memory_foretold(run: Path, tmp_path: Path, twice: bool) -> None:
    """Each once, however often it is asked, as one of a phase is."""
    part = f"{{kind: reward_model, model: {{model: {run}}}}}"
    spec = written(
        tmp_path, more=CHAIN.replace("judge", f"{{kind: sum, of: {{a: {part}, b: {part}}}}}" if twice else part)
    )
    plan = compile_spec(load_spec(spec).spec, base=str(tmp_path))
    before, after = (found.phase("grpo").memory for found in (plan, closed(plan)))
    assert before and after
    (judge,) = RunFolder(run).plan().phases
    assert after.others - before.others == after.peak - before.peak == 4 * judge.model.parameters


@pytest.mark.nightly
def test_a_phase_draws_answers_that_another_one_judges(tmp_path: Path) -> None:
    done = tiny.call("run", written(tmp_path, more=CHAIN), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/grpo/metrics.jsonl").read_text().splitlines()]
    assert any("reward" in json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("reward: judge", "reward: jugde"), "did you mean `judge`"),
        (("reward: judge", "reward: start"), "start makes a policy"),
        (("reward: judge", "reward: {kind: reward_model, model: juge}"), "juge"),
        (("reward: judge", "reward: {kind: sum, of: {a: {kind: reward_model, model: juge}}}"), "did you mean `judge`"),
    ],
)
def test_reward_models_that_are_none_are_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_spec(load_spec(written(tmp_path, change, more=CHAIN)).spec)
    assert said in str(caught.value) + "".join(p.hint for p in caught.value.problems)


# -- what is read ------------------------------------------------------------------------------------------------------
def test_a_mistake_is_told_once_and_at_its_key(tmp_path: Path) -> None:
    """What follows from `from:` is no second mistake; of several rewards each is named as one."""
    spec, held = written(tmp_path, more=CHAIN), "phases.grpo.kl_coefficient=0.1"
    both = "{a: {kind: reward_model, model: start}, b: {kind: principles, model: judge, principles: [It is kind.]}}"
    for sets, paths, said in (
        (["phases.grpo.from=judge", held], [("from",)], "a phase of kind grpo starts from a policy, and judge makes a"),
        (
            [f"phases.grpo.reward={{kind: sum, of: {both}}}"],
            [("reward", "of", name, "model") for name in "ab"],
            "a reward is a policy, and judge makes a reward model",
        ),
    ):
        with pytest.raises(SpecError) as refused:
            compile_spec(load_spec(spec, sets).spec)
        found = refused.value.problems
        assert [p.path for p in found] == [("phases", "grpo", *path) for path in paths] and said in found[-1].message


def test_a_run_of_a_reward_model_alone_says_how_it_is_opened(tmp_path: Path) -> None:
    for more, said in (("", "`--phase judge`"), (CHAIN, "another phase: start, grpo")):
        plan = compile_spec(load_spec(written(tmp_path, more=more)).spec)
        assert said in no_text(plan, "no phase draws text").problems[0].hint


def test_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    """Records with one prompt stay together, by whatever their side is chosen; and the data are checked."""
    lines = [{"q": f"q{i // 4 if i % 5 else 14:02}", "good": f"a{i}", "bad": f"b{i}"} for i in range(60)]
    for how in ("hash 40%", "tail 40%"):
        found = read(written(tmp_path, ("hash 25%", f"{how}\n      max_dropped: 90%"), records=lines))
        sides = []
        for layout in (found.stream("judge").layout("pairs"), found.validation("judge")["pairs"].layout):
            data = layout._data  # type: ignore[attr-defined]
            texts = [
                found.codec.decode(data.tokens[a:b].tolist())
                for a, b in zip(data.offsets, data.offsets[1:], strict=False)
            ]
            sides.append({text[text.index("q") : text.index("q") + 3] for text in texts})
        assert sides[0] and sides[1] and not sides[0] & sides[1]
        assert not found.contaminated["pairs"] or how.startswith("tail"), "they are together, none had to be left out"
        assert all(check.holds is not False for check in data_checks(found))


def test_worse_answers_are_made_of_other_records(tmp_path: Path) -> None:
    lines = [{"q": f"q{i % 12}", "good": f"answer{i % 12:02}"} for i in range(48)]
    derived = ('rejected: "{bad}"', "rejected_from: other_records")
    found = read(written(tmp_path, derived, records=lines))
    seen = dict[str, tuple[str, str]]()
    for layout in (found.stream("judge").layout("pairs"), found.validation("judge")["pairs"].layout):
        data, entries = layout._data, layout.entries()  # type: ignore[attr-defined]
        begins = np.concatenate([[0], data.text_ends[:-1]])
        of_side = list[tuple[str, str]]()
        for better, worse in entries.texts.tolist():
            both = [found.codec.decode(data.tokens[begins[t] : data.text_ends[t]].tolist()) for t in (better, worse)]
            of_side.append((both[0], both[1]))
            number = both[0].split("answer")[1][:2]
            assert both[0].startswith(f"q{int(number)}") and both[1].startswith(f"q{int(number)}answer")
            assert both[1].split("answer")[1][:2] != number
        known = {better.split("answer")[1][:2] for better, _ in of_side}
        assert {worse.split("answer")[1][:2] for _, worse in of_side} <= known, "drawn from their own side"
        seen |= {b: (b, w) for b, w in of_side}
    again = read(written(tmp_path, derived, ("seed: 7", "seed: 8"), records=lines))
    layout = again.stream("judge").layout("pairs")
    data, entries = layout._data, layout.entries()  # type: ignore[attr-defined]
    begins = np.concatenate([[0], data.text_ends[:-1]])
    other = {
        again.codec.decode(data.tokens[begins[b] : data.text_ends[b]].tolist()): again.codec.decode(
            data.tokens[begins[w] : data.text_ends[w]].tolist()
        )
        for b, w in entries.texts.tolist()
    }
    assert any(seen[better][1] != worse for better, worse in other.items() if better in seen), "another seed, others"
    with pytest.raises(DataError, match="one answer alone"):
        read(written(tmp_path, derived, records=[{"q": f"q{i}", "good": "same"} for i in range(9)]))


@pytest.mark.parametrize("window", [1 << 16, 7])
def test_no_answer_is_told_as_worse_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """Each is the worse one once, as it is the better one once: otherwise a model would learn which are the worse."""
    monkeypatch.setattr("llmspec.data.derived.POOL", window)
    lines = [{"q": f"q{i:03}", "good": f"answer{i:03}"} for i in range(60)]
    seed = ("seed: 7", f"seed: {window % 100}")
    found = read(written(tmp_path, ('rejected: "{bad}"', "rejected_from: other_records"), seed, records=lines))
    for layout in (found.stream("judge").layout("pairs"), found.validation("judge")["pairs"].layout):
        data, entries = layout._data, layout.entries()  # type: ignore[attr-defined]
        begins = np.concatenate([[0], data.text_ends[:-1]])
        said = [
            [
                found.codec.decode(data.tokens[begins[t] : data.text_ends[t]].tolist()).split("answer")[1][:3]
                for t in one
            ]
            for one in entries.texts.tolist()
        ]
        better, worse = zip(*said, strict=True)
        assert sorted(better) == sorted(worse) and len(set(worse)) == len(worse) > 7
        assert all(a != b for a, b in said)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    lines = [{"q": f"q{i}", "good": f"y{i}", "bad": f"n{i}"} for i in range(40)]
    lines += [
        {"q": "e", "good": "same", "bad": "same"},
        {"q": "f", "good": "", "bad": "n"},
        {"q": "g" * 90, "good": "y", "bad": "n"},
    ]
    found = read(written(tmp_path, ("max_epochs: 1000", "max_epochs: 1000\n      max_dropped: 60%"), records=lines))
    said = " ".join(notices(found))
    assert "whose answers are equal" in said and "empty" in said and "too long" in said
    cut = read(
        written(
            tmp_path,
            ("max_epochs: 1000", "max_epochs: 1000\n      max_dropped: 60%"),
            ("kind: reward\n", "kind: reward\n    truncation: prompt\n"),
            records=lines,
        )
    )
    said = " ".join(notices(cut))
    assert "cuts off the beginning" in said and "too long" not in said
    with pytest.raises(DataError) as caught:
        read(written(tmp_path, ('prompt: "{q}"', ""), ('chosen: "{good}"', ""), ('rejected: "{bad}"', "")))
    assert "compare no answers in a known format" in str(caught.value)
