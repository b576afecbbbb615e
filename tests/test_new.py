"""`llmspec new`: what it writes passes with the data it looked at, whatever they are, and nothing is overwritten."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import caches
import pytest
import small

from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import LlmspecError
from llmspec.data.prepare import prepare
from llmspec.scaffold import new
from llmspec.scaffold.contents import look
from llmspec.scaffold.new import UNMEASURED, create
from llmspec.spec import load_spec

WORDS = ("the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on")


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measuring takes seconds and changes nothing here."""
    monkeypatch.setattr(new, "known_rates", lambda say: (None, UNMEASURED))
    monkeypatch.setenv("LLMSPEC_CACHE", str(caches.copied(tmp_path_factory.mktemp("cache"))))


def prose(words: int, seed: int = 0) -> str:
    return " ".join(
        WORDS[(i * i + seed * 7 + i // 5) % len(WORDS)] + str(i % 97 + seed) * (i % 11 == 0) for i in range(words)
    )


def files(folder: Path, case: str) -> dict[str, Path]:
    """Writes the files of a case; the arguments of `create`."""
    at = folder / "given"
    at.mkdir()
    pairs = [{"question": f"What is {i}? {prose(5, i)}", "answer": prose(8, i)} for i in range(300)]
    if case == "one small text":
        (at / "a.txt").write_text("To be, or not to be, that is the question.\n" * 3 + prose(60))
        return {"text": at / "a.txt"}
    if case == "many texts":
        for i in range(150):
            (at / f"{i}.md").write_text(prose(200, i))
        (at / "picture.png").write_bytes(b"\x89PNG\0")
        return {"text": at}
    if case == "a large text":
        (at / "a.txt").write_text(prose(400_000))
        return {"text": at}
    if case == "another alphabet":
        (at / "a.txt").write_text("".join(chr(0x4E00 + (i * i) % 3000) for i in range(60_000)), encoding="utf-8")
        return {"text": at}
    if case == "source code":
        for i in range(5):
            (at / f"m{i}.py").write_text("".join(f"def f{i}_{j}(x):\n    return x + {j}\n" for j in range(60)))
        return {"text": at}
    if case == "dialogues":
        (at / "qa.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        return {"chat": at / "qa.jsonl"}
    if case == "compressed dialogues":
        (at / "qa.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(p) + "\n" for p in pairs).encode()))
        return {"chat": at}
    if case == "two unknown fields":
        (at / "qa.csv").write_text(
            "id,frage,antwort\n" + "".join(f"{i},Was ist {i}?,Das ist {i}.\n" for i in range(80))
        )
        return {"chat": at / "qa.csv"}
    assert case == "both"
    (at / "a.txt").write_text(prose(20_000))
    (at / "qa.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return {"text": at / "a.txt", "chat": at / "qa.jsonl"}


CASES = (
    "one small text",
    "many texts",
    "a large text",
    "another alphabet",
    "source code",
    "dialogues",
    "compressed dialogues",
    "two unknown fields",
    "both",
)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("where", ["mine", "given/inside", "a [b] *c/d's"])
def test_what_is_written_passes_with_its_data(case: str, where: str, tmp_path: Path) -> None:
    given = files(tmp_path, case)
    made = create(tmp_path / where, **given)
    reading = load_spec(made.path)
    plan = compile_spec(reading.spec, base=reading.base)
    prepared = prepare(plan)
    done = complete(plan, prepared.measured)
    assert [p.name for p in done.phases] == (["pretrain", "chat"] if "chat" in given else ["pretrain"])
    assert all(p.steps and p.steps >= 15 for p in done.phases)
    assert all(share.epochs is not None for phase in done.phases for share in phase.shares)
    assert made.parameters == plan.model.parameters
    assert len(json.dumps(made.model_dump(mode="json"))) < 3000  # for `--json`: what was found, not the text itself


@pytest.mark.parametrize("minutes", [1.0, 10.0, 600.0])
def test_more_minutes_never_read_less(minutes: float, tmp_path: Path) -> None:
    given = files(tmp_path, "a large text")
    short, long = (create(tmp_path / name, **given, minutes=m) for name, m in (("s", minutes), ("l", 2 * minutes)))
    written = [load_spec(made.path).spec.phases["pretrain"].budget for made in (short, long)]
    budgets = [budget.amount if budget.unit == "tokens" else math.inf for budget in written]  # epochs: all there is
    assert budgets[0] <= budgets[1] or short.parameters < long.parameters
    assert (short.seconds is not None and short.seconds <= minutes * 60 * 1.01) or budgets[0] < 200_000


def test_a_text_that_is_denser_where_it_is_validated_passes(tmp_path: Path) -> None:
    """The tokens of an epoch are estimated, and here by far too high: most of the text is in the validated tenth."""
    lines = [
        {"question": f"What about {i}?", "answer": f"It is number {i}. " * (1 if i < 920 else 20)} for i in range(1000)
    ]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    made = create(tmp_path / "mine", chat=tmp_path / "faq.jsonl", minutes=100.0)
    reading = load_spec(made.path)
    plan = compile_spec(reading.spec, base=reading.base)
    done = complete(plan, prepare(plan).measured)
    assert {round(share.epochs or 0) for phase in done.phases for share in phase.shares} == {4}


def test_without_files_it_is_the_quickstart_under_another_name(tmp_path: Path) -> None:
    made = create(tmp_path / "my first model")
    ours, theirs = load_spec(made.path).spec, load_spec("quickstart").spec
    assert made.name == ours.name == "my-first-model"
    assert ours.model_copy(update={"name": theirs.name}) == theirs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: {"text": at / "nothing"}, "--text: there is nothing at"),
        (lambda at: {"chat": at / "nothing"}, "--chat: there is nothing at"),
        (lambda at: {"text": at / "empty"}, "holds no files"),
        (lambda at: {"chat": at / "plain.txt"}, "is plain text, and a dialogue needs records"),
        (lambda at: {"chat": at / "odd.jsonl"}, "the first (odd.jsonl:1) has a, b, c"),
        (lambda at: {"text": at / "pictures"}, "holds no text: there are 1 .png"),
        (lambda at: {"text": at / "spaces.txt"}, "holds no text"),
        (lambda at: {"text": at / "plain.txt"}, "there are about 5 tokens to train on"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_is_written(make: object, message: str, tmp_path: Path) -> None:
    at = tmp_path / "given"
    for folder in ("empty", "pictures"):
        (at / folder).mkdir(parents=True)
    (at / "plain.txt").write_text("words")
    (at / "spaces.txt").write_text("  \n \n")
    (at / "pictures" / "a.png").write_bytes(b"\x89PNG\0")
    (at / "odd.jsonl").write_text('{"a": "x y", "b": "y z", "c": "z x"}\n')
    with pytest.raises(LlmspecError) as raised:
        create(tmp_path / "new", **make(at))  # type: ignore[operator]
    assert message in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_both_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(LlmspecError) as raised:
        create(tmp_path / "new", tmp_path / "a", tmp_path / "b")
    assert [p.message[:6] for p in raised.value.problems] == ["--text", "--chat"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    create(tmp_path / "mine")
    (tmp_path / "mine" / "mine.yaml").write_text("name: precious")
    with pytest.raises(LlmspecError, match="exists already"):
        create(tmp_path / "mine")
    assert (tmp_path / "mine" / "mine.yaml").read_text() == "name: precious"


def test_large_files_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(prose(1000, i))
    whole = look(tmp_path, False)
    monkeypatch.setattr("llmspec.scaffold.contents.MOST_CHARACTERS", whole.characters // 4)
    part = look(tmp_path, False)
    assert whole.whole and not part.whole
    assert part.characters == pytest.approx(whole.characters, rel=0.1)
    assert part.documents == pytest.approx(whole.documents, rel=0.1)


def test_the_command_says_what_to_run_and_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "two unknown fields")
    monkeypatch.chdir(tmp_path)
    status, said = small.call("new", "mine", "--chat", "given/qa.csv", "--minutes", "0.1")
    assert status == 0, said
    assert "llmspec run mine/mine.yaml" in said and "user {frage}, assistant {antwort}" in said
    sets = ("decoding.max_tokens=4", "model.d_model=16", "model.layers=1")
    status, said = small.call("run", "mine/mine.yaml", *(word for one in sets for word in ("--set", one)))
    assert status == 0, said
