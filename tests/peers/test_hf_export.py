"""Exported folders, read back by transformers: what `llmspec export` compares before it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import hf_folders  # noqa: E402
from hf_cases import model_in  # noqa: E402
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
