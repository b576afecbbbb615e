"""The specs that come with llmspec, found by name: in the installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
"""Folder of the package llmspec."""


def folder() -> Path | None:
    """Where the shipped specs lie; None in an installation that was made without them."""
    return next(
        (place for place in (PACKAGE / "specs", PACKAGE.parent / "specs") if (place / "quickstart.yaml").is_file()),
        None,
    )


def names() -> tuple[str, ...]:
    """Names of the shipped specs: `quickstart`, `gpt2-124m` ..."""
    home = folder()
    return tuple(sorted(path.stem for path in home.glob("*.yaml"))) if home else ()


def find(name: Path) -> Path | None:
    """The file of the shipped spec of that name, `quickstart` or `quickstart.yaml`; None where none is called so.

    A path with folders in it names a file of the user's, never a shipped spec.
    """
    home = folder()
    if home is None or len(name.parts) != 1:
        return None
    stem = name.name.removesuffix(".yaml").removesuffix(".yml")
    return home / f"{stem}.yaml" if stem in names() else None


def spec_file(path: Path) -> Path:
    """The file that a person means: what is there, else the shipped spec of that name, else the path as it is."""
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # a name too long, or with a NUL: reading it says so
        return path
    return find(path) or path
