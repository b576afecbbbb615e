"""A smallest phase of every kind, for laws over all of them: a new kind adds its own here."""

from __future__ import annotations

from typing import Any

import tiny

BEGIN = (
    tiny.TINY[: tiny.TINY.index("    docs:")] + tiny.TINY[tiny.TINY.index("    facts:") : tiny.TINY.index("phases:")]
)
SHARED = "mixture: {facts: 100%}, budget: 30 steps, micro_batch_size: 2, optimizer: {kind: adamw, lr: 1e-2}"
LABELLED = ", ".join(
    f"{{q: {'good' if i % 2 else 'bad'} number {i}, a: {'yes' if i % 2 else 'no'}}}" for i in range(20)
)
"""Records whose texts have one of two labels."""
NUMBERED = ", ".join(f"{{q: number {i} of {i % 3}, a: {i % 3 + 0.5}}}" for i in range(20))
"""Records whose texts have a number each."""
TAGGED = ", ".join(
    f"{{q: [in, Rom{'ea' * (i % 3)}, {i}], a: [O, B-LOC, {'B-N' if i % 2 else 'O'}]}}" for i in range(20)
)
"""Records whose words have tags."""
BEFORE = "phases.before={kind: sft, mixture: {facts: 100%}, budget: 2 steps, micro_batch_size: 2}"
"""A phase that answers begin with."""
START = "phases.start={kind: pretrain, mixture: {facts: 100%}, budget: 3 steps, micro_batch_size: 2}"
"""What a phase begins with that needs a model."""
PAIRED = (
    START,
    "model.context=64",
    f"data.sources.facts.records=[{LABELLED}]",
    'data.sources.facts.prompt="{q}"',
    'data.sources.facts.chosen="it is {a}"',
    'data.sources.facts.rejected="no {a}"',
    "data.sources.facts.text=null",
    "data.sources.facts.dialogue=null",
)
"""Records of two answers to one prompt."""
JUDGED = (*PAIRED[:4], 'data.sources.facts.completion="it is {a}"', 'data.sources.facts.good="{a}"', *PAIRED[-2:])
"""Records of one answer that is good or bad."""
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dpo": ("from: start", PAIRED),
    "orpo": ("from: start", PAIRED),
    "kto": ("from: start", JUDGED),
    "pretrain": ("gradient_accumulation_steps: 2, on_spike: {above: 3, window: 10}", ()),
    "sft": ("prompts: [one]", ()),
    "seq2seq": (
        "",
        (
            "model.encoder={layers: 1, context: 12}",
            'data.sources.facts.source="{q}"',
            'data.sources.facts.target="{a}"',
            "data.sources.facts.text=null",
            "data.sources.facts.dialogue=null",
        ),
    ),
    "span_corruption": (
        "",
        ("model.encoder={layers: 1, context: 12}", "tokenizer={kind: byte, sentinels: 4}"),
    ),
    "prefix_lm": ("", ("model.mask={kind: prefix}",)),
    "classify": (
        "",
        (
            "model.mask={kind: bidirectional}",
            f"data.sources.facts.records=[{LABELLED}]",
            'data.sources.facts.text="{q}"',
            'data.sources.facts.label="{a}"',
            "data.sources.facts.dialogue=null",
        ),
    ),
    "regress": (
        "",
        (
            "model.mask={kind: bidirectional}",
            f"data.sources.facts.records=[{NUMBERED}]",
            'data.sources.facts.text="{q}"',
            'data.sources.facts.label="{a}"',
            "data.sources.facts.dialogue=null",
        ),
    ),
    "tag": (
        "",
        (
            "model.mask={kind: bidirectional}",
            f"data.sources.facts.records=[{TAGGED}]",
            'data.sources.facts.words="{q}"',
            'data.sources.facts.tags="{a}"',
            "data.sources.facts.text=null",
            "data.sources.facts.dialogue=null",
        ),
    ),
    "contrastive": (
        "",
        (
            "model.mask={kind: bidirectional}",
            "model.context=64",
            f"data.sources.facts.records=[{LABELLED}]",
            'data.sources.facts.source="{q}"',
            'data.sources.facts.target="it is {a}: {q}"',
            "data.sources.facts.text=null",
            "data.sources.facts.dialogue=null",
        ),
    ),
    "reward": (
        "",
        (
            "model.context=128",
            f"data.sources.facts.records=[{LABELLED}]",
            'data.sources.facts.prompt="{q}"',
            'data.sources.facts.chosen="it is {a}"',
            'data.sources.facts.rejected=["no", "never {a}"]',
            "data.sources.facts.text=null",
            "data.sources.facts.dialogue=null",
        ),
    ),
    "masked_lm": (
        "sequence_length: {start: 4, until: 60%}",
        ("model.mask={kind: bidirectional}", "tokenizer={kind: byte, special_tokens: [mask]}"),
    ),
    "masked_lm framed": (
        "add_special_tokens: true, document_mask: true",
        ("model.mask={kind: bidirectional}", "tokenizer={kind: byte, special_tokens: [mask, cls, sep]}"),
    ),
    "best_of_n": (
        "from: before, reward: {kind: length, least: 9}, prompts_per_rollout: 2, answers_per_prompt: 3, max_tokens: 3, "
        "epochs_per_rollout: 2, threshold: 0.1",
        (BEFORE,),
    ),
    "grpo": (
        "from: before, reward: {kind: length, least: 9}, prompts_per_rollout: 2, answers_per_prompt: 2, max_tokens: 3, "
        "mini_batches: 2, epochs_per_rollout: 2, kl_coefficient: 0.1",
        (BEFORE,),
    ),
    "ppo": (
        "from: before, reward: {kind: length, least: 9}, prompts_per_rollout: 4, max_tokens: 3, mini_batches: 2, "
        "epochs_per_rollout: 2, adaptive_kl: {target: 1, horizon: 20}",
        (BEFORE,),
    ),
}
"""Kind, or kind and form -> (settings of its own, what else its spec sets)."""


def kind_of(name: str) -> str:
    """The kind of a phase, of its name in KINDS."""
    return name.partition(" ")[0]


def spec_of(kind: str, *more: str) -> tuple[str, list[str]]:
    """(a spec with one phase of a kind, what is set beside)."""
    own, sets = KINDS[kind]
    settings = ", ".join(x for x in (f"kind: {kind_of(kind)}", SHARED, own, *more) if x)
    return f"{BEGIN}phases:\n  phase: {{{settings}}}\ndecoding: {{max_tokens: 4}}\n", list(sets)


def table() -> dict[str, Any]:
    """The kinds that there are."""
    from llmspec.training.tasks import TASKS

    return TASKS
