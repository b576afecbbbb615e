"""Structure: each part of a spec is validated on its own, so that a broken one does not hide the others' problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from llmspec.core.problems import Path, Problem, nearest
from llmspec.core.units import Bytes
from llmspec.parts.phases import Phase
from llmspec.parts.sources import Source
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.tokenizers import Tokenizer
from llmspec.spec import foreign, messages
from llmspec.spec.decoding import Decoding
from llmspec.spec.references import check_references
from llmspec.spec.schema import Contamination, ModelSpec, Precision, Spec
from llmspec.spec.shape import Shape, allows_none, description, places, shape_of, spec_shape
from llmspec.spec.task_templates import check_templates
from llmspec.spec.translate import Translator
from llmspec.spec.yaml12 import Tree

WORDS = 1000
"""Unknown keys among which a missing one is looked for, misspelt."""

WHOLE = (
    "name",
    "seed",
    "device",
    "precision",
    "beam",
    "memory_limit",
    "model",
    "tokenizer",
    "chat_template",
    "decoding",
)
"""Keys at the top that are each sound or broken as a whole."""


@dataclass(frozen=True)
class Sections:
    """The valid parts of a spec; what is broken is None, or not among the sources and phases.

    A section that the file leaves out and that has a default is that default.
    """

    name: str | None = None
    seed: int | None = None
    device: str | None = None
    precision: Precision | None = None
    beam: int | None = None
    memory_limit: Bytes | None = None
    model: ModelSpec | None = None
    tokenizer: Tokenizer | None = None
    chat_template: ChatTemplate | None = None
    sources: dict[str, Source] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)
    decoding: Decoding | None = None
    contamination: Contamination | None = None
    spec: Spec | None = None
    """The whole, where nothing is broken."""
    rough_model: ModelSpec | None = None
    """Where `model` is broken: its sound keys, with defaults for the others; only for checks of those keys."""
    sound: frozenset[str] = frozenset()
    """The sound keys of `rough_model`."""


def check_structure(tree: Tree) -> tuple[Sections, tuple[Problem, ...]]:
    """The valid sections of a spec and what is wrong with the others. Never raises."""
    checker = _Checker(tree)
    spec = checker.part(spec_shape(), tree.data, ())
    found = checker.valid
    top: dict[str, Any] = {key: found.get((key,)) for key in WHOLE}
    if top["memory_limit"] is not None:  # valid text, perhaps of a spec that is broken elsewhere
        top["memory_limit"] = Bytes.parse(top["memory_limit"])
    sections = Sections(
        spec=spec if isinstance(spec, Spec) else None,
        contamination=spec.data.contamination if isinstance(spec, Spec) else None,
        sources={str(p[2]): v for p, v in found.items() if p[:2] == ("data", "sources") and len(p) == 3},
        phases={str(p[1]): v for p, v in found.items() if p[:1] == ("phases",) and len(p) == 2},
        **top,
    )
    if sections.model is None:
        sections = replace(sections, **rough_model(tree, found))
    problems = [*checker.problems, *check_references(tree), *check_templates(tree)]
    if sections.tokenizer is not None:
        problems += [p.at("tokenizer") for p in sections.tokenizer.check()]
    return sections, tuple(problems)


def rough_model(tree: Tree, found: Mapping[Path, Any]) -> dict[str, Any]:
    """What can be said of a broken model: `rough_model` and `sound` of Sections, or nothing."""
    written = tree.data.get("model") if isinstance(tree.data, Mapping) else None
    if not isinstance(written, Mapping):
        return {}
    values = {k: found.get(("model", k), v) for k, v in written.items() if k in ModelSpec.model_fields}
    while True:
        try:
            return {"rough_model": ModelSpec.model_validate(values), "sound": frozenset(values)}
        except ValidationError as error:
            bad = {str(e["loc"][0]) for e in error.errors(include_url=False)} & values.keys()
            if not bad:  # what is missing has no default
                return {}
            values = {k: v for k, v in values.items() if k not in bad}


def check_section(name: str, tree: Tree) -> tuple[Any, tuple[Problem, ...]]:
    """One section of a tree that holds nothing else: what it builds, or None, and its problems."""
    checker = _Checker(tree)
    shape = spec_shape().child(name, {})
    assert shape is not None
    others = [
        Problem(
            "unknown key",
            (key,),
            hint=f"`{key}` belongs under `{name}`: --set {name}.{key}=…",
            consequence="it would be ignored",
        )
        if places().get(key, ()) == (name,)
        else Problem(
            f"`{key}` was settled in training",
            (key,),
            hint=f"only `{name}` can change now",
            consequence="it would be ignored",
        )
        for key in tree.data
        if key != name
    ]
    built = checker.part(shape, tree.data[name], (name,))
    return built, (*others, *checker.problems)


def whole_part(tree: Tree, table: Mapping[str, type[BaseModel]]) -> tuple[Any, tuple[Problem, ...]]:
    """The part of a table whose settings are all of a tree: what it builds, or None, and its problems."""
    checker = _Checker(tree)
    return checker.part(Shape(dict(table)), tree.data, ()), tuple(checker.problems)


class _Checker:
    """Walks schema and data together. Leaves are validated by pydantic, and only its verdict on them is used."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.problems: list[Problem] = []
        self.valid: dict[Path, Any] = {}
        """What was found valid, down to the parts: path -> value."""

    def part(self, shape: Shape, data: Any, path: Path) -> BaseModel | None:
        """A part or section from its map of settings; None, and its problems noted, where it is broken."""
        before = len(self.problems)
        if not isinstance(data, Mapping):
            self.problems.append(messages.not_a_map(shape, data, path))
            return None
        kind = shape.kind(data)
        if kind is None or kind not in shape.parts:
            if not self.hidden((*path, "kind")):
                self.problems.append(messages.wrong_kind(shape, data.get("kind"), path, list(data)))
            return None
        values = self.values(shape, kind, data, path)
        built = self.build(shape, kind, values, data, path)
        if len(self.problems) > before or built is None:
            return None
        self.valid[path] = built
        return built

    def values(self, shape: Shape, kind: str, data: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """The settings with parts built; broken parts and unknown keys are left out."""
        fields, values = shape.fields(kind), dict[str, Any]()
        unknown = [key for key in data if key not in fields]
        for key in unknown[: messages.MOST_ALIKE]:
            problem = messages.unknown_key(shape, kind, key, data, path)
            self.problems.append(replace(problem, mark=self.tree.key_mark((*path, key))))
        if rest := unknown[messages.MOST_ALIKE :]:
            self.problems.append(
                replace(messages.more(len(rest), "unknown keys", path), mark=self.tree.key_mark((*path, rest[0])))
            )
        meant = {foreign.stands_for(key, messages.pattern(path)) for key in unknown[:WORDS]}
        for key, info in fields.items():
            if key not in data:
                if (
                    info.is_required()
                    and key not in meant
                    and not self.hidden((*path, key))
                    and nearest(key, unknown[:WORDS]) is None
                ):
                    self.problems.append(messages.missing_key(key, description(shape.parts[kind], key), path))
                continue
            child, value, at = shape_of(info), data[key], (*path, key)
            if value is None and child.parts and allows_none(info.annotation):
                values[key] = None
                continue
            if child.item is not None:
                value = self.items(child, value, at)
            elif whole := child.parts and not (child.plain and not isinstance(value, Mapping)):
                value = self.part(child, value, at)
            if value is not None or not (child.item or whole):
                values[key] = value
        return values

    def items(self, shape: Shape, data: Any, path: Path) -> dict[str, Any] | None:
        """A map of names to parts."""
        assert shape.item is not None
        if not isinstance(data, Mapping):
            self.problems.append(messages.not_a_map(shape, data, path))
            return None
        if isinstance(kind := data.get("kind"), str) and kind in shape.item.parts:  # one entry without its name
            what = str(path[-1]).removesuffix("s")
            hint = f"{path[-1]}: {{my-{what}: {{kind: {kind}, …}}}}"
            mark = self.tree.key_mark((*path, "kind"))
            self.problems.append(Problem(f"the {what} has no name", path, hint, mark=mark))
            return None
        built = {name: self.part(shape.item, value, (*path, name)) for name, value in data.items()}
        # One that is broken still counts as an entry, so that the map is not called empty.
        return {k: v for k, v in built.items() if v is not None} if None not in built.values() else None

    def build(
        self, shape: Shape, kind: str, values: dict[str, Any], data: Mapping[str, Any], path: Path
    ) -> BaseModel | None:
        part, fields = shape.parts[kind], shape.fields(kind)
        errors: list[Any] = []
        built: BaseModel | None = None
        try:
            built = part.model_validate(values)
        except ValidationError as e:
            # A missing key has been reported, or stands for a part that has.
            errors = [error for error in e.errors(include_url=False) if error["type"] != "missing"]
            self.problems += Translator(part, path, data, self.tree.key_mark).problems(errors)
        if not path:
            self.top(fields, values, {str(error["loc"][0]) for error in errors if error["loc"]})
        return built

    def top(self, fields: Mapping[str, Any], values: dict[str, Any], bad: set[str]) -> None:
        """Note what is valid at the top, which holds also where the whole is not."""
        for key, info in fields.items():
            if key in values and key not in bad:
                self.valid[(key,)] = values[key]
            elif key not in self.tree.data and not info.is_required() and not self.hidden((key,)):
                self.valid[(key,)] = info.get_default(call_default_factory=True)

    def hidden(self, path: Path) -> bool:
        """Whether a syntax error, or a base that cannot be read, hides what stands here."""
        return any(path[:length] in self.tree.broken for length in range(len(path) + 1))
