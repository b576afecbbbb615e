"""When phases end before their budget and what they keep, for specs by construction."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies_values import Data

from llmspec.parts import objectives, phases
from llmspec.parts.phases import Phase


def measured(stage: Data) -> list[str]:
    """Metrics that the validation of a phase with these settings gives."""
    part: type[Phase] = phases.TABLE[stage["kind"]]
    own = stage.get("objective", {}).get("kind")
    objective = {"objective": objectives.TABLE[own].model_construct()} if own else {}
    made = part.model_construct(**{k: f.get_default(call_default_factory=True) for k, f in part.model_fields.items()})
    plain = {k: v for k, v in stage.items() if k in part.model_fields and isinstance(v, int)}
    return list(made.model_copy(update={**plain, **objective}).measured())


@st.composite
def courses(draw: DrawFn, stage: Data, sources: Data) -> Data:
    """Settings beside those of `stage`: those that judge by validation where its mixture keeps text for it."""
    held_out = [name for name in stage["mixture"] if sources[name].get("validation")]
    out: Data = {}
    amount, _, unit = stage["budget"].partition(" ")
    if (unit != "steps" or float(amount) > 2) and draw(st.integers(0, 3)) == 0:
        action = {"action": st.sampled_from(["skip", "stop"]), "above": st.sampled_from([3.0, 1e6])}
        out["on_spike"] = draw(st.fixed_dictionaries({"window": st.just(2)}, optional=action))
    if not held_out or not draw(st.booleans()):
        return out
    judge = {"metric": st.sampled_from(measured(stage)), "source": st.sampled_from(held_out)}
    if draw(st.booleans()):
        patience = {"patience": st.integers(1, 3), "min_delta": st.sampled_from([0.0, 0.5])}
        out["early_stopping"] = draw(st.fixed_dictionaries({}, optional={**patience, **judge}))
    best = draw(st.integers(0, 2))
    out["keep"] = draw(st.fixed_dictionaries({"best": st.just(best)}, optional={"last": st.integers(1, 3), **judge}))
    if not best:
        out["keep"] = {k: v for k, v in out["keep"].items() if k not in judge}
    if "early_stopping" in out or best:
        out["evaluate_every"] = draw(st.sampled_from(["2 steps", "50%"]))
    return out
