"""Two models of a run beside each other: log-ratios of tokens, and how often one of them answers better."""

from __future__ import annotations

import functools
import io
import json
import math
from pathlib import Path
from typing import Any

import models
import phase_kinds
import pytest
import small
import tiny
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import llmspec
from llmspec.cli.comparing import judge
from llmspec.core.problems import LlmspecError
from llmspec.explain.token_ratios import RatioReport, explain_tokens, log_probabilities
from llmspec.explain.two_models import Asked, Pair
from llmspec.explain.wins import WinReport, explain_wins, tally, wilson
from llmspec.parts.rewards import TABLE as REWARDS
from llmspec.render import report_tokens
from llmspec.render.reports import show
from llmspec.render.terminal import Screen
from llmspec.spec.lone import read_part

PROMPTS = ("one", "the two", "x")
REWARD = "{kind: sum, of: {short: {kind: length, most: 4}, b: {kind: regex, pattern: '[a-m]'}}}"


def reward() -> Any:
    return read_part(REWARD, "--by", REWARDS)


@functools.cache
def pair() -> Pair:
    return Pair(models.opened(0), models.opened(1), "before")


@functools.cache
def ratios() -> RatioReport:
    return explain_tokens(pair(), PROMPTS, pair().model.settings(), 5)


@functools.cache
def wins() -> WinReport:
    model = pair().model
    asked = [Asked(text, tuple(model.tokens(text))) for text in PROMPTS]
    return explain_wins(pair(), asked, [{}] * len(asked), "a test", reward(), None, model.settings(), 5)  # type: ignore[arg-type]


def printed(report: Any, width: int, terminal: bool = False) -> str:
    out = io.StringIO()
    colours: Any = "truecolor" if terminal else None
    how = {"force_terminal": terminal, "color_system": colours, "legacy_windows": False, "no_color": not terminal}
    show(report, Screen(file=out, width=width, **how))
    return out.getvalue()


# -- tokens ------------------------------------------------------------------------------------------------------------
def test_a_pass_over_an_answer_finds_what_the_decoder_thought_of_each_token() -> None:
    """The decoder says the log-probability of each token that it draws: another graph, and a cache of keys."""
    model = pair().model
    for prompt in PROMPTS:
        (said,) = model.generate(prompt, seed=5)
        found = log_probabilities(model, model.tokens(prompt), said.tokens)
        assert found.shape == (len(said.tokens), model.codec.vocab)
        assert [found[t, c.token] for t, c in enumerate(said.choices)] == pytest.approx(
            [c.logprob for c in said.choices], abs=1e-4
        )


def test_ratios_are_those_of_the_two_models() -> None:
    import numpy as np

    report = ratios()
    assert [a.prompt for a in report.answers] == list(PROMPTS) and report.against == "before"
    for answer in report.answers:
        (said,) = pair().model.generate(answer.prompt, seed=5)
        assert (answer.text, [t.token for t in answer.tokens]) == (said.text, said.tokens)
        prompt = pair().model.tokens(answer.prompt)
        rows = [
            m.logits([*prompt, *said.tokens])[0, len(prompt) - 1 : -1, : m.codec.vocab].astype(np.float64)
            for m in pair()[:2]
        ]
        mine, theirs = ([row - np.logaddexp.reduce(row) for row in one] for one in rows)
        for t, token in enumerate(answer.tokens):
            assert token.ratio == pytest.approx(mine[t][token.token] - theirs[t][token.token], abs=1e-4)
            assert token.divergence == pytest.approx(float(np.exp(mine[t]) @ (mine[t] - theirs[t])), abs=1e-4)
            assert token.divergence > 0 and token.before_p[1] == pytest.approx(math.exp(theirs[t].max()), abs=1e-5)
    assert any(t.ratio > 0.5 for a in report.answers for t in a.tokens)


def with_encoder(seed: int) -> Any:
    """A model of pairs with an encoder, and drawn weights."""
    from llmspec.compiler import compile_spec
    from llmspec.decoding.language_model import LanguageModel
    from llmspec.model.weights import draw
    from llmspec.spec.schema import Spec

    source = {"kind": "inline", "records": [{"a": "x", "b": "y"}], "source": "{a}", "target": "{b}"}
    spec = {
        **models.SPEC,
        "model": {**models.SPEC["model"], "encoder": {"layers": 1, "context": 16}},
        "data": {"sources": {"a": source}},
        "phases": {"p": {"kind": "seq2seq", "mixture": {"a": "100%"}, "budget": "4 steps"}},
    }
    plan = compile_spec(Spec.model_validate_json(json.dumps(spec)))
    weights = {t.name: draw(t, seed) * (8 if len(t.shape) > 1 else 1) for t in plan.model.tensors}
    model = LanguageModel(plan.of("p"), plan.tokenizer.train([]), weights, "p", chat=False)
    model.pairs = True
    return model


def test_an_encoder_reads_the_prompt_alone() -> None:
    pair()  # opens the device
    model = with_encoder(0)
    (said,) = model.generate("one", seed=5)
    found = log_probabilities(model, model.tokens("one"), said.tokens)
    assert [found[t, c.token] for t, c in enumerate(said.choices)] == pytest.approx(
        [c.logprob for c in said.choices], abs=1e-4
    )


def test_a_model_beside_itself_prefers_nothing() -> None:
    model = pair().model
    report = explain_tokens(Pair(model, model, "itself"), PROMPTS, model.settings(), 5)
    assert not any(t.ratio for a in report.answers for t in a.tokens) and not report.divergence
    assert not report.preferred


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize("terminal", [False, True])
def test_both_reports_fit_the_terminal(width: int, terminal: bool) -> None:
    for report in (ratios(), wins()):
        plain = printed(report, width, False)
        assert all(cell_len(line) <= width for line in plain.splitlines())
        assert json.loads(json.dumps(report.as_data(), allow_nan=False)) == report.as_data()
    shown = printed(ratios(), width, terminal)
    strongest = max((t for a in ratios().answers for t in a.tokens), key=lambda t: t.ratio)
    assert report_tokens.strength(strongest.ratio) > 0
    assert ("\x1b[1;7;32m" in shown or "\x1b[1;32m" in shown) if terminal else "{+" in shown


@given(st.floats(-20, 20))
def test_marks_are_the_same_both_ways_and_grow(ratio: float) -> None:
    strength = report_tokens.strength
    assert strength(-ratio) == -strength(ratio) and abs(strength(ratio)) <= 3
    assert strength(ratio) == 0 or (strength(ratio) > 0) == (ratio > 0)
    assert strength(abs(ratio)) <= strength(abs(ratio) + 1)


# -- wins --------------------------------------------------------------------------------------------------------------
def test_answers_are_those_of_each_model_to_the_same_tokens() -> None:
    found = [
        [reward().scores([_answered(p, a) for a in m.generate(p, seed=5)], None)[0] for p in PROMPTS]
        for m in pair()[:2]
    ]
    report = wins()
    assert (report.mean, report.other_mean) == pytest.approx([sum(f) / len(f) for f in found])
    better = [a - b for a, b in zip(*found, strict=True)]
    assert (report.wins, report.losses) == (sum(x > 0 for x in better), sum(x < 0 for x in better))
    assert report.wins + report.ties + report.losses == report.prompts == len(PROMPTS)
    assert {p.name for p in report.parts} == {"short", "b"}
    assert report.low <= report.rate <= report.high
    assert all(e.score != e.other_score for e in report.examples)


def test_a_model_beside_itself_ties_everywhere() -> None:
    model = pair().model
    asked = [Asked(text, tuple(model.tokens(text))) for text in PROMPTS]
    itself = Pair(model, model, "itself")
    report = explain_wins(itself, asked, [{}] * 3, "", reward(), None, model.settings(), 5)  # type: ignore[arg-type]
    assert (report.wins, report.ties, report.losses, report.rate) == (0, 3, 0, 0.5)
    assert report.low + report.high == pytest.approx(1) and report.low < 0.5 and not report.examples


def test_a_prompt_that_is_asked_again_makes_nothing_surer() -> None:
    """Under one seed it has the same answers again: the interval is that of the prompts that differ."""

    def of(times: int) -> WinReport:
        asked = [one for text in PROMPTS for one in [Asked(text, tuple(model.tokens(text)))] * times]
        return explain_wins(pair(), asked, [{}] * len(asked), "", reward(), None, model.settings(), 5)  # type: ignore[arg-type]

    model = pair().model
    once, often = of(1), of(5)
    assert often.prompts == 5 * once.prompts and often.different == once.different == once.prompts
    assert (often.rate, often.low, often.high) == pytest.approx((once.rate, once.low, once.high))
    assert f"{once.different} of them different" in printed(often, 80) and "different" not in printed(once, 80)


def _answered(prompt: str, answer: Any) -> Any:
    from llmspec.parts.rewards.base import Answered

    return Answered(prompt, answer.text, answer.finish_reason != "max_tokens")


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1))
def test_the_other_way_round_wins_are_losses(pairs: list[tuple[float, float]]) -> None:
    one = tally("x", [a for a, _ in pairs], [b for _, b in pairs])
    other = tally("x", [b for _, b in pairs], [a for a, _ in pairs])
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert one.wins + one.ties + one.losses == len(pairs) and one.ties == sum(a == b for a, b in pairs)


@given(st.integers(1, 5000), st.data())
def test_an_interval_ends_where_the_share_is_z_deviations_off(n: int, data: st.DataObject) -> None:
    """Wilson's interval are the p for which |share − p| ≤ z·√(p(1−p)/n)."""
    successes = data.draw(st.integers(0, 2 * n)) / 2
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    for end in (low, high):
        if 1e-6 < end < 1 - 1e-6:
            assert abs(successes / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_a_phase_of_the_run_may_be_what_judges(tmp_path: Path) -> None:
    """Its reward model where it makes one, its own reward where it has one; kinds of rewards keep their names."""

    def plan(kind: str) -> Any:
        text, own = phase_kinds.spec_of(kind)
        return llmspec.compile(llmspec.load_spec(tiny.write(tmp_path, text), own).spec)

    found = judge(plan("reward"), "phase")
    assert (found.kind, found.model) == ("reward_model", "phase")
    rolled = plan("grpo")
    assert judge(rolled, "phase") == rolled.phase("phase").phase.reward and judge(rolled, "phase").kind == "length"
    assert judge(rolled, "ended").kind == "ended"
    with pytest.raises(LlmspecError, match="gives no rewards") as caught:
        judge(rolled, "before")
    assert "phase" in caught.value.problems[0].hint


# -- the command -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.trained(tmp_path_factory)


def test_the_last_phase_is_held_against_what_it_started_from(run: Path) -> None:
    status, said = small.call("explain", str(run), "--tokens", "--json")
    found = json.loads(said)
    assert (status, found["phase"], found["against"]) == (0, "chat", "pretrain")
    assert [a["prompt"] for a in found["answers"]] == ["one"], "of the phase's samples, where the run has none"
    status, said = small.call("explain", str(run), "--tokens", "--prompt=the two", "--json")
    assert status == 0 and [a["prompt"] for a in json.loads(said)["answers"]] == ["the two"]


def test_held_out_dialogues_are_answered(run: Path) -> None:
    status, said = small.call("explain", str(run), "--by={kind: similarity}", "--json")
    found = json.loads(said[said.index("{") :])
    assert status == 0 and found["report"] == "wins" and found["origin"] == "validation text of facts"
    assert found["wins"] + found["ties"] + found["losses"] == found["prompts"] > 0


def test_right_answers_are_those_of_the_data(run: Path) -> None:
    """A reward that compares with them knows them: the model's own answers do not matter here."""
    from llmspec.explain.held_out_prompts import held_out

    model = llmspec.open(run)
    found = held_out(model, lambda *told: None)
    source: Any = model.plan.sources[0].source
    records = {r["q"]: r["a"] for r in source.records}
    assert found.asked
    for asked, record in zip(found.asked, found.records, strict=True):
        assert record == {"prompt": asked.text, "answer": records[asked.text]}
        assert list(asked.tokens) == model.tokens(asked.text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tokens", "--against=chta"], "did you mean `chat`"),
        (["--tokens", "--against=chat"], "compared with itself"),
        (["--tokens", "--phase=pretrain"], "starts from no other phase"),
        (["--by=similarty"], "did you mean `similarity`"),
        (["--by={kind: similarity, reference: '{gold}'}"], "`gold`"),
        (["--by=length", "--prompts=/nowhere/x.txt"], "cannot be read"),
        (["--against=pretrain"], "--against"),
        (["--tokens", "--prompt=this is far too long for a context of sixteen tokens"], "context is 16"),
    ],
)
def test_mistakes_are_sentences(run: Path, arguments: list[str], said: str) -> None:
    status, found = small.call("explain", str(run), *arguments)
    assert status != 0 and said in " ".join(found.split()) and "Traceback" not in found


def test_records_that_lack_what_is_read_are_named_by_their_lines(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"prompt": "one", "answer": "x"}\n{"prompt": "two"}\n')
    status, said = small.call("explain", str(run), "--by=similarity", f"--prompts={file}")
    assert status != 0 and "q.jsonl:2" in said and "`answer`" in said
    file.write_text('{"prompt": "one", "answer": "x"}\n{"prompt": "two", "answer": "y"}\n')
    status, said = small.call("explain", str(run), "--by=similarity", f"--prompts={file}")
    assert status == 0 and "win rate" in said
