"""Reads an exported folder with transformers, in a process of its own: `python -m llmspec.exchange.worker FOLDER`.

A JSON object with `architecture`, `texts`, `ids`, `prompt`, `turns` and `tokens` comes on standard input; what
transformers makes of them goes to standard output, the logits as raw float32 into the file that `logits` names. With
`encoder`, the ids that an encoder reads, the others are the decoder's, whose text begins with `start`. Nothing of the
hub is asked for.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main(folder: str) -> None:
    """Answers one question."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    asked: dict[str, Any] = json.load(sys.stdin)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = (
        getattr(transformers, asked["architecture"])
        .from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True)
        .eval()
    )
    if asked.get("rows"):
        json.dump(labels_of(model, tokenizer, asked, transformers.__version__), sys.stdout)
        return
    ids, encoder = torch.tensor([asked["ids"]]), asked["encoder"]
    with torch.no_grad():
        out = model(ids) if encoder is None else model(torch.tensor([encoder]), decoder_input_ids=ids)
    logits = out.logits[0].numpy()
    logits.astype("<f4").tofile(asked["logits"])
    answer: dict[str, Any] = {
        "version": transformers.__version__,
        "shape": list(logits.shape),
        "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]],
        "greedy": (greedy if encoder is None else decoded)(model, asked),
        "chat": None,
    }
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(asked["turns"], add_generation_prompt=True, tokenize=False)
        answer["chat"] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    json.dump(answer, sys.stdout)


def labels_of(model: Any, tokenizer: Any, asked: dict[str, Any], version: str) -> dict[str, Any]:
    """What a head of labels or numbers makes of `rows`, each read by itself, and of texts between special tokens."""
    import torch

    with torch.no_grad():
        found = [model(torch.tensor([row])).logits.reshape(-1, model.config.num_labels) for row in asked["rows"]]
    logits = torch.cat(found).numpy()
    logits.astype("<f4").tofile(asked["logits"])
    answer = {"version": version, "shape": list(logits.shape), "greedy": None, "chat": None}
    answer["ids"] = [tokenizer(text, truncation=True)["input_ids"] for text in asked["texts"]]
    answer["labels"] = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(asked["turns"], add_generation_prompt=True, tokenize=False)
        answer["chat"] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return answer


def decoded(model: Any, asked: dict[str, Any]) -> list[int]:
    """The most probable tokens of the decoder's text, one by one, where an encoder reads the prompt. The text is read
    anew for each, since what a decoder keeps beside an encoder has changed its name in transformers."""
    import torch

    text = [asked["start"]]
    with torch.no_grad():
        for _ in range(asked["tokens"]):
            out = model(torch.tensor([asked["prompt"]]), decoder_input_ids=torch.tensor([text]), use_cache=False)
            text.append(int(out.logits[0, -1, : asked["limit"]].argmax()))
    return text[1:]


def greedy(model: Any, asked: dict[str, Any]) -> list[int]:
    """The most probable tokens after some, one by one with transformers' own cache; `limit`: ids that text has."""
    import torch

    found, past, read = list[int](), None, asked["prompt"]
    with torch.no_grad():
        for _ in range(asked["tokens"]):
            out = model(torch.tensor([read]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            found.append(int(out.logits[0, -1, : asked["limit"]].argmax()))
            read = found[-1:]
    return found


if __name__ == "__main__":
    main(sys.argv[1])
