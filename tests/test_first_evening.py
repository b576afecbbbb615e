"""Tried on a first evening: specs with slips of YAML, prompts from pipes, what a run kept, folders of anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from llmspec.cli import answered
from llmspec.core.problems import RunError
from llmspec.runs.run import RunFolder
from llmspec.scaffold.contents import look
from llmspec.spec.load import read_spec

SPEC = """\
name: mine
model: {d_model: 16, layers: 1, context: 16, attention: {heads: 2}}
data: {sources: {me: {kind: files, path: "*.txt", validation: tail 10%}}}
phases: {first: {kind: pretrain, mixture: {me: 100%}, budget: 50 steps, micro_batch_size: 2}}
"""


def give(line: list[str], capsys: Any) -> tuple[int, str]:
    try:
        status = answered(line)
    except SystemExit as ended:
        status = int(str(ended.code))
    return status, " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: mine", "name:mine", "a colon needs a space behind it; write `name: mine`"),
        ("model: {", "model:\n  d_model:16\n  layers: 1\nx: {", "write `d_model: 16`"),
        ("name: mine\n", "name = mine\n", "YAML has a colon between a key and its value; write `name: mine`"),
        ("name: mine", "```yaml\nname: mine", "leave the lines with ``` out"),
        (SPEC, "[model]\nd_model = 16\n", "TOML"),
        (SPEC, 'name = "mine"\n', "TOML"),
        ("model: {", "model:\u00a0{", "no-break space (U+00A0)"),
        ("name: mine", "name: mine\ndevice: gpu", "write `CUDA` (NVIDIA)"),
        ("name: mine", "name: mine\ndevice: mps", "write `METAL`"),
        ("name: mine", "name: mine\nprecision: bf16", "bfloat16"),
        ("micro_batch_size: 2", "sample_every: never", "`100%` does it once"),
        ("micro_batch_size: 2", "evaluate_every: 0 steps", "`100%`"),
    ],
)
def test_slips_of_yaml(old: str, new: str, said: str, tmp_path: Path) -> None:
    problems = read_spec(tiny.write(tmp_path, SPEC.replace(old, new))).problems
    found = " | ".join(f"{p.message}; {p.hint}" for p in problems)
    assert said in found
    assert "`name` is missing" not in found


def test_a_spec_in_utf_16_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(SPEC.encode("utf-16"))
    assert read_spec(tmp_path / "a.yaml").problems[0].message == "this is UTF-16"


def test_the_spec_that_a_run_kept_starts_where_the_run_was_started(tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "elsewhere" / "run"
    home.mkdir()
    (run / "spec").mkdir(parents=True)
    kept = [tiny.write(run / "spec", SPEC), tiny.write(run, SPEC, "resolved.yaml")]
    for text, base in (
        (json.dumps({"base": str(home)}), home),
        (json.dumps({"base": str(home / "gone")}), None),
        (json.dumps({"base": "."}), None),
        ("[" * 9999, None),
        ("null", None),
    ):
        (run / "plan.json").write_text(text)
        for spec in kept:
            assert Path(read_spec(spec).base) == (base or spec.parent), text
    (run / "plan.json").write_text(json.dumps({"base": str(home)}))
    for spec in kept:
        child = tiny.write(tmp_path, f"extends: {os.path.relpath(spec, tmp_path)}\nname: child\n", "child.yaml")
        reading = read_spec(child)
        source: Any = reading.sections.sources["me"]
        assert Path(reading.base, source.path) == home / "*.txt"


@pytest.mark.parametrize(
    ("given", "stream", "prompt", "noted"),
    [
        ("-", "Über\n", "Über", False),
        ("-", "a\n\nb\r\n", "a\n\nb", False),
        ("-", "", "", False),
        ("", "unread", "", True),
        ("", "", "", False),
        ("x", "unread", "x", False),
    ],
)
def test_a_prompt_from_standard_input(given: str, stream: str, prompt: str, noted: bool, tmp_path: Path) -> None:
    code = f"from llmspec.cli.forms import prompt_of\nprint(ascii(prompt_of({given!r})))"
    (tmp_path / "in").write_bytes(stream.encode())
    with open(tmp_path / "in", "rb") as file:
        kinds: list[dict[str, Any]] = [{"input": stream.encode()}, {"stdin": file}]
        for kind in kinds:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, **kind)
            assert done.stdout.decode().strip() == ascii(prompt)
            if "stdin" in kind:  # a pipe's writer may come late
                assert (b"--prompt - reads it" in done.stderr) == noted


def test_files_of_a_run_are_not_taken_for_specs(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for name in ("plan.json", "lock.json", "facts.json"):
        Path("run", name).write_text("{}")
        for verb in ("check", "run", "explain"):
            status, said = give([verb, f"run/{name}"], capsys)
            assert status == 2 and "`run` is a run directory" in said and "explain run shows it" in said


def test_new_makes_folders(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = give(["new", "mine.yaml"], capsys)
    assert status == 2 and "llmspec new mine writes" in said and not Path("mine.yaml").exists()


def test_settings_beside_texts_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "read.md").write_text("some text\n" * 50)
    (tmp_path / "package.json").write_text('{"name": "x", "version": 1}')
    found = look(tmp_path, False)
    assert found.patterns == ("**/*.md",) and found.left_out == {".json": 1}
    (tmp_path / "package.json").write_text('[{"text": "a record"}, {"text": "another"}]')
    assert look(tmp_path, False).patterns == ("**/*.json", "**/*.md")


def test_a_run_without_weights_says_when_it_has_some(tmp_path: Path) -> None:
    from llmspec.compiler import compile_spec
    from llmspec.runs.run import first_checkpoint
    from llmspec.spec.load import load_spec

    plan = compile_spec(load_spec(tiny.write(tmp_path, SPEC)).spec)
    due = plan.phases[0].phase.checkpoint_every.interval(50)
    assert f"after step {due} of first" in first_checkpoint(plan, None)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(RunError) as caught:
        run.weights(plan)
    assert caught.value.problems[0].hint == first_checkpoint(plan, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: files, ", "", "write `kind: files`"),
        ("kind: files", "kind: jsonl", "did you mean `files`?"),
        ("kind: pretrain", "kind: train", "did you mean `pretrain`?"),
        ("kind: pretrain", "kind: instruct", "`sft`"),
        ('{sources: {me: {kind: files, path: "*.txt", validation: tail 10%}}}', "me.txt", "kind: files, path: me.txt"),
        ('{me: {kind: files, path: "*.txt", validation: tail 10%}}', "[{name: me, path: a}]", "below it `me: {…}`"),
        ("{first: {kind: pretrain", "{first: {kind: pretrain}, x: {kind: pretrain", "`mixture` is missing"),
        (
            "{first: {kind: pretrain, mixture: {me: 100%}, budget: 50 steps, micro_batch_size: 2}}",
            "{kind: pretrain, mixture: {me: 100%}, budget: 50 steps}",
            "the phase has no name; phases: {my-phase:",
        ),
    ],
)
def test_names_and_kinds(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in SPEC
    problems = read_spec(tiny.write(tmp_path, SPEC.replace(old, new))).problems
    assert said in " | ".join(f"{p.message}; {p.hint}" for p in problems)


def test_whatever_is_named_inside_a_run_the_run_is_told(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine/first/step_5").mkdir(parents=True)
    Path("runs/mine/plan.json").write_text("{}")
    Path("runs/mine/first/step_5/weights.safetensors").touch()
    for inside in ("plan.json", "first", "first/step_5", "first/step_5/weights.safetensors"):
        status, said = give(["sample", f"runs/mine/{inside}", "--prompt", "x"], capsys)
        assert status == 2 and "the run is runs/mine" in said


def test_a_run_without_its_tokenizer_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path).tokenizer(None)  # type: ignore[arg-type]
    assert "tokenizer.json is missing" in str(caught.value) and f"--out {tmp_path}" in str(caught.value)


def test_a_list_with_a_broken_entry_is_not_called_empty_too(tmp_path: Path) -> None:
    chat = ", chat: {kind: sft, train_on: [LEARN], from: first, mixture: {me: 100%}, budget: 5 steps, "
    chat += "micro_batch_size: 2}}"
    for learn, count in (("bot", 1), ("bot, user", 1), ("", 1)):
        spec = SPEC.rstrip().removesuffix("}") + chat.replace("LEARN", learn) + "\n"
        problems = read_spec(tiny.write(tmp_path, spec)).problems
        assert len(problems) == count, problems
        assert ("needs at least 1" in problems[0].message) == (not learn)


def test_comments_of_other_languages(tmp_path: Path) -> None:
    problems = read_spec(tiny.write(tmp_path, "// note: mine\n" + SPEC)).problems
    assert [p.hint for p in problems] == ["a comment starts with `#`"]
