"""Phases that learn something of whole texts, for specs by construction: records that say it, and settings that fit.

Sorts of records: `one` label or `several`, `tags` of words, a `number`, or the text that belongs to it (`apart`)."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies_values import Data

from llmspec.parts.objectives.base import LABELS as LABELS_OF_TEXTS
from llmspec.parts.objectives.base import NUMBERS, TAGS, TOGETHER

LABELS = ("no", "null", "very good")
"""Among them words that YAML could take for something else."""
NAMED: dict[str, Data] = {
    **{sort: {"text": "{q}", "label": "{l}"} for sort in ("one", "several", "number")},
    "tags": {"words": "{q}", "tags": "{l}"},
    "apart": {"text": "{q} {l}", "source": "{q}", "target": "{l}"},
}
"""Sort of records -> what a source says of them."""
SORTS = {LABELS_OF_TEXTS: ("one", "several"), TAGS: ("tags",), NUMBERS: ("number",), TOGETHER: ("apart",)}
"""What a phase teaches to predict -> sorts of records that it may read."""


def labelled_records(texts: list[str], labels: str) -> list[Data]:
    """Records of texts, each with its label, or with none, one or two of them; of words with one each; with a number,
    or with another text."""
    if labels == "tags":
        sentences = [text.split() for text in texts]
        return [{"q": words, "l": [LABELS[(i + len(w)) % 3] for w in words]} for i, words in enumerate(sentences)]
    found: list[Data] = []
    for i, text in enumerate(texts):
        if labels in ("number", "apart"):
            found.append({"q": text, "l": i % 5 + 0.5 if labels == "number" else f"{i}. {text}"})
            continue
        several = [label for k, label in enumerate(LABELS) if (i % 8) >> k & 1]
        found.append({"q": text, "l": several if labels == "several" else LABELS[i % 3]})
    return found


POOLED = {"pooling": st.sampled_from(["mean", "cls", "last"]), "pooler": st.booleans()}


@st.composite
def document_settings(draw: DrawFn, sort: str, own_head: bool) -> Data:
    """Settings of a phase whose records are of this sort; `own_head`: the spec may say how its head is."""
    if sort in ("one", "several", "tags"):
        return draw(label_settings(sort, own_head))
    kind, flag = ("score", "bias") if sort == "number" else ("embedding", "normalised")
    optional: Data = {"max_tokens": st.integers(5, 8)}
    if own_head:
        heads = st.fixed_dictionaries({"kind": st.just(kind)}, optional={**POOLED, flag: st.booleans()})
        optional["heads"] = heads.map(lambda head: {kind: head})
    out: Data = draw(st.fixed_dictionaries({}, optional=optional))
    if sort == "apart":  # with others to be told from
        return {**out, "micro_batch_size": draw(st.integers(2, 3)), "truncation": "end"}
    scaled = {"mean": draw(st.sampled_from([0.0, -2.5])), "std": draw(st.sampled_from([0.5, 2.0]))}
    return {**out, **(scaled if draw(st.booleans()) else {}), "truncation": "end"}


@st.composite
def label_settings(draw: DrawFn, labels: str, own_head: bool) -> Data:
    """Settings of a phase whose documents have such labels; `own_head`: the spec may say how its head is."""
    multi, tags = labels == "several", labels == "tags"
    optional = {"max_tokens": st.integers(5, 8)}
    if not multi:
        # Never in the order in which they would be found: only then does a spec that lists them mean another phase.
        optional["labels"] = st.permutations(LABELS).filter(lambda given: list(given) != sorted(given)).map(list)
        optional["class_weights"] = st.sampled_from(["balanced", {LABELS[0]: 2.0, LABELS[2]: 0.5}])
    if own_head:
        pooled = {**POOLED, "bias": st.booleans()}
        fixed = {"kind": "classes", "labels": list(LABELS), "multi_label": multi}
        if tags:
            pooled, fixed = {"bias": st.booleans()}, {"kind": "tokens", "labels": list(LABELS)}
        heads = st.fixed_dictionaries({k: st.just(v) for k, v in fixed.items()}, optional=pooled)
        optional["heads"] = heads.map(lambda head: {"tokens" if tags else "classes": head})
    out: Data = draw(st.fixed_dictionaries({}, optional=optional))
    if multi:
        out |= {"labels": list(LABELS), "multi_label": True}
    elif "heads" in out:  # which has an order of its own
        out.pop("labels", None)
    return {**out, "truncation": "end"}
