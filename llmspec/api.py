"""What stands between a command's arguments and the rooms: plans, reports, and failures in plain words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmspec.compiler.plan import Plan
    from llmspec.compiler.proofs import Proof
    from llmspec.core.problems import Problem
    from llmspec.core.targets import Target
    from llmspec.forecast.estimates import Forecast
    from llmspec.model.cross_compile import Made
    from llmspec.spec import Reading

from llmspec.core.visible import command, path_word

SECTIONS = ("model", "tokenizer", "data", "phases", "decoding")
"""Parts of a spec, whose names people give in place of a spec's."""
READ_ANEW = 50_000_000
"""Characters of a source that `explain` tokenises, at most, where nobody has before: some half a minute."""
RUNS = Path("runs")
"""Where runs lie, below the folder that a command is given in."""


def compiled(path: Path, overrides: list[str] | None) -> tuple[Reading, Plan]:
    """The spec and its plan. Raises SpecError with every problem, also those of one section beside a broken other."""
    from llmspec.compiler import check_sections, compile_spec
    from llmspec.core.problems import SpecError
    from llmspec.spec import read_spec
    from llmspec.training.prompts import check_prompts

    if (path / "plan.json").is_file():
        raise SpecError(_no_spec(path))
    if path.suffix in (".json", ".jsonl") and (path.parent / "plan.json").is_file():
        raise SpecError(_no_spec(path.parent))
    reading = read_spec(path, overrides or ())
    problems = reading.sorted((*reading.problems, *check_sections(reading.sections)))
    if problems or reading.sections.spec is None:
        raise SpecError(problems)
    plan = compile_spec(reading.sections.spec, base=reading.base)
    with reading.placing():
        check_prompts(plan)
    return reading, plan


def _no_spec(run: Path) -> Problem:
    """What is said of a run directory that stands where a spec is meant."""
    from llmspec.core.problems import Problem

    kept = sorted((run / "spec").glob("*.y*ml"))
    spec = path_word(kept[0]) if len(kept) == 1 else "SPEC"
    return Problem(
        f"`{run}` is a run directory, and a spec is meant here",
        hint=f"{command('run', spec, f'--out={path_word(run)}')} goes on with it; "
        f"{command('explain', path_word(run))} shows it",
    )


def gpu(text: str) -> Target:
    """The GPU that a person names. Raises SpecError."""
    from llmspec.core.targets import parse

    return parse(text)


def made_for(plan: Plan, target: Target) -> Made:
    """Every kernel of a plan, made for a GPU. Raises RunError naming those that do not compile."""
    from llmspec.core.problems import RunError
    from llmspec.model.cross_compile import make
    from llmspec.render.report_kernels import progress

    with progress(target.name) as say:
        found = make(plan, target, say)
    if problems := found.problems():
        raise RunError(problems)
    return found


def measured(plan: Plan, aside: bool) -> tuple[Plan, tuple[Proof, ...], tuple[str, ...]]:
    """The plan with what its data say, what they prove, and what a person should know of them."""
    from llmspec.compiler import complete
    from llmspec.data.notices import notices
    from llmspec.data.prepare import prepare
    from llmspec.data.proofs import data_proofs
    from llmspec.render.live import watcher
    from llmspec.training.prompts import rehearse

    with watcher(aside=aside) as watch:
        prepared = prepare(plan, progress=watch.progress)
        plan = complete(plan, prepared.measured)
        for notice in rehearse(plan, prepared):
            watch.notice(notice)
        return plan, data_proofs(prepared), tuple(notices(prepared))


def explained_spec(
    path: Path, overrides: list[str] | None, part: str | None = None, exact: bool = False, time: bool = False
) -> Any:
    """A spec's report, or that of one of its parts; with token counts where the data are already here."""
    from llmspec.explain.part import explain_part
    from llmspec.explain.spec import explain_plan

    plan, note, proofs, prepared = known_plan(path, overrides)
    if part is not None:
        return explain_part(plan, part)
    return explain_plan(plan, note, proofs, scheduled(plan) if exact else None, foretold(plan, time), prepared)


def explained_pair(first: Path, second: Path, overrides: list[str] | None) -> Any:
    """What differs between two specs or runs; token counts only where those of both are known: so keys compare."""
    from llmspec.explain.compare import explain_difference

    (a, a_note, *_), (b, b_note, *_) = known_plan(first, overrides), known_plan(second, overrides)
    if a_note or b_note:
        a, b = (compiled(path, overrides)[1] if is_spec(path) else plan for path, plan in ((first, a), (second, b)))
    return explain_difference(a, b, (str(first), str(second)), a_note or b_note)


def is_spec(path: Path) -> bool:
    """Whether a path is meant as a spec, and not as a run directory."""
    from llmspec.core.shipped import find

    return path.is_file() or path.suffix in (".yaml", ".yml") or (not path.exists() and find(path) is not None)


def known_plan(path: Path, overrides: list[str] | None) -> tuple[Plan, str, tuple[Proof, ...] | None, Any]:
    """The plan of a run; or of a spec, with proofs and data where these are already here, else a note on why."""
    if not is_spec(path):
        return run_folder(path).plan(), "", None, None
    from llmspec.compiler import complete
    from llmspec.core.problems import DataError
    from llmspec.data.prepare import prepare
    from llmspec.data.proofs import data_proofs
    from llmspec.render.headway import Headway
    from llmspec.render.waiting import waiting

    _, plan = compiled(path, overrides)
    try:
        with waiting("reading the data", lines=True) as say:
            headway = Headway()
            prepared = prepare(plan, offline=True, progress=lambda *found: say(headway.line(*found)), most=READ_ANEW)
    except DataError as e:
        first = e.problems[0]
        why = first.message + (f"; {first.hint}" if first.hint else "")
        return plan, f"token counts are missing: {why}", None, None
    return complete(plan, prepared.measured), "", data_proofs(prepared), prepared


def scheduled(plan: Plan) -> dict[str, dict[str, int]]:
    """What the graphs of each phase would hold. Raises SpecError where that is more than the device has."""
    from llmspec.compiler.fit import over_limit
    from llmspec.core.problems import SpecError
    from llmspec.model.graph_memory import exact

    found = exact(plan)
    if problems := over_limit(plan, {name: sum(items.values()) for name, items in found.items()}):
        raise SpecError(problems)
    return found


def foretold(plan: Plan, measure: bool) -> Mapping[str, Forecast]:
    """What phases are expected to take on this machine, by name; `measure` it first, or take what is known of it."""
    from llmspec.forecast.estimates import calibrate, expected

    if measure:
        calibrate(plan.device)
    return expected(plan)


def graph_proofs(plan: Plan) -> tuple[Proof, ...]:
    """What the built graph shows of the plan's masks."""
    from llmspec.model.mask_check import graph_proof

    return (graph_proof(plan),)


def written(loaded: Reading, overrides: list[str] | None) -> dict[str, str]:
    """The spec's texts by file name, and the overrides given beside them."""
    files: dict[str, str] = {}
    for path, text in loaded.files:
        name, number = path.name, 1
        while name in files:
            number += 1
            name = f"{path.stem}.{number}{path.suffix}"
        files[name] = text
    return {**files, "overrides.txt": "".join(f"{s}\n" for s in overrides)} if overrides else files


def opened(path: Path | None, phase: str | None = None) -> Any:
    """The model of a run, the newest where none is named; with the weights of a phase, the last where none is."""
    from llmspec.decoding.language_model import open_model
    from llmspec.render.terminal import err
    from llmspec.render.waiting import waiting

    with waiting("opening the model"):
        model = open_model(run_folder(path).path, phase=phase)
    for notice in model.notices:
        err().print(f"note: {notice}")
    return model


def run_folder(path: Path | None) -> Any:
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
            f"`{path}` is a spec, and no run directory",
            hint=hint or f"{command('run', path_word(path))} makes one, below {RUNS}/",
        )
    there = "it has no plan.json" if path.is_dir() else "it is a file" if path.exists() else "there is nothing there"
    raise RunError(
        f"`{path}` is no run directory: {there}",
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
        return "a prompt is given by --prompt"
    if path.parts and path.parts[0].split(".")[0] in SECTIONS and not path.exists():
        return f"{command('explain', 'SPEC', '--part', path)} explains a part of a spec"
    runs = {p.parent.name: str(p.parent) for p in RUNS.glob("*/plan.json")}
    near = nearest(path.name, runs)
    return f"did you mean `{runs[near]}`?" if near else ""


def tell_unknown(model: Any, prompt: str, system: str = "") -> None:
    """Say what the model's vocabulary does not know of a prompt."""
    from llmspec.data.unknown import of_prompt
    from llmspec.render.terminal import err

    if said := of_prompt(model.codec, system + prompt, model.plan.tokenizer.markers):
        err().print(f"note: the prompt: {said}")


def decoding_settings(model: Any, sets: list[str] | None) -> Any:
    """The run's decoding settings with the overrides on top. Raises SpecError."""
    from llmspec.spec import override_decoding

    return override_decoding(model.plan.decoding, sets or ())
