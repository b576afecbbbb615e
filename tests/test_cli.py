"""The verbs as a person meets them: what is printed, and the exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    spec = tiny.write(folder)
    done = tiny.call(
        "run",
        spec,
        "--out",
        folder / "runs" / "tiny",
        "--set",
        "phases.pretrain.budget=4 steps",
        "--set",
        "phases.chat.budget=4 steps",
    )
    assert done.returncode == 0, done.stderr
    assert "phase" in done.stdout and "validation docs" in done.stdout and "llmspec sample" in done.stdout
    return folder / "runs" / "tiny"


def test_a_run_directory_stands_alone(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"spec", "resolved.yaml", "plan.json", "lock.json", "tokenizer.json", "sources.json"} <= names
    assert (run / "spec" / "tiny.yaml").read_text() == tiny.TINY
    assert "budget=4 steps" in (run / "spec" / "overrides.txt").read_text()
    assert json.loads((run / "sources.json").read_text())["docs"]["license"] == "PSF-2.0"
    for phase in ("pretrain", "chat"):
        assert {"metrics.jsonl", "timing.jsonl", "phase.json", "step_4"} <= {p.name for p in (run / phase).iterdir()}


def test_sample_takes_the_newest_run_and_repeats_itself(run: Path) -> None:
    said = [tiny.call("sample", "--prompt", "one", "--seed", "3", "--json", cwd=run.parents[1]) for _ in range(2)]
    assert said[0].returncode == 0, said[0].stderr
    data = json.loads(said[0].stdout)
    assert data["chat"] and data["answers"][0]["finish_reason"] in ("stop", "end", "max_tokens", "length")
    assert said[0].stdout == said[1].stdout


def test_sample_streams_and_names_its_sources(run: Path) -> None:
    done = tiny.call("sample", run, "--prompt", "one", "--plain", "--set", "decoding.max_tokens=4")
    assert done.returncode == 0 and done.stdout.startswith("one")
    assert "docs (PSF-2.0)" in done.stderr and "max_tokens" in done.stderr


def test_a_file_of_prompts_is_answered_as_each_prompt_alone(run: Path, tmp_path: Path) -> None:
    asked = ["one", "two", "seven", "three"]
    text, records = tmp_path / "asked.txt", tmp_path / "asked.jsonl"
    text.write_text("\n\n".join(asked) + "\r\n")
    turns = [{"role": "user", "content": "three"}]
    records.write_text(
        "".join(json.dumps(r) + "\n" for r in [{"prompt": a, "id": 1} for a in asked[:3]] + [{"messages": turns}])
    )
    done = [tiny.call("sample", run, "--prompts", path, "--json", "--n", "2") for path in (text, records)]
    lines = [[json.loads(line) for line in d.stdout.splitlines()] for d in done]
    assert [line["line"] for line in lines[0]] == [1, 3, 5, 7] and [line["line"] for line in lines[1]] == [1, 2, 3, 4]
    assert [line["answers"] for line in lines[0]] == [line["answers"] for line in lines[1]]
    assert lines[1][3]["messages"] == turns and lines[0][3]["prompt"] == "three"
    assert "keys of the records are not read: `id`" in done[1].stderr
    alone = json.loads(tiny.call("sample", run, "--prompt", asked[2], "--json", "--n", "2").stdout)
    assert alone["answers"] == lines[0][2]["answers"]


def test_prompts_that_cannot_be_answered_are_named_by_their_lines(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    records = [
        {"prompt": "one"},
        {"prompt": "one " * 30},
        {"prompt": " "},
        {"messages": [{"role": "wizard", "content": "x"}]},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = tiny.call("sample", run, "--prompts", path)
    assert done.returncode == 2 and not done.stdout
    for line, why in ((2, "model's context is 16"), (3, "the prompt is empty"), (4, "no role is named `wizard`")):
        assert f"asked.jsonl:{line}:1: " in done.stderr and why in done.stderr
    done = tiny.call("sample", run, "--prompts", path, "--plain", "--json")
    assert done.returncode == 2 and "`messages` are for chat models" in done.stdout


def test_explain_in_its_three_forms(run: Path) -> None:
    spec = run / "spec" / "tiny.yaml"
    for arguments in ((spec,), (run,), (run, "--prompt", "one", "--set", "decoding.max_tokens=2")):
        plain = tiny.call("explain", *arguments, COLUMNS="80")
        assert plain.returncode == 0, plain.stderr
        assert max(len(line) for line in plain.stdout.splitlines()) <= 80
        assert json.loads(tiny.call("explain", *arguments, "--json").stdout)


def test_check_says_ok_or_everything(tmp_path: Path) -> None:
    good = tiny.call("check", tiny.write(tmp_path))
    assert good.returncode == 0 and good.stdout.startswith("ok: tiny")
    text = tiny.TINY.replace("d_ff: 32", "d_f: 32").replace("heads: 2", "heads: 3").replace("docs: 20%", "dogs: 20%")
    bad = tiny.call("check", tiny.write(tmp_path, text, "bad.yaml"))
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    for words in ("bad.yaml:9:", "`d_ff`", "3 heads do not divide", "no source is called `dogs`", "3 problems"):
        assert words in bad.stderr, words
    as_json = json.loads(tiny.call("check", tmp_path / "bad.yaml", "--json").stdout)
    assert not as_json["ok"] and len(as_json["problems"]) == 3


def test_a_run_ends_in_json_for_machines(run: Path) -> None:
    spec, more = run / "spec" / "tiny.yaml", ("--set", "phases.pretrain.budget=4 steps", "--out", run)
    done = tiny.call("run", spec, *more, "--set", "phases.chat.budget=4 steps", "--json")
    told = json.loads(done.stdout)
    assert told["ok"] and told["state"] == "done" and told["run"] == str(run) and "trained before" in done.stderr
    assert [(p["name"], p["step"], p["reused"], p["as_planned"]) for p in told["phases"]] == [
        ("pretrain", 4, True, True),
        ("chat", 4, True, True),
    ]
    pretrain, chat = told["phases"]
    first = pretrain["validation"]["docs"]["metrics"][0]
    assert first["value"] > 0 and first["unit"] == "nats/token" and chat["ledger"]["facts"]["tokens_read"] > 0
    assert all(check["holds"] for check in told["checks"])


def test_mistakes_in_json_for_machines(tmp_path: Path) -> None:
    bad = tiny.write(tmp_path, tiny.TINY.replace("d_ff: 32", "d_f: 32"))
    for arguments in (("run", bad), ("check", bad), ("explain", bad), ("explain", "nowhere"), ("sample", "nowhere")):
        done = tiny.call(*arguments, "--json", cwd=tmp_path)
        told = json.loads(done.stdout)
        assert done.returncode == 2 and not told["ok"] and told["problems"], arguments
        assert not tiny.unhurried(done.stderr), arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "no-such.yaml"), "no-such.yaml"),
        (("sample", "nowhere"), "not a run directory"),
        (("explain", "nowhere"), "not a run directory"),
        (("sample",), "there is no run"),
    ],
)
def test_mistakes_are_told_not_traced(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = tiny.call(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr


def test_a_prompt_longer_than_the_context(run: Path) -> None:
    done = tiny.call("sample", run, "--prompt", "one " * 30)
    assert done.returncode == 2 and "the model's context is 16" in done.stderr.replace("\n", " ")


def test_a_model_trained_on_what_is_not_here_runs_on_what_is(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    plan = json.loads((moved / "plan.json").read_text("utf-8"))
    (moved / "plan.json").write_text(json.dumps(plan | {"device": tiny.ABSENT}), "utf-8")
    here, there = (tiny.call("sample", folder, "--prompt", "one", "--json") for folder in (run, moved))
    assert json.loads(there.stdout)["answers"] == json.loads(here.stdout)["answers"]
    assert f"trained on {tiny.ABSENT}, which this machine does not have" in there.stderr.replace("\n", " ")


def test_the_python_api(run: Path) -> None:
    import numpy as np

    import llmspec

    model = llmspec.open(run)
    tokens = np.array([[1, 2, 3], [3, 2, 1]])
    logits = model.logits(tokens)
    assert logits.shape == (2, 3, model.plan.model.vocab) and logits.dtype == np.float32
    plain = llmspec.LanguageModel(
        model.plan, model.codec, {n: w.numpy() for n, w in model._weights.items()}, model.phase, plain=True, chat=True
    )
    assert np.abs(plain.logits(tokens) - logits).max() < 1e-5
    one, two = (model.generate("two", seed=5, max_tokens=3)[0] for _ in range(2))
    assert one.tokens == two.tokens and len(one.tokens) <= 3
    plan = llmspec.compile(llmspec.load_spec(run / "spec" / "tiny.yaml", ["name=other"]).spec)
    assert plan.name == "other" and plan.model == model.plan.model
