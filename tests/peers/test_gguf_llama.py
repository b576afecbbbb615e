"""Exported GGUF files in llama.cpp: the same ids, logits, greedy text and dialogues, in every type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
llama_cpp = pytest.importorskip("llama_cpp")

import gguf_files  # noqa: E402
import hf_folders  # noqa: E402
import tiny  # noqa: E402
from paired_runs import SOURCES, trained  # noqa: E402
from test_exchange import TEMPLATE  # noqa: E402
from test_gguf_export import TEXT, model  # noqa: E402
from test_hf_folders import config, written  # noqa: E402

import llmspec  # noqa: E402
from llmspec.core.problems import LlmspecError  # noqa: E402
from llmspec.exchange import gguf_exporting  # noqa: E402
from llmspec.exchange.gguf_exporting import export_gguf  # noqa: E402
from llmspec.exchange.llama_worker import chat  # noqa: E402
from llmspec.formats.gguf import exporting  # noqa: E402
from llmspec.formats.gguf.tables import tables  # noqa: E402
from llmspec.formats.hf.family import families  # noqa: E402


def whole(text: str) -> str:
    """A text as the other library gives it, which leaves out bytes that are no UTF-8, and goes on where it would end in
    the middle of a letter."""
    found = text.replace("\ufffd", "")
    assert len(found) >= 4
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    return llmspec.run(llmspec.compile(llmspec.load_spec(tiny.write(place)).spec), place / "run").path


@pytest.mark.parametrize("type", exporting.OFFERED)
def test_a_trained_run_answers_the_same_in_llama_cpp(run: Path, type: str, tmp_path: Path) -> None:
    own = llmspec.open(run)
    found = export_gguf(own, tmp_path / "out", type=type)
    _, theirs = found.compared
    assert theirs.reader.startswith("llama.cpp") and theirs.texts and theirs.chat and theirs.greedy
    assert found.file is not None and found.file.cost is not None and theirs.nats is not None
    assert abs(theirs.nats - found.file.cost.after) < 1e-3
    if type == "f32":
        assert theirs.logits < 1e-5


@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_answers_to_a_question_are_the_same_text(kind: str, tmp_path: Path) -> None:
    """By what a person calls: a chat completion without chance, with the template inside the file."""
    own = model(kind)
    export_gguf(own, tmp_path / "out", type="f32")
    theirs = llama_cpp.Llama(str(tmp_path / "out" / "small-f32.gguf"), n_ctx=48, verbose=False, type_k=0, type_v=0)
    turns = [("user", "two pears?")]
    asked: Any = [{"role": role, "content": text} for role, text in turns]
    said = theirs.create_chat_completion(asked, temperature=0.0, max_tokens=16, repeat_penalty=1.0)
    (wanted,) = own.generate(turns, temperature=0.0, max_tokens=16)
    assert said["choices"][0]["message"]["content"].startswith(whole(wanted.text))
    said = theirs.create_completion("two apples", temperature=0.0, max_tokens=16, repeat_penalty=1.0)
    (wanted,) = own.generate("two apples", chat=False, temperature=0.0, max_tokens=16)
    assert said["choices"][0]["text"].startswith(whole(wanted.text))


@pytest.mark.parametrize("type", ["q8_0", "q4_0", "q4_k"])
def test_blocks_of_every_type_are_those_of_llama_cpp(type: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    found = export_gguf(model(), tmp_path / "out", type=type, text=tmp_path / "text")
    assert found.file is not None and not found.file.rows and found.compared[1].greedy
    assert found.file.cost is not None and found.compared[1].nats == pytest.approx(found.file.cost.after, abs=0.1)


@pytest.mark.parametrize("name", [name for name, table in tables().items() if not table.needed])
def test_every_architecture_computes_the_same_in_llama_cpp(name: str, tmp_path: Path) -> None:
    own = llmspec.open(gguf_files.small(tmp_path / "a.gguf", tables()[name]))
    found = export_gguf(own, tmp_path / "out", origin=name, type="f32")
    assert found.architecture == tables()[name].model_type
    (_, theirs) = found.compared
    assert theirs.logits < 1e-3 and theirs.greedy and theirs.texts and theirs.chat


@pytest.mark.parametrize("name", ["qwen2_moe", "gpt_neox"])
def test_architectures_with_a_matrix_of_logits_of_their_own_do_too(name: str, tmp_path: Path) -> None:
    fields = {"max_position_embeddings": 128, "tie_word_embeddings": False}
    if name == "gpt_neox":  # the only activation that such files can say, and heads as wide as the model
        fields |= {"hidden_act": "gelu_new", "hidden_size": 32}
    written(tmp_path / "in", {**config(families()[name]), **fields})
    hf_folders.write_tokenizer(tmp_path / "in", 262, TEMPLATE)
    found = export_gguf(llmspec.open(tmp_path / "in"), tmp_path / "out", origin=name, type="f32")
    assert found.compared[1].logits < 1e-3 and found.compared[1].greedy and found.compared[1].chat


def test_llama_cpp_is_believed_where_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_exporting, "APART", {"f32": 1e-12})
    monkeypatch.setattr(gguf_exporting, "FAR", 1e-12)
    with pytest.raises(LlmspecError, match=r"logits of llama\.cpp are off"):
        export_gguf(model(), tmp_path / "out", type="f32")


def test_a_model_of_pairs_answers_as_its_samples(tmp_path: Path) -> None:
    """A decoder that was trained on sources and targets, asked by the template inside the file. Chat completions of
    llama-cpp-python give nothing: they end where the last token of the prompt is the end token."""
    own = llmspec.open(trained(tmp_path))
    found = export_gguf(own, tmp_path / "out", type="f32")
    assert found.compared[1].chat and found.compared[1].greedy
    (file,) = (tmp_path / "out").glob("*.gguf")
    theirs = llama_cpp.Llama(str(file), n_ctx=40, verbose=False, type_k=0, type_v=0)
    for source in SOURCES:
        asked = chat(theirs, [{"role": "user", "content": source}])
        said = theirs.create_completion(asked, temperature=0.0, max_tokens=20, repeat_penalty=1.0)["choices"][0]
        (wanted,) = own.generate(source, temperature=0.0, max_tokens=20)
        assert said["text"] == wanted.text and said["finish_reason"] == "stop", source
        assert wanted.finish_reason == "end" and len(wanted.text) > 3, "it has learned to end"
