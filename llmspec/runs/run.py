"""A run directory as a value: where things stand, and what is in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from llmspec.compiler.checks import Check
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.disk import real_folder
from llmspec.core.problems import Problem, RunError, either
from llmspec.core.visible import command, path_word
from llmspec.parts.phases.base import OPENED, REWARD_MODEL
from llmspec.parts.sources.base import Attribution
from llmspec.runs import best
from llmspec.runs.checkpoint import Checkpoint, newest
from llmspec.runs.claim import accept, alone
from llmspec.runs.files import Rows, read_json, read_table, write_json, write_text
from llmspec.runs.lock import LOCK, Lock
from llmspec.runs.notes import AnswersNotes, MachineNotes, PhaseNotes, validated
from llmspec.runs.stored import StoredModel, said
from llmspec.runs.tensors import Shapes

FACTS = "facts.json"


class PhaseFolder:
    """What a run keeps of one phase."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Rows(folder / "metrics.jsonl")
        """Rows {step, loss, lr, norm, tokens} or {step, validation: [metric]}: the same on every run of the same
        plan."""
        self.timing = Rows(folder / "timing.jsonl")
        """Rows {step, seconds}: kept apart, since they never repeat."""
        self.samples = Rows(folder / "samples.jsonl")

    @property
    def about(self) -> dict[str, Any]:
        """phase.json: key, whether it is done, the ledger at its end; {} before it started."""
        if os.path.lexists(self.folder) and not real_folder(self.folder):
            raise RunError(
                f"{self.folder} is not a folder that a run has written",
                hint="remove it",
                consequence="what lies elsewhere would be read and written in its place",
            )
        path = self.folder / "phase.json"
        try:
            return validated(PhaseNotes, read_table(path), path)
        except RunError as e:
            anew = f"move {self.folder} away and run the spec again, which retrains the phase"
            raise RunError(replace(p, hint=p.hint or anew) for p in e.problems) from e

    @property
    def answers(self) -> dict[str, Any]:
        """answers.json: what its model said to the prompts of the run at its end; {} where it was not asked."""
        path = self.folder / "answers.json"
        return validated(AnswersNotes, found, path) if (found := read_table(path)) else {}

    def keep_answers(self, found: dict[str, Any]) -> None:
        """Writes answers.json."""
        write_json(self.folder / "answers.json", found)

    def note(self, **values: Any) -> None:
        """Adds to phase.json."""
        write_json(self.folder / "phase.json", {**self.about, **values})

    def done(self, plan: PhasePlan) -> bool:
        """Whether this very phase was trained to its end."""
        return self.about.get("key") == plan.key and bool(self.about.get("done"))

    def checkpoint(self, key: str = "", most: int | None = None) -> tuple[Checkpoint | None, list[str]]:
        """The newest sound checkpoint, and notices about damaged ones. Raises RunError where one is not of the phase
        with this key."""
        return newest(self.folder, key, most)

    def weights(self, expected: Shapes) -> tuple[Checkpoint | None, dict[str, Any], list[str], str]:
        """The weights that the phase that is noted here leaves, those of its newest sound checkpoint or of its best,
        with notices as `checkpoint`, and what they are where they are not the last."""
        return best.weights(self.folder, str(self.about.get("key", "")), expected)


class RunFolder(StoredModel):
    """A run directory. Stands alone: `sample` and `explain` need nothing else."""

    again: ClassVar[str] = "run its spec again with --out"

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises RunError where there is none."""
        if not os.path.lexists(path / "plan.json"):
            raise RunError(
                f"{path} is not a run directory: it has no plan.json",
                hint="give the folder that `llmspec run` wrote, or run a spec first",
            )
        return cls(path)

    @classmethod
    def latest(cls, runs: Path) -> RunFolder:
        """The run that was written last below a folder. Raises RunError where there is none."""
        found = sorted(
            (p for p in runs.glob("*/plan.json") if not os.path.lexists(p.with_name("model.json"))),
            key=lambda p: p.lstat().st_mtime,
        )
        if not found:
            raise RunError(f"there is no run in {runs}/ yet", hint="llmspec run quickstart")
        return cls(found[-1].parent)

    def phase(self, name: str) -> PhaseFolder:
        return PhaseFolder(self.path / name)

    def accept(self, plan: Plan) -> None:
        """Refuses a folder that holds anything else than a run, before it is touched. Raises RunError."""
        accept(self.path, plan)

    def alone(self) -> AbstractContextManager[list[str]]:
        """Held while a run writes; a second process is refused. Gives notices; raises RunError."""
        return alone(self.path)

    def unfit(self, plan: Plan) -> str:
        return "" if plan.phases else "it has no phase"

    def tokenizer_again(self) -> str:
        return f"run its spec again with --out {path_word(self.path)}, which recreates it and keeps what is trained"

    def tokenizer_noted(self) -> tuple[str, str | None]:
        locked = read_table(self.path / LOCK)
        return LOCK, locked.get("tokenizer", "") if locked else None

    def chat(self, plan: Plan, phase: str) -> bool:
        return plan.phase(phase).phase.templated

    def pairs(self, plan: Plan, phase: str) -> bool:
        return plan.phase(phase).phase.pairs

    def attributions(self, plan: Plan) -> tuple[Attribution, ...]:
        return tuple(Attribution(s.name, s.source.license, s.source.attribution) for s in plan.sources)

    def begin(
        self,
        plan: Plan,
        files: dict[str, str],
        resolved: str,
        tokenizer: str,
        sources: dict[str, Any],
        lock: Lock,
        checks: Iterable[Check] = (),
    ) -> None:
        """Writes what is known before step 0: the spec as written with every file it extends, resolved, planned."""
        for name, text in files.items():
            write_text(self.path / "spec" / name, text)
        write_text(self.path / "resolved.yaml", resolved)
        write_text(self.path / "tokenizer.json", tokenizer)
        write_json(self.path / "sources.json", sources)
        write_json(self.path / LOCK, lock.model_dump(mode="json"))
        write_json(self.path / "checks.json", [check.model_dump(mode="json") for check in checks])
        write_json(self.path / "plan.json", plan.dump())

    def checks(self) -> tuple[Check, ...]:
        """What was checked before step 0; empty where an older version made the run. RunError where damaged."""
        path = self.path / "checks.json"
        if not os.path.lexists(path):
            return ()
        try:
            return tuple(Check.model_validate_json(json.dumps(found)) for found in read_json(path))
        except (TypeError, ValueError) as e:
            raise RunError(f"{path} cannot be read: {said(e)}") from e

    @property
    def facts(self) -> dict[str, Any]:
        """facts.json: what was measured of the machine as the run ended; {} before."""
        return validated(MachineNotes, read_table(self.path / FACTS), self.path / FACTS)

    def note_facts(self, **values: Any) -> None:
        """Adds to facts.json; what is damaged in it is measured again, and so written over."""
        try:
            known = self.facts
        except RunError:
            known = {}
        write_json(self.path / FACTS, {**known, **values})

    def weights(self, plan: Plan, phase: str | None = None) -> tuple[str, dict[str, Any], list[str]]:
        """(phase, the weights that it holds by name, notices): those of the latest phase that makes something to open,
        such as a policy, which draws text, and has any; or of the `phase` asked for. An adapter holds its own:
        `formats.bases` has all.

        A phase that has not come to a checkpoint yet gives way to the one before it, with a notice. One whose
        checkpoints are damaged does not: raises RunError, and where there are no weights at all, or no policy.
        """
        before: list[str] = []
        for planned in [p for p in reversed(plan.phases) if phase == p.name or (phase is None and p.makes in OPENED)]:
            if planned.makes not in (*OPENED, REWARD_MODEL):
                raise no_text(plan, f"{planned.name} makes {either([planned.makes])}")
            expected = {t.name: t.shape for t in planned.model.stored}
            folder = self.phase(planned.name)
            about = folder.about
            if about and about.get("key") != planned.key:
                before.append(f"{planned.name} was trained with other settings than this run's")
                continue
            saved, weights, notices, chosen = folder.weights(expected)
            if saved:
                given = [f"{'; '.join(before)}: these are the weights of {planned.name}"] if before else []
                given += [f"{planned.name}: {chosen}"] if chosen else []
                return planned.name, weights, [*given, *notices]
            if notices or about.get("done"):
                raise lost(folder, planned.name, notices, plan)
            before.append(f"{planned.name} has {'no checkpoint yet' if about else 'not begun yet'}")
        if phase is not None and not before:
            raise RunError(f"the run has no phase {phase}", hint=f"one of: {', '.join(p.name for p in plan.phases)}")
        if not before:
            raise no_text(plan, "no phase of this run makes a policy")
        raise RunError(
            f"{self.path} has no weights yet: {'; '.join(reversed(before))}", hint=first_checkpoint(plan, phase)
        )


def no_text(plan: Plan, why: str) -> RunError:
    """The error of a phase, or a run, whose head gives no logits of a next token."""
    others = [p.name for p in plan.phases if p.makes in OPENED]
    judges = [f"`--phase {p.name}`" for p in plan.phases if p.makes == REWARD_MODEL]
    hint = f"the weights of another phase: {', '.join(others)}" if others else "`llmspec explain` shows the run"
    if judges and not others:
        hint = f"a reward model is opened where it is asked for: {', '.join(judges)}"
    return RunError(f"{why}: no text can be drawn from that", hint=hint)


def first_checkpoint(plan: Plan, phase: str | None) -> str:
    """When a run, or a phase of it, comes to its first weights."""
    planned = next((p for p in plan.phases if phase in (None, p.name)), plan.phases[0])
    due = planned.phase.checkpoint_every.interval(planned.steps or 0) if planned.steps else 0
    when = f"after step {due:,} of {planned.name}" if due else f"at the end of {planned.name}"
    return f"its first checkpoint comes {when} (`checkpoint_every`): let `llmspec run` get that far"


def lost(folder: PhaseFolder, name: str, notices: list[str], plan: Plan) -> RunError:
    """The error of a phase that has come to checkpoints, none of which can be read."""
    earlier = next((p.name for p in plan.phases if p.name != name), "")
    hint = "run its spec again into this folder, which retrains the phase"
    if earlier:
        other = command("sample", path_word(folder.folder.parent), "--phase", earlier)
        hint += f", or take the weights of another phase: {other}"
    return RunError(
        [
            Problem(
                f"no checkpoint of {name} is left that can be read",
                consequence="older weights would have answered instead",
                hint=hint,
            ),
            *(Problem(notice) for notice in notices),
        ]
    )
