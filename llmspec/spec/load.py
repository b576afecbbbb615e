"""A spec file -> a typed Spec, or every problem of it at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from llmspec.core.problems import LlmspecError, Mark, Path, Problem, SpecError
from llmspec.core.shipped import spec_file
from llmspec.spec.check import Sections, check_section, check_structure
from llmspec.spec.decoding import Decoding
from llmspec.spec.dump import to_yaml
from llmspec.spec.layers import Layers
from llmspec.spec.models_below import Models
from llmspec.spec.recovery import parse
from llmspec.spec.relative import start
from llmspec.spec.schema import Spec
from llmspec.spec.yaml12 import Node, Tree

MOST = 100
"""Problems that are told one by one; of the rest, the number."""


@dataclass(frozen=True)
class SpecReading:
    """What was read of a spec, broken or not: passes can run on the `sections` that are valid."""

    files: tuple[tuple[FilePath, str], ...]
    """Every file read and its text, the spec itself first."""
    tree: Tree
    sections: Sections
    problems: tuple[Problem, ...]
    """All problems so far, in the order of the files, each with its mark."""

    @property
    def base(self) -> str:
        """Folder in which relative paths start, absolute."""
        return str(start(self.files[0][0])) if self.files else "."

    def locate(self, problem: Problem) -> Problem:
        """The problem with the mark of its path, or of the deepest known place above it."""
        if problem.mark is not None:
            return problem
        return replace(problem, mark=locate(problem.path, self.tree, self.files))

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Problems that are raised inside and name a key of this spec say where it stands."""
        try:
            yield
        except LlmspecError as e:
            e.problems = tuple(self.locate(p) if p.path else p for p in e.problems)
            raise

    def sorted(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Located problems in the order of the files, each once."""
        order = {str(path): i for i, (path, _) in enumerate(self.files)}

        def key(problem: Problem) -> tuple[int, int, int]:
            mark = problem.mark or Mark("", 0, 0)
            return order.get(mark.file, len(order)), mark.line, mark.column

        found = sorted(dict.fromkeys(self.locate(p) for p in problems), key=key)
        rest = [Problem(f"and {len(found) - MOST:,} more problems")] if len(found) > MOST + 1 else found[MOST:]
        return (*found[:MOST], *rest)


@dataclass(frozen=True)
class Loaded(SpecReading):
    """A valid spec, with the places of its values."""

    spec: Spec

    @property
    def marks(self) -> dict[Path, tuple[Mark | None, Mark]]:
        """Path -> (mark of the key, mark of the value)."""
        return self.tree.marks


def read_spec(path: str | os.PathLike[str], overrides: Iterable[str] = (), models: Models | None = None) -> SpecReading:
    """Read a spec file, what it extends and `overrides` such as `phases.pretrain.optimizer.lr=3e-4`. Never raises.

    A name that is no file, such as `quickstart`, is a shipped spec. Problems are in the result; `sections` holds what
    is valid. `models` opens models that it extends.
    """
    layers = Layers(models=models)
    root = layers.read(spec_file(FilePath(path)))
    files = tuple(layers.files.items())
    if root is None:
        empty = Tree({}, {}, frozenset({()}))
        return SpecReading(files, empty, Sections(), tuple(layers.problems))
    root = layers.override(root, (overrides,) if isinstance(overrides, str) else overrides)
    tree = Tree.of(Node(root.value, root.mark), frozenset(layers.broken))
    sections, problems = check_structure(tree)
    reading = SpecReading(files, tree, sections, ())
    return replace(reading, problems=reading.sorted([*layers.problems, *problems]))


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = (), models: Models | None = None) -> Loaded:
    """Read and check a spec. `models` opens models that it extends.

    Raises:
        SpecError: with every problem, in the order of the file.
        TypeError: where `path` is no path, or `overrides` are no texts such as `seed=3`.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a spec is named by the path of its file, not {type(path).__name__}")
    if isinstance(overrides, Mapping) or not all(isinstance(o, str) for o in overrides):
        raise TypeError('overrides are a list of texts, such as ["seed=3", "model.layers=2"]')
    reading = read_spec(path, [overrides] if isinstance(overrides, str) else overrides, models)
    if reading.problems or reading.sections.spec is None:
        raise SpecError(reading.problems)
    reading.sections.spec.__dict__["folder"] = reading.base
    return Loaded(reading.files, reading.tree, reading.sections, (), reading.sections.spec)


def override_decoding(decoding: Decoding, overrides: Iterable[str]) -> Decoding:
    """Decoding settings with `decoding.top_p=0.9` and the like on top, as strict as a spec. Raises SpecError."""
    layers = Layers()
    below = parse(to_yaml({"decoding": decoding.model_dump(mode="json")}), "decoding").root
    assert below is not None
    root = layers.override(below, overrides)
    built, problems = check_section("decoding", Tree.of(Node(root.value, root.mark)))
    if layers.problems or problems:
        tree = Tree.of(Node(root.value, root.mark))
        raise SpecError([*layers.problems, *(replace(p, mark=p.mark or locate(p.path, tree, ())) for p in problems)])
    assert isinstance(built, Decoding)
    return built


def locate(path: Path, tree: Tree, files: tuple[tuple[FilePath, str], ...]) -> Mark:
    """Mark of a path's value, or of the key of the deepest known place above it."""
    for length in range(len(path), 0, -1):
        if path[:length] in tree.marks:
            key, value = tree.marks[path[:length]]
            # A map in lines of its own starts below its key, and the key is what the eye looks for.
            beside = key is None or (key.file, key.line) == (value.file, value.line)
            there = value.length == 0 or value.caret < len(value.text.rstrip())
            return value if key is None or (length == len(path) and beside and there) else key
    return Mark(str(files[0][0]) if files else "", 1, 1)
