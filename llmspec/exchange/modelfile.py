"""Ollama's Modelfile for a GGUF file: where the weights are, the form of dialogues, and how text is drawn.

Checked with the reader of Modelfiles and the templates of Ollama 0.33 (ollama/ollama; tests/peers/test_ollama.py), and
with how its llama-server filters and counts (ggml-org/llama.cpp, common/sampling.cpp).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from llmspec.compiler.plan import Plan
from llmspec.formats.gguf.exporting import bounded
from llmspec.formats.hf.exporting import form_of
from llmspec.parts.tokenizers import Codec
from llmspec.spec.decoding import Decoding

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
ORDER = ("penalties", "top_k", "top_p", "min_p", "temperature")
"""In which order Ollama filters, by our names; nothing in a Modelfile changes it."""
FORMLESS = (
    "the chat template has no form in a Modelfile: Ollama takes one of its own that is like it or, from 0.30 on, the "
    "file's where none is"
)
"""Said of a model that answers turns."""


class Modelfile(NamedTuple):
    """The text of a Modelfile, and what it cannot say."""

    text: str
    notices: tuple[str, ...]
    """Where Ollama draws text in another way, in sentences."""


def modelfile(file: str, plan: Plan, codec: Codec, chat: bool, pairs: bool = False) -> Modelfile:
    """The text for `ollama create NAME -f Modelfile`, beside the file of this name, of a model that answers turns
    (`chat`), or sources of pairs.

    The template is there where the model's has a form in Go's language of templates."""
    template = form_of(plan, pairs).go(codec.specials) if chat or pairs else "{{ .Prompt }}"
    ends = [i for i in (codec.specials.turn_end, codec.specials.eos) if i is not None]
    spelled = {i: text for text, i in codec.specials.items()}
    stops = dict.fromkeys([*(spelled[i] for i in ends if i in spelled), *plan.decoding.stop])
    lines = [f"FROM ./{file}"]
    lines += [f'TEMPLATE """{template}"""'] if template else []
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(plan)]
    lines += [f"PARAMETER stop {value}" for text in stops if (value := quoted(text))]
    unsaid = [json.dumps(text) for text in plan.decoding.stop if not quoted(text)]
    notices = [] if template else [FORMLESS]
    notices += [f"a Modelfile cannot say the stop text {text}" for text in unsaid]
    return Modelfile("\n".join(lines) + "\n", (*notices, *_differences(plan.decoding)))


def quoted(text: str) -> str | None:
    """A value between quotes, in which nothing stands for anything else; None where Ollama would read another.

    It drops what is not printable, and a value ends with the first line that ends in quotes like those before it."""
    if not all(c.isprintable() or c in "\t\n\r" for c in text) or re.search(r'"""[^\S\r\n]*[\r\n]', text):
        return None
    quotes = '"""' if '"' in text else '"'
    return quotes + text + quotes


# -- how text is drawn -------------------------------------------------------------------------------------------------
def _parameters(plan: Plan) -> Iterator[tuple[str, str]]:
    """Every setting, since what a Modelfile leaves out has a default there: 40 for top_k, 0.9 for top_p."""
    decoding = plan.decoding
    ran = [each.kind for each in decoding.chain()]
    for key, name in PARAMETERS.items():
        value = getattr(decoding, key)
        if key == "min_p" and "temperature" in ran and "min_p" in ran[ran.index("temperature") :]:
            value **= decoding.temperature or 1  # it cuts first there, and p ** (1 / t) >= m where p >= m ** t
        yield name, _number(key, value)
    yield "num_ctx", str(plan.model.context)
    if decoding.filter("penalties").active():  # of the last 64 tokens, if nothing is said
        yield "repeat_last_n", str(plan.model.context)


def _number(key: str, value: float | None) -> str:
    """A number as Ollama reads it: whole ones have no exponent."""
    known = bounded(key, value)
    short = f"{known:g}"
    return str(known) if isinstance(known, int) or float(short) != known else short


def _differences(decoding: Decoding) -> Iterator[str]:
    """Where the same settings draw other tokens in Ollama, in sentences."""
    if _other_order(decoding):
        ran = [each.kind for each in decoding.chain()]
        theirs = ", ".join(name for name in ORDER if name in ran)
        yield f"Ollama filters in the order {theirs}, and here it is {', '.join(ran)}: the same numbers keep others"
    if decoding.repetition_penalty != 1 and decoding.repetition_growth == "every_use":
        yield "Ollama applies the repetition penalty once to a token, and here it grows with every use"
    if decoding.frequency_penalty or decoding.presence_penalty:
        yield "Ollama counts the prompt's tokens for the frequency and presence penalties, which do not count here"


def _other_order(decoding: Decoding) -> bool:
    """Whether Ollama's order of the filters keeps other tokens, or gives them other odds, than the run's.

    What cuts by rank, or by the share of the best token's probability, does the same on either side of another that
    does; the sum that top_p takes is over what is left, at the temperature so far."""
    ran = [each.kind for each in decoding.chain()]
    if "penalties" in ran[1:]:
        return True
    if "top_p" not in ran or decoding.temperature == 0:
        return False
    at = ran.index("top_p")
    return not {*ran[:at]}.isdisjoint(("temperature", "min_p")) or "top_k" in ran[at:]
