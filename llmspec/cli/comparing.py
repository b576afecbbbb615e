"""`llmspec explain` of two models of a run: the tokens that one of them prefers, and how often it answers better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmspec.api import decoding_settings, run_folder
from llmspec.cli.opening import opened, tell_unknown
from llmspec.core.problems import LlmspecError, Problem


def pair(what: Path | None, phase: str | None, against: str | None) -> Any:
    """The two models. Raises LlmspecError."""
    from llmspec.explain.two_models import open_pair

    return open_pair(run_folder(what), phase, against, opened)


def explained_tokens(
    what: Path | None, phase: str | None, against: str | None, prompt: str | None, seed: int | None,
    sets: list[str] | None,
) -> Any:  # fmt: skip
    """The report of `--tokens`."""
    from llmspec.cli.forms import prompt_of
    from llmspec.explain.token_ratios import explain_tokens
    from llmspec.explain.two_models import prompts_of

    both = pair(what, phase, against)
    plan = both.model.plan
    given = prompts_of(plan, plan.phase(both.model.phase)) if prompt is None else (prompt_of(prompt),)
    for text in given:
        tell_unknown(both.model, text)
    settings = decoding_settings(both.model, sets)
    return explain_tokens(both, given, settings, both.model.seed(seed, settings))


def explained_wins(
    what: Path | None, phase: str | None, against: str | None, by: str, prompts: Path | None, seed: int | None,
    sets: list[str] | None, progress: Callable[[str, float, float], None],
) -> Any:  # fmt: skip
    """The report of `--by`."""
    from llmspec.explain.held_out_prompts import held_out
    from llmspec.explain.wins import explain_wins
    from llmspec.training.judging import of_run, opener

    folder = run_folder(what)
    plan = folder.plan()
    # What a phase names starts in the folder of its spec, what a file names here.
    base = plan.base if any(p.name == by for p in plan.phases) else ""
    reward, open_ = judge(plan, by), opener(of_run(folder.path, plan), base)
    given = None if prompts is None else _from_file(prompts, reward.fields())
    both = pair(what, phase, against)
    if given is None:
        found = held_out(both.model, progress)
        asked, records, origin = found
        _fits(reward, records[:1], [None])
    else:
        asked, records, origin = _asked(both.model, given), [one.record for one in given], str(prompts)
        _fits(reward, records, [one.mark for one in given])
    if problems := list(reward.unfit(open_)):
        raise LlmspecError([p.at("--by") for p in problems])
    settings = decoding_settings(both.model, sets)
    return explain_wins(both, asked, records, origin, reward, open_, settings, both.model.seed(seed, settings))


def judge(plan: Any, by: str) -> Any:
    """The reward that `--by` names: a phase of the run that makes a reward model or has a reward, else a part. Raises
    LlmspecError."""
    from llmspec.cli.rank import reward_of
    from llmspec.parts.phases.base import REWARD_MODEL
    from llmspec.parts.rewards import TABLE
    from llmspec.parts.rewards.base import Reward

    phases = {p.name: p for p in plan.phases}
    giving = {name for name, p in phases.items() if p.makes == REWARD_MODEL or hasattr(p.phase, "reward")}
    if by in phases and by not in TABLE:
        own = getattr(phases[by].phase, "reward", None)
        if phases[by].makes == REWARD_MODEL:
            return TABLE["reward_model"](model=by)  # type: ignore[call-arg]
        if isinstance(own, Reward):
            return own
        hint = f"one of: {', '.join(sorted(giving))}" if giving else "`--by similarity`, or another kind of reward"
        raise LlmspecError(f"--by: {by} is a phase that gives no rewards", hint)
    return reward_of(by)


def _from_file(path: Path, fields: Sequence[str]) -> list[Any]:
    from llmspec.cli.prompts import prompts_in

    return prompts_in(path, also_read=fields)


def _asked(model: Any, given: Sequence[Any]) -> list[Any]:
    """The prompts of a file as the model reads them. Raises LlmspecError naming every one that it cannot answer."""
    from llmspec.cli.prompts import turns_or_text, wrong
    from llmspec.explain.two_models import Asked

    if problems := [p for one in given for p in wrong(model, one, turns_or_text(one, ""), model.chat, "")]:
        raise LlmspecError(problems)
    return [Asked(one.asked, tuple(model.tokens(turns_or_text(one, ""))), one.turns) for one in given]


def _fits(reward: Any, records: Sequence[Any], marks: Sequence[Any]) -> None:
    """Raises LlmspecError for every record that lacks what the reward reads; a mark of None is validation text."""
    problems = []
    for record, mark in zip(records, marks, strict=True):
        if lacking := ", ".join(f"`{name}`" for name in reward.fields() if record.get(name) is None):
            if mark is None:
                said = f"the reward reads {lacking}, and of validation text `prompt` and `answer` are known"
                hint = "--prompts FILE.jsonl names a file whose records have it"
                problems.append(Problem(said, ("--by",), hint))
            else:
                said = f"the reward reads {lacking}, which this record has not"
                hint = 'write {"prompt": "…", "answer": "…"} in a .jsonl file'
                problems.append(Problem(said, hint=hint, mark=mark))
    if problems:
        raise LlmspecError(problems)
