"""Command lines as people really give them: the answer says what is meant, and never how Python ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperCommand

from llmspec.api import run_folder
from llmspec.cli import answered


def give(arguments: list[str], capsys: Any) -> tuple[int, str, str]:
    try:
        status = answered(arguments)
    except SystemExit as e:
        status = int(str(e.code))
    said = capsys.readouterr()
    return status, said.out, " ".join(said.err.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a spec, a text, a folder, and a run's folder that holds nothing but its plan's file."""
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path)
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "runs" / "mine" / "pretrain").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "plan.json").write_text("{}")
    return tmp_path


CLUMSY = [
    ("train quickstart", "no command `train`", "did you mean: llmspec run quickstart"),
    ("generate --prompt x", "no command `generate`", "llmspec sample --prompt x"),
    ("validate tiny.yaml", "no command", "llmspec check tiny.yaml"),
    ("rnu", "no command `rnu`", "llmspec run"),
    ("flub", "no command `flub`", "commands are: run, sample"),
    ("help", "no command `help`", "llmspec --help"),
    ("help run", "no command `help`", "llmspec run --help"),
    ("version", "no command", "llmspec --version"),
    ("-V", "no option `-V`", "llmspec --version"),
    ("tiny.yaml", "the command comes first", "llmspec run tiny.yaml"),
    ("tiny.yaml check --exact", "the command comes first", "llmspec check tiny.yaml"),
    ("runs/mine", "is a run directory, and the command comes first", "llmspec explain runs/mine"),
    ("--set seed=1 run tiny.yaml", "no option `--set`", "llmspec run --set seed=1 tiny.yaml"),
    ("run", "a spec is missing", "llmspec run quickstart"),
    ("run Quickstart", "no file `Quickstart`", "`quickstart`"),
    ("run tiny.yml", "no file `tiny.yml`", "`tiny.yaml`"),
    ("run empty.yaml", "empty.yaml:1:1: the file is empty", "name"),
    ("run text.txt", "not text", "name: my-model"),
    ("run dir", "`dir` is a folder", ""),
    ("run runs/mine", "is a run directory, but a spec is expected", "llmspec explain"),
    ("run tiny.yaml runs/x", "`runs/x` is one argument too many", "--out runs/x"),
    ("run tiny.yaml seed=3", "`seed=3` is one argument too many", "--set seed=3"),
    ("run tiny.yaml --set model.layers 3", "`3` is one argument too many", "--set model.layers=3"),
    ("run tiny.yaml --output x", "no option `--output`", "did you mean `--out`?"),
    ("run tiny.yaml --lr 1", "no option `--lr` of `llmspec run`", "by --set"),
    ("run tiny.yaml --set seed", "seed", "="),
    ("run tiny.yaml --set =1", "=1", ""),
    ("run https://example.com/a.yaml", "https://example.com/a.yaml", "download it first"),
    ("sample 'What is a violin?'", "not a run directory", "--prompt"),
    ("sample runs/mine 'a b'", "one argument too many", "--prompt 'a b'"),
    ("sample -p x", "no option `-p`", "`--prompt` or `--prompts`"),
    ("sample --temperature=0.5", "no option `--temperature`", "--set decoding.temperature=0.5"),
    ("sample tiny.yaml", "is a spec, not a run directory", "llmspec run tiny.yaml"),
    ("sample quickstart", "is a spec, not a run directory", "llmspec run quickstart"),
    ("sample mine2", "not a run directory", "did you mean `runs/mine`?"),
    ("sample --prompt", "requires an argument", "sample"),
    ("sample runs", "not a run directory", "runs/mine"),
    ("explain runs/mine/pretrain", "not a run", "the run is runs/mine"),
    ("sample runs/mine/plan.json", "it is a file", "the run is runs/mine"),
    ("sample --n 0", "--n", "sample --help"),
    ("explain model.mlp", "not a run directory", "--part model.mlp"),
    ("explain a b c", "`c` is one argument too many", ""),
    ("explain tiny.yaml --part mlp", "no part `mlp`", "`model.mlp`"),
    ("schema x.json", "one argument too many", "-o x.json"),
    ("bench --only speed", "called `speed`", "machine"),
    ("check tiny.yaml --device H100", "H100", "CUDA:sm_90"),
    ("init mine", "no command `init`", "llmspec new mine"),
    ("new tiny.yaml", "`tiny.yaml` is a file, but a folder", ""),
    ("new runs/mine", "is a run directory", "new FOLDER"),
    ("new", "missing argument 'FOLDER'", "new --help"),
    ("schema -o dir", "dir", ""),
    ("check '~no-such-user/x.yaml'", "~no-such-user/x.yaml", ""),
]


@pytest.mark.parametrize(("line", "message", "hint"), CLUMSY, ids=[line for line, *_ in CLUMSY])
def test_the_answer_says_what_is_meant(line: str, message: str, hint: str, here: Path, capsys: Any) -> None:
    import shlex

    status, out, said = give(shlex.split(line), capsys)
    assert status == 2 and not out and message in said and hint in said, said
    assert "Traceback" not in said and "unexpected" not in said
    assert "last checkpoint" not in said or line.startswith("run")


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["run", "-h"], ["--help", "run"]])
def test_what_everybody_tries_works(arguments: list[str], capsys: Any) -> None:
    status, out, said = give(arguments, capsys)
    assert status == 0 and out.strip() and not said
    if arguments == ["--version"]:
        assert out.split()[0] == "llmspec" and out.split()[1][0].isdigit()


def test_no_arguments_show_the_help(capsys: Any) -> None:
    status, out, said = give([], capsys)
    assert status == 2 and "Usage: llmspec" in out + said


WORDS = st.sampled_from(
    [
        "run",
        "sample",
        "embed",
        "explain",
        "check",
        "bench",
        "schema",
        "--json",
        "--set",
        "seed=1",
        "--n",
        "x.yaml",
        "runs",
        "-h",
        "--part",
        "--",
        "-",
        "",
        "--out=",
        "--top=3",
        "2",
        "--lock",
        "-o",
        "--prompt",
        "[/x]",
        "\x1b[2J",
        "\udcff",
        "--seed=9" * 9,
        "--only",
        "a=b",
        "--exact",
        "--version",
        "~",
    ]
)


@given(st.lists(WORDS | st.text(max_size=3), max_size=6))
def test_no_command_line_ends_in_a_traceback(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TyperCommand, "invoke", lambda self, ctx: None)
        try:
            status = answered(arguments)
        except SystemExit as e:
            status = int(str(e.code))
    assert status in (0, 2), arguments


def test_a_run_is_opened_whatever_it_is_called(here: Path) -> None:
    (here / "runs" / "mine").rename(here / "odd.yaml")
    assert run_folder(Path("odd.yaml")).path == Path("odd.yaml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run tiny.yaml --resume", "resumes where an earlier run stopped"),
        ("run tiny.yaml --gpu 0", "--set device=CUDA"),
        ("run tiny.yaml --dry_run", "`llmspec run SPEC --dry-run`"),
        ("run --config tiny.yaml", "llmspec run FILE"),
        ("sample --model runs/mine", "llmspec sample runs/NAME"),
        ("run tiny.yaml --lora-r 8", "--set phases.NAME.adapter.r=8"),
        ("run tiny.yaml --outt x", "did you mean `--out`?"),
        ("run tiny.yaml --nonsense", "llmspec run --help"),
        ("run tiny.yaml b.yaml", "one spec at a time"),
        ("sample --prompt a --prompt b", "--prompt is given 2 times"),
        ("sample --seed 1 --n 2 --seed=2", "--seed is given 2 times"),
        ("run tiny.yaml --out a --out a", "--out is given 2"),
    ],
)
def test_options_of_other_tools_and_options_given_twice(line: str, said: str, here: Path, capsys: Any) -> None:
    status, out, err = give(line.split(), capsys)
    assert status == 2 and said in err and not out
    assert "`--set`" not in err
