"""Passes that resolve the network: device, dimensions, tensors, cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, cast

from llmspec.compiler.draft import Draft, closed, open_keys
from llmspec.compiler.encoder import encoder_defaults, encoder_model, encoder_problems
from llmspec.compiler.plan import BlockPlan, ModelPlan, StackPlan, TensorPlan
from llmspec.compiler.walk import forward_flops, tensor_specs
from llmspec.core import devices
from llmspec.core.problems import Problem, RunError, nearest
from llmspec.parts.base import Default, Dims, Frozen, ModelPart
from llmspec.parts.dropout import by_site
from llmspec.parts.residual import FORMS
from llmspec.parts.tokenizers import Tokenizer
from llmspec.spec.schema import BlockSpec, EncoderSpec, ModelSpec


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


PARTS = ("attention", "mlp", "position", "norm", "mask")
"""Keys of a block that hold parts."""


def resolve_parts(draft: Draft) -> Draft:
    """Open keys of the model's parts, and of its blocks', get their values."""
    model, tokenizer = draft.sections.model or draft.sections.rough_model, draft.sections.tokenizer
    assert model is not None
    dims = Dims(model.d_model, model.layers, model.context, model.vocab or (tokenizer.size() if tokenizer else 0))

    def resolved(part: ModelPart, *path: str) -> ModelPart:
        nonlocal draft
        inner = {key: value for key in type(part).model_fields if isinstance(value := getattr(part, key), ModelPart)}
        if inner:
            part = part.model_copy(update={key: resolved(value, *path, key) for key, value in inner.items()})
        defaults = part.defaults(dims)
        draft = replace(draft, decisions=draft.decided(".".join(("model", *path)), open_keys(part, defaults)))
        return cast(ModelPart, closed(part, defaults))

    def within(owner: Frozen, *path: str) -> dict[str, Any]:
        """The parts that the model, its encoder or a block has of its own, and those of its blocks."""
        own = {k: getattr(owner, k) for k in (*PARTS, "cross_attention", "embedding") if k in type(owner).model_fields}
        found: dict[str, Any] = {k: resolved(part, *path, k) for k, part in own.items() if part is not None}
        if isinstance(owner, ModelSpec | EncoderSpec):
            found["blocks"] = {
                name: block.model_copy(update=within(block, *path, "blocks", name))
                for name, block in owner.blocks.items()
            }
        return found

    changes = within(model)
    changes["heads"] = {name: resolved(head, "heads", name) for name, head in model.heads.items()}
    if (encoder := model.encoder) is not None:
        changes["encoder"] = encoder.model_copy(update=within(encoder, "encoder"))
        draft = replace(draft, decisions=draft.decided("model", encoder_defaults(model)))
    filled = model.model_copy(update=changes)
    sections = draft.sections
    sections = replace(sections, model=filled) if sections.model else replace(sections, rough_model=filled)
    return replace(draft, sections=sections, dims=dims)


def check_parts(draft: Draft) -> Draft:
    """Every part says what is wrong with its settings at the dimensions of its block."""
    assert draft.dims is not None
    sections, dims = draft.sections, draft.dims
    model = sections.model or sections.rough_model
    assert model is not None
    sound = set(type(model).model_fields) if sections.model else set(sections.sound)
    problems = (
        [
            Problem(
                f"a context of {dims.context} token leaves no room for an answer: a special token begins every text",
                ("model", "context"),
                "context: 2 or more",
                "the model could never generate anything",
            )
        ]
        if dims.context < 2
        else []
    )
    problems += vocab_problems(model, sections.tokenizer)
    problems += pattern_problems(model)
    problems += encoder_problems(model)
    problems += [p.at("model", "embedding") for p in model.embedding.check(dims) if "embedding" in sound]
    problems += [
        p.at("model", "heads", name) for name, head in model.heads.items() for p in head.check(dims) if "heads" in sound
    ]
    found: dict[tuple[Any, ...], Problem] = {}
    for problem in chain(block_problems(model, dims, sound), encoder_block_problems(model, dims, sound)):
        found.setdefault((problem.path, problem.message), problem)  # blocks that share a part share its problems
    return draft.with_problems([*problems, *found.values()])


def vocab_problems(model: ModelSpec, tokenizer: Tokenizer | None) -> Iterator[Problem]:
    """An embedding that has fewer rows than the tokenizer has ids."""
    if model.vocab is not None and tokenizer is not None and model.vocab < tokenizer.size():
        yield Problem(
            f"the tokenizer has {tokenizer.size():,} ids, and the embedding {model.vocab:,} rows",
            ("model", "vocab"),
            f"vocab: {tokenizer.size()} or more, or leave it out",
            "some tokens would have no vector",
        )


def pattern_problems(model: ModelSpec) -> Iterator[Problem]:
    """What is wrong with `blocks:` and `pattern:` beside one another."""
    if model.blocks and not model.pattern:
        names = ", ".join(model.blocks)
        yield Problem(
            "blocks have names, and no `pattern:` says which layer is which",
            ("model", "blocks"),
            f"pattern: [{names}]",
            "no layer would be one of them",
        )
        return
    for i, name in enumerate(model.pattern):
        if name not in model.blocks:
            near = nearest(name, list(model.blocks))
            hint = f"did you mean `{near}`?" if near else "there is " + ", ".join(f"`{n}`" for n in model.blocks)
            yield Problem(
                f"no block is called `{name}`",
                ("model", "pattern", i),
                hint if model.blocks else "blocks: {" + name + ": {…}} says what such a block has of its own",
                "it would be unclear what those layers are",
            )
    used = {model.pattern[i % len(model.pattern)] for i in range(model.layers)} if model.pattern else set()
    for name in model.blocks if used <= set(model.blocks) else ():
        if model.pattern and name not in used:
            why = (
                "the pattern does not name it"
                if name not in model.pattern
                else (f"the pattern comes to it after more than {model.layers} layers")
            )
            yield Problem(
                f"no layer is a `{name}`: {why}",
                ("model", "blocks", name),
                "leave it out, or add it to `pattern`",
                "it would be written down for nothing",
            )


def block_problems(model: ModelSpec, dims: Dims, sound: set[str]) -> Iterator[Problem]:
    """What parts of the blocks say of their settings, at the places where the spec has them."""
    for name, block in own_blocks(model).items():
        own = {key: getattr(block, key) for key in (*PARTS, "cross_attention")}
        crossed = () if model.cross_attention is None and block.cross_attention is None else ("cross_attention",)
        where = {
            key: ("model", "blocks", name, key) if own[key] is not None else ("model", key)
            for key in (*PARTS, *crossed)
        }
        parts = {key: own[key] or getattr(model, key) for key in where}
        shaped = replace(parts["attention"].shaped(dims), looks_ahead=not parts["mask"].causal)
        wrong = list(parts["attention"].check(shaped))
        for key, part in parts.items():
            if where[key][1] not in sound:
                continue
            if key == "cross_attention":
                yield from (p.at(*where[key]) for p in part.check(part.shaped(dims)))
                continue
            # Without sound heads nothing can be said of what depends on their width.
            checked = wrong if key == "attention" else [] if wrong and key == "position" else part.check(shaped)
            yield from (p.at(*where[key]) for p in checked)
        if block.position is not None and block.position.embeds:
            yield Problem(
                f"`{block.position.kind}` is added to the embedding, and a block comes after that",
                (*where["position"], "kind"),
                "`model.position` for all layers, or a kind that works in each layer, such as rope or alibi",
                "the block would know nothing of positions",
            )


def encoder_block_problems(model: ModelSpec, dims: Dims, sound: set[str]) -> Iterator[Problem]:
    """The same of the encoder's blocks; what it has from the model was looked at there."""
    if model.encoder is None or "encoder" not in sound:
        return
    own = encoder_model(model, model.encoder)
    written = {key for key in type(model.encoder).model_fields if getattr(model.encoder, key)}
    yield from (
        replace(p, path=("model", "encoder", *p.path[1:]))
        for p in chain(pattern_problems(own), block_problems(own, replace(dims, context=own.context), sound | written))
        if p.path[1] in written
    )


def own_blocks(model: ModelSpec) -> dict[str, BlockSpec]:
    """The kinds of blocks by name; one that has nothing of its own where the spec names none."""
    used = [model.pattern[i % len(model.pattern)] for i in range(min(model.layers, len(model.pattern)))]
    named = {name: model.blocks[name] for name in dict.fromkeys(used) if name in model.blocks}
    return named or {"block": BlockSpec()}


def stack_of(model: ModelSpec, name: str = "decoder") -> StackPlan:
    """The blocks of a spec whose parts are closed."""
    kinds, blocks = own_blocks(model), list[BlockPlan]()
    names, owners, before = list(kinds), dict[tuple[Any, ...], str](), "" if name == "decoder" else f"{name}."
    for block, own in kinds.items():
        chosen = {key: getattr(own, key) or getattr(model, key) for key in (*PARTS, "residual", "cross_attention")}
        heads, position = chosen["attention"].shaped(Dims(model.d_model, 1, 1, 1)), chosen["position"]
        # Tables and weights of a position are made for heads of one number and width.
        shared = (position, heads.heads, heads.head_dim, position.by_direction and chosen["mask"].causal)
        free = position == model.position and f"{before}position" not in owners.values() and not position.embeds
        whole = free or position.embeds
        owner = owners.setdefault(shared, f"{before}position" if whole else f"{before}positions.{block}")
        blocks.append(BlockPlan(name=block, position_name=owner, **chosen))
    pattern = model.pattern or ("block",)
    order = tuple(names.index(pattern[i % len(pattern)]) for i in range(model.layers))
    last = blocks[order[-1]].residual
    final = model.norm if FORMS[last].final_norm else None
    return StackPlan(name=name, blocks=tuple(blocks), order=order, final_norm=final)


def stacks_of(model: ModelSpec) -> tuple[StackPlan, ...]:
    """The stacks of a spec whose parts are closed, in the order of the forward pass."""
    if model.encoder is None:
        return (stack_of(model),)
    own = encoder_model(model, model.encoder)
    encoder = stack_of(own, "encoder").model_copy(update={"context": own.context, "position": own.position})
    crossed = model.cross_attention or model.attention
    return encoder, stack_of(model.model_copy(update={"cross_attention": crossed}))


def model_plan(model: ModelSpec, vocab: int) -> ModelPlan:
    """The plan of a model whose parts are closed: its stacks, its tensor table and what a pass costs."""
    plan = ModelPlan(
        d_model=model.d_model,
        context=model.context,
        vocab=vocab,
        embedding=model.embedding,
        position=model.position,
        norm=model.norm,
        stacks=stacks_of(model),
        heads=model.heads,
        init=model.init,
        dropout=by_site(model.dropout).short,
        decoder_start=model.encoder.decoder_start if model.encoder else None,
        tensors=(),
        flops_per_token=0.0,
    )
    dims = plan.dims
    table = tuple(
        TensorPlan(name=name, shape=t.shape, role=t.role, init=model.init.init(t, dims))
        for name, t in tensor_specs(plan)
    )
    return plan.model_copy(update={"tensors": table, "flops_per_token": forward_flops(plan)})


def build_table(draft: Draft) -> Draft:
    """The model's plan: stacks, tensors and cost."""
    model, dims = draft.sections.model, draft.dims
    assert model is not None and dims is not None
    if any(p.path[:1] == ("model",) for p in draft.problems):
        return draft
    return replace(draft, network=model_plan(model, dims.vocab))
