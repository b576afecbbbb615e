"""config.json -> the `model:` of a spec, by a mapping table; everything that is not understood is named."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmspec.core.problems import Problem, nearest
from llmspec.formats.hf import dropout, labelled, rope
from llmspec.formats.hf.family import (
    OTHER,
    Architecture,
    Family,
    FromField,
    LayersAbsent,
    RopeOf,
    Rule,
    Shared,
    families,
    family_of,
)
from llmspec.formats.hf.family import shared as in_common
from llmspec.formats.hf.values import forward, put, same, spelled
from llmspec.spec.schema import ModelSpec

CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
"""Fields that name code to run."""
QUANTISED = ("quantization_config", "compression_config")
MOST_LAYERS = 4096
FIRST = "first"
"""The block of a first layer that has something of its own."""


@dataclass
class Read:
    """What a config.json says."""

    family: Family
    architecture: str
    of: Architecture
    """That class, with the head that the file says."""
    model: dict[str, Any] = field(default_factory=dict)
    """The `model:` of a spec."""
    ignored: dict[str, Any] = field(default_factory=dict)
    """Fields that cannot change what is computed."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields that only training in transformers looks at."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Ids of special tokens that the model's texts begin with, by their meaning."""
    problems: list[Problem] = field(default_factory=list)


def read_config(config: Mapping[str, Any], file: str = "config.json") -> Read | list[Problem]:
    """What a config.json says; its `problems` are all that is not understood. A list of problems where not even the
    family is known."""
    problems = [
        Problem(
            f"{file} names code of its own: `{name}`",
            hint="a model whose architecture is one of transformers' own has no such field",
            consequence="code from the folder would have to be run, which llmspec never does",
        )
        for name in CODE
        if config.get(name)
    ]
    problems += [
        Problem(
            f"{file} says that the weights are quantised: `{name}`",
            hint="take the folder of the model before it was quantised",
            consequence="its tensors are no plain numbers",
        )
        for name in QUANTISED
        if config.get(name)
    ]
    model_type = config.get("model_type")
    family = family_of(model_type) if isinstance(model_type, str) else None
    if family is None:
        return [*problems, _no_family(model_type, file)]
    named = config.get("architectures") or [next(iter(family.architectures))]
    architecture = named[0] if isinstance(named, list) and isinstance(named[0], str) else ""
    if architecture not in family.architectures:
        known = ", ".join(family.architectures)
        return [
            *problems,
            Problem(
                f"{file}: the architecture {str(architecture or named)[:80]!r} is not known", hint=f"known are: {known}"
            ),
        ]
    read = Read(family, architecture, family.architectures[architecture], problems=problems)
    reader = Reader(config, read, file)
    reader.run()
    return reader.read


def _no_family(model_type: Any, file: str) -> Problem:
    known = sorted({t for f in families().values() for t in (f.model_type, *f.also)})
    near = nearest(model_type, known) if isinstance(model_type, str) else None
    return Problem(
        f"{file}: no mapping table knows the model type {str(model_type)[:80]!r}",
        hint=(f"did you mean `{near}`? " if near else "") + f"known are: {', '.join(known)}",
        consequence="what its fields and tensors mean would be a guess",
    )


class Reader:
    """Applies a mapping table to the fields of a file; what is not understood is added to `read.problems`."""

    def __init__(self, config: Mapping[str, Any], read: Read, file: str, common: Shared | None = None) -> None:
        """`common`: what all tables of the format share, that of config.json if left out."""
        self.config, self.read, self.file = config, read, file
        self.common = in_common() if common is None else common
        self.family = read.family
        self.ends_in_labels = read.of.labelled is not None
        try:
            read.of = labelled.ending(config, read.of)
        except labelled.Unreadable as error:
            self.wrong(str(error), error.hint, "nothing says what the outputs of its last layer mean")
        self.architecture = read.of
        self.rules = {**self.family.fields, **self.architecture.fields}

    def wrong(self, message: str, hint: str = "", consequence: str = "") -> None:
        self.read.problems.append(Problem(f"{self.file}: {message}", hint=hint, consequence=consequence))

    def run(self) -> None:
        self.everything_is_known()
        model = self.read.model
        for settings in (self.family.settings, self.architecture.settings):
            for path, value in settings.items():
                put(model, path, value)
        for name, rule in self.rules.items():
            self.apply(name, rule, model)
        self.blocks(model)
        shares, wrong = dropout.shares_of(self.config, self.family, self.common)
        for one in wrong:
            self.wrong(one)
        model |= {"dropout": shares} if shares else {}
        self.read.model = {key: model[key] for key in ModelSpec.model_fields if key in model}

    def more_known(self) -> Iterable[str]:
        """Fields that no rule names and that are looked at all the same."""
        return (*rope.fields(self.family.rope), *CODE, *QUANTISED)

    # -- every field ---------------------------------------------------------------------------------------------------
    def everything_is_known(self) -> None:
        family, common = self.family, self.common
        fixed = {**common.fixed, **family.fixed}
        layers = family.layers
        known = {*self.rules, *self.more_known(), *dropout.dropouts(self.family, self.common)}
        known |= set(labelled.FIELDS) if self.ends_in_labels else set()
        known |= {n for rule in self.rules.values() for follow in rule.beside.values() for n in follow}
        if layers is not None:
            known |= {layers.field, *_asked(layers.absent)}
            for kind in layers.kinds.values():
                known |= {*kind.config, *(v["field"] for v in kind.settings.values() if isinstance(v, dict))}
        training = {*common.training, *family.training}
        ignored = {*common.ignored, *family.ignored}
        if self.ends_in_labels:  # what the family's other classes end in
            ignored |= {name for of in family.architectures.values() for name in of.fields if name not in known}
        candidates = [*known, *fixed, *training, *ignored]
        for name, value in self.config.items():
            if name in fixed:
                if value is not None and not any(same(value, v) for v in fixed[name]):
                    meant = " or ".join(spelled(v) for v in fixed[name])
                    self.wrong(
                        f"`{name}` is {str(value)[:80]}, and only {meant} is understood",
                        consequence="the model would compute something else",
                    )
            elif name in known:
                continue
            elif name in training:
                self.read.training[name] = value
            elif name in ignored or value is None:
                self.read.ignored[name] = value
            else:
                near = nearest(name, candidates)
                self.wrong(
                    f"the field `{name[:80]}` is not understood",
                    (f"did you mean `{near}`? " if near else "") + "remove it if it cannot change what is computed",
                    "the model would perhaps compute something else",
                )

    # -- one field -----------------------------------------------------------------------------------------------------
    def value(self, name: str, seen: tuple[str, ...] = ()) -> Any:
        """What a field says, or what transformers takes where it says nothing. Raises KeyError."""
        rule = self.rules.get(name)
        found = self.config.get(name)
        if rule is None:
            return found
        if found is not None or (rule.nullable and name in self.config):
            return found
        if rule.required:
            raise KeyError(name)
        return self._absent(rule.absent, (*seen, name))

    def _absent(self, absent: Any, seen: tuple[str, ...]) -> Any:
        if not isinstance(absent, dict) or len(seen) > 8:
            return absent
        ((how, of),) = absent.items()
        if how == "same_as":
            return self.value(of, seen)
        a, b = (self.value(x, seen) if isinstance(x, str) else x for x in of)
        if not (_whole(a) and _whole(b)):
            raise KeyError(str(of[0]))
        return a * b if how == "product" else a // b

    def apply(self, name: str, rule: Rule, model: dict[str, Any]) -> None:
        try:
            value = self.value(name)
        except KeyError as missing:
            if str(missing.args[0]) == name:
                self.wrong(f"the field `{name}` is missing", consequence="nothing says how large the model is")
            return
        if rule.choose:
            choices = self.common.choices[rule.choose] if isinstance(rule.choose, str) else rule.choose
            plain = value is None or isinstance(value, str | bool | int)
            chosen = choices.get(spelled(value), choices.get(OTHER)) if plain else None
            if chosen is None:
                self.wrong(
                    f"`{name}` is {str(value)[:80]!r}, which is not understood", f"known are: {', '.join(choices)}"
                )
                return
            self.chosen(name, chosen, model)
            self.agrees(name, spelled(value), rule)
        if value is None and rule.nullable:
            return
        if rule.meanings:
            value = self.meaning(name, value, rule)
        try:
            for path in rule.to:
                put(model, path, _typed(path, forward(value, rule.via)))
        except ValueError as error:
            self.wrong(f"`{name}`: {error}")

    def setting(self, setting: Any) -> Any:
        """A setting of a table: the value, or what a field says. Raises KeyError, ValueError."""
        if not isinstance(setting, dict):
            return setting
        rule = FromField.model_validate(setting)
        return forward(self.value(rule.field), rule.via)

    def chosen(self, name: str, chosen: Mapping[str, Any], model: dict[str, Any]) -> None:
        """What a value of a field stands for."""
        for path, setting in chosen.items():
            try:
                put(model, path, self.setting(setting))
            except KeyError:
                continue  # said of the field that is missing
            except ValueError as error:
                self.wrong(f"`{name}` makes {path} of another field: {error}")

    def agrees(self, name: str, value: str, rule: Rule) -> None:
        """Fields that follow from another one say the same."""
        for other, wanted in rule.beside.get(value, {}).items():
            found = self.config.get(other)
            if found is not None and not same(found, wanted):
                self.wrong(
                    f"`{name}` is {value}, but `{other}` is {str(found)[:80]}, which is {spelled(wanted)} beside it",
                    f"remove `{other}`, which follows from `{name}`",
                    "one of both would be ignored",
                )

    def meaning(self, name: str, value: Any, rule: Rule) -> str:
        """What the token with an id means; it is kept, to be compared with the tokenizer's."""
        ids = {f"{meaning}_token_id": meaning for meaning in rule.meanings}
        found = next((meaning for of, meaning in ids.items() if same(value, self.value(of))), None)
        if found is None or not isinstance(value, int) or isinstance(value, bool):
            known = ", ".join(f"{of} ({spelled(self.value(of))})" for of in ids)
            self.wrong(f"`{name}` is {str(value)[:80]}, and no special token has this id", f"known are: {known}")
            return rule.meanings[0]
        self.read.tokens[found] = value
        return found

    # -- blocks --------------------------------------------------------------------------------------------------------
    def blocks(self, model: dict[str, Any]) -> None:
        family, layers = self.family, self.family.layers
        if layers is None:
            if isinstance(family.rope, RopeOf):
                self.position(model, family.rope, None)
            return
        types = self.types(model.get("layers"))
        kinds = list(dict.fromkeys(types))
        made = {}
        for kind in kinds:
            if kind not in layers.kinds:
                self.wrong(f"`{layers.field}` has {kind[:60]!r}", f"known are: {', '.join(layers.kinds)}")
                return
            whole = {k: copy.deepcopy(v) for k, v in model.items() if k in PARTS}
            self.own(whole, kind)
            made[kind] = whole
        if layers.first and types:
            made[FIRST] = copy.deepcopy(made[types[0]])
            for path, value in layers.first.items():
                put(made[FIRST], path, value)
            types = [FIRST, *types[1:]]
            kinds = list(dict.fromkeys(types))
            made = {kind: made[kind] for kind in kinds}
        if not made:
            return
        if len(made) == 1:
            model.update(made[kinds[0]])
            return
        base = made[kinds[0]]
        blocks = {kind: {k: v for k, v in whole.items() if v != base.get(k)} for kind, whole in made.items()}
        differing = {k for own in blocks.values() for k in own}
        model.update({k: v for k, v in base.items() if k not in differing})
        model["blocks"] = {kind: {k: made[kind][k] for k in sorted(differing)} for kind in kinds}
        model["pattern"] = _period(types)

    def own(self, whole: dict[str, Any], kind: str) -> None:
        """What a type of layer has of its own."""
        layers, of = self.family.layers, self.family.rope
        assert layers is not None
        for name, wanted in layers.kinds[kind].config.items():
            if not same(self.value(name), wanted):
                self.wrong(f"`{layers.field}` has {kind}, but `{name}` is {spelled(self.config.get(name))}")
        for path, setting in layers.kinds[kind].settings.items():
            try:
                value = self.setting(setting)
            except (KeyError, ValueError):
                value = None
            if value is None and isinstance(setting, dict):
                self.wrong(f"`{layers.field}` has {kind}, and `{setting['field']}` says nothing")
                continue
            put(whole, path, value)
        if of is not None:
            self.position(whole, of if isinstance(of, RopeOf) else of[kind], kind)

    def position(self, whole: dict[str, Any], of: RopeOf, kind: str | None) -> None:
        context = self.read.model.get("context")
        try:
            whole["position"] = self.rope(of, kind, context)
        except rope.Unreadable as error:
            self.wrong(f"rotary positions: {error}", consequence="the model would misread positions")
            return
        self.read.model["context"] = rope.extended(whole["position"], context)

    def rope(self, of: RopeOf, kind: str | None, context: Any) -> dict[str, Any]:
        """The `position:` of a type of layer, None where all are alike. Raises rope.Unreadable."""
        return rope.read(self.config, of, kind, context)

    def types(self, count: Any) -> list[str]:
        """The type of each layer."""
        layers = self.family.layers
        assert layers is not None
        given = self.config.get(layers.field)
        if not _whole(count) or not 0 < count <= MOST_LAYERS:
            return []
        if given is not None:
            if not isinstance(given, list) or len(given) != count or not all(isinstance(t, str) for t in given):
                self.wrong(f"`{layers.field}` does not name a type for each of {count} layers")
                return []
            return list(given)
        for rule in layers.absent:
            if all(same(self.value(name), wanted) for name, wanted in rule.when.items()):
                return self._types_by(rule, count)
        return []

    def _types_by(self, rule: LayersAbsent, count: int) -> list[str]:
        if rule.cycle:
            return [rule.cycle[i % len(rule.cycle)] for i in range(count)]
        if rule.every is not None:
            n = self.value(rule.every) if isinstance(rule.every, str) else rule.every
            if not _whole(n) or n < 1:
                self.wrong(f"`{rule.every}` is {n!r}, which is no number of layers")
                return []
            return [rule.then if (i + (not rule.from_zero)) % n == 0 else rule.otherwise for i in range(count)]
        start = self.value(rule.since or "")
        start = start if start == 0 or _whole(start) else count
        return [rule.then if i >= start else rule.otherwise for i in range(count)]


PARTS = ("attention", "mlp", "position", "norm", "mask", "residual")
"""Keys of `model:` that a block may have of its own."""
_FLOATS = ("eps", "scale", "softcap", "balance")


def _typed(path: str, value: Any) -> Any:
    """A number as a spec wants it: JSON has one kind."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if number and path.rpartition(".")[2] in _FLOATS else value


def _asked(rules: tuple[LayersAbsent, ...]) -> set[str]:
    found = {name for rule in rules for name in rule.when}
    return found | {n for rule in rules for n in (rule.every, rule.since) if isinstance(n, str)}


def _period(types: list[str]) -> list[str]:
    from llmspec.compiler.plan_settings import period

    return period(types)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
