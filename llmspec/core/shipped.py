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


ARCHITECTURES = "architectures"
"""Below it lie specs that describe a published model without data and phases."""


def installed(place: Path) -> bool:
    """Whether a folder is one of those in which an installation keeps its specs."""
    return place in (PACKAGE / "specs", PACKAGE / "specs" / ARCHITECTURES)


def files() -> dict[str, Path]:
    """The shipped specs by name, in the order of the names."""
    home = folder()
    found = [*home.glob("*.yaml"), *home.glob(f"{ARCHITECTURES}/*.yaml")] if home else []
    return {path.name.removesuffix(".yaml"): path for path in sorted(found, key=lambda path: path.name)}


def names() -> tuple[str, ...]:
    """Names of the shipped specs: `quickstart`, `gpt2-124m` ..."""
    return tuple(files())


def find(name: Path) -> Path | None:
    """The file of the shipped spec of that name, `quickstart` or `quickstart.yaml`; None where none is called so.

    A path with folders in it names a file of the user's, never a shipped spec.
    """
    return files().get(name.name.removesuffix(".yaml").removesuffix(".yml")) if len(name.parts) == 1 else None


def spec_file(path: Path) -> Path:
    """The file that a person means: what is there, else the shipped spec of that name, else the path as it is."""
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # a name too long, or with a NUL: reading it says so
        return path
    return find(path) or path
