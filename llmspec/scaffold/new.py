"""`llmspec new`: looks at the files, chooses sizes for them and for this machine, and writes a spec that passes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from llmspec.backends.workers import ToolchainError
from llmspec.compiler import Plan, compile_spec
from llmspec.core import shipped
from llmspec.core.devices import automatic
from llmspec.core.problems import LlmspecError, Problem
from llmspec.core.units import duration
from llmspec.data.fetch import Progress
from llmspec.forecast import estimates
from llmspec.forecast.calibration import Rates
from llmspec.parts.base import Frozen
from llmspec.runs.files import write_text
from llmspec.scaffold import writing
from llmspec.scaffold.contents import Contents, look, relative
from llmspec.scaffold.sizing import EPOCHS, PER_PARAMETER, SHAPES, Shape, SpecSizes, TrainingLength, budgets, sizes
from llmspec.spec import load_spec

GUESSED = 8e9
"""Parameters times tokens that two cores train in a second, where this machine has not been measured."""
MEASURED, UNMEASURED = "by this machine's rates", "guessed, as this machine could not be measured"


class Created(Frozen):
    """A spec that was written, and what it was written from."""

    path: str
    name: str
    text: Contents | None = None
    chat: Contents | None = None
    sizes: SpecSizes | None = None
    parameters: int = 0
    seconds: float | None = None
    """Of training, estimated."""
    origin: str = ""
    """What the estimate stands on."""


Lengths = tuple[TrainingLength, TrainingLength | None]
"""Of pretraining and of SFT."""


class Fit(NamedTuple):
    """A shape and how long it is trained."""

    shape: Shape
    lengths: Lengths
    seconds: float
    text: str
    plan: Plan


def create(
    folder: Path,
    text: Path | None = None,
    chat: Path | None = None,
    minutes: float = 10.0,
    progress: Progress | None = None,
) -> Created:
    """Writes `folder/NAME.yaml` for the files at `text` (to be continued) and `chat` (dialogues to answer like).

    Without either it is the shipped quickstart under a name of its own. Raises LlmspecError: a spec exists already,
    nothing can be read, or the folder cannot be written.
    """
    say = progress or (lambda message, done, total: None)
    name = writing.named(folder.absolute().name)
    path = folder / f"{name}.yaml"
    if path.exists() or path.is_symlink():
        raise LlmspecError(
            f"`{path}` exists already",
            "choose another folder, or move that file away",
            "its content would be lost",
        )
    if text is None and chat is None:
        example = writing.example(name, path.name, shipped_text())
        plan = compiled(example)
        write_text(path, example)
        return Created(path=str(path), name=name, parameters=plan.model.parameters)
    found = looked_at({"text": text, "chat": chat}, say)
    chosen = sizes(found["text"], found["chat"])
    sources = {
        key: (relative(at if at.is_dir() else at.parent, folder), contents)
        for key, at in (("text", text), ("chat", chat))
        if at is not None and (contents := found[key])
    }
    rates, origin = known_rates(say)

    def written(shape: Shape, lengths: Lengths, why: str) -> str:
        return writing.spec(name, path.name, sources.get("text"), sources.get("chat"), chosen, shape, lengths, why)

    fit = fitting(chosen, minutes * 60, rates, origin, written)
    write_text(path, fit.text)
    return Created(
        path=str(path),
        name=name,
        text=found["text"],
        chat=found["chat"],
        sizes=chosen,
        parameters=fit.plan.model.parameters,
        seconds=fit.seconds,
        origin=origin,
    )


def looked_at(paths: dict[str, Path | None], say: Progress) -> dict[str, Contents | None]:
    """What lies at each path. Raises one LlmspecError with the problems of all."""
    found: dict[str, Contents | None] = {}
    problems: list[Problem] = []
    for key, at in paths.items():
        try:
            found[key] = look(at, key == "chat", say) if at is not None else None
        except LlmspecError as error:
            problems += [Problem(f"--{key}: {p.message}", (), p.hint, p.consequence, p.mark) for p in error.problems]
    if problems:
        raise LlmspecError(problems)
    return found


def known_rates(say: Progress) -> tuple[Rates | None, str]:
    """The machine's rates, measured for some seconds where they are not known, and what an estimate stands on."""
    device, _ = automatic()
    rates = estimates.known_rates(device)
    if rates is None and device == "CPU":
        say("measuring this machine", 0, 0)
        try:
            rates = estimates.calibrate(device)
        except ToolchainError:
            rates = None
    return rates, MEASURED if rates else UNMEASURED


def fitting(
    chosen: SpecSizes,
    seconds: float,
    rates: Rates | None,
    origin: str,
    written: Callable[[Shape, Lengths, str], str],
) -> Fit:
    """The largest shape that reads enough for its size in the time, else the smallest; its budgets and its spec."""
    found: Fit | None = None
    for shape in SHAPES:
        plan = compiled(written(shape, budgets(chosen, 0.0, seconds), ""))
        expected = estimates.forecasts(plan, rates, {}) if rates else {}
        speed = min(f.tokens_per_second for f in expected.values()) if expected else GUESSED / plan.model.parameters
        lengths = budgets(chosen, speed, seconds)
        total = sum(length.tokens for length in lengths if length)
        if found is not None and total < PER_PARAMETER * plan.model.parameters:
            break
        why = f"about {duration(total / speed)} {origin}"
        if any(length.epochs > EPOCHS for length in lengths if length):
            why += "; some steps at least, since there is so little text"
        elif total < 0.9 * speed * seconds:
            why += "; read more often, the model would memorise it"
        text = written(shape, lengths, why)
        found = Fit(shape, lengths, total / speed, text, compiled(text))
    assert found is not None
    return found


def compiled(text: str) -> Plan:
    """The plan of a spec that is not written yet, so that none is left behind that does not pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new.yaml"
        path.write_text(text, encoding="utf-8")
        return compile_spec(load_spec(path, ["memory_limit=1 TiB"]).spec)


def shipped_text() -> str:
    """The quickstart's text. Raises LlmspecError in an installation without it."""
    path = shipped.find(Path("quickstart"))
    if path is None:
        raise LlmspecError("this installation has no shipped specs", "name your own files with --text or --chat")
    return path.read_text("utf-8")
