"""Laws of layers: `extends:` and `--set`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import specs, yaml_text

from llmspec.core.problems import Mark
from llmspec.data.fetch import Fetch
from llmspec.spec import SpecReading, read_spec
from llmspec.spec.layers import merge
from llmspec.spec.yaml12 import Node

HERE = Mark("x", 1, 1)
BASE = """\
name: base
model: {context: 8, d_model: 8, layers: 1, position: {kind: rope, theta: 500}, mlp: {kind: swiglu, d_ff: 8}}
data: {sources: {a: {kind: inline, documents: [one, two]}, b: {kind: inline, documents: [three]}}}
phases:
  p: {kind: pretrain, mixture: {a: 50%, b: 50%}, budget: 9 steps, optimizer: {lr: 0.1, beta1: 0.5}, prompts: [x, y]}
decoding: {temperature: 0.5, stop: [one, two]}
"""


def nodes(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({k: nodes(v) for k, v in value.items()}, HERE)
    return Node(tuple(map(nodes, value)), HERE) if isinstance(value, list | tuple) else Node(value, HERE)


def merged(*layers: Any) -> Any:
    out = nodes(layers[0])
    for layer in layers[1:]:
        out = merge(out, nodes(layer))
    return out.data()


KEYS = st.sampled_from(["a", "b", "c", "mixture"])
LAYERS = st.dictionaries(
    KEYS,
    st.recursive(
        st.one_of(st.integers(0, 9), st.lists(st.integers(0, 2), max_size=2).map(tuple)),
        lambda v: st.dictionaries(KEYS, v, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)


@given(LAYERS)
def test_an_empty_layer_changes_nothing(data: Any) -> None:
    assert merged({}, data) == merged(data, {}) == data


@given(LAYERS)
def test_a_layer_twice_is_a_layer_once(data: Any) -> None:
    assert merged(data, data) == data


@given(LAYERS, LAYERS)
def test_the_later_layer_wins(below: Any, above: Any) -> None:
    found = merged(below, above)
    assert set(found) == set(below) | set(above)
    for key, value in above.items():
        if not isinstance(value, dict) or key == "mixture":
            assert found[key] == value


@given(LAYERS, LAYERS, LAYERS)
def test_layers_can_be_put_together_in_any_grouping(a: Any, b: Any, c: Any) -> None:
    # Maps over maps only: a plain value between two maps cuts them apart from one side alone.
    def plain(data: Any) -> Any:
        return {k: plain(v) if isinstance(v, dict) else {} if k in "ab" else v for k, v in data.items()}

    def kinds(data: Any) -> Any:
        return {k: kinds(v) if k in "ab" and isinstance(v, dict) else 1 for k, v in plain(data).items() if k != "c"}

    a, b, c = kinds(a), kinds(b), kinds(c)
    assert merged(merged(a, b), c) == merged(a, merged(b, c))


@given(LAYERS, KEYS)
def test_null_removes_what_is_inherited_and_else_stays(data: Any, key: str) -> None:
    found = merged(data, {key: None})
    assert (key not in found) if key in data else found[key] is None


def read(folder: Path, *overrides: str, **files: str) -> SpecReading:
    (folder / "base.yaml").write_text(BASE)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return read_spec(folder / f"{next(iter(files), 'base')}.yaml", overrides)


def test_maps_merge_and_lists_and_mixtures_are_replaced(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        top="""\
extends: base.yaml
name: top
phases: {p: {mixture: {a: 100%}, prompts: [z], optimizer: {lr: 0.2}}}
decoding: {stop: []}
""",
    )
    spec = reading.sections.spec
    assert spec is not None, reading.problems
    phase = spec.phases["p"]
    assert {k: str(v) for k, v in phase.mixture.items()} == {"a": "100%"} and phase.prompts == ("z",)
    assert (phase.optimizer.lr, phase.optimizer.beta1) == (0.2, 0.5)  # type: ignore[attr-defined]
    assert (spec.decoding.temperature, spec.decoding.stop, spec.name) == (0.5, (), "top")
    assert [path.name for path, _ in reading.files] == ["top.yaml", "base.yaml"]


def test_a_changed_kind_drops_the_old_kinds_settings(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        top="""\
extends: base.yaml
model: {position: {kind: alibi}, mlp: {kind: swiglu, bias: true}}
phases: {p: {optimizer: {kind: sgd, momentum: 0.5}}}
""",
    )
    spec = reading.sections.spec
    assert spec is not None, reading.problems
    assert spec.model.position.kind == "alibi" and spec.model.mlp.d_ff == 8  # type: ignore[attr-defined]
    # The base never wrote `kind: adamw`, and beta1 is adamw's all the same.
    assert spec.phases["p"].optimizer.lr == 1e-3  # type: ignore[attr-defined]


def test_null_deletes_unless_it_is_itself_a_setting(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        top="""\
extends: base.yaml
model: {mlp: {d_ff: null}, position: null}
phases: {p: {mixture: {a: 100%}, max_grad_norm: null, prompts: null}}
data: {sources: {b: null}}
""",
    )
    spec = reading.sections.spec
    assert spec is not None, reading.problems
    assert list(spec.data.sources) == ["a"] and spec.phases["p"].prompts == ()
    assert spec.phases["p"].max_grad_norm is None and spec.model.position.theta == 10_000  # type: ignore[attr-defined]


def test_clip_null_above_a_clip_turns_clipping_off(tmp_path: Path) -> None:
    files = {
        "top": "extends: mid.yaml\nphases: {p: {max_grad_norm: null}}",
        "mid": "extends: base.yaml\nphases: {p: {max_grad_norm: 2.0}}",
    }
    spec = read(tmp_path, **files).sections.spec
    assert spec is not None and spec.phases["p"].max_grad_norm is None


def test_several_bases_are_layered_in_order(tmp_path: Path) -> None:
    files = {"top": "extends: [base.yaml, more.yaml]\nseed: 3", "more": "name: more\nseed: 2\ndevice: CPU"}
    spec = read(tmp_path, **files).sections.spec
    assert spec is not None and (spec.name, spec.seed, spec.device) == ("more", 3, "CPU")


def test_marks_point_to_the_file_where_a_value_is_written(tmp_path: Path) -> None:
    reading = read(tmp_path, mid="extends: base.yaml\nmodel:\n  layers: -1\n", top="extends: mid.yaml\nseed: x\n")
    reading = read_spec(tmp_path / "top.yaml", ["model.d_model=big"])
    places = {p.path: str(p.mark).replace(str(tmp_path), "") for p in reading.problems}
    assert places == {
        ("seed",): "/top.yaml:2:7",
        ("model", "layers"): "/mid.yaml:3:11",
        ("model", "d_model"): "--set model.d_model=big",
    }


def test_a_circle_is_refused_with_its_chain(tmp_path: Path) -> None:
    reading = read(tmp_path, a="extends: b.yaml", b="name: b\nextends: [base.yaml, a.yaml]")
    (problem,) = reading.problems
    assert problem.message == "specs extend each other in a circle: `a.yaml` → `b.yaml` → `a.yaml`"
    assert str(problem.mark).endswith("b.yaml:2:22")


def test_a_base_that_is_not_there_hides_no_other_problem_and_makes_none(tmp_path: Path) -> None:
    reading = read(tmp_path, top="extends: bse.yaml\nmodel: {layers: -1, context: 8}")
    assert [p.path for p in reading.problems] == [("extends",), ("model", "layers")]
    assert "did you mean" in reading.problems[0].hint


def test_extends_wants_a_path(tmp_path: Path) -> None:
    reading = read(tmp_path, top="extends: 3")
    assert reading.problems[0].message == "expected the path of a spec, or a model, not a number"


# -- --set ------------------------------------------------------------------------------------------------------------

CHANGES: dict[tuple[str | int, ...], Any] = {
    ("name",): "other",
    ("seed",): 7,
    ("model", "layers"): 2,
    ("model", "dropout"): 0.25,
    ("decoding", "stop"): ["a", "no"],
    ("decoding", "temperature"): 3e-4,
    ("tokenizer",): {"kind": "byte"},
    ("model", "heads", "lm", "bias"): True,
}


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(specs(), st.lists(st.sampled_from(list(CHANGES)), unique=True, min_size=1))
def test_set_equals_editing_the_file(tmp_path: Path, data: dict[str, Any], paths: list[tuple[str, ...]]) -> None:
    edited = copy.deepcopy(data)
    overrides = []
    for path in paths:
        at = edited
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = CHANGES[path]
        shown = str(CHANGES[path]).replace("'", '"')
        overrides.append(f"{'.'.join(path)}={shown.replace('True', 'true').replace('False', 'false')}")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    # As a map of its own, a tokenizer is replaced by an edit and merged by a layer.
    if ("tokenizer",) in paths:
        data = {k: v for k, v in data.items() if k != "tokenizer"}
    one.write_text(yaml_text(data))
    two.write_text(yaml_text(edited))
    left, right = read_spec(one, overrides), read_spec(two)
    assert left.sections.spec == right.sections.spec and left.sections.spec is not None, left.problems


def test_set_reaches_into_lists_and_quoted_names(tmp_path: Path) -> None:
    spec = read(tmp_path, "decoding.stop[1]=no", 'data.sources."a".license=1.0 or later').sections.spec
    assert spec is not None and spec.decoding.stop == ("one", "no") and spec.data.sources["a"].license == "1.0 or later"


def test_the_order_of_overrides_of_different_keys_does_not_matter(tmp_path: Path) -> None:
    both = ["model.mlp.d_ff=24", "model.mlp.kind=gelu"]
    first, second = read(tmp_path, *both), read(tmp_path, *reversed(both))
    assert first.sections.spec == second.sections.spec is not None
    assert first.sections.spec.model.mlp.d_ff == 24  # type: ignore[union-attr]


def test_null_by_set_restores_the_default(tmp_path: Path) -> None:
    spec = read(tmp_path, "decoding.temperature=null", "phases.p.max_grad_norm=null").sections.spec
    assert spec is not None and spec.decoding.temperature == 1.0 and spec.phases["p"].max_grad_norm is None


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("model.layers.x=3", "`model.layers` holds a number, which has no `x` inside", ""),
        ("phases.pp.budget=3 steps", "there is no phase `pp` to set this in", "did you mean `p`?"),
        ("data.sources.zzz.license=x", "there is no source `zzz` to set this in", "there is a, b"),
        ("decoding.stop[9]=x", "`decoding.stop` has 2 entries, counted from 0", ""),
        ("decoding[0]=x", "`decoding` is not a list in the file", "--set decoding=[…]"),
        ("model.layers", "expected a path, `=` and a value", "--set phases.pretrain.optimizer.lr=3e-4"),
        ("=3", "expected a path, `=` and a value", "--set phases.pretrain.optimizer.lr=3e-4"),
        ("a..b=3", "expected a path, `=` and a value", "--set phases.pretrain.optimizer.lr=3e-4"),
        (
            "decoding.stop=[a",
            "the value cannot be read: this `[` is never closed",
            "text may need quotes: --set 'decoding.stop=\"…\"'",
        ),
        ("modle.layers=3", "unknown key", "did you mean `model`?"),
        ("model.layer=3", "unknown key", "did you mean `layers`?"),
        ('model.layers="3"', "expected a whole number, not the text `3`", "write `3`, without quotes"),
    ],
)
def test_a_wrong_set_is_explained(tmp_path: Path, setting: str, message: str, hint: str) -> None:
    reading = read(tmp_path, setting)
    assert [(p.message, p.hint, str(p.mark)) for p in reading.problems] == [(message, hint, f"--set {setting}")]


# -- paths -----------------------------------------------------------------------------------------------------------


def paths(reading: SpecReading) -> Any:
    assert reading.sections.spec is not None, reading.problems
    return {
        name: source.path
        for name, source in reading.sections.spec.data.sources.items()  # type: ignore[attr-defined]
        if source.kind == "files"
    }  # type: ignore[attr-defined]


def texts(reading: SpecReading) -> set[str]:
    """Names of the files that a spec's sources find."""
    assert reading.sections.spec is not None, reading.problems
    return {
        Path(reading.base, document.name).resolve().name
        for source in reading.sections.spec.data.sources.values()
        if source.kind == "files"  # type: ignore[attr-defined]
        for document in source.documents(Fetch(Path(reading.base)))
    }


WITH_FILES = BASE.replace("{kind: inline, documents: [one, two]}", "{kind: files, path: 'texts/*.txt'}").replace(
    "{kind: inline, documents: [three]}", "{kind: files, path: ['more/b.txt', 'texts/a.txt']}"
)


@pytest.mark.parametrize(
    ("folder", "top", "name"),
    [
        ("shared", "top.yaml", "shared/base.yaml"),
        ("shared", "deep/in/top.yaml", "../../shared/base.yaml"),
        ("sh[a]red *", "top.yaml", "sh[a]red */base.yaml"),
        ("shared", "top.yaml", "{root}/shared/base.yaml"),
        ("shared", "top.yaml", "~/shared/base.yaml"),
        (".", "deep/top.yaml", "../base.yaml"),
    ],
)
def test_a_path_starts_in_the_folder_of_the_file_that_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, top: str, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    child = (tmp_path / top).parent
    for file in (
        tmp_path / folder / "texts" / "a.txt",
        tmp_path / folder / "more" / "b.txt",
        child / "texts" / "other.txt",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("text")
    (tmp_path / folder / "base.yaml").write_text(WITH_FILES)
    (tmp_path / top).write_text(f"extends: '{name.format(root=tmp_path)}'\nname: top\n")
    assert texts(read_spec(tmp_path / top)) == {"a.txt", "b.txt"}
    # And again one further, in a folder of its own: what is written there starts there, what is inherited does not.
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "c.txt").write_text("text")
    (tmp_path / "far" / "last.yaml").write_text(
        f"extends: ../{top}\ndata: {{sources: {{c: {{kind: files, path: c.txt}}}}}}\n"
    )
    assert texts(read_spec(tmp_path / "far" / "last.yaml")) == {"a.txt", "b.txt", "c.txt"}


def test_absolute_paths_and_home_folders_stay(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.yaml").write_text(
        BASE.replace(
            "{kind: inline, documents: [one, two]}", "{kind: files, path: ['/data/*.txt', '~/x.txt', 'y/../z.txt']}"
        )
    )
    (tmp_path / "top.yaml").write_text("extends: shared/base.yaml\n")
    assert paths(read_spec(tmp_path / "top.yaml"))["a"] == ("/data/*.txt", "~/x.txt", "shared/y/../z.txt")


def test_a_path_of_the_command_line_starts_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "specs")
    (tmp_path / "specs" / "top.yaml").write_text(WITH_FILES)
    monkeypatch.chdir(tmp_path / "work")
    for spec in ("../specs/top.yaml", "../link/top.yaml"):
        found = paths(
            read_spec(
                spec,
                [
                    "data.sources.a.path=x/*.txt",
                    "data.sources.b.path[1]=y.txt",
                    "data.sources.c={kind: files, path: [z.txt, /w.txt, ~/v.txt]}",
                ],
            )
        )
        assert found == {
            "a": "../work/x/*.txt",
            "b": ("more/b.txt", "../work/y.txt"),
            "c": ("../work/z.txt", "/w.txt", "~/v.txt"),
        }
    monkeypatch.chdir(tmp_path / "specs")
    assert paths(read_spec("top.yaml", ["data.sources.a.path=x/*.txt"]))["a"] == "x/*.txt"


def test_a_shipped_spec_has_no_texts_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "llmspec"
    (installed / "specs").mkdir(parents=True)
    (installed / "specs" / "quickstart.yaml").write_text(WITH_FILES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "top.yaml").write_text("extends: quickstart\n")
    monkeypatch.setattr("llmspec.core.shipped.PACKAGE", installed)
    monkeypatch.chdir(tmp_path)
    reading = read_spec(installed / "specs" / "quickstart.yaml", ["data.sources.b.path=y.txt"])
    assert reading.base == str(tmp_path) and paths(reading) == {"a": "texts/*.txt", "b": "y.txt"}
    reading = read_spec(tmp_path / "mine" / "top.yaml")
    assert reading.base == str(tmp_path / "mine") and paths(reading)["a"] == "texts/*.txt"
