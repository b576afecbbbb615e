"""`--continue-from`: a phase goes on from other settings bit for bit, says what is not equal, and is never taken for
one that was trained from its beginning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_explain import printed
from test_going_back import SHORT, Halting
from typer.testing import CliRunner

from llmspec.api_runs import planned_run
from llmspec.cli.app import app
from llmspec.compiler import compile_spec
from llmspec.compiler.continued import Continued
from llmspec.core.problems import RunError
from llmspec.data.stream import PhaseStream
from llmspec.explain.compare import phase_differences
from llmspec.explain.run import explain_run
from llmspec.parts.phases.pretrain import Pretrain
from llmspec.runs import checkpoint
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder
from llmspec.training.run import run
from llmspec.training.stop import Interrupted

SPEC = SHORT.replace(
    "budget: 6 steps", "budget: 6 steps, schedule: {kind: constant, warmup: 0}, gradient_accumulation_steps: 2"
)
FIRST = "".join(line for line in SPEC.splitlines(keepends=True) if not line.startswith("  second:"))
"""Without the phase that builds on it, which tests need less often than they take its time."""
LONGER = "phases.first.budget=12 steps"


def trained(folder: Path, *sets: str, watcher: Recorder | None = None, go_on: str = "", text: str = FIRST) -> Recorder:
    folder.mkdir(exist_ok=True)
    watcher = watcher or Recorder()
    plan = compile_spec(load_spec(tiny.write(folder, text), sets).spec)
    run(plan, folder / "run", watcher=watcher, continue_from=go_on)
    return watcher


def left(folder: Path, phase: str = "first") -> dict[str, bytes]:
    """Weights, optimizer state and rows."""
    saved, notices = checkpoint.newest(folder / "run" / phase)
    assert saved is not None and not notices
    names = (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR)
    rows = RunFolder(folder / "run").phase(phase).metrics.read()
    return {n: (saved.folder / n).read_bytes() for n in names} | {"rows": repr(rows).encode()}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    trained(folder, text=SPEC)
    return folder


@pytest.fixture
def folder(short: Path, tmp_path: Path) -> Path:
    return shutil.copytree(short, tmp_path / "again")


def went_on(folder: Path, phase: str = "first") -> Continued | None:
    return RunFolder(folder / "run").plan().phase(phase).continued


def test_where_nothing_differs_it_ends_with_the_bits_of_a_run_from_the_beginning(short: Path, tmp_path: Path) -> None:
    """Settings that change no step: place in the text, dropout, learning rate, optimizer and its count of updates."""
    quiet = "phases.first.on_spike={above: 1e9, window: 2}"
    cosine = ("phases.first.schedule={kind: cosine, warmup: 20%}", "phases.first.budget=7 steps")
    trained(tmp_path / "straight", quiet, *cosine)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", *cosine, watcher=Halting("first", 3))
    heard = trained(tmp_path / "stopped", quiet, *cosine, go_on="last")
    found, straight = left(tmp_path / "stopped"), left(tmp_path / "straight")
    assert [found[n] == straight[n] for n in (checkpoint.WEIGHTS, checkpoint.STATE)] == [True, True]
    said = went_on(tmp_path / "stopped")
    assert said is not None and said.first == said.updates == said.step == 3 and said.state
    assert [line.partition(":")[0] for line in said.said] == ["settings", "on_spike"]
    assert any("settings: 3 steps were taken with on_spike.above null" in n for n in heard.notices)


def test_a_longer_budget_goes_on_and_says_what_is_not_equal(folder: Path) -> None:
    before = RunFolder(folder / "run").plan()
    report = planned_run(tiny.write(folder, SPEC), folder / "run", [LONGER], continue_from="last")
    assert [(p.deed, p.steps) for p in report.phases] == [("goes on", 6), ("trained", 4)]
    heard = trained(folder, LONGER, go_on="last", text=SPEC)
    assert heard.phases == ["first", "second"] and [s.step for s in heard.steps[:6]] == [7, 8, 9, 10, 11, 12]
    said = went_on(folder)
    assert said is not None and (said.first, said.updates, said.step) == (6, 6, 6)
    assert said.key == before.phases[0].key and "; ".join(said.said) in report.phases[0].why
    assert any(line.startswith("text: of 24 rows that were read, ") for line in said.said)
    now = RunFolder(folder / "run").plan()
    plain = compile_spec(load_spec(tiny.write(folder, SPEC), [LONGER]).spec)
    assert now.phases[0].key not in (plain.phases[0].key, before.phases[0].key)
    shown = printed(explain_run(RunFolder.open(folder / "run")), 160)
    assert f"goes on from step 6 of other settings ({said.key[:8]})" in shown and said.said[0] in shown
    assert "not as planned" not in shown
    fates = {d.name: (d.fate, d.why) for d in phase_differences(before, now)}
    assert "the second goes on from step 6" in fates["first"][1] and "budget" in fates["first"][1]
    assert fates["second"] == ("retrained", "first is trained again")


def test_it_resumes_bit_for_bit_and_is_found_again(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    trained(folder, LONGER, go_on="last")
    for step in (6, 10):
        with pytest.raises(Interrupted):
            trained(other, LONGER, watcher=Halting("first", step + 1), go_on="last")
    trained(other, LONGER, go_on="last")
    assert left(other) == left(folder)
    assert trained(folder, LONGER, go_on="last").taken == ["first"]
    key = RunFolder(folder / "run").plan().phases[0].key
    plain = trained(folder, LONGER)
    assert plain.phases == ["first"], "a plain run is one from the beginning"
    assert went_on(folder) is None and left(folder)[checkpoint.WEIGHTS] != left(other)[checkpoint.WEIGHTS]
    assert trained(folder, LONGER, go_on="last").taken == ["first"], "trained as it is asked for"
    assert RunFolder(folder / "run").plan().phases[0].key != key


def test_another_batch_counts_what_was_read(folder: Path) -> None:
    heard = trained(folder, "phases.first.micro_batch_size=5", "phases.first.budget=4 steps", go_on="last")
    said = went_on(folder)
    assert said is not None and (said.first, said.updates) == (2, 6)
    line = "batch: 6 steps of 64 tokens count as 2 of 4 steps of 160 tokens; 64 tokens more were read than those have"
    assert line in said.said and heard.steps[0].step == 3


def test_another_optimizer_begins_with_states_of_its_own(folder: Path) -> None:
    trained(folder, LONGER, "phases.first.optimizer={kind: lion, lr: 3e-4}", go_on=str(folder / "run/first"))
    said = went_on(folder)
    assert said is not None and not said.state and said.updates == 0
    assert "optimizer: its states start anew, since adamw kept others than lion" in said.said
    assert any("optimizer.lr" in line for line in said.said) and any("learning rate: " in line for line in said.said)


def test_it_goes_on_from_another_run(short: Path, tmp_path: Path) -> None:
    lower = "phases.first.optimizer={kind: adamw, lr: 1e-4}"
    for name, path in (("run", "run"), ("step", "run/first/step_4")):
        trained(tmp_path / name, LONGER, lower, go_on=str(short / path))
        said = went_on(tmp_path / name)
        assert said is not None and said.step == (6 if name == "run" else 4)


@pytest.mark.parametrize(
    ("sets", "go_on", "said"),
    [
        (("model.mlp={kind: swiglu, d_ff: 48}",), "last", r"layers\.0\.mlp\.\S+ is .*, not "),
        (("phases.first.budget=5 steps",), "last", "as much as 6 steps of first do, and its budget is 5"),
        (("phases.first.budget=1 minutes", "data.sources.facts.max_epochs=1000000"), "last", "a budget in minutes"),
        (("phases.first={kind: sft, mixture: {facts: 100%}, budget: 9 steps}",), "last", "of a phase of kind pretrain"),
        (("tokenizer={kind: byte, special_tokens: [mask]}", LONGER), "last", "another tokenizer"),
        ((LONGER,), "run/spec", "no run, no phase of a run, and no checkpoint"),
        ((LONGER,), "run/thirst", "which this spec has not"),
        (
            ("phases.second.from=null", "phases.second.optimizer={kind: sgd, lr: 1e-3}"),
            "last",
            "began with other weights",
        ),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, sets: tuple[str, ...], go_on: str, said: str) -> None:
    shutil.copytree(folder / "run/first", folder / "run/thirst")
    before = left(folder)
    with pytest.raises(RunError, match=said):
        trained(folder, *sets, go_on=go_on if go_on == "last" else str(folder / go_on), text=SPEC)
    assert left(folder) == before


def test_the_command_takes_it_and_shows_it_before(folder: Path) -> None:
    given = ["run", str(tiny.write(folder, SPEC)), "--out", str(folder / "run"), "--set", LONGER]
    said = CliRunner().invoke(app, [*given, "--continue-from", "last", "--dry-run", "--json"])
    assert said.exit_code == 0 and [p["deed"] for p in json.loads(said.output)["phases"]] == ["goes on", "trained"]
    said = CliRunner().invoke(app, [*given, "--continue-from", "last", "--certify"])
    assert said.exit_code == 2 and "--continue-from does nothing in `llmspec run SPEC --certify`" in said.output


def test_without_anything_to_go_on_from_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint to go on from"):
        trained(tmp_path, go_on="last")


def test_updates_are_counted_apart_from_steps() -> None:
    """Adam's corrections are those of its state, the schedule and the start of groups those of the step."""
    from networks import plan_of

    from llmspec.compiler.updates import Updates

    def numbers(step: int, update: int | None, **phase: Any) -> tuple[float, ...]:
        plan = plan_of({}, optimizer={"kind": "adam", "lr": 1.0}, **phase)
        return Updates(plan.model, plan.phases[0].phase).numbers(1.0, step, 10, update)

    assert numbers(7, 2) == numbers(2, None) != numbers(7, None) == numbers(7, 7)
    late = {"unfreeze": {"layers.0.*": "50%"}}
    width = len(numbers(7, 1, **late)) // 2
    assert numbers(7, 1, **late)[:width] == numbers(1, None, **late)[:width]
    assert numbers(7, 7, **late) == numbers(7, None, **late)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 12), st.randoms())
def test_rows_that_come_again_are_counted(sources: list[int], at: int, read: int, chance: Any) -> None:
    """Beside a plain count of an order of blocks in which each source has its own from 0 on."""
    numbers = {source: iter(chance.sample(range(n := sources.count(source)), n)) for source in (0, 1)}
    rows = [(source, next(numbers[source])) for source in sources]
    stream = PhaseStream.__new__(PhaseStream)
    stream.sources, stream.phase = ("a", "b"), Pretrain.model_construct(micro_batch_size=1)
    stream._source, stream._block = (np.array(column) for column in zip(*rows, strict=True))
    known = {row for row in rows if row[0] == 0 and row[1] < read}
    assert stream.again(at, {"a": read}) == (
        sum(row in known for row in rows[at:]),
        sum(row not in known for row in rows[:at]),
    )
