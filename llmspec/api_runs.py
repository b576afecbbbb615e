"""Use cases around runs: what one would do, and what is kept of those that were. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmspec.api import RUNS, Progress, compiled, known, model_folder, origin_of
from llmspec.core.problems import LlmspecError
from llmspec.core.visible import command, path_word

if TYPE_CHECKING:
    from llmspec.decoding.language_model import LanguageModel
    from llmspec.exchange.exporting import Exported
    from llmspec.explain.dry_run import DryRunReport
    from llmspec.runs.certificate import Certificate
    from llmspec.runs.garbage import Needed
    from llmspec.spec import SpecReading


def planned_run(
    path: Path,
    out: Path | None,
    overrides: list[str] | None,
    only: tuple[str, ...] = (),
    start: str = "",
    *,
    offline: bool = False,
    progress: Progress | None = None,
    continue_from: Path | str = "",
    reuse: bool = False,
) -> DryRunReport:
    """What `llmspec run` would do with a spec: its data are read, nothing is written into the run's folder.

    Raises SpecError, DataError, RunError, and LlmspecError for names that are no phase's."""
    from llmspec.compiler import complete
    from llmspec.data.prepare import prepare
    from llmspec.explain.dry_run import explain_dry_run
    from llmspec.runs.run import RunFolder
    from llmspec.training import continuing
    from llmspec.training.minutes import resolved
    from llmspec.training.other_models import closed, download
    from llmspec.training.selection import Selection, chosen

    reading, plan = compiled(path, overrides, offline)
    folder, selection = RunFolder(out or RUNS / plan.name), Selection(only, start, reuse)
    chosen(plan, selection)
    folder.accept(plan)
    with reading.placing():
        download(plan, offline, progress or (lambda what, done, total: None))
        plan = resolved(closed(plan), folder)
        prepared = prepare(plan, offline=offline, progress=progress)
        plan = complete(plan, prepared.measured)
        if continue_from:
            plan = continuing.resolved(plan, prepared, folder, str(continue_from), selection)
    return explain_dry_run(plan, folder, selection)


def certificate(
    path: Path,
    out: Path | None,
    overrides: list[str] | None,
    files: Callable[[SpecReading], Mapping[str, str]],
    say: Callable[[str], None],
    *,
    offline: bool = False,
) -> Certificate:
    """Stops and resumes each phase of a spec on a short budget; what came of it is written into the run's folder.

    Raises what `llmspec run` raises."""
    from llmspec.training.certify import certify

    reading, plan = compiled(path, overrides, offline)
    with reading.placing():
        return certify(plan, out or RUNS / plan.name, files=files(reading), notice=say, offline=offline)


def exported(
    path: Path | None,
    model: LanguageModel,
    out: Path,
    *,
    to: str = "hf",
    family: str = "",
    shard: int | None = None,
    type: str = "",
    text: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Exported:
    """Writes the model that was opened from a path into the new folder `out`, for transformers (hf), as a GGUF file, or
    its adapter alone for PEFT: the arguments are those of `export_folder` and `export_gguf`.

    Raises RunError, LlmspecError."""
    from llmspec.exchange.adapter_exporting import export_adapter
    from llmspec.exchange.exporting import export_folder
    from llmspec.exchange.gguf_exporting import export_gguf
    from llmspec.exchange.validated import last_validation
    from llmspec.formats.hf.exporting import SHARD
    from llmspec.runs.run import RunFolder

    if to == "peft":
        return export_adapter(model_folder(path), model, out, progress)
    if model.plan.model.adapter is not None:
        raise LlmspecError(
            "this model has an adapter beside it, which other programs would not read",
            hint=f"{command('merge', *([path_word(path)] if path else []), '--out')} DIR, and export that; `--to peft` "
            "writes the adapter alone",
            consequence="what was learned would be left out",
        )
    origin = origin_of(path)
    if to == "hf":
        return export_folder(
            model,
            out,
            origin=origin,
            family=family,
            shard=shard or SHARD,
            validated=last_validation(model_folder(path), model.phase),
            progress=progress,
        )
    folder = model_folder(path)
    stored = None
    if not isinstance(folder, RunFolder):  # whose weights may be in types of their own, in which they stay
        progress("reading the weights", 0, 0)
        _, stored, _ = folder.weights(folder.plan(), model.phase)
    return export_gguf(
        model, out, weights=stored, type=type, origin=origin, family=family, text=text, progress=progress
    )


def needed_by(specs: Path) -> Needed:
    """What the specs in a folder and in the folders directly below it need. Where the data of one are not here, its
    keys cannot be known, and whatever bears the names of its phases is needed."""
    from llmspec.core.problems import LlmspecError
    from llmspec.runs.garbage import Needed

    keys, names, notes = set[str](), set[str](), list[str]()
    for path in sorted({*specs.glob("*.y*ml"), *specs.glob("*/*.y*ml")}):
        try:
            if "phases:" not in path.read_text("utf-8"):
                continue
            found = known(path, None)
        except (LlmspecError, OSError, ValueError):
            return Needed(everything=f"{path} mentions phases and cannot be read as a spec")
        keys |= {p.key for p in found.plan.phases}
        open_ones = {p.name for p in found.plan.phases if found.note or p.phase.budget.unit == "minutes"}
        if open_ones:
            names |= open_ones
            notes.append(f"{path}: what its phases were trained with cannot be known now; all of that name stays")
    return Needed(frozenset(keys), frozenset(names), "", tuple(notes))
