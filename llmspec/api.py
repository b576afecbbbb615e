"""Use cases behind the command line: what each verb computes, as values. Nothing here prints or reads arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.core.visible import command, path_word

if TYPE_CHECKING:
    from llmspec.compiler.checks import Check
    from llmspec.compiler.plan import Plan
    from llmspec.core.problems import Problem
    from llmspec.core.targets import Target
    from llmspec.data.prepare import PreparedData
    from llmspec.decoding.language_model import LanguageModel
    from llmspec.explain.compare import DifferenceReport
    from llmspec.explain.file import FileReport
    from llmspec.explain.part import PartReport
    from llmspec.explain.spec import SpecReport
    from llmspec.forecast.decoding import DecodingSpeed
    from llmspec.forecast.estimates import Forecast
    from llmspec.model.cross_compile import Made
    from llmspec.runs.run import RunFolder
    from llmspec.runs.stored import StoredModel
    from llmspec.spec import SpecReading
    from llmspec.spec.decoding import Decoding

Progress = Callable[[str, float, float], None]
"""Is told `(what, done, total)` of work that takes long; a total of 0 is one that is not known."""
SECTIONS = ("model", "tokenizer", "data", "phases", "decoding")
"""Parts of a spec, whose names people give in place of a spec's."""
READ_ANEW = 50_000_000
"""Characters of a source that `explain` tokenises, at most, where nobody has before: some half a minute."""
RUNS = Path("runs")
"""Where runs lie, below the folder that a command is given in."""


# -- specs ---------------------------------------------------------------------------------------------------------
def compiled(
    path: Path, overrides: list[str] | None, offline: bool = True, progress: Progress | None = None
) -> tuple[SpecReading, Plan]:
    """The spec and its plan; a model that it extends is downloaded unless `offline`.

    Raises SpecError with every problem, also those of one section beside a broken other."""
    from llmspec.compiler import check_sections, compile_spec
    from llmspec.core.problems import SpecError
    from llmspec.formats.spec_models import models
    from llmspec.spec import read_spec
    from llmspec.training.prompts import check_prompts

    if (path / "plan.json").is_file() or (path.is_file() and is_saved_model(path)):
        raise SpecError(_no_spec(path))
    if path.suffix in (".json", ".jsonl") and (path.parent / "plan.json").is_file():
        raise SpecError(_no_spec(path.parent))
    reading = read_spec(path, overrides or (), models(offline, progress))
    if reading.problems or reading.sections.spec is None:
        raise SpecError(reading.sorted((*reading.problems, *check_sections(reading.sections, reading.base))))
    try:
        plan = compile_spec(reading.sections.spec, base=reading.base)
    except SpecError as error:
        raise SpecError(reading.sorted(error.problems)) from None
    with reading.placing():
        check_prompts(plan)
    return reading, plan


def _no_spec(run: Path) -> Problem:
    """What is said of a run directory that stands where a spec is meant."""
    from llmspec.core.problems import Problem

    if is_saved_model(run):
        return Problem(
            f"`{run}` is a saved model, but a spec is expected here",
            hint=f"{command('explain', path_word(run))} shows it; {command('sample', path_word(run))} lets it write",
        )
    kept = sorted((run / "spec").glob("*.y*ml"))
    spec = path_word(kept[0]) if len(kept) == 1 else "SPEC"
    return Problem(
        f"`{run}` is a run directory, but a spec is expected here",
        hint=f"{command('run', spec, f'--out={path_word(run)}')} resumes it; "
        f"{command('explain', path_word(run))} shows it",
    )


def is_spec(path: Path) -> bool:
    """Whether a path is meant as a spec, and not as a run directory."""
    from llmspec.core.shipped import find

    if path.is_file():
        return not is_saved_model(path)
    return path.suffix in (".yaml", ".yml") or (not path.exists() and find(path) is not None)


# -- check ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Checked:
    """A plan that passed its checks, and what was asked for besides."""

    plan: Plan
    checks: tuple[Check, ...]
    notices: tuple[str, ...]
    """What a person should know of the data, in sentences; nothing where they were not read."""
    times: Mapping[str, Forecast]
    """What phases are expected to take on this machine, by name, as far as that is known."""
    decoding: DecodingSpeed | None = None
    """What drawing a token reads, and how fast that is; None where the model draws no text."""
    peaks: Mapping[str, int] = field(default_factory=dict)
    """Bytes that the graphs of each phase hold at their peak, where the graphs were asked."""

    def as_data(self) -> dict[str, Any]:
        """JSON-able form, without `peaks`."""
        return {
            "name": self.plan.name,
            "parameters": self.plan.model.parameters,
            "phases": [p.name for p in self.plan.phases],
            "checks": [p.model_dump(mode="json") for p in self.checks],
            "notices": list(self.notices),
            "times": {name: found.model_dump(mode="json") for name, found in self.times.items()},
            **({"decoding": self.decoding.model_dump(mode="json")} if self.decoding else {}),
        }


def checked(
    reading: SpecReading,
    plan: Plan,
    *,
    data: Callable[[Plan], tuple[Plan, tuple[Check, ...], tuple[str, ...]]] | None = None,
    graph: bool = False,
    time: bool = False,
    exact: bool = False,
) -> Checked:
    """Every check of a compiled spec.

    `data` reads what the phases read (`measured`, with somebody to tell of its progress); `graph` builds the model
    and changes its inputs; `time` measures this machine first; `exact` asks the scheduled graphs for their memory.
    Raises SpecError or DataError with every check that failed.
    """
    from llmspec.compiler import pending, plan_checks, refuse
    from llmspec.forecast.decoding import speed

    with reading.placing():
        plan, shown, notices = data(plan) if data and plan.phases else (plan, pending(plan), ())
        checks = (*plan_checks(plan), *(graph_checks(plan) if graph else ()), *shown)
        refuse(checks)
    times = expected_times(plan, time)
    peaks = {name: sum(items.values()) for name, items in scheduled(plan).items()} if exact else {}
    return Checked(plan, checks, notices, times, speed(plan.model, plan.device), peaks)


def measured(
    plan: Plan, progress: Progress, notice: Callable[[str], None]
) -> tuple[Plan, tuple[Check, ...], tuple[str, ...]]:
    """The plan with what its data say, the checks of them, and what a person should know."""
    from llmspec.compiler import complete
    from llmspec.data.checks import data_checks
    from llmspec.data.notices import notices
    from llmspec.data.prepare import prepare
    from llmspec.training.minutes import resolved
    from llmspec.training.other_models import closed, download
    from llmspec.training.prompts import rehearse

    download(plan, False, progress)
    plan = resolved(closed(plan, notice), None, notice)
    prepared = prepare(plan, progress=progress)
    plan = complete(plan, prepared.measured)
    for said in rehearse(plan, prepared):
        notice(said)
    return plan, data_checks(prepared), tuple(notices(prepared))


def graph_checks(plan: Plan) -> tuple[Check, ...]:
    """What the built graph shows of the plan's masks."""
    from llmspec.model.mask_check import graph_check

    return (graph_check(plan),)


def kernels_for(plan: Plan, target: Target, say: Callable[[str], None]) -> Made:
    """Every kernel of a plan, made for a GPU. Raises RunError naming those that do not compile."""
    from llmspec.core.problems import RunError
    from llmspec.model.cross_compile import make

    found = make(plan, target, say)
    if problems := found.problems():
        raise RunError(problems)
    return found


def scheduled(plan: Plan) -> dict[str, dict[str, int]]:
    """Bytes that the graphs of each phase would hold, by phase and item.

    Raises SpecError where that is more than the device has.
    """
    from llmspec.compiler.fit import over_limit
    from llmspec.core.problems import SpecError
    from llmspec.model.graph_memory import exact

    found = exact(plan)
    if problems := over_limit(plan, {name: sum(items.values()) for name, items in found.items()}):
        raise SpecError(problems)
    return found


def expected_times(plan: Plan, measure: bool = False) -> Mapping[str, Forecast]:
    """What phases are expected to take on this machine, by name; `measure` it first, or take what is known of it."""
    from llmspec.forecast.estimates import calibrate, expected
    from llmspec.forecast.machine import memory_rate

    if measure:
        memory_rate(plan.device)
        calibrate(plan.device)
    return expected(plan)


# -- explain -------------------------------------------------------------------------------------------------------
class Known(NamedTuple):
    """A plan with what is known of its data here."""

    plan: Plan
    note: str = ""
    """Why token counts are missing; '' where they are not."""
    checks: tuple[Check, ...] | None = None
    prepared: PreparedData | None = None


def known(path: Path, overrides: list[str] | None, progress: Progress | None = None) -> Known:
    """The plan of a run; or of a spec, with checks and data where these are already here, else a note on why."""
    if not is_spec(path):
        return Known(model_folder(path).plan())
    from llmspec.compiler import complete
    from llmspec.core.problems import DataError
    from llmspec.data.checks import data_checks
    from llmspec.data.prepare import prepare
    from llmspec.training.minutes import open_minutes, resolved
    from llmspec.training.other_models import closed

    _, plan = compiled(path, overrides)
    if not plan.phases:
        return Known(plan)
    plan = resolved(closed(plan), measure=False)
    if any(map(open_minutes, plan.phases)):
        measure = command("explain", path_word(path), "--time")
        return Known(plan, f"how many steps its minutes are is not known yet; {measure} measures this machine")
    try:
        prepared = prepare(plan, offline=True, progress=progress, most=READ_ANEW)
    except DataError as e:
        read = command("check", path_word(path), "--data")
        return Known(plan, f"token counts are missing: {e.problems[0].message}; {read} reads the data")
    return Known(complete(plan, prepared.measured), "", data_checks(prepared), prepared)


def explained_spec(found: Known, *, exact: bool = False, time: bool = False) -> SpecReport:
    """A spec's report; `exact` asks its graphs for their memory, `time` measures this machine first."""
    from llmspec.explain.spec import explain_plan

    plan, note, checks, prepared = found
    return explain_plan(plan, note, checks, scheduled(plan) if exact else None, expected_times(plan, time), prepared)


def explained_file(path: Path, *, time: bool = False) -> FileReport | None:
    """The report of a GGUF file, by what it says of itself, with what of that is not understood; None for another path.
    `time` measures how fast this machine reads weights first. Raises RunError for a damaged file."""
    from llmspec.explain.file import explain_file
    from llmspec.formats.gguf.importing import GGUFFile, is_gguf

    return explain_file(GGUFFile(path), time) if is_gguf(path) else None


def explained_part(
    found: Known, part: str, run: Path | None = None, progress: Progress = lambda what, done, total: None
) -> PartReport:
    """The report of one part of a spec, by its path; of a `run`, with what one update did to one token, for phases that
    learn from answers of their own. Raises SpecError where there is no such part."""
    from llmspec.explain.lesson import lesson_of
    from llmspec.explain.part import explain_part
    from llmspec.runs.run import RunFolder

    if run is None or is_spec(run) or is_saved_model(run):
        return explain_part(found.plan, part)
    return explain_part(found.plan, part, lambda phase: lesson_of(RunFolder.open(run), phase, progress))


def explained_pair(
    first: Path, second: Path, overrides: list[str] | None, progress: Progress | None = None
) -> DifferenceReport:
    """What differs between two specs or runs; token counts only where those of both are known: so keys compare."""
    from llmspec.explain.compare import explain_difference

    (a, a_note, *_), (b, b_note, *_) = known(first, overrides, progress), known(second, overrides, progress)
    if a_note or b_note:
        a, b = (compiled(path, overrides)[1] if is_spec(path) else plan for path, plan in ((first, a), (second, b)))
    return explain_difference(a, b, (str(first), str(second)), a_note or b_note)


# -- runs ----------------------------------------------------------------------------------------------------------
def open_run(path: Path | None, phase: str | None = None, quantize: str | None = None) -> LanguageModel:
    """The model of a run, the newest where none is named; with the weights of a phase, the last where none is, and in
    memory in the type `quantize`, where one is named."""
    from llmspec.decoding.language_model import open_model

    return open_model(model_folder(path).path, phase=phase, quantize=quantize)


def decoding_settings(model: LanguageModel, overrides: list[str] | None) -> Decoding:
    """The run's decoding settings with the overrides on top. Raises SpecError."""
    from llmspec.spec import override_decoding

    return override_decoding(model.plan.decoding, overrides or ())


def model_folder(path: Path | None) -> StoredModel:
    """The folder of a model, with a run around it or without; the newest run where none is named. Raises RunError."""
    from llmspec.formats.opening import is_model, stored_model

    return stored_model(path) if path is not None and is_model(path) else run_folder(path)


def origin_of(path: Path | None) -> str:
    """The mapping table that a model was imported by; '' where it was trained here."""
    from llmspec.formats.foreign import ForeignModel
    from llmspec.runs.model_folder import ModelFolder

    folder = model_folder(path)
    if isinstance(folder, ForeignModel):
        return folder.origin
    return folder.notes.origin if isinstance(folder, ModelFolder) else ""


def is_saved_model(path: Path) -> bool:
    """Whether a path is the folder of a model without a run."""
    from llmspec.formats.opening import is_model

    return is_model(path)


def holds_model(path: Path) -> bool:
    """Whether a path is one of a model's, with a run around it or without."""
    return is_saved_model(path) or os.path.lexists(path / "plan.json")


def run_folder(path: Path | None) -> RunFolder:
    """A run directory, the newest below `runs/` where none is named. Raises RunError, also for a spec."""
    from llmspec.core.problems import RunError
    from llmspec.runs.run import RunFolder

    if path is None:
        return RunFolder.latest(RUNS)
    if os.path.lexists(path / "plan.json"):
        return RunFolder.open(path)
    hint = meant(path)
    if path.suffix in (".yaml", ".yml") or (not path.exists() and is_spec(path)):
        raise RunError(
            f"`{path}` is a spec, not a run directory",
            hint=hint or f"{command('run', path_word(path))} makes one, below {RUNS}/",
        )
    there = "it has no plan.json" if path.is_dir() else "it is a file" if path.exists() else "there is nothing there"
    raise RunError(
        f"`{path}` is not a run directory: {there}",
        hint=hint or "give the folder that `llmspec run` wrote, or run a spec first",
    )


def meant(path: Path) -> str:
    """Which run may be meant by a path that is none; '' where nothing is near."""
    from llmspec.core.problems import nearest

    for above in path.parents[:3]:  # a file, a phase, a checkpoint, its weights
        if (above / "plan.json").is_file() and above != path:
            return f"the run is {above}"
    below = sorted(str(p.parent) for p in path.glob("*/plan.json")) if path.is_dir() else []
    if below:
        return f"name one of the runs in it: {', '.join(below[:5])}" + (" …" if len(below) > 5 else "")
    if " " in str(path):
        return "pass a prompt with --prompt"
    if path.parts and path.parts[0].split(".")[0] in SECTIONS and not path.exists():
        return f"{command('explain', 'SPEC', '--part', path)} explains a part of a spec"
    runs = {p.parent.name: str(p.parent) for p in RUNS.glob("*/plan.json")}
    near = nearest(path.name, runs)
    return f"did you mean `{runs[near]}`?" if near else ""
