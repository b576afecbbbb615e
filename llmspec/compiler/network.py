"""Passes that resolve the network: device, dimensions, tensors, cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llmspec.compiler.draft import Draft, closed, open_keys
from llmspec.compiler.plan import ModelPlan, TensorPlan
from llmspec.core import devices
from llmspec.core.problems import Problem, RunError
from llmspec.parts.base import Default, Dims, ModelPart, TensorSpec
from llmspec.spec.schema import ModelSpec


def choose_device(draft: Draft) -> Draft:
    """`auto` becomes the device that is here."""
    device = draft.sections.device
    if device != "auto":
        return replace(draft, device=device)
    found, why = devices.automatic()
    return replace(draft, device=found, decisions=draft.decided("", {"device": Default(found, why)}))


def check_device(draft: Draft) -> Draft:
    """What only a GPU does is refused on a CPU, which would do it more slowly or not at all; so is a number of threads
    that is none."""
    device, sections = draft.device or "", draft.sections
    if not device.startswith("CPU"):
        return draft
    try:
        devices.threads()
    except RunError as wrong:
        draft = draft.with_problems(list(wrong.problems))
    here = f"the device is {device}" + (", which `auto` found here" if sections.device == "auto" else "")
    problems = []
    if sections.precision not in (None, "float32"):
        problems.append(
            Problem(
                f"products in {sections.precision} are for GPUs, and {here}",
                ("precision",),
                "`precision: float32`, or a `device:` that supports it (CUDA, METAL)",
                "a CPU's products would be slower and less exact",
            )
        )
    if sections.beam:
        problems.append(
            Problem(
                f"beam searches for the fastest form of GPU kernels, and {here}",
                ("beam",),
                "`beam: 0`, or a GPU as `device:` (CUDA, METAL)",
                "the hot kernels of a CPU are written in C: a search would gain nothing",
            )
        )
    return draft.with_problems(problems)


def resolve_parts(draft: Draft) -> Draft:
    """Open keys of the model's parts get their values, and the dimensions follow."""
    model, tokenizer = draft.sections.model or draft.sections.rough_model, draft.sections.tokenizer
    assert model is not None
    dims = Dims(model.d_model, model.layers, model.context, tokenizer.size() if tokenizer else 0)
    decisions = draft.decisions
    resolved = {}
    for key in ("attention", "mlp", "position", "norm"):
        part = getattr(model, key)
        defaults = part.defaults(dims)
        decisions = replace(draft, decisions=decisions).decided(f"model.{key}", open_keys(part, defaults))
        resolved[key] = closed(part, defaults)
    attention = resolved["attention"]
    heads = attention.heads
    dims = replace(dims, heads=heads, kv_heads=attention.key_value_heads(), head_dim=max(1, dims.d_model // heads))
    filled = model.model_copy(update=resolved)
    sections = draft.sections
    sections = replace(sections, model=filled) if sections.model else replace(sections, rough_model=filled)
    return replace(draft, sections=sections, dims=dims, decisions=decisions)


def check_parts(draft: Draft) -> Draft:
    """Every part says what is wrong with its settings at these dimensions."""
    assert draft.dims is not None
    sections, keys = draft.sections, ("attention", "mlp", "position", "norm")
    model, sound = sections.model or sections.rough_model, keys if sections.model else sections.sound
    narrow = (
        [
            Problem(
                f"a context of {draft.dims.context} token leaves no room for an answer: every text begins with <|end|>",
                ("model", "context"),
                "context: 2 or more",
                "the model could never generate anything",
            )
        ]
        if draft.dims.context < 2
        else []
    )
    return draft.with_problems(
        [*narrow, *(p.at("model", k) for k in keys if k in sound for p in getattr(model, k).check(draft.dims))]
    )


def tensors(model: ModelSpec, dims: Dims) -> list[TensorPlan]:
    """The tensor table, in the order of the forward pass."""
    return [
        TensorPlan(name=name, shape=t.shape, role=t.role, init=model.init.init(t, dims))
        for name, t in named_tensors(model, dims)
    ]


def named_tensors(model: ModelSpec | ModelPlan, dims: Dims) -> Iterator[tuple[str, TensorSpec]]:
    """(full name, tensor) of every weight, in the order of the forward pass."""

    def named(prefix: str, specs: tuple[TensorSpec, ...]) -> Iterator[tuple[str, TensorSpec]]:
        return ((f"{prefix}.{t.name}", t) for t in specs)

    def single(name: str, role: str) -> Iterator[tuple[str, TensorSpec]]:
        return named(name, (TensorSpec("weight", (dims.vocab, dims.d_model), role),))  # type: ignore[arg-type]

    yield from single("embed_tokens", "embedding")
    yield from named("position", model.position.tensors(dims))
    for layer in range(dims.layers):
        for name, part in block_parts(model):
            yield from named(f"layers.{layer}.{name}", part.tensors(dims))
    if model.norm.placement == "pre":
        yield from named("final_norm", model.norm.tensors(dims))
    if not model.tied_embeddings:
        yield from single("lm_head", "head")


def block_parts(model: ModelSpec | ModelPlan) -> list[tuple[str, ModelPart]]:
    """(name, part) of one block, in the order of their tensors."""
    return [
        ("attention_norm", model.norm),
        ("attention", model.attention),
        ("mlp_norm", model.norm),
        ("mlp", model.mlp),
    ]


def build_table(draft: Draft) -> Draft:
    """The model's plan: parts, tensors and cost."""
    model, dims = draft.sections.model, draft.dims
    assert model is not None and dims is not None
    if any(p.path[:1] == ("model",) for p in draft.problems):
        return draft
    block = sum(part.flops(dims) for _, part in block_parts(model))
    plan = ModelPlan(
        d_model=dims.d_model,
        layers=dims.layers,
        context=dims.context,
        vocab=dims.vocab,
        heads=dims.heads,
        kv_heads=dims.kv_heads,
        head_dim=dims.head_dim,
        position=model.position,
        attention=model.attention,
        mlp=model.mlp,
        norm=model.norm,
        init=model.init,
        tied_embeddings=model.tied_embeddings,
        dropout=model.dropout,
        tensors=tuple(tensors(model, dims)),
        flops_per_token=dims.layers * block + 2.0 * dims.vocab * dims.d_model,
    )
    return replace(draft, network=plan)
