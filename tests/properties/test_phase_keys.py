"""A phase's key changes with everything that shapes its weights, and with nothing else; `explain A B` says the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import tiny
import tokenizer_files
from hypothesis import event, given, settings
from hypothesis import strategies as st
from other_values import BY_HAND
from pydantic import BaseModel
from strategies import models_for, phase_settings, redrawn, specs, yaml_text
from strategies_values import TABLES, Data, fields_of, required, rewarded, value_of

from llmspec.compiler import compile_spec, complete
from llmspec.compiler.draft import Draft, sections_of
from llmspec.compiler.keys import DERIVED, SHOWN_ONLY, address_phases
from llmspec.compiler.plan import BlockPlan, ModelPlan, Plan
from llmspec.core.problems import DataError, SpecError
from llmspec.core.units import Budget, Share
from llmspec.explain.compare import explain_difference
from llmspec.parts import attentions, optimizers, phases
from llmspec.parts.adapters import Adapter
from llmspec.parts.base import Frozen, Part, parts_of
from llmspec.parts.heads import Head
from llmspec.parts.objectives.value_function import ValueFunction
from llmspec.parts.optimizers.base import Optimizer
from llmspec.parts.phases.base import REWARD_MODEL
from llmspec.parts.schedules.base import Span
from llmspec.parts.sources import Source, Validation
from llmspec.parts.sources.base import LIMITS_AND_CREDITS
from llmspec.parts.tokenizers.base import Tokenizer
from llmspec.spec import load_spec
from llmspec.spec.schema import ModelSpec
from llmspec.spec.shape import allows_none, shape_of

BLOCK = ("position", "attention", "mask", "mlp", "norm")
"""Tables whose parts stand in a block."""
SHAPED = (*BLOCK, "embedding", "head", "init", "optimizer", "schedule", "objective", "adapter")
"""Tables whose parts stand in a model or in a phase."""


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Draft:
    """A planned spec of two phases, before its keys."""
    spec = load_spec(tiny.write(tmp_path_factory.mktemp("keys"))).spec
    plan = compile_spec(spec)
    made = Draft(sections_of(spec), None, plan.model.dims, plan.device, plan.model, (), plan.phases)
    assert keys(made) == [p.key for p in plan.phases], "the pass gives the keys of the plan"
    return made


def keys(draft: Draft) -> list[str]:
    return [p.key for p in address_phases(draft).planned]


def with_phase(draft: Draft, phase: Any) -> Draft:
    """The draft with another last phase."""
    return replace(draft, planned=(draft.planned[0], draft.planned[1].model_copy(update={"phase": phase})))


def with_network(draft: Draft, network: ModelPlan) -> Draft:
    """The draft whose phases all train another model."""
    planned = tuple(p.model_copy(update={"model": network}) for p in draft.planned)
    return replace(draft, network=network, planned=planned)


def placed(draft: Draft, table: str, value: Any) -> Draft:
    """The draft with a part of a table at its place: in every block, in the model, or in the last phase."""
    assert draft.network is not None
    if table in BLOCK:
        (stack,) = draft.network.stacks
        blocks = tuple(block.model_copy(update={table: value}) for block in stack.blocks)
        change: dict[str, Any] = {"stacks": (stack.model_copy(update={"blocks": blocks}),)}
    elif table in ("embedding", "head", "init"):
        change = {"heads": {"lm": value}} if table == "head" else {table: value}
    else:
        return with_phase(draft, draft.planned[1].phase.model_copy(update={table: value}))
    return with_network(draft, draft.network.model_copy(update=change))


# -- every field, by its type ------------------------------------------------------------------------------------------
def others(owner: type[BaseModel], name: str, now: Any) -> list[Any]:
    """Some values of a field that are not the one it has. Fails where neither its type nor BY_HAND gives any."""
    info = owner.model_fields[name]
    planned = ModelPlan | phases.Phase | Source | Tokenizer | Adapter | Head | Optimizer | ValueFunction
    if name in BY_HAND and issubclass(owner, planned):
        found = list(BY_HAND[name])
    elif isinstance(now, dict) and now and isinstance(first := next(iter(now.values())), Part):
        found = [{"another": first}, *({**now, next(iter(now)): other} for _, other in changes(first))]
    elif now == {} and "lm" in table_of(info):
        found = [{"another": TABLES["head"]["lm"]()}]
    elif name == "order":
        found = [(*now, 0), ()]
    elif (table := table_of(info)) or isinstance(now, Frozen):
        found = [
            *(kind(**required(kind)) for kind in table.values()),
            *([] if now is None else [value for _, value in changes(now)]),
        ]
    elif allows_none(info.annotation) and (section := shape_of(info).parts.get("")):
        found = [section(), *(value for _, value in changes(section()))]
    elif isinstance(now, tuple) and now and isinstance(now[0], Frozen):
        found = [(other, *now[1:]) for _, other in changes(now[0])]
    elif str in (info.annotation, *get_args(info.annotation)):
        found = ["another"]
    else:
        found = [typed(info.annotation, v) for v in drawn(info)]
    found = [value for value in found if value != now]
    assert found, f"{owner.__name__}.{name}: no other value is known; add some to BY_HAND"
    return found


def table_of(info: Any) -> dict[str, Any]:
    """The kinds of a field that holds a part, or nothing; empty where it holds none."""
    return {kind: part for kind, part in (shape_of(info).item or shape_of(info)).parts.items() if kind}


def drawn(info: Any) -> list[Any]:
    """Values that a field's type and limits allow; the same each time."""
    strategy = value_of(info.annotation, tuple(info.metadata))
    assert strategy is not None, f"no value is known for a {info.annotation}"
    found: list[Any] = []

    @settings(max_examples=8, database=None, derandomize=True)
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def typed(annotation: Any, value: Any) -> Any:
    """A value as the part would hold it: `5%` becomes what it is read as."""
    reads = next((k for k in (annotation, *get_args(annotation)) if k in (Share, Span)), None)
    return reads.parse(value) if reads and isinstance(value, str) else value


def changes(value: Frozen) -> Iterator[tuple[str, Any]]:
    """(field, the value with that field changed), for every field that may have another value."""
    for name, info in type(value).model_fields.items():
        if not (
            get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1
        ):  # it has no other value
            for other in others(type(value), name, getattr(value, name)):
                yield name, value.model_copy(update={name: other})


def test_every_field_of_a_model(draft: Draft) -> None:
    assert draft.network is not None
    base, seen = set(keys(draft)), set()
    planned = {*ModelPlan.model_fields, *BlockPlan.model_fields}
    as_stacks = {"layers", "blocks", "pattern", "encoder"}
    assert set(ModelSpec.model_fields) - as_stacks <= planned, "what a spec says of a model, its plan holds"
    for name, other in changes(draft.network):
        same = base & set(keys(with_network(draft, other)))
        assert same == (base if name in DERIVED else set()), name
        seen.add(name)
    assert seen == set(ModelPlan.model_fields)


@pytest.mark.parametrize(("table", "kind"), [(t, k) for t in SHAPED for k in TABLES[t]])
def test_every_field_of_every_part(draft: Draft, table: str, kind: str) -> None:
    """Of parts in parts too: Muon's AdamW."""
    part = TABLES[table][kind](**required(TABLES[table][kind]))
    assert draft.network is not None
    base = keys(placed(draft, table, part))[1]
    for name, other in changes(part):
        assert keys(placed(draft, table, other))[1] != base, f"{table}.{kind}.{name}: {getattr(other, name)!r}"


@pytest.mark.parametrize("kind", list(phases.TABLE))
def test_every_field_of_every_phase(draft: Draft, kind: str) -> None:
    part = phases.TABLE[kind]
    asked = {} if part.makes == REWARD_MODEL else {"prompts": ("one",)}
    phase = part(
        mixture={"facts": Share(100.0)}, budget=Budget(5.0, "steps"), from_="pretrain", **asked, **rewarded(part)
    )
    first, base = keys(with_phase(draft, phase))
    for name, other in changes(phase):
        changed = keys(with_phase(draft, other))
        assert changed[0] == first, "the phase before it is left alone"
        assert (changed[1] == base) == (name in SHOWN_ONLY or (name, other.judged) == ("keep", None)), other
    assert set(SHOWN_ONLY) <= {n for p in phases.TABLE.values() for n in p.model_fields}, "only keys that there are"


@pytest.mark.parametrize(("table", "kind"), [(t, k) for t in (*SHAPED, "phase") for k in TABLES[t]])
def test_every_revision(draft: Draft, table: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draft.network is not None
    part = TABLES[table][kind]
    if table == "phase":
        more = {"from_": "pretrain", **rewarded(part)}
        made = with_phase(draft, part(mixture={"facts": Share(100.0)}, budget=Budget(5.0, "steps"), **more))
    else:
        made = placed(draft, table, part(**required(TABLES[table][kind])))
    base = keys(made)[1]
    monkeypatch.setattr(part, "revision", 77)
    assert keys(made)[1] != base


def test_revisions_of_parts_in_parts_and_of_what_is_read(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(draft.planned[0].phase.optimizer, optimizers.TABLE["muon"])
    nested = {name for name, _ in parts_of(draft.planned[0].phase)}
    assert {"optimizers.muon", "optimizers.adamw", "schedules.cosine", "objectives.cross_entropy"} <= nested
    for part in (optimizers.TABLE["adamw"], type(draft.sections.tokenizer), type(draft.sections.sources["docs"])):
        base = keys(draft)
        with monkeypatch.context() as patch:
            patch.setattr(part, "revision", 77)
            assert not set(keys(draft)) & set(base), part
    assert attentions.TABLE  # the tables are those that specs are made of


SOURCES = {
    "files": {"path": "a.txt"},
    "inline": {"records": ({"q": "1", "a": "2"},)},
    "python_docs": {},
    "package": {"package": "some-text", "version": "1.0", "sha256": "0" * 64, "files": "*.txt"},
}
"""What a source of each kind cannot be without."""


@pytest.mark.parametrize("kind", list(TABLES["source"]))
def test_every_field_of_every_source(draft: Draft, kind: str) -> None:
    """Before any text is read; once it is, its own hash stands there."""
    source = TABLES["source"][kind](**SOURCES[kind], validation=Validation("tail", "10%"))

    def placed(value: Any) -> Draft:
        read = {**draft.sections.sources, "docs": value}
        return replace(draft, sections=replace(draft.sections, sources=read))

    base = keys(placed(source))
    for name, other in changes(source):
        same = keys(placed(other)) == base
        assert same == (name in LIMITS_AND_CREDITS), f"{name}: {getattr(other, name)!r}"


@pytest.mark.parametrize("kind", list(TABLES["tokenizer"]))
def test_every_field_of_every_tokenizer(draft: Draft, kind: str) -> None:
    tokenizer = TABLES["tokenizer"][kind](**tokenizer_files.SETTINGS.get(kind, {}))
    base = keys(replace(draft, sections=replace(draft.sections, tokenizer=tokenizer)))
    for name, other in changes(tokenizer):
        same = keys(replace(draft, sections=replace(draft.sections, tokenizer=other))) == base
        assert same == (name == "max_unknown"), f"{name}: {getattr(other, name)!r}"


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", 8), ("device", "CUDA"), ("precision", "bfloat16"), ("beam", 2), ("contamination", "allow")],
)
def test_what_a_whole_spec_says(draft: Draft, field: str, value: Any) -> None:
    own = {field: value} if field == "device" else {"sections": replace(draft.sections, **{field: value})}
    assert not set(keys(draft)) & set(keys(replace(draft, **own)))


def test_a_part_without_its_fields_in_the_key_is_found(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmspec.compiler import keys as module

    monkeypatch.setattr(module, "DERIVED", (*DERIVED, "context"))
    with pytest.raises(AssertionError, match="context"):
        test_every_field_of_a_model(draft)


# -- explain A B -------------------------------------------------------------------------------------------------------
@st.composite
def pairs(draw: st.DrawFn) -> tuple[Data, Data]:
    """A spec, and the same with one section or key drawn anew."""
    first = draw(specs())
    second = {**first, "phases": {name: dict(phase) for name, phase in first["phases"].items()}}
    name = draw(st.sampled_from(list(second["phases"])))
    phase, sources = second["phases"][name], list(first["data"]["sources"])
    predicts = phases.TABLE[phase["kind"]].predicts
    what = draw(st.sampled_from(["model", "part", "phase", "shown", "source", "top", "contamination", "nothing"]))
    if what == "model":
        second["model"] = draw(models_for(predicts))
    elif what == "part":
        table = draw(st.sampled_from(["optimizer", "schedule", "objective"]))
        phase[table] = draw(redrawn(table, predicts))
        phase[table].pop("warmup", None)
    elif what == "phase":
        kept = {k: phase[k] for k in ("from", "kind") if k in phase}
        second["phases"][name] = {**draw(phase_settings(sources, [], predicts)), **kept}
    elif what == "shown":
        phase |= {"prompts": ["[MASK]"], "sample_every": "1 steps", "checkpoint_every": "2 steps", "evaluate_every": 0}
    elif what == "source":
        source = draw(st.sampled_from(sources))
        change = draw(
            st.sampled_from(
                [
                    {"validation": "hash 30%"},
                    {"license": "MIT"},
                    {"max_epochs": 6},
                    {"max_dropped": "90%"},
                    {"attribution": "somebody"},
                ]
            )
        )
        second["data"] = {
            **first["data"],
            "sources": {**first["data"]["sources"], source: {**first["data"]["sources"][source], **change}},
        }
    elif what == "top":
        second |= draw(st.sampled_from([{"seed": 100}, {"name": "another"}, {"decoding": {"top_k": 3}}]))
    elif what == "contamination":
        second["data"] = {**first["data"], "contamination": draw(st.sampled_from(["drop", "refuse", "allow"]))}
    return first, second


def plans_of(data: Data, folder: Path) -> tuple[Plan, Plan | None]:
    """(plan before its data are read, plan after; None where the data do not do)."""
    from llmspec.data.prepare import prepare

    path = tiny.write(folder, yaml_text(data))
    plan = compile_spec(load_spec(path).spec, base=str(folder))
    try:
        return plan, complete(plan, prepare(plan, offline=True).measured)
    except (DataError, SpecError):
        return plan, None


@settings(max_examples=40)
@given(pair=pairs())
def test_explaining_two_specs_says_what_a_run_will_do(
    pair: tuple[Data, Data], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    try:
        (a, a_read), (b, b_read) = (plans_of(data, folder) for data in pair)
    except SpecError:  # heads, widths and steps that do not go together
        event("refused")
        return
    fates = []
    for first, second in ((a, b), (a_read, b_read), (a, b_read), (a_read, b)):
        if first is None or second is None:
            continue
        report = explain_difference(first, second, ("a", "b"))
        fates.append({p.name: p.fate for p in report.phases})
        changed = [d.path for d in report.differences]
        for found in report.phases:
            shown = tuple(f"phases.{found.name}.{key}" for key in SHOWN_ONLY)
            assert (found.fate == "retrained") == bool(found.why)
            assert not any(word.startswith(shown) for word in found.why.split(", "))
            if not changed:
                assert found.fate == "reused"
            if found.fate == "retrained":
                assert found.why != "the text it reads, or the version of llmspec", changed
    event(" ".join(sorted(set(fates[0].values()))))
    if a_read and b_read:
        # What a run will do follows from the keys of plans whose data were read.
        really = {p.name: "reused" if p.key == b_read.phase(p.name).key else "retrained" for p in a_read.phases}
        assert all(found == really for found in fates), fates


def test_the_resolved_spec_is_a_spec_and_keeps_the_keys(tmp_path: Path) -> None:
    from llmspec.training.run import resolved

    plan = compile_spec(load_spec(tiny.write(tmp_path), ["model.init.std=0.05"]).spec)
    again = compile_spec(load_spec(tiny.write(tmp_path, resolved(plan), "resolved.yaml")).spec)
    assert [p.key for p in again.phases] == [p.key for p in plan.phases] and again.model == plan.model


def test_a_plan_of_an_older_version_still_opens(tmp_path: Path) -> None:
    """It does not say how weights started; what is not known is not made up."""
    plan = compile_spec(load_spec(tiny.write(tmp_path)).spec)
    dumped = plan.dump()
    del dumped["model"]["init"]
    old = Plan.parse(json.dumps(dumped))
    assert old.model.init is None and "init" not in old.settings()["model"] and old.model.tensors == plan.model.tensors
    report = explain_difference(old, plan, ("old", "new"))
    assert {p.fate for p in report.phases} == {"reused"}, "keys are compared as they stand"


def test_the_tables_above_are_all_that_models_and_phases_hold() -> None:
    def tables(owner: type[BaseModel]) -> set[str]:
        return {name for name, info in fields_of(owner).items() if shape_of(info).has_kinds}

    assert tables(ModelSpec) | tables(phases.Phase) | {"head"} == {*SHAPED, "cross_attention"}
