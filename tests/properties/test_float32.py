"""No number of a spec is lost in float32 without a word: what would become 0, 1 or infinite is refused by `check`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import TABLES, required, rewarded

from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler import check_sections
from llmspec.compiler.numbers import number_problems, phase_problems, rules
from llmspec.core.float32 import LARGEST, SMALLEST, lost, rounded
from llmspec.core.units import Budget, Share
from llmspec.model.device import open_device
from llmspec.parts import optimizers, phases
from llmspec.parts.base import Dims, Frozen, Part
from llmspec.parts.dropout import Dropout
from llmspec.parts.norms.base import SMALLEST_EPS
from llmspec.parts.optimizers.base import Learned
from llmspec.spec import read_spec
from llmspec.spec.schema import ModelSpec

EXTREMES = [
    5e-324,
    1e-46,
    1e-40,
    math.nextafter(SMALLEST, 0),
    SMALLEST,
    1e-37,
    1e-9,
    0.5,
    math.nextafter(1, 0),
    1 - 2.0**-26,
    1 - 2.0**-24,
    1.0,
    1e30,
    LARGEST,
    3.5e38,
    1e39,
    1e308,
    0.0,
]
ON_THE_HOST = {
    "neftune_noise_alpha",
    "mlm_probability",
    "mask_replace_prob",
    "random_replace_prob",
    "theta",
    "variables",
    "fraction",
    "factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "low_freq_factor",
    "high_freq_factor",
    "min_lr_ratio",
    "beta2_decay",
    "ema",
    "layerwise_lr_decay",
    "lr_multipliers",
    "noise_density",
    "mean_noise_span_length",
    "clip_low",
    "clip_high",
    "reward_scale",
    "reward_clip",
    "missing_end_penalty",
    "kl_ceiling",
    "threshold",
    "gamma",
    "lam",
}
"""Keys whose numbers never enter a graph as they are; each is a decision."""


def holders() -> list[Frozen]:
    """Everything with numbers that a model or a phase can hold, and both themselves."""
    shaped = [
        part(**required(part))  # such as how many classes
        for name, table in TABLES.items()
        if name not in ("source", "phase", "tokenizer", "reward")
        for part in table.values()
    ]
    asked = {"mixture": {"a": Share(100.0)}, "budget": Budget(2.0, "steps")}
    made = [kind(**asked, **rewarded(kind)) for kind in phases.TABLE.values()]
    return [*shaped, *made, ModelSpec(context=8, d_model=8, layers=1), Dropout()]


def numbers(value: Frozen, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, field) of every number, those of parts in parts too."""
    for key, info in type(value).model_fields.items():
        found = getattr(value, key)
        if isinstance(found, Part):
            yield from numbers(found, (*path, key))
        elif "float" in str(info.annotation):
            yield (*path, key), info


def replaced(value: Any, path: tuple[str, ...], number: float) -> Any:
    key, *below = path
    return value.model_copy(update={key: replaced(getattr(value, key), tuple(below), number) if below else number})


def allowed(info: Any, number: float) -> bool:
    """Whether the field itself takes a number."""
    tests = {
        Gt: lambda r: number > r.gt,
        Ge: lambda r: number >= r.ge,
        Lt: lambda r: number < r.lt,
        Le: lambda r: number <= r.le,
    }
    return all(test(rule) for rule in rules(info) for kind, test in tests.items() if isinstance(rule, kind))


open_device("CPU")
CASES = [(value, path, info) for value in holders() for path, info in numbers(value)]


@pytest.mark.parametrize(
    ("value", "path", "info"), CASES, ids=[f"{type(v).__name__}.{'.'.join(p)}" for v, p, _ in CASES]
)
def test_every_number_of_every_part(value: Any, path: tuple[str, ...], info: Any) -> None:
    """Found by the types of fields, so that a number that is added is checked from its first day."""
    below_one = any(isinstance(rule, Lt) and rule.lt == 1 for rule in rules(info))
    for number in (n for n in EXTREMES if allowed(info, n)):
        near = float(np.float32(number)) if number <= LARGEST else math.inf
        is_lost = (number != 0 and abs(near) < SMALLEST) or math.isinf(near) or (below_one and near == 1)
        found = [
            p
            for p in number_problems(replaced(value, path, number))
            if p.path == path and "to the power of" not in p.message
        ]
        assert bool(found) == (is_lost and path[-1] not in ON_THE_HOST), number
        for problem in found:
            assert "float32" in problem.message and problem.consequence
            assert "count as" not in problem.consequence, f"say what would happen: `effects` of {type(value).__name__}"


def test_the_numbers_that_are_not_looked_at_are_these() -> None:
    assert {key for value in holders() for key in getattr(value, "in_float64", ())} == ON_THE_HOST
    for kind in ("rope", "sinusoidal"):
        for theta in (math.nextafter(1, 2), 1e39, 1e308):
            tables = TABLES["position"][kind](theta=theta).tables(Dims(8, 1, 64, 9, 2, 2, 4))
            assert all(np.isfinite(t).all() and t.dtype == np.float32 for t in tables.values())


@given(st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(EXTREMES))
def test_rounding_is_numpys_with_denormals_flushed(number: float) -> None:
    with np.errstate(over="ignore", under="ignore"):
        near = float(np.float32(number))
    expected = 0.0 if abs(near) < SMALLEST else near
    assert rounded(number) == expected
    assert bool(lost(number)) == (math.isinf(expected) or (expected == 0 and number != 0))


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 10.0), st.sampled_from(["adamw", "muon", "adam", "sgd"]))
def test_a_decay_that_takes_nothing_is_refused(lr: float, decay: float, kind: str) -> None:
    found = [p for p in optimizers.TABLE[kind](lr=lr, weight_decay=decay).together(1.0) if p.path == ("weight_decay",)]
    kept = np.float32(1) - np.float32(lr * decay)
    assert bool(found) == (kept == 1 and kind in ("adamw", "muon"))
    for problem in found:
        least = float(problem.hint.split("or ")[1].split(" ")[0])
        assert np.float32(1) - np.float32(lr * least) < 1


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        ("phases.chat.optimizer.eps=1e-40", ("phases", "chat", "optimizer", "eps")),
        ("phases.pretrain.optimizer.adamw.eps=1e-40", ("phases", "pretrain", "optimizer", "adamw", "eps")),
        ("phases.chat.optimizer.lr=1e39", ("phases", "chat", "optimizer", "lr")),
        ("phases.pretrain.max_grad_norm=1e39", ("phases", "pretrain", "max_grad_norm")),
        ("phases.chat.max_grad_norm=1e-25", ("phases", "chat", "max_grad_norm")),
        ("phases.pretrain.max_grad_norm=1e-25", ("phases", "pretrain", "max_grad_norm")),
        ("phases.chat.schedule={min_lr_ratio: 1e-38}", ("phases", "chat", "schedule", "min_lr_ratio")),
        ("phases.chat.objective={label_smoothing: 1e-40}", ("phases", "chat", "objective", "label_smoothing")),
        ("model.norm={eps: 1e-40}", ("model", "norm", "eps")),
        ("model.dropout=1e-10", ("model", "dropout")),
        ("model.dropout={attention: 1e-10}", ("model", "dropout", "attention")),
        ("model.init={std: 1e-40}", ("model", "init", "std")),
        ("model.init={std: 1e19}", ("model", "init")),
        ("model.init={kind: fan_in, gain: 2e-38}", ("model", "init")),
    ],
)
def test_check_names_the_place(tmp_path: Path, sets: str, path: tuple[str, ...]) -> None:
    reading = read_spec(tiny.write(tmp_path), [sets])
    (problem,) = reading.sorted((*reading.problems, *check_sections(reading.sections)))
    assert problem.path == path and problem.mark is not None and problem.hint and problem.consequence


def test_all_are_named_at_once_beside_a_broken_section(tmp_path: Path) -> None:
    reading = read_spec(
        tiny.write(tmp_path),
        [
            "model.heads.lm.tied=7",
            "model.norm={eps: 1e-40}",
            "phases.chat.optimizer.lr=1e39",
            "phases.pretrain.max_grad_norm=1e-46",
        ],
    )
    found = {p.path for p in (*reading.problems, *check_sections(reading.sections))}
    assert found == {
        ("model", "heads", "lm", "tied"),
        ("model", "norm", "eps"),
        ("phases", "chat", "optimizer", "lr"),
        ("phases", "pretrain", "max_grad_norm"),
    }


# -- what is accepted works ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "cpu"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("adam", {"eps": 1.2e-38}),
        ("adamw", {"eps": 1.2e-38, "beta1": 1 - 2.0**-24, "beta2": 1 - 2.0**-24}),
        ("sgd", {"momentum": 1 - 2.0**-24}),
        ("muon", {"momentum": 1 - 2.0**-24}),
        ("adamw", {"beta1": 0.0, "beta2": 0.0}),
    ],
)
def test_the_last_numbers_that_pass_make_no_nan(kind: str, settings: dict[str, float], plain: bool) -> None:
    """Where every gradient is 0, as those of unseen tokens are; and the weights stay what they were, but for decay."""
    optimizer = optimizers.TABLE[kind](weight_decay=0.0, **settings)
    assert not list(number_problems(optimizer)) and not list(optimizer.together(None))
    chosen = backend("CPU", plain)
    before = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    names = optimizer.state("matrix", before.shape)
    held = tensors_from_numpy(
        w=before,
        g=np.zeros_like(before),
        scale=np.ones(1, np.float32),
        scalars=np.array(optimizer.scalars(1.0, 1), np.float32),
        **{name: np.zeros(shape, np.float32) for name, shape in names.items()},
    )
    inputs = {**held, **chosen.inputs}

    def step(inputs: dict[str, Any]) -> Any:
        from tinygrad import Tensor

        ops = chosen.ops(inputs)
        state = {name: inputs[name] for name in names}
        of = Learned("matrix", inputs["w"], inputs["g"], inputs["scale"], state, inputs["scalars"])
        optimizer.update(ops, of)
        Tensor.realize(*ops.written)

    step(inputs)
    assert np.array_equal(held["w"].numpy(), before)
    assert all(np.isfinite(held[n].numpy()).all() for n in names)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "cpu"])
@pytest.mark.parametrize("kind", list(TABLES["norm"]))
def test_constant_vectors_pass_the_smallest_norm(kind: str, plain: bool) -> None:
    """Forward and backward, of zeros and of ones."""
    from tinygrad import Tensor

    norm, chosen = TABLES["norm"][kind](eps=SMALLEST_EPS), backend("CPU", plain)
    assert not list(number_problems(norm)) and list(number_problems(type(norm)(eps=0.9 * SMALLEST_EPS)))
    inputs = {
        **tensors_from_numpy(
            x=np.stack([np.zeros(4), np.ones(4)]).astype(np.float32)[None],
            weight=np.ones(4, np.float32),
            bias=np.zeros(4, np.float32),
        ),
        **chosen.inputs,
    }
    weights = {"weight": inputs["weight"], "bias": inputs["bias"]}
    y = norm.build(Dims(4, 1, 2, 9))(chosen.ops(inputs), weights, inputs["x"])
    (to_x,) = (y * y).sum().gradient(inputs["x"])
    Tensor.realize(y, to_x)
    assert np.isfinite(y.numpy()).all() and np.isfinite(to_x.numpy()).all()


def test_phases_are_looked_at_whole() -> None:
    phase = phases.TABLE["pretrain"](
        mixture={"a": Share(100.0)},
        budget=Budget(2.0, "steps"),
        max_grad_norm=1e-40,
        optimizer=optimizers.TABLE["adamw"](lr=1e39),
    )
    assert {p.path for p in phase_problems(phase)} == {("max_grad_norm",), ("optimizer", "lr")}
