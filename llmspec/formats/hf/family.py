"""What a mapping table says: how a family's config.json and tensors correspond to a spec and its tensors.

A table is one YAML file in families/, used both ways. Nothing else knows a family.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from llmspec.parts.base import Frozen
from llmspec.parts.dropout import Site
from llmspec.parts.heads.pooling import Pooling

FOLDER = Path(__file__).parent / "families"
SHARED = "_shared"
"""The table of what all families have in common."""
OTHER = "*"
"""Stands among the values of a field for all that are not named."""
Via = Literal["same", "inverse_sqrt", "half_plus_one", "less_two"]
"""How a number of config.json becomes one of a spec: as it is, x^(-1/2), x // 2 + 1, or x - 2."""


class FromField(Frozen):
    """A setting that has the value of a field."""

    field: str
    via: Via = "same"


class Rule(Frozen):
    """What a field of config.json says."""

    to: tuple[str, ...] = Field((), strict=False)
    """Paths in `model:` that have its value."""
    absent: Any = None
    """What it is where it is left out: a value, or {same_as: FIELD}, {quotient: [FIELD, FIELD]}, {product: [NUMBER,
    FIELD]}; a field without this key has to be there."""
    nullable: bool = False
    """Whether null is a value, and leaves the paths out; elsewhere null is as good as absent."""
    via: Via = "same"
    choose: dict[str, dict[str, Any]] | str = Field(default_factory=dict)
    """Its values, as JSON writes them but without quotes -> settings by path (values, or {field: FIELD}); or the name
    of a shared choice."""
    beside: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Its values -> fields that follow from it, and say the same where a file has them."""
    meanings: tuple[str, ...] = Field((), strict=False)
    """Its value is the id of a special token, and the paths have that token's meaning: the first of these whose own
    field (`pad_token_id` of `pad`) has this id."""

    @field_validator("to", mode="before")
    @classmethod
    def _one(cls, to: Any) -> Any:
        return (to,) if isinstance(to, str) else to

    @property
    def required(self) -> bool:
        return "absent" not in self.model_fields_set


class LabelledLayer(Frozen):
    """A head whose outputs config.json counts and names (`id2label`), and says what they are (`problem_type`)."""

    each: Literal["text", "token"]
    """What the outputs are of."""
    layer: str
    """The module of a file that makes them."""
    bias: bool
    """Whether it adds a bias."""
    pooling: Pooling | None = None
    """What stands for a text; None where the outputs are of each token."""
    pooler: str = ""
    """The module of a file with the dense layer and tanh that this passes through first; '' where there is none."""


class Architecture(Frozen):
    """A class of transformers: what its network ends in."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings by path, of the heads."""
    labelled: LabelledLayer | None = None
    """Its one head, where labels are what it gives: its settings and tensors follow from this and from config.json."""
    fields: dict[str, Rule] = Field(default_factory=dict)
    tensors: dict[str, str] = Field(default_factory=dict)
    """Its own tensors, beside those of the body."""
    doubled: dict[str, str] = Field(default_factory=dict)
    """Names that files may have besides -> the tensor whose numbers they are."""
    unused: tuple[str, ...] = Field((), strict=False)
    """Patterns of names of other heads that files may have, and this network does not use."""
    bare: bool = False
    """Whether it is the body alone, whose tensors have no prefix in files."""


class RopeOf(Frozen):
    """Rotary positions of one type of layer, or of all."""

    theta: float = 10_000.0
    """Theta where no field says it."""
    fraction: float = 1.0
    """Share of a head that turns, where no field says it."""
    theta_field: str = "rope_theta"
    """Field that said it before there was `rope_parameters`."""
    fraction_field: str = "partial_rotary_factor"
    scaling_field: str | None = "rope_scaling"


class LayerKind(Frozen):
    """A type of layer in `layer_types`."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """What such a block has of its own, by path: values, or {field: FIELD}."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields that have to have these values where a layer is of this type."""


class LayersAbsent(Frozen):
    """The types of layers where `layer_types` is left out: one of several rules, the first that holds."""

    when: dict[str, Any] = Field(default_factory=dict)
    """Values of fields under which it holds; all."""
    cycle: tuple[str, ...] = Field((), strict=False)
    """Types from the first layer on, repeated."""
    every: int | str | None = None
    """Layers n, 2n, … (counted from 1) are `then`: n, or the field that says n."""
    from_zero: bool = False
    """Whether layers 0, n, 2n, … (counted from 0) are `then` instead."""
    since: str | None = None
    """Layers from this number on (counted from 0) are `then`: the field that says it."""
    then: str = ""
    otherwise: str = ""


class Layers(Frozen):
    """Blocks that differ."""

    field: str = "layer_types"
    absent: tuple[LayersAbsent, ...] = Field(strict=False)
    kinds: dict[str, LayerKind]
    first: dict[str, Any] = Field(default_factory=dict)
    """What the first layer has of its own besides, by path."""


class Mapped(Frozen):
    """A module of a file, and what it is of ours."""

    to: tuple[str, ...] = Field(strict=False)
    """Our modules; several that lie in one tensor of the file."""
    transposed: bool = False
    """Whether matrices lie there as (inputs, outputs)."""
    join: Literal["rows", "heads"] = "rows"
    """How several lie in one tensor: one below another, or those of each head together."""
    needs: str = ""
    """A module of ours without which this is not the file's name; '' for none."""
    stack: bool = False
    """Whether `#` in the file's name counts tensors that are one of ours, stacked."""
    rows: Literal["as_ours", "interleaved"] = "as_ours"
    """Order of a matrix's rows within each head: that of ours, whose halves turn together, or that of neighbours."""
    offset: float = 0.0
    """What the file's numbers have more than ours: 1 where a scale lies there whole, which ours has less 1."""

    @field_validator("to", mode="before")
    @classmethod
    def _one(cls, to: Any) -> Any:
        return (to,) if isinstance(to, str) else to


class Tensors(Frozen):
    """The body's tensors. In a file `like: FAMILY` stands for those of another, beside which a table names its own."""

    prefix: str
    """What their names begin with beside a head's; left out in files of the body alone."""
    map: dict[str, Mapped]
    """Module (or whole name) in files, `*` for the layer -> ours."""
    ignored: tuple[str, ...] = Field((), strict=False)
    """Patterns of names that hold no weights."""
    renamed: dict[str, str] = Field(default_factory=dict)
    """Endings of names in old files -> what they are now."""

    @field_validator("map", mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        return {k: v if isinstance(v, dict) else {"to": v} for k, v in found.items()}


class Family(Frozen):
    """One mapping table."""

    model_type: str
    """As config.json names it."""
    also: tuple[str, ...] = Field((), strict=False)
    """Other model types that are the same thing."""
    architectures: dict[str, Architecture]
    """Classes of transformers by name; the first where config.json names none."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings that hold for all of the family, by path in `model:`."""
    fields: dict[str, Rule]
    """Fields that say something of the network."""
    rope: RopeOf | dict[str, RopeOf] | None = None
    """Rotary positions: of all layers, or by type of layer."""
    layers: Layers | None = None
    fixed: dict[str, tuple[Any, ...]] = Field(default_factory=dict, strict=False)
    """Fields that would change the computation -> the values that are understood."""
    dropout: dict[str, tuple[Site, ...]] = Field(default_factory=dict, strict=False)
    """Fields with shares that training drops -> our sites."""
    training: tuple[str, ...] = Field((), strict=False)
    """Other fields that only training asks for."""
    ignored: tuple[str, ...] = Field((), strict=False)
    """Fields that cannot change what is computed."""
    tensors: Tensors


class Shared(Frozen):
    """What all families have in common."""

    choices: dict[str, dict[str, dict[str, Any]]]
    """Name of a choice -> value of a field -> settings."""
    fixed: dict[str, tuple[Any, ...]] = Field(strict=False)
    dropout: dict[str, tuple[Site, ...]] = Field(default_factory=dict, strict=False)
    training: tuple[str, ...] = Field(strict=False)
    ignored: tuple[str, ...] = Field(strict=False)


def read_table(path: Path) -> Any:
    """A table as plain data, by libyaml where PyYAML has it, four times as fast: what is less exact are its words for
    mistakes, which a table that is shipped does not have."""
    import yaml

    from llmspec.spec.yaml12 import Composer, Text

    text = path.read_text("utf-8")
    composer = Composer(Text(text, str(path)), loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    root = composer.compose(0, len(text))
    assert root is not None and not composer.problems, f"{path} is no YAML: {composer.problems}"
    return root.data()


def merged(folder: Path, name: str) -> Any:
    """A table whose `tensors` are `like` another's: theirs, and its own before them."""
    found = read_table(folder / f"{name}.yaml")
    tensors = dict(found["tensors"])
    if like := tensors.pop("like", None):
        base = merged(folder, like)["tensors"]
        tensors = {**base, **tensors, "map": {**base["map"], **tensors.get("map", {})}}
    return {**found, "tensors": tensors}


@cache
def shared() -> Shared:
    """What all families have in common."""
    return Shared.model_validate(read_table(FOLDER / f"{SHARED}.yaml"))


@cache
def families() -> dict[str, Family]:
    """Every family by the name of its file, in alphabetical order."""
    names = sorted(p.stem for p in FOLDER.glob("*.yaml") if p.stem != SHARED)
    return {name: Family.model_validate(merged(FOLDER, name)) for name in names}


def family_of(model_type: str) -> Family | None:
    """The family of a model type; None where there is no table for it."""
    return next((f for f in families().values() if model_type in (f.model_type, *f.also)), None)
