"""Metadata of a GGUF file -> the `model:` of a spec, by a mapping table; everything that is not understood is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmspec.core.problems import Problem, nearest
from llmspec.formats.gguf import rope
from llmspec.formats.gguf.reading import Numbers, Texts
from llmspec.formats.gguf.tables import FACT, LM, VOCAB, Table, shared, table_of, tables
from llmspec.formats.hf.family import RopeOf, Rule
from llmspec.formats.hf.reading import Read, Reader
from llmspec.formats.hf.values import same, spelled

ARCHITECTURE = "general.architecture"
TOKENS = "tokenizer.ggml.tokens"
HEAD_DIM = "attention.key_length"
WIDE = "full_attention", "sliding_attention"
"""Types of layers: one that sees everything, one with a window."""
LAYERS = "@layers"


@dataclass
class Found(Read):
    """What metadata say of a network."""

    read_keys: list[str] = field(default_factory=list)
    """Keys that say something of the network."""
    other_keys: list[str] = field(default_factory=list)
    """Keys that cannot change what is computed: of the file, its authors, its licence, other networks."""


def read_metadata(
    metadata: Mapping[str, Any],
    tensors: Iterable[str],
    frequencies: Sequence[float] | None = None,
    file: str = "the file",
) -> Found | list[Problem]:
    """What metadata say of a network; its `problems` are all that is not understood. A list of problems where not even
    the architecture is known.

    Args:
        metadata: key -> value, as `reading.Header` has them.
        tensors: names of the file's tensors.
        frequencies: numbers of the tensor `rope_freqs.weight`, where there is one.
        file: how messages call the file.
    """
    there = {f"{FACT}{name}": True for name in tensors}
    architecture = metadata.get(ARCHITECTURE)
    table = table_of(architecture, there) if isinstance(architecture, str) else None
    if table is None:
        return [_no_table(architecture, file)]
    before = f"{architecture}."
    config = {key.removeprefix(before): _plain(v) for key, v in metadata.items() if key.startswith(before)}
    config |= {name: there.get(name, False) for name in table.facts}
    tokens = metadata.get(TOKENS)
    config[VOCAB] = len(tokens) if tokens is not None and hasattr(tokens, "__len__") else None
    read = Found(table, LM, table.architectures[LM])
    reader = _Reader(config, read, file, frequencies)
    reader.layers()
    reader.run()
    reader.agree()
    read.read_keys = [
        key for key in metadata if key.startswith(before) and key.removeprefix(before) not in read.ignored
    ]
    read.other_keys = [k for k in metadata if k not in read.read_keys and not k.startswith("tokenizer.")]
    return read


def _plain(value: Any) -> Any:
    """A value; of an array of equal numbers, one for each layer, that number. Raises WrongGGUF."""
    if isinstance(value, Texts):
        return list(value)
    if not isinstance(value, Numbers):
        return value
    items = list(value)
    numbers = bool(items) and not isinstance(items[0], bool)
    return items[0] if numbers and all(item == items[0] for item in items) else items


def _no_table(architecture: Any, file: str) -> Problem:
    known = sorted({t for table in tables().values() for t in (table.model_type, *table.also)})
    near = nearest(architecture, known) if isinstance(architecture, str) else None
    if architecture is None:
        return Problem(f"{file} has no `{ARCHITECTURE}`", hint="take a file that holds a whole model")
    return Problem(
        f"{file}: no mapping table knows the architecture {str(architecture)[:80]!r}",
        hint=(f"did you mean `{near}`? " if near else "") + f"known are: {', '.join(known)}",
        consequence="what its metadata and tensors mean would be a guess",
    )


class _Reader(Reader):
    """`Reader` for metadata: other keys of rotary positions, facts, layers that a pattern tells apart."""

    family: Table

    def __init__(self, config: dict[str, Any], read: Read, file: str, frequencies: Sequence[float] | None) -> None:
        super().__init__(config, read, file, shared())
        self.fields, self.frequencies = config, frequencies

    def more_known(self) -> Iterable[str]:
        return (*rope.fields(self.family.rope), *self.family.facts, *self.family.equal, VOCAB, LAYERS)

    def layers(self) -> None:
        """A truth for each layer becomes its type."""
        name = self.family.windows
        pattern = None if name is None else self.config.get(name)
        if name is None or not isinstance(pattern, list):
            return
        if not all(isinstance(windowed, bool) for windowed in pattern):
            self.wrong(f"`{name}` is neither a number nor a truth for each layer")
        self.fields[LAYERS] = [WIDE[bool(windowed)] for windowed in pattern]
        del self.fields[name]

    def apply(self, name: str, rule: Rule, model: dict[str, Any]) -> None:
        if isinstance(found := self.config.get(name), list):
            self.wrong(
                f"`{name}` is a list of {len(found):,}, {str(found)[:60]}, and one value is understood",
                consequence="nothing says which of them holds",
            )
            return
        super().apply(name, rule, model)

    def agree(self) -> None:
        """Fields that follow from others say the same."""
        for name, other in self.family.equal.items():
            if name not in self.config:
                continue
            try:
                wanted = self.value(other)
            except KeyError:
                continue  # said of the field that is missing
            if not same(self.config[name], wanted):
                self.wrong(
                    f"`{name}` is {str(self.config[name])[:80]}, and only {spelled(wanted)}, which is `{other}`, is "
                    "understood",
                    consequence="the model would compute something else",
                )

    def rope(self, of: RopeOf, kind: str | None, context: Any) -> dict[str, Any]:
        try:
            head_dim = self.value(HEAD_DIM)
        except KeyError:
            head_dim = None
        return rope.read(self.config, of, head_dim, self.frequencies)
