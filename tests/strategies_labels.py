"""Phases that learn labels, for specs by construction: records that have them, and settings that fit these."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies_values import Data

LABELS = ("no", "null", "very good")
"""Among them words that YAML could take for something else."""
NAMED: dict[str, Data] = {
    "one": {"text": "{q}", "label": "{l}"},
    "several": {"text": "{q}", "label": "{l}"},
    "tags": {"words": "{q}", "tags": "{l}"},
}
"""How many labels a text has, or that its words have them -> what a source says of its records."""


def labelled_records(texts: list[str], labels: str) -> list[Data]:
    """Records of texts, each with its label, or with none, one or two of them; or of words with one each."""
    if labels == "tags":
        sentences = [text.split() for text in texts]
        return [{"q": words, "l": [LABELS[(i + len(w)) % 3] for w in words]} for i, words in enumerate(sentences)]
    found: list[Data] = []
    for i, text in enumerate(texts):
        several = [label for k, label in enumerate(LABELS) if (i % 8) >> k & 1]
        found.append({"q": text, "l": several if labels == "several" else LABELS[i % 3]})
    return found


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
        pooled = {"pooling": st.sampled_from(["mean", "cls", "last"]), "pooler": st.booleans(), "bias": st.booleans()}
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
