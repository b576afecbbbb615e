"""Special tokens by what they mean: the one place that knows how ours are spelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast

from llmspec.core.problems import DataError

ChatRole = Literal["system", "developer", "user", "assistant"]
ROLES: tuple[ChatRole, ...] = ("system", "developer", "user", "assistant")
EOS, TURN_END = "<|end|>", "<|end_of_turn|>"
"""`<|end|>` stands before every document and after the last: it begins and ends text, as GPT-2's `<|endoftext|>`."""
ROLE_TOKENS: Mapping[ChatRole, str] = MappingProxyType({role: f"<|{role}|>" for role in ROLES})
SPECIALS = (EOS, TURN_END, *ROLE_TOKENS.values())
"""Special tokens of every tokenizer; they take the first ids, in this order, the spec's own markers follow."""
UNKNOWN = "<|unk|>"
"""Stands for whatever a tokenizer without bytes cannot spell; only `char` has it."""
Extra = Literal["pad", "mask", "cls", "sep"]
EXTRAS: Mapping[Extra, str] = MappingProxyType(
    {"pad": "<|pad|>", "mask": "<|mask|>", "cls": "<|cls|>", "sep": "<|sep|>"}
)
"""Special tokens that a tokenizer has only where its spec asks for them: they come after all others."""
SENTINEL, FOREIGN_SENTINEL = "<|extra_id_{}|>", "<extra_id_{}>"
"""How the tokens are spelled, from 0, that stand for a stretch of text which is left out: ours, and T5's."""
SENTINELS = "sentinels"
"""What they mean."""
NAMED = ("bos", "eos", "pad", "unk", "mask", "cls", "sep", "turn_end")
"""Meanings that a tokenizer of others may have a token for."""


def numbered(ids: Mapping[str, int], spelling: str) -> tuple[int, ...]:
    """The ids of the tokens that are spelled so with 0, 1, 2 … in it, as far as there are any."""
    found = list[int]()
    while (token := ids.get(spelling.format(len(found)))) is not None:
        found.append(token)
    return tuple(found)


def _frozen(found: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(found))


@dataclass(frozen=True, eq=False)
class SpecialTokens(Mapping[str, int]):
    """The special tokens of a tokenizer: spelling -> id of all of them, and the ids of those that have a meaning.

    A meaning that the tokenizer has no token for is None. Two meanings may share a token: ours begin and end every
    document with the same one.
    """

    ids: Mapping[str, int]
    """Spelling -> id, markers included."""
    bos: int | None = None
    """Begins every text."""
    eos: int | None = None
    """Ends a text, and stands between documents."""
    pad: int | None = None
    """Fills a row; never read."""
    mask: int | None = None
    """Stands for a word that is to be predicted."""
    unk: int | None = None
    """Stands for what the tokenizer cannot spell."""
    cls: int | None = None
    """What stands at its place speaks for the whole text."""
    sep: int | None = None
    """Ends each of several texts in one row."""
    turn_end: int | None = None
    """Ends a turn of a dialogue."""
    ends: tuple[int, ...] = ()
    """Further tokens that end an answer."""
    roles: Mapping[ChatRole, int] = field(default_factory=dict)
    """Role -> the token that begins its turns; empty where turns begin in another way."""
    before: tuple[int, ...] = ()
    """What stands before one text that is read as a whole, to be embedded or classified."""
    after: tuple[int, ...] = ()
    """What stands behind it."""
    sentinels: tuple[int, ...] = ()
    """The tokens that stand for the first stretch of text that is left out, for the second, ..."""
    named: bool = False
    """Whether keys of the tokenizer name the tokens that have a meaning; otherwise their spelling tells."""

    def __post_init__(self) -> None:
        for name in ("ids", "roles"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))

    @classmethod
    def spelled(cls, ids: Mapping[str, int] | Sequence[str]) -> SpecialTokens:
        """Those of a tokenizer of ours: meanings follow from spellings. A sequence is in the order of ids, from 0."""
        known = ids if isinstance(ids, Mapping) else {spelling: i for i, spelling in enumerate(ids)}
        extras: dict[str, Any] = {name: known.get(spelling) for name, spelling in EXTRAS.items()}
        begins, ends = known.get(EXTRAS["cls"], known.get(EOS)), known.get(EXTRAS["sep"])
        return cls(
            ids=known,
            bos=known.get(EOS),
            eos=known.get(EOS),
            unk=known.get(UNKNOWN),
            turn_end=known.get(TURN_END),
            roles={role: known[token] for role, token in ROLE_TOKENS.items() if token in known},
            sentinels=numbered(known, SENTINEL),
            before=() if begins is None else (begins,),
            after=() if ends is None else (ends,),
            **extras,
        )

    def find(self, meaning: str) -> int | None:
        """The id of `bos`, `eos`, ..., or of the token that begins a role's turns; None where there is none."""
        found = cast("Mapping[str, int]", self.roles).get(meaning)
        return getattr(self, meaning, None) if found is None else found

    def need(self, meaning: str) -> int:
        """The same. Raises DataError where there is none."""
        found = self.find(meaning)
        if found is None:
            raise DataError(
                f"this tokenizer has no special token for `{meaning}`",
                hint=self.advice(meaning),
                consequence="the sequence could not be built",
            )
        return found

    def advice(self, meaning: str) -> str:
        """What to do where no token has a meaning that is needed."""
        if self.named and meaning in NAMED:
            return f"`{meaning}:` at the tokenizer names one of its tokens"
        if meaning == SENTINELS:
            return "a tokenizer with `<extra_id_0>`, … as T5's" if self.named else "`sentinels: 100` at the tokenizer"
        if not self.named and meaning in EXTRAS:
            return f"`special_tokens: [{meaning}]` at the tokenizer adds one"
        return "choose a tokenizer that has one, or a chat template that does not need it"

    def start_of(self, meaning: str | None) -> int | None:
        """The id of what a decoder's text begins with, by its meaning; None where nothing has to stand there."""
        return None if meaning is None else self.need(meaning)

    @property
    def reserved(self) -> frozenset[int]:
        """Ids that no prompt may spell, whatever its markers: they begin and end texts and turns, or spell nothing."""
        named = (self.bos, self.eos, self.unk, self.turn_end)
        return frozenset((*(i for i in named if i is not None), *self.ends, *self.roles.values()))

    def __getitem__(self, spelling: str) -> int:
        return self.ids[spelling]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)
