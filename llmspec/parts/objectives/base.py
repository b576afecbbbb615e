"""Objectives: what a phase minimises, and what of a batch that needs.

Shape letters: B batch, T tokens of a block, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec, Part
from llmspec.parts.ops import Linear
from llmspec.parts.others import Other
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.parts.tokenizers.words import Vocabulary

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor

Draw = Callable[..., Any]
"""draw(n, *names) -> (n,) uint64 random bits: a function of the seed, of the batch's place in training and of the names
alone, so that what is drawn on the way resumes bit for bit."""


NEXT, MASKED, LABELS = "the next token", "masked tokens", "labels"
TOGETHER, NUMBERS, TAGS = "which texts belong together", "numbers", "tags"
REWARDED, VALUED = "answers of a higher reward", "answers that turn out better than expected"
PREFERRED, JUDGED = "which of two answers is preferred", "which answers are good"
"""What is predicted."""

Loss = Callable[["Operations", "Outputs", "Mapping[str, Tensor]"], "dict[str, Tensor]"]
"""f(ops, outputs, inputs) -> sums over the batch, each of shape (), by name."""


class Outputs(NamedTuple):
    """What a head gives an objective, its last layer not yet applied, for losses that do not keep their logits."""

    features: Tensor
    """(B, T, D), or (B, D) of a head that says one thing a sequence."""
    layer: Linear | None
    """What makes outputs of them; None where they are the outputs."""
    softcap: float | None = None
    """What bounds those outputs: they are softcap·tanh(output / softcap); None for no bound."""
    others: Mapping[str, Outputs] = MappingProxyType({})
    """The same of the models that stand beside the trained one, by their role."""
    heads: Mapping[str, Outputs] = MappingProxyType({})
    """The same of the other heads that the objective reads, by their names."""


class Objective(Part):
    """What a phase minimises. Everything that a new one needs stands in its own file.

    The loss of a step is the sum of its losses, each times its `loss_weights`; those of all passes of a step are
    divided by their sum first, so that gradients are those of a mean whatever the number of passes.
    """

    head: str = "lm"
    """The head of the model that it trains."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What a mask has to hold for the loss to mean something: `causal` where a token must not see what follows it,
    `bidirectional` where it has to."""
    predicts: ClassVar[str] = NEXT
    """What it asks for; phases say what they teach."""
    special_tokens: ClassVar[tuple[str, ...]] = ()
    """Special tokens that it needs of the tokenizer, by their meanings, such as `mask`: a spec without is refused."""
    drawn: ClassVar[bool] = False
    """Whether what counts is drawn as a text is read, so that how much it was is known afterwards alone."""
    counted: ClassVar[tuple[str, ...]] = ()
    """Names of the further sums that its graph gives beside the loss, such as right answers."""
    measured: ClassVar[tuple[str, ...]] = ()
    """Names of the sums that are taken in validation alone, since they cost a product that training does not need."""
    gathered: ClassVar[tuple[str, ...]] = ()
    """Names of what validation takes whole rather than as a sum, such as logits, for measures of all of it together."""
    documents: ClassVar[bool] = False
    """Whether it asks one thing of each document of a row, which a head that says one thing a sequence reads; a row
    holds several documents, which do not see each other."""
    sums_tokens: ClassVar[bool] = False
    """Whether what it asks of each document is a sum over tokens, of each of which its head says something."""
    unit: ClassVar[str] = "nats"
    """Of the training loss."""
    logit_arrays: ClassVar[float] = 0.0
    """Arrays of logits, gradients included, that it holds as the backward pass starts, where it makes them itself; 0
    where the operation does that has head and loss in one."""
    logits_measured: ClassVar[float] = 1.0
    """The same of a pass forward that gives what is `gathered`."""

    @property
    def reads_whole(self) -> bool:
        """Whether a row holds whole documents, each between the special tokens of its tokenizer, which do not see each
        other."""
        return self.documents

    @property
    def beside(self) -> Mapping[str, bool]:
        """Heads of the same model that it reads beside the one that it trains: name -> whether their gradient reaches
        the states that they read."""
        return {}

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of all heads that it reads, the one that it trains first."""
        return (self.head, *self.beside)

    def others(self) -> tuple[Other, ...]:
        """The models that it compares the trained one with, or asks: frozen, and given the same tokens."""
        return ()

    def compared(self, rows: int, context: int) -> int:
        """How many pairs of texts of a pass it compares by the product of their vectors."""
        return 0

    def wrong_head(self, head: Head) -> str:
        """Why its loss cannot be that of such a head; '' where it can."""
        return ""

    def wrong_beside(self, head: Head) -> str:
        """Why it cannot read such a head beside the one that it trains; '' where it can."""
        return ""

    def document_inputs(self, rows: int, documents: int, head: Head) -> dict[str, InputSpec]:
        """What its graph reads of each of the documents of a row, where it asks one thing of each: `targets` and
        `loss_weights`."""
        return {}

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """What its graph reads beside tokens and the mask's inputs; `loss_weights` is always among them, and `places`
        where the head reads some places of a row alone."""
        raise NotImplementedError

    def places(self, context: int) -> int | None:
        """How many places of a row the head reads, whose numbers are the input `places`; None for all."""
        return None

    def states(self, context: int) -> int | None:
        """How many states of a row the head reads: those of its `places`; None for all."""
        return None if self.sums_tokens else self.places(context)

    def asked(self, batch: Any, draw: Draw, vocabulary: Vocabulary) -> Any:
        """A packed batch (llmspec.data.layout.Batch) as it asks: the tokens that are read, what is to be predicted at
        each place, and where that counts."""
        return batch

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """The inputs of a batch as `asked` gives it, `loss_weights` as they count; and `tokens` too where the objective
        changes what the network reads."""
        raise NotImplementedError

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per place that the head reads, beside the products of the head."""
        return ElementwiseOps()

    def build(self, dims: Dims) -> Loss:
        """f(ops, outputs, inputs) -> {"loss": (), and every name in `counted`: ()}, each a sum over the batch."""
        raise NotImplementedError

    def in_validation(self) -> Objective:
        """The same without what only training adds to the loss, or smooths in its targets."""
        return self

    def measures(self, dims: Dims) -> Loss | None:
        """The same of every name in `measured`."""
        return None

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """What a validation came to; the first says how good the model is. `sums` holds what `build` and
        `measures` give and the `loss_weights`, summed over every batch; `characters` of the text that was read."""
        weights = max(1.0, sums["loss_weights"])
        return (Metric("loss", sums["loss"] / weights, self.unit, better="lower"),)
