"""A wheel as it is built and installed: the shipped specs are inside, and work from any folder by their names."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import stand_ins
import tiny

from llmspec.core import shipped
from llmspec.spec import load_spec

FILES = {path.stem: path for path in sorted((tiny.ROOT / "specs").rglob("*.yaml"), key=lambda path: path.name)}
SPECS = list(FILES)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a built wheel was unpacked, as an installer does."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=tiny.ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def call(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmspec", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
        timeout=300,
    )


def test_every_shipped_spec_is_in_the_wheel(installed: Path) -> None:
    home = installed / "llmspec" / "specs"
    assert {path.relative_to(home) for path in home.rglob("*.yaml")} == {
        path.relative_to(tiny.ROOT / "specs") for path in FILES.values()
    }
    assert (installed / "llmspec" / "specs" / "schema.json").is_file()


def test_a_shipped_spec_is_found_by_name_from_any_folder(installed: Path, tmp_path: Path) -> None:
    for name in ("quickstart", "smollm2-135m"):
        done = call(installed, tmp_path, "check", name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(f"ok: {name}")


def test_a_users_spec_extends_a_shipped_one_and_trains(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nextends: quickstart\nmodel: {layers: 1, d_model: 16, context: 16,"
        " attention: {heads: 2, kv_heads: 1}, mlp: {d_ff: 16}}\n"
        "tokenizer: {kind: byte}\ndata: {sources: {plays: null, wiki: null, docs: {kind: python_docs}}}\n"
        "phases: {chat: null, pretrain: {mixture: {docs: 100%}, budget: 2 steps, prompts: []}}\n"
        "decoding: {max_tokens: 4}\n"
    )
    done = call(installed, tmp_path, "run", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "mine" / "spec" / "quickstart.yaml").is_file()


@pytest.mark.parametrize("name", SPECS)
def test_names_and_files_mean_the_same_spec(name: str) -> None:
    here, other, named = (load_spec(given, (), stand_ins.models).spec for given in (FILES[name], name, f"{name}.yaml"))
    assert shipped.names() == tuple(SPECS)
    assert here == other == named


def test_a_file_of_the_user_comes_before_a_shipped_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path, name="quickstart.yaml")
    assert load_spec("quickstart.yaml").spec.name == "tiny"
    assert load_spec("quickstart").spec.name == "quickstart"


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("quikstart", "did you mean the shipped spec `quickstart`?"),
        ("something-else", "shipped specs are: adapt-smollm2, align-smollm2"),
    ],
)
def test_a_name_that_is_none_says_which_there_are(
    written: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmspec.spec import read_spec

    monkeypatch.chdir(tmp_path)
    (problem,) = read_spec(written).problems
    assert problem.message == f"there is no file `{written}`" and problem.hint.startswith(hint)
