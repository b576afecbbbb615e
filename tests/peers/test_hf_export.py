"""Exported folders, read back by transformers: what `llmspec export` compares before it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import hf_folders  # noqa: E402
from hf_cases import model_in  # noqa: E402
from paired_runs import SOURCES, trained  # noqa: E402
from test_exchange import TEMPLATE  # noqa: E402

import llmspec  # noqa: E402
from llmspec.core.problems import RunError  # noqa: E402
from llmspec.exchange import exporting, read_back  # noqa: E402

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 264}


@pytest.mark.parametrize(
    "config",
    [
        lambda: transformers.LlamaConfig(**SIZES, intermediate_size=20, max_position_embeddings=128),
        lambda: transformers.GPT2Config(vocab_size=264, n_embd=24, n_layer=2, n_head=4, n_positions=128),
        lambda: transformers.ModernBertConfig(
            **SIZES, intermediate_size=20, pad_token_id=2, max_position_embeddings=64
        ),
    ],
    ids=["llama", "gpt2", "modernbert"],
)
def test_transformers_reads_the_same(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config()
    if made.model_type == "modernbert":
        from test_hf_encoders import model_in as encoder_in

        encoder_in(tmp_path, made, 3, transformers.AutoModelForMaskedLM)
    else:
        model_in(tmp_path, made, 3)
        hf_folders.write_tokenizer(tmp_path, 264, TEMPLATE)
    opened = llmspec.open(tmp_path)
    found = exporting.export_folder(opened, tmp_path / "out", origin=made.model_type)
    ours, theirs = found.compared
    assert ours.logits == 0 and theirs.logits <= read_back.LARGEST and theirs.reader.startswith("transformers")
    assert theirs.texts and theirs.greedy == (True if opened.plan.model.generates else None)
    assert theirs.chat == (True if opened.plan.model.generates else None)


def test_transformers_is_believed_where_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_in(tmp_path, transformers.LlamaConfig(**SIZES, intermediate_size=20, max_position_embeddings=64), 3)
    monkeypatch.setattr(read_back, "LARGEST", 1e-12)
    with pytest.raises(RunError, match="read back by transformers"):
        exporting.export_folder(llmspec.open(tmp_path), tmp_path / "out")


def answered(folder: Path, source: str, length: int) -> list[int]:
    """What transformers answers a source with, asked by the folder's chat template and settings, as its card says."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = [{"role": "user", "content": source}]
    made = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, made.architectures[0]).from_pretrained(folder, dtype=torch.float32).eval()
    asked = tokenizer.apply_chat_template(given, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**asked, do_sample=False, max_new_tokens=length)[0].tolist()
    return out[1:] if made.is_encoder_decoder else out[asked["input_ids"].shape[1] :]


def test_a_decoder_of_pairs_answers_as_its_samples(tmp_path: Path) -> None:
    opened = llmspec.open(trained(tmp_path))
    found = exporting.export_folder(opened, tmp_path / "out")
    assert found.compared[1].chat and found.compared[1].greedy
    end = opened.codec.specials.eos
    for source in SOURCES:
        (wanted,) = opened.generate(source, temperature=0.0, max_tokens=20)
        assert answered(tmp_path / "out", source, 20) == [*(t for t in wanted.tokens if t != end), end]
        assert wanted.finish_reason == "end" and len(wanted.text) > 3, "it has learned to end"


def test_an_encoder_decoder_of_pairs_answers_as_its_samples(tmp_path: Path) -> None:
    made = transformers.T5Config(
        vocab_size=264, d_model=24, d_kv=6, d_ff=20, num_layers=1, num_heads=4, decoder_start_token_id=2, pad_token_id=2
    )
    torch.manual_seed(5)
    model = transformers.T5ForConditionalGeneration(made)
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "theirs")
    hf_folders.write_tokenizer(tmp_path / "theirs", 264, "", ended=True)
    opened = llmspec.open(tmp_path / "theirs")
    opened.pairs = True
    found = exporting.export_folder(opened, tmp_path / "out")
    assert found.compared[1].chat and found.compared[1].greedy
    for source in ("two pears", "a b"):
        (wanted,) = opened.generate(source, chat=False, temperature=0.0, max_tokens=8)
        assert answered(tmp_path / "out", source, 8)[: len(wanted.tokens)] == list(wanted.tokens)
