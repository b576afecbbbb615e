"""Reads a GGUF file with llama.cpp, in a process of its own: `python -m llmspec.exchange.llama_worker FILE`.

A JSON object with `ids`, `prompt`, `tokens`, `limit`, `texts`, `turns` and `rows` comes on standard input, as in
`exchange.worker`; `rows` are texts whose surprise, in nats, is summed up. The answer goes to standard output, the
logits as raw float32 into the file that `logits` names. Numbers between layers and in the cache are float32.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

from llmspec.exchange.held_out import surprise

F32 = 0
"""ggml's number of the type."""
_KEPT: list[Any] = []
"""What llama.cpp calls as long as it lives, which is longer than any function here."""


def main(file: str) -> None:
    """Answers one question."""
    import llama_cpp
    import numpy as np

    asked: dict[str, Any] = json.load(sys.stdin)
    longest = max(len(asked["ids"]), len(asked["prompt"]) + asked["tokens"], *(len(r) for r, _ in asked["rows"]), 1)
    said = list[str]()
    log = llama_cpp.llama_log_callback(lambda level, text, data: said.append(text.decode(errors="replace")))
    _KEPT.append(log)
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    try:
        model = llama_cpp.Llama(file, n_ctx=longest, logits_all=True, verbose=False, type_k=F32, type_v=F32)
    except ValueError as error:
        wrong = [line.strip() for line in "".join(said).splitlines() if "error" in line]
        sys.exit(wrong[0] if wrong else str(error))

    def logits(ids: list[int]) -> Any:
        model.reset()
        model.eval(ids)
        return model.scores[: len(ids)]

    found = np.array(logits(asked["ids"]), "<f4")
    found.tofile(asked["logits"])
    answer: dict[str, Any] = {
        "version": llama_cpp.__version__,
        "shape": list(found.shape),
        "ids": [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]],
        "greedy": greedy(model, asked),
        "chat": chat(model, asked["turns"]),
        "nats": sum(surprise(logits(tokens), targets) for tokens, targets in asked["rows"]),
    }
    json.dump(answer, sys.stdout)


def greedy(model: Any, asked: dict[str, Any]) -> list[int]:
    """The most probable tokens after some, one by one; `limit`: ids that text has."""
    found = list[int]()
    model.reset()
    read = asked["prompt"]
    for _ in range(asked["tokens"]):
        model.eval(read)
        found.append(int(model.scores[model.n_tokens - 1][: asked["limit"]].argmax()))
        read = found[-1:]
    return found


def chat(model: Any, turns: list[dict[str, str]]) -> list[int] | None:
    """Ids of a dialogue that is to be answered, by the file's own template; None where it has none."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = model.metadata.get("tokenizer.chat_template")
    if template is None:
        return None
    spelled = [model._model.token_get_text(i) if i >= 0 else "" for i in (model.token_bos(), model.token_eos())]
    made = Jinja2ChatFormatter(template=template, bos_token=spelled[0], eos_token=spelled[1])(messages=turns)
    return list(model.tokenize(made.prompt.encode(), add_bos=not made.added_special, special=True))


if __name__ == "__main__":
    main(sys.argv[1])
