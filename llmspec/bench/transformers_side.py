"""Prefill and decode of transformers' LLaMA, where the plan's parts are LLaMA's: the peer of decoding."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from llmspec.bench.batches import prompt
from llmspec.bench.peer_support import require, unknown
from llmspec.bench.task import CHECKED, WARM, Result, Task, greedy, tokens_of
from llmspec.bench.torch_side import device, held
from llmspec.compiler import walk
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.forecast.timing import Numbers, timed

NAMES = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "attention": "self_attn"}


def run(task: Task) -> Result:
    """Measures prefill or decoding in this process. Raises BenchError for a plan that is no LLaMA."""
    transformers.logging.set_verbosity_error()
    with torch.inference_mode():
        seconds, check = (prefill if task.work == "prefill" else decode)(task)
    return Result(
        name=f"transformers {transformers.__version__}",
        seconds=seconds,
        check=check,
        peak_bytes=held(device(task.plan)),
    )


def prefill(task: Task) -> tuple[Numbers, Numbers]:
    """(seconds of prefills, logits of what follows the prompt)."""
    session = Session(task.plan)
    tokens = prompt(task.plan, tokens_of(task)[0])
    logits = session.start(tokens)
    for _ in range(WARM - 1):
        session.start(tokens)
    return timed(lambda: session.start(tokens), task.steps), tuple(map(float, logits[0, :CHECKED]))


def decode(task: Task) -> tuple[Numbers, Numbers]:
    """(seconds of each decoded token, logits after the first)."""
    session, (length, decoded) = Session(task.plan), tokens_of(task)
    tokens = prompt(task.plan, length + 1)

    def begin() -> Any:
        session.start(tokens[:length])
        return session.step(tokens[length])

    return greedy(begin, lambda tokens: session.step(tokens[0]), decoded)


class Session:
    """A model and its key/value cache, batch 1, float32."""

    def __init__(self, plan: Plan) -> None:
        self.device = device(plan)
        self.model, self.cache = loaded(plan).to(self.device).eval(), None

    def start(self, tokens: list[int]) -> Any:
        """Logits (1, V) as numpy of what follows a prompt, by a new cache."""
        self.cache = None
        return self._read(tokens)

    def step(self, token: int) -> Any:
        """Logits (1, V) as numpy of what follows one more token."""
        return self._read([token])

    def _read(self, tokens: list[int]) -> Any:
        ids = torch.tensor([tokens], device=self.device)
        out = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits[:, -1].cpu().numpy()


def loaded(plan: Plan) -> Any:
    """LlamaForCausalLM with the plan's weights of step 0."""
    from llmspec.model.weights import draw

    require("transformers", plan.model)
    model = transformers.LlamaForCausalLM(config(plan.model))
    own, table = dict(model.named_parameters()), {their_name(t.name): t for t in plan.model.tensors}
    if own.keys() != table.keys():
        raise unknown("transformers", f"the tensors {sorted(own.keys() ^ table.keys())}", "LLaMA's")
    for name, parameter in own.items():
        parameter.copy_(torch.from_numpy(draw(table[name], plan.seed)))
    return model


def their_name(name: str) -> str:
    """The plan's name of a tensor -> transformers'."""
    if name.startswith("layers."):
        _, layer, part, rest = name.split(".", 3)
        return f"model.layers.{layer}.{NAMES.get(part, part)}.{rest}"
    return {"final_norm.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}.get(name, f"model.{name}")


def config(plan: ModelPlan) -> Any:
    """LLaMA's settings for the plan's dimensions."""
    blocks: Any = plan.stacks[0].blocks
    head: Any = plan.heads["lm"]
    (block,) = blocks
    theta, dims = block.position.theta, walk.block_dims(plan, block)
    made = transformers.LlamaConfig(
        vocab_size=plan.vocab,
        hidden_size=plan.d_model,
        intermediate_size=block.mlp.d_ff,
        head_dim=dims.head_dim,
        num_hidden_layers=plan.layers,
        num_attention_heads=dims.heads,
        num_key_value_heads=dims.kv_heads,
        max_position_embeddings=plan.context,
        rms_norm_eps=block.norm.eps,
        tie_word_embeddings=head.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    if hasattr(made, "rope_theta"):  # before transformers 5
        made.rope_theta = theta
    return made
