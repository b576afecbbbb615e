"""Models of transformers, opened from their folders: logits, cached decoding and gradients are the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from families import Record, tell  # noqa: E402
from hf_cases import FAMILIES, model_in  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from transformers.core_model_loading import revert_weight_conversion  # noqa: E402

import llmspec  # noqa: E402
from llmspec.formats.hf import exporting  # noqa: E402
from llmspec.formats.hf.family import families  # noqa: E402
from llmspec.formats.hf.family import shared as in_common  # noqa: E402
from llmspec.formats.hf.importing import HFFolder  # noqa: E402
from llmspec.formats.hf.weights import Files  # noqa: E402
from llmspec.formats.hf.writing import config_of  # noqa: E402

LOGITS, GRADIENTS = 2e-4, 1e-4


def torch_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy(tokens)).logits.numpy()
    return found


def cached(opened: Any, tokens: np.ndarray, first: int) -> np.ndarray:
    """Logits after each token from `first` on, by a prefill and steps: (B, T - first + 1, V)."""
    cache, logits = opened.decoder.prefill([row[:first].tolist() for row in tokens])
    found = [logits]
    found += [opened.decoder.step(cache, tokens[:, i].tolist()) for i in range(first, tokens.shape[1])]
    return np.stack(found, axis=1)


def gradients(opened: Any, tokens: np.ndarray, up: np.ndarray, encoder: Any = None) -> dict[str, np.ndarray]:
    """Of sum(logits · up), by our names, through the operations that train; `encoder`: what an encoder reads."""
    from tinygrad import Tensor

    from llmspec.backends import owner
    from llmspec.backends.tensors import tensors_from_numpy
    from llmspec.compiler.masks import range_inputs
    from llmspec.model.transformer import block_context

    with owner.turn():
        model = opened.plan.model
        ranges = range_inputs(model, False, tokens.shape[1], filled_B=[tokens.shape[1]] * len(tokens))
        arrays = {"tokens": tokens, "up": up, **ranges, **(encoder or {})}
        inputs = {**tensors_from_numpy(**arrays), **opened._backend.inputs}
        weights = {n: w.requires_grad_() if hasattr(w, "requires_grad_") else w for n, w in opened._weights.items()}
        ops = opened._backend.ops(inputs)
        opened.decoder.positions.reach(tokens.shape[1])
        logits = opened._model.logits(ops, {**weights, **opened._tables}, inputs, block_context(inputs))
        found = (logits * inputs["up"]).sum().gradient(*weights.values())
        Tensor.realize(*found)
        return {name: g.numpy() for name, g in zip(weights, found, strict=True)}


def their_gradients(opened: Any, folder: Path, model: Any, tokens: np.ndarray, up: np.ndarray) -> dict[str, np.ndarray]:
    """The same of torch, by our names: through the mapping that reads weights."""
    (model(torch.from_numpy(tokens)).logits * torch.from_numpy(up)).sum().backward()
    return named_gradients(opened, folder, model)


def named_gradients(opened: Any, folder: Path, model: Any) -> dict[str, np.ndarray]:
    """What torch has found, by our names."""
    given = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    given |= {
        name: torch.zeros_like(b) for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")
    }
    # As the file has them: experts apart, where transformers stacks them in memory.
    by_name = {name: g.numpy() for name, g in revert_weight_conversion(model, given).items()}
    if "lm_head.weight" in by_name:  # as GPT-NeoX's is called in memory
        by_name.setdefault("embed_out.weight", by_name["lm_head.weight"])
    found: dict[str, np.ndarray] = {}
    stored = HFFolder(folder)
    for group in stored.groups(opened.plan.model, Files(folder)):
        split = group.split([by_name[name] for name, _ in group.theirs])
        found.update(zip((n for n, _ in group.ours), split, strict=True))
    return found


def test_every_table_is_compared() -> None:
    from test_hf_encoders import ENCODERS
    from test_hf_pairs import PAIRS

    assert {*FAMILIES, *ENCODERS, *PAIRS} == set(families())


def compare(config: Any, number: int, lengths: tuple[int, int]) -> tuple[float, float]:
    """The largest difference of logits, and of gradients relative to their norms."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_in(folder, config, number)
        opened = llmspec.open(folder)
        first, length = sorted((lengths[0], max(lengths)))
        tokens = np.random.default_rng(number).integers(0, config.vocab_size, (2, length)).astype(np.int64)
        tokens[tokens == config.pad_token_id] = 5  # whose vector torch does not train
        logits = torch_logits(model, tokens)
        own = opened.logits(tokens)
        np.testing.assert_allclose(own, logits, rtol=0, atol=LOGITS)
        np.testing.assert_allclose(cached(opened, tokens, first), logits[:, first - 1 :], rtol=0, atol=LOGITS)
        round_trip(opened, folder, folder / "again")
        up = np.random.default_rng(number + 1).normal(size=logits.shape).astype(np.float32)
        ours = gradients(opened, tokens.astype(np.int32), up)
        theirs = their_gradients(opened, folder, model, tokens, up)
        return float(np.abs(own - logits).max()), apart(ours, theirs)


def apart(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference of a tensor's gradients relative to their norm; fails where it is too large."""
    assert ours.keys() == theirs.keys()
    # A key's bias has no gradient: what is found of it is what rounding leaves of larger ones.
    largest, furthest = max(np.linalg.norm(wanted) for wanted in theirs.values()), 0.0
    for tensor, wanted in theirs.items():
        error, norm = np.linalg.norm(ours[tensor] - wanted), np.linalg.norm(wanted)
        assert error <= GRADIENTS * norm + 1e-6 * largest, (tensor, error, norm)
        furthest = max(furthest, float(error / norm) if norm > 1e-2 * largest else 0.0)
    return furthest


def round_trip(opened: Any, folder: Path, out: Path) -> None:
    """What is written again has the same bytes in every tensor, and a config that transformers reads as equal."""
    made = config_of(opened.plan.model, HFFolder(folder).family.model_type)
    exporting.write(out, made, opened.plan, opened.weights(), opened.codec, "a card")
    before, after = Files(folder), Files(out)
    tied = set(before.entries) - set(after.entries)
    assert set(after.entries) <= set(before.entries) and tied <= {"lm_head.weight", "embed_out.weight"}
    for name in after.entries:
        assert before.array(name).tobytes() == after.array(name).tobytes(), name
    configs = [transformers.AutoConfig.from_pretrained(place).to_dict() for place in (folder, out)]
    ignored = {"transformers_version", *in_common().training, *in_common().ignored, *made.family.training}
    ignored |= {*made.family.ignored, *(n for n, r in made.family.fields.items() if not r.to and not r.choose)}
    a, b = ({k: v for k, v in c.items() if k not in ignored} for c in configs)
    assert equivalent(a) == equivalent(b)


def equivalent(config: dict[str, Any]) -> dict[str, Any]:
    """Without what two spellings of one thing differ in."""
    same = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}
    found = {k: same.get(v, v) if isinstance(v, str) else v for k, v in config.items()}
    if "n_embd" in found:
        found["n_inner"] = found["n_inner"] or 4 * found["n_embd"]
    if "hidden_size" in found:
        found["head_dim"] = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
    return found


LENGTHS = st.tuples(st.integers(1, 39), st.integers(2, 39))
QUIET: dict[str, Any] = {"deadline": None, "phases": (Phase.generate,), "database": None}
QUIET |= {"suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_drawn_configs(family: str, record_property: Record) -> None:
    found: list[tuple[float, float]] = []

    @seed(1)
    @settings(max_examples=2, **QUIET)
    @given(FAMILIES[family](), st.integers(0, 1 << 30), LENGTHS)
    def check(config: Any, number: int, lengths: tuple[int, int]) -> None:
        found.append(compare(config, number, lengths))

    check()
    delta, relative = (f"{max(figures):.1g}" for figures in zip(*found, strict=True))
    tell(record_property, family, imported="yes", delta=delta, gradients=relative, exported="yes")


@pytest.mark.nightly
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_many_drawn_configs(family: str) -> None:
    @settings(max_examples=40, **QUIET)
    @given(FAMILIES[family](), st.integers(0, 1 << 30), LENGTHS)
    def check(config: Any, number: int, lengths: tuple[int, int]) -> None:
        compare(config, number, lengths)

    check()


GROWING = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
SIZES = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 10}
FOUND = {
    # A text of 33 tokens was read in a graph of 64, and the angles were those of 64, which is beyond 40.
    "a base that grows": (
        transformers.Qwen3MoeConfig(
            **SIZES, vocab_size=268, moe_intermediate_size=9, num_experts=5, num_experts_per_tok=4,
            max_position_embeddings=40, tie_word_embeddings=True, attention_bias=True, norm_topk_prob=True,
            rope_parameters=GROWING,
        ),
        7146,
        (33, 14),
    ),
}  # fmt: skip
"""What wide draws have found, each once."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(name: str) -> None:
    compare(*FOUND[name])
