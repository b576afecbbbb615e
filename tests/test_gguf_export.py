"""`llmspec export --to gguf`: what is written, what it costs, and what is refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import gguf
import gguf_files
import modelfiles
import models
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import llmspec
from llmspec.compiler import compile_spec
from llmspec.core.problems import LlmspecError
from llmspec.core.quantised import as_float32, quantise
from llmspec.core.weight_types import TYPES
from llmspec.decoding.language_model import LanguageModel
from llmspec.exchange import gguf_exporting
from llmspec.exchange.gguf_exporting import export_gguf
from llmspec.formats.gguf import exporting, vocabulary, writing
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.proposing import proposal_of
from llmspec.formats.gguf.reading import read_header
from llmspec.formats.gguf.tables import tables
from llmspec.formats.gguf.tokenizers import tokenizing
from llmspec.parts import tokenizers
from llmspec.parts.tokenizers.library import LibraryCodec
from llmspec.parts.tokenizers.special_tokens import ROLES, SpecialTokens
from llmspec.spec.schema import Spec

TEXT = "The quick brown fox jumps over the lazy dog. " * 40
WORDS = [f"{a} {b} and {c}s" for a in ("one", "two", "three") for b in ("apple", "pear") for c in ("ship", "sheep")] * 4


@functools.cache
def model(kind: str = "bpe", d_model: int = 256, position: str = "rope") -> Any:
    """A model with drawn weights whose rows are whole blocks of every type; opened, a chat model."""
    tokenizer = {"kind": kind} if kind in ("byte", "char") else {"kind": kind, "vocab": 280}
    network = {"d_model": d_model, "layers": 1, "position": {"kind": position}, "mlp": {"kind": "swiglu", "d_ff": 256}}
    spec = {**models.SPEC, "tokenizer": tokenizer, "model": {**models.SPEC["model"], **network}}
    plan = compile_spec(Spec.model_validate_json(json.dumps(spec)))
    from llmspec.model.device import open_device
    from llmspec.model.weights import draw

    open_device("CPU")
    weights = {t.name: draw(t, 0) * (8 if len(t.shape) > 1 else 1) for t in plan.model.tensors}
    return LanguageModel(plan, plan.tokenizer.train(WORDS), weights, "p", chat=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "held_out.txt"
    path.write_text(TEXT, "utf-8")
    return path


# -- the file --------------------------------------------------------------------------------------------------------
VALUES = st.one_of(
    st.booleans(),
    st.integers(0, 2**40),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), max_size=5).map(
        lambda items: writing.Array("text", items)
    ),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5).map(lambda items: writing.Array("i32", items)),
    st.lists(st.booleans(), max_size=5).map(lambda items: writing.Array("bool", items)),
)


@given(
    metadata=st.dictionaries(st.text("abc.", min_size=1, max_size=12), VALUES, max_size=6),
    made=st.lists(st.tuples(st.sampled_from(sorted(TYPES)), st.integers(1, 3), st.integers(1, 2)), max_size=5),
)
def test_a_file_is_what_the_library_reads(tmp_path_factory: Any, metadata: dict[str, Any], made: Any) -> None:
    path = tmp_path_factory.mktemp("file") / "a.gguf"
    rng = np.random.default_rng(0)
    arrays = [
        quantise(name, rng.standard_normal((rows, blocks * TYPES[name].block)).astype(np.float32))
        for name, rows, blocks in made
    ]
    tensors = [writing.Tensor(f"t{i}", a.type, a.shape, lambda a=a: a) for i, a in enumerate(arrays)]  # type: ignore[misc]
    writing.write(path, metadata, tensors)
    found = gguf.GGUFReader(path)
    assert {t.name: tuple(map(int, t.shape[::-1])) for t in found.tensors} == {t.name: t.shape for t in tensors}
    for ours, theirs in zip(arrays, found.tensors, strict=True):
        assert theirs.tensor_type == TYPES[ours.type].ggml
        assert np.ascontiguousarray(theirs.data).tobytes() == ours.data.tobytes()
    for key, value in metadata.items():
        contents = found.fields[key].contents() if not isinstance(value, writing.Array) or value.items else []
        assert contents == (value.items if isinstance(value, writing.Array) else value)


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    writing.write(tmp_path / "a.gguf", {}, [])
    with pytest.raises(FileExistsError):
        writing.write(tmp_path / "a.gguf", {}, [])


# -- whole models ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("type", exporting.OFFERED)
def test_a_model_is_exported_in_every_type(type: str, tmp_path: Path, text: Path) -> None:
    own = model()
    found = export_gguf(own, tmp_path / "out", type=type, text=text)
    assert found.files == ("Modelfile", "README.md", f"small-{type}.gguf") and found.architecture == "llama"
    ours, file = found.compared[0], found.file
    assert ours.texts and ours.chat and (type != "f32" or (ours.greedy and ours.logits == 0))
    assert file is not None and file.cost is not None and not file.rows
    assert max(file.counts, key=file.counts.__getitem__) == type
    assert file.cost.more <= gguf_exporting.DEAREST.get(type, gguf_exporting.DEAR)
    assert (type == "f32") == (file.cost.more == 0)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"| of this file | llmspec | {file.cost.after:.4f} |" in card and f"in {type} (" in card
    stored = GGUFFile(tmp_path / "out" / f"small-{type}.gguf")
    assert stored.files.metadata["general.file_type"] == exporting.FILE_TYPES[type]
    assert stored.decoding()["temperature"] == 1.0
    _, back, _ = stored.weights(stored.plan())
    weights = own.weights()
    for name in ("final_norm.weight", "layers.0.mlp.up_proj.weight"):
        wanted = quantise(type if "proj" in name else "f32", np.atleast_2d(weights[name])).dequantised()
        assert np.array_equal(as_float32(back[name]), wanted.reshape(weights[name].shape))


def test_figures_are_those_of_a_reference(tmp_path: Path, text: Path) -> None:
    own = model()
    found = export_gguf(own, tmp_path / "out", type="q4_0", text=text)
    ids = own.tokens(TEXT, chat=False)
    again = llmspec.open(tmp_path / "out" / "small-q4_0.gguf")
    assert found.file is not None and found.file.cost is not None and found.file.cost.tokens == len(ids) - 1
    for opened, said in ((own, found.file.cost.before), (again, found.file.cost.after)):
        wanted = 0.0
        for at in range(0, len(ids) - 1, 48):
            after = ids[at + 1 : at + 49]
            logits = opened.logits(ids[at : at + len(after)])[0].astype(np.float64)
            wanted -= sum(logits[i, t] - np.log(np.exp(logits[i]).sum()) for i, t in enumerate(after))
        assert said == pytest.approx(wanted / (len(ids) - 1), abs=1e-6)


@pytest.mark.parametrize("name", [name for name, table in tables().items() if not table.needed])
def test_a_file_of_every_architecture_is_written_again(name: str, tmp_path: Path) -> None:
    """The same metadata of the network, the same tensors."""
    stored = GGUFFile(gguf_files.small(tmp_path / "a.gguf", tables()[name]))
    plan = stored.plan()
    assert proposal_of(plan.model, stored.origin).table.model_type == tables()[name].model_type
    found = proposal_of(plan.model, only=name)
    _, weights, _ = stored.weights(plan)
    words = vocabulary.vocabulary(stored.tokenizer(plan), plan.model.vocab, plan.chat_template.template, True)
    how = exporting.placed(found, plan, weights, "")
    exporting.write_model(tmp_path / "b.gguf", found, plan, weights, words, how)
    again = GGUFFile(tmp_path / "b.gguf")
    assert again.plan().model == plan.model
    for tensor in stored.files.tensors:
        assert again.files.quantised(tensor).data.tobytes() == stored.files.quantised(tensor).data.tobytes()
    own = stored.files.metadata
    for key, value in again.files.metadata.items():
        if key.startswith("tokenizer.") and key in own:
            there = list(own[key]) if hasattr(own[key], "__iter__") else own[key]
            assert (list(value) if hasattr(value, "__iter__") else value) == there, key


def test_the_matrix_of_logits_has_more_bits_and_odd_rows_have_others() -> None:
    own = model()
    weights = own.weights()
    found = exporting.placed(proposal_of(own.plan.model), own.plan, weights, "q4_k")
    assert found.types["token_embd.weight"] == "q6_k" and found.types["blk.0.attn_norm.weight"] == "f32"
    assert not found.rows and found.size == sum(
        TYPES[t].size(g.theirs[0][1]) for g in proposal_of(own.plan.model).groups for t in [found.types[g.theirs[0][0]]]
    )
    narrow = model("byte", d_model=96)
    found = exporting.placed(proposal_of(narrow.plan.model), narrow.plan, narrow.weights(), "q4_k")
    assert {found.types[n] for n in found.rows if found.rows[n] == ("q4_k", 96)} == {"q8_0"}
    assert found.rows["token_embd.weight"] == ("q6_k", 96) and found.types["token_embd.weight"] == "q8_0"
    assert found.types["blk.0.ffn_down.weight"] == "q4_k"
    odd = model("byte", d_model=24)
    found = exporting.placed(proposal_of(odd.plan.model), odd.plan, odd.weights(), "q8_0")
    assert found.types["blk.0.attn_q.weight"] == "f16" and found.rows["blk.0.attn_q.weight"] == ("q8_0", 24)


def test_what_lies_in_a_type_stays_as_it_is(tmp_path: Path) -> None:
    own = model()
    weights = {name: quantise("q5_1", array) if "proj" in name else array for name, array in own.weights().items()}
    proposal = proposal_of(own.plan.model)
    how = exporting.placed(proposal, own.plan, weights, "")
    assert {*how.types.values()} == {"q5_1", "f32"} and how.types["token_embd.weight"] == "f32"
    words = vocabulary.vocabulary(own.codec, own.plan.model.vocab, "", True)
    exporting.write_model(tmp_path / "a.gguf", proposal, own.plan, weights, words, how)
    stored = GGUFFile(tmp_path / "a.gguf")
    _, back, _ = stored.weights(stored.plan())
    for name in ("layers.0.attention.q_proj.weight", "layers.0.mlp.down_proj.weight"):
        assert back[name].type == "q5_1" and back[name].whole().tobytes() == weights[name].whole().tobytes()


# -- tokenizers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["bpe", "byte"])
@given(
    words=st.lists(st.one_of(st.text(max_size=30), st.sampled_from(WORDS)), min_size=1, max_size=5),
    roles=st.lists(st.sampled_from(ROLES), min_size=5, max_size=5),
)
def test_texts_and_dialogues_have_the_same_ids(kind: str, words: list[str], roles: list[Any]) -> None:
    own, again = exported(kind)
    assert again.codec.encode(words) == own.codec.encode(words)
    turns = list(zip(roles, words, strict=False))
    assert again.tokens(turns) == own.tokens(turns)
    assert again.tokens(words[0], chat=False) == own.tokens(words[0], chat=False)


@functools.cache
def exported(kind: str) -> tuple[Any, Any]:
    import tempfile

    own, folder = model(kind), tempfile.mkdtemp()
    export_gguf(own, Path(folder, "out"))
    return own, llmspec.open(Path(folder, "out", "small.gguf"))


@pytest.mark.parametrize(("kind", "why"), [("char", "characters"), ("unigram", "Unigram"), ("wordpiece", "WordPiece")])
def test_tokenizers_without_a_form_are_refused_with_the_reason(kind: str, why: str) -> None:
    settings = {"char": {}, "unigram": {"vocab": 280}, "wordpiece": {"vocab": 56}}[kind]
    codec = tokenizers.TABLE[kind](**settings).train(WORDS)
    with pytest.raises(LlmspecError, match=rf"(?s)no form in GGUF: .*{why}.*--to hf"):
        vocabulary.vocabulary(codec, codec.vocab, "", True)


@given(words=st.lists(st.text("abcde ▁é你\n", max_size=20), min_size=1, max_size=5))
def test_sentencepiece_comes_back_with_its_scores(words: list[str]) -> None:
    """Read from a file with scores and written again: the same pieces and types, and scores of the same order."""
    own, metadata = scored()
    found = vocabulary.vocabulary(own, own.vocab, "", True).metadata
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
        assert list(found[key].items) == list(metadata[key])  # type: ignore[union-attr]
    again = codec_of(tokenizing(read(found), "it"))
    assert again.encode(words) == own.encode(words)


def test_merges_that_scores_cannot_say_are_refused() -> None:
    own, _ = scored()
    file = json.loads(own.to_json())
    file["model"]["merges"] = file["model"]["merges"][:-1]
    with pytest.raises(LlmspecError, match="are not all that its pieces allow"):
        vocabulary.vocabulary(LibraryCodec(json.dumps(file)), own.vocab, "", True)
    file = json.loads(own.to_json())
    pairs = file["model"]["merges"]
    twice = [pair for pair in pairs if "".join(pair).replace(" ", "") == "abc"]
    assert len(twice) == 2
    file["model"]["merges"] = [*(pair for pair in pairs if pair != twice[1]), twice[1]]
    with pytest.raises(LlmspecError, match="of different ranks"):
        vocabulary.vocabulary(LibraryCodec(json.dumps(file)), own.vocab, "", True)


@functools.cache
def scored() -> tuple[Any, dict[str, Any]]:
    """A codec of SentencePiece's BPE, and the metadata that it was made of."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁", "a", "b", "c", "d", "e", "ab", "bc", "abc", "▁a", "de", "▁abc", "dee"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*pieces, *words],
        "tokenizer.ggml.scores": [*[0.0] * len(pieces), *[0.0] * 6, *(-float(i + 1) for i in range(len(words) - 6))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(words)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    arrays = {
        key: writing.Array(kind, metadata[key])
        for key, kind in (
            ("tokenizer.ggml.tokens", "text"),
            ("tokenizer.ggml.scores", "f32"),
            ("tokenizer.ggml.token_type", "i32"),
        )
    }
    return codec_of(tokenizing(read({**metadata, **arrays}), "it")), metadata


def read(metadata: dict[str, Any]) -> Any:
    """Metadata as they come out of a file."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        writing.write(Path(place, "a.gguf"), metadata, [])
        return read_header(Path(place, "a.gguf")).metadata


def codec_of(found: Any) -> Any:
    named = {k: v for k, v in found.settings.items() if k in ("bos", "eos", "unk")}
    return LibraryCodec(
        found.text,
        lambda ids: SpecialTokens(ids=ids, named=True, **{k: ids[v] for k, v in named.items()}),
        [*named.values()],
    )


# -- refused ---------------------------------------------------------------------------------------------------------
def test_an_architecture_that_the_format_cannot_say_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    own = model("byte", position="alibi")
    with pytest.raises(LlmspecError, match=r"(?s)no architecture of GGUF files has .*nearest is .*position"):
        export_gguf(own, tmp_path / "out")
    with pytest.raises(LlmspecError, match="no architecture of GGUF files is called `lama`"):
        export_gguf(model(), tmp_path / "out", family="lama")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, table in tables().items() if table.square or table.needed])
def test_what_llama_cpp_would_not_read_is_not_written(name: str, tmp_path: Path) -> None:
    table = tables()[name]
    before = f"{table.model_type}.attention."
    wide = {f"{before}key_length": 32, f"{before}value_length": 32, f"{table.model_type}.rope.dimension_count": 32}
    model = GGUFFile(gguf_files.small(tmp_path / "a.gguf", table, **wide)).plan().model
    with pytest.raises(LlmspecError, match=r"heads that are 128 wide together, where llama\.cpp asks for the 64"):
        proposal_of(model, only=name)
    plain = GGUFFile(gguf_files.small(tmp_path / "b.gguf", table)).plan().model
    if table.needed:
        with pytest.raises(LlmspecError, match=r"the tensor output\.weight, which llama.cpp asks for"):
            proposal_of(plain, only=name)
    else:
        assert proposal_of(plain, only=name).table is table


def test_a_type_that_costs_too_much_is_refused(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_exporting, "DEAR", -1.0)
    monkeypatch.setattr(gguf_exporting, "DEAREST", {})
    with pytest.raises(LlmspecError, match=r"(?s)it costs .* nats per token .*-1 is the most.*nothing was written"):
        export_gguf(model(), tmp_path / "out", type="q4_0", text=text)
    assert not [*tmp_path.iterdir()]


def test_weights_in_the_wrong_place_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = exporting._in_type

    def swapped(group: Any, weights: Any, number: int, type: str, name: str) -> Any:
        other = {"blk.0.ffn_up.weight": "gate_proj", "blk.0.ffn_gate.weight": "up_proj"}.get(name)
        (own,) = [n for n, _ in group.ours]
        moved = {**weights, own: weights[f"layers.0.mlp.{other}.weight"]} if other else weights
        return true(group, moved, number, type, name)

    monkeypatch.setattr(exporting, "_in_type", swapped)
    with pytest.raises(LlmspecError, match=r"(?s)up_proj.weight is off by 1\..*the export is not the model"):
        export_gguf(model(), tmp_path / "out", type="q8_0")


def test_wrong_arguments_are_said_before_anything_is_done(tmp_path: Path, text: Path) -> None:
    with pytest.raises(LlmspecError, match=r"(?s)no type of weights is named `q4_km`.*did you mean `q4_k`"):
        export_gguf(model(), tmp_path / "out", type="q4_km")
    with pytest.raises(LlmspecError, match="cannot be read"):
        export_gguf(model(), tmp_path / "out", text=tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(LlmspecError, match="has no text"):
        export_gguf(model(), tmp_path / "out", text=tmp_path / "empty.txt")


def test_a_run_is_measured_on_its_validation_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, through the command; with what is said of it."""
    from llmspec.cli.app import app

    monkeypatch.chdir(tmp_path)
    short = ["phases.pretrain.budget=3 steps", "phases.chat.budget=2 steps"]
    llmspec.run(llmspec.compile(llmspec.load_spec(tiny.write(tmp_path), short).spec), tmp_path / "run")
    done = CliRunner().invoke(app, ["export", "run", "--to", "gguf", "--type", "q8_0", "-o", "out"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "tokens of the validation text of facts, docs" in said and said.endswith("done")
    assert "rows of 16 are no whole blocks of q8_0" in said and "Ollama" not in said
    assert 'TEMPLATE """{{ range .Messages }}' in (tmp_path / "out" / "Modelfile").read_text("utf-8")


def test_prompts_of_pairs_lie_in_the_file(tmp_path: Path, text: Path) -> None:
    """As a template of one message, for llama.cpp and for Ollama, which puts the first token there itself."""
    own = model()
    paired = LanguageModel(own.plan, own.codec, own.weights(), "p", chat=False)
    paired.pairs = True
    found = export_gguf(paired, tmp_path / "out", text=text)
    assert found.compared[0].chat and "## How it is asked" in (tmp_path / "out" / "README.md").read_text("utf-8")
    template = modelfiles.read((tmp_path / "out" / "Modelfile").read_text("utf-8"))["template"]
    assert modelfiles.rendered(template, [("user", "one"), ("assistant", "two"), ("user", "three")]) == "three<|end|>"
    again = llmspec.open(next((tmp_path / "out").glob("*.gguf")))
    asked = again.tokens([("user", "one"), ("assistant", "two"), ("user", "two pears?")])
    assert asked == paired.tokens("two pears?") and asked[0] == asked[-1] == own.codec.specials.eos
