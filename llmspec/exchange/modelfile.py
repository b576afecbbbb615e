"""Ollama's Modelfile for a GGUF file: where the weights are, the form of dialogues, and how text is drawn."""

from __future__ import annotations

from llmspec.compiler.plan import Plan
from llmspec.formats.hf.exporting import form_of
from llmspec.parts.tokenizers import Codec

PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "max_tokens": "num_predict",
}
"""Key of `decoding:` -> Ollama's name for it."""


def modelfile(file: str, plan: Plan, codec: Codec, chat: bool, pairs: bool = False) -> str:
    """The text for `ollama create NAME -f Modelfile`, beside the file of this name, of a model that answers turns
    (`chat`), or sources of pairs.

    The template is there where the model's has a form in Go's language of templates; else Ollama takes that of the
    file, if it knows it."""
    lines = [f"FROM ./{file}"]
    template = form_of(plan, pairs).go(codec.specials) if chat or pairs else "{{ .Prompt }}"
    if template:
        lines.append(f'TEMPLATE """{template}"""')
    for key, name in PARAMETERS.items():
        value = getattr(plan.decoding, key)
        if value is not None:
            lines.append(f"PARAMETER {name} {value:g}")
    lines.append(f"PARAMETER num_ctx {plan.model.context}")
    ends = [i for i in (codec.specials.turn_end, codec.specials.eos) if i is not None]
    spelled = {i: text for text, i in codec.specials.items()}
    lines += [f'PARAMETER stop "{spelled[i]}"' for i in dict.fromkeys(ends) if i in spelled]
    lines += [f'PARAMETER stop "{text}"' for text in plan.decoding.stop if '"' not in text and text.isprintable()]
    return "\n".join(lines) + "\n"
