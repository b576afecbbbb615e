"""Drawn sections changed so that they fit what the phases of their spec teach."""

from __future__ import annotations

from strategies_values import Data

SENTINELS = 24
"""Enough for the rows of every drawn model."""


def both_sides(model: Data) -> Data:
    """The same network, of whose tokens each sees both sides."""
    blocks = {
        name: {**own, **({"mask": {**own["mask"], "kind": "bidirectional"}} if "mask" in own else {})}
        for name, own in model.get("blocks", {}).items()
    }
    kept = {key: value for key, value in model.items() if key not in ("encoder", "blocks")}
    mask = {key: value for key, value in model.get("mask", {}).items() if key == "window"}
    return {**kept, **({"blocks": blocks} if blocks else {}), "mask": {**mask, "kind": "bidirectional"}}


def one_stack(model: Data) -> Data:
    """The same network without an encoder of its own."""
    return {key: value for key, value in model.items() if key != "encoder"}


def framed(stages: Data) -> bool:
    """Whether phases read text between special tokens."""
    return any(stage.get("add_special_tokens") for stage in stages.values())


def masking(tokenizer: Data, framed: bool = False) -> Data:
    """The same tokenizer with a mask token, and those that stand around text where it is `framed`; bytes where others
    made it."""
    around = ["cls", "sep"] if framed else []
    if tokenizer.get("kind", "huggingface") == "huggingface":
        return {"kind": "byte", "special_tokens": ["mask", *around]}
    if framed:
        more = {"vocab": tokenizer["vocab"] + 2} if "vocab" in tokenizer else {}
        return {**tokenizer, "special_tokens": ["mask", *around], **more}
    return {**tokenizer, "special_tokens": ["mask", *[t for t in tokenizer["special_tokens"] if t != "mask"][:1]]}


def with_sentinels(tokenizer: Data) -> Data:
    """The same tokenizer with tokens for spans; bytes where others made it."""
    if tokenizer.get("kind", "huggingface") == "huggingface":
        return {"kind": "byte", "sentinels": SENTINELS}
    more = {"vocab": tokenizer["vocab"] + SENTINELS} if "vocab" in tokenizer else {}
    return {**tokenizer, "sentinels": SENTINELS, **more}


def fit_to_stack(stage: Data, pairs: bool) -> None:
    """Takes out of a phase what does not stand beside a model with an encoder and a decoder."""
    if pairs and "teacher" in stage.get("objective", {}):  # which stands beside decoders alone
        stage.pop("objective")
    if pairs and stage["kind"] in ("pretrain", "prefix_lm", "span_corruption"):  # whose rows are cut in two
        stage.pop("document_mask", None)
        stage.pop("sequence_length", None)
