"""Networks small enough to build, for specs by construction."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies_values import Data, parts, settings

from llmspec.parts import attentions, heads, mlps
from llmspec.parts.heads.transform import Transform
from llmspec.parts.residual import FORMS
from llmspec.spec.shape import fields_of


@st.composite
def transforms(draw: DrawFn) -> Data:
    """What stands before the logits."""
    transform = draw(settings(Transform, skip=("approximate",)))
    if transform.get("activation", "gelu") == "gelu":
        transform["approximate"] = draw(st.sampled_from(["tanh", "none"]))
    return {**transform, "norm": draw(st.none() | parts("norm"))}


@st.composite
def feed_forward_layers(draw: DrawFn) -> Data:
    """`model.mlp`; of a router no more experts are asked for than there are, and they are narrow."""
    part = mlps.TABLE[draw(st.sampled_from(list(mlps.TABLE)))]
    width = st.fixed_dictionaries({}, optional={"d_ff": st.sampled_from([8, 24])})
    if not part.routes:
        return {**draw(settings(part, skip=("d_ff",))), **draw(width)}
    inner = st.sampled_from([p for p in mlps.TABLE.values() if not p.routes]).flatmap(
        lambda p: settings(p, skip=("d_ff",)).map(lambda drawn: {**drawn, "d_ff": 8})
    )
    mlp = draw(settings(part, skip=("experts", "top_k", "shared_gate")))
    mlp |= {"experts": draw(st.sampled_from([2, 3, 5])), "top_k": draw(st.integers(1, 2)), "expert": draw(inner)}
    if draw(st.booleans()):
        mlp |= {"shared": draw(inner), "shared_gate": draw(st.booleans())}
    return mlp


@st.composite
def encoders(draw: DrawFn) -> Data:
    """`encoder:` of a network small enough to build; what it leaves out is the model's."""
    optional = {
        "layers": st.integers(1, 2),
        "context": st.sampled_from([5, 24]),
        "norm": parts("norm"),
        "residual": st.sampled_from(list(FORMS)),
        "position": st.sampled_from([{"kind": "none"}, {"kind": "alibi"}, {"kind": "sinusoidal"}, {"kind": "learned"}]),
        "mask": st.fixed_dictionaries(
            {"kind": st.sampled_from(["causal", "bidirectional"])}, optional={"window": st.integers(1, 20)}
        ),
    }
    return draw(st.fixed_dictionaries({}, optional=optional))


@st.composite
def models(draw: DrawFn) -> Data:
    """`model:` of a network small enough to build."""
    d_model = draw(st.sampled_from([8, 16]))
    attention = draw(parts("attention", skip=("heads", "kv_heads", "head_dim", "qk_norm_over")))
    # Heads of at least two numbers, so that rope finds its pairs.
    number = draw(st.sampled_from([1, 2, 4]))
    attention["heads"] = number
    if "kv_heads" in fields_of(attentions.TABLE[attention["kind"]]) and draw(st.booleans()):
        attention["kv_heads"] = draw(st.sampled_from([k for k in (1, 2, 4) if number % k == 0]))
    mlp = draw(feed_forward_layers())
    optional = {
        "position": parts("position", skip=("theta", "fraction", "buckets", "max_distance")),
        "norm": parts("norm"),
        "init": parts("init"),
        "heads": st.fixed_dictionaries({"lm": settings(heads.TABLE["lm"])}),
        "residual": st.sampled_from(list(FORMS)),
        "mask": st.fixed_dictionaries({}, optional={"window": st.integers(1, 20)}),
        "dropout": st.sampled_from([0.0, 0.25, {"attention": 0.25, "mlp": 0.5}, {"embedding": 0.1, "residual": 0.2}]),
    }
    if draw(st.booleans()):
        attention["head_dim"] = draw(st.sampled_from([2, 6]))
    if draw(st.booleans()):
        attention["qk_norm"] = draw(parts("norm"))
        attention["qk_norm_over"] = draw(st.sampled_from(["head", "all_heads"]))
    rest = draw(st.fixed_dictionaries({}, optional=optional))
    width = attention.get("head_dim", d_model // number)
    if rest.get("position", {}).get("kind") == "rope" and width >= 4:  # a growing base wants two pairs
        ordered = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "low_freq_factor", "high_freq_factor")
        rest["position"]["fraction"] = draw(st.sampled_from([1.0, 4 / width]))
        rest["position"]["scaling"] = draw(st.none() | parts("rope_scaling", skip=ordered))
    if draw(st.booleans()):
        rest["embedding"] = draw(parts("embedding"))
        if draw(st.booleans()):
            rest["embedding"]["norm"] = draw(parts("norm"))
    if "heads" in rest and draw(st.booleans()):
        rest["heads"]["lm"]["transform"] = draw(transforms())
    if draw(st.booleans()):
        own = {"mask": {"window": draw(st.integers(1, 9))}, "residual": draw(st.sampled_from(list(FORMS)))}
        pattern = draw(st.sampled_from([["near"], ["near", "far"]]))
        rest |= {"blocks": {name: own if name == "near" else {} for name in pattern}, "pattern": pattern}
    if draw(st.integers(0, 3)) == 0 and rest.get("mask", {}).get("kind") != "prefix":
        rest["encoder"] = draw(encoders())
    shape = {
        "context": draw(st.sampled_from([8, 16])),
        "d_model": d_model,
        "layers": draw(st.integers(len(rest.get("pattern", "1")), 2)),
    }
    return {**shape, "attention": attention, "mlp": mlp, **rest}
