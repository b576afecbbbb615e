"""What training drops, by where in the network it stands (Srivastava et al. 2014, JMLR 15, section 4)."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import Field

from llmspec.parts.base import Frozen

Site = Literal["embedding", "attention", "residual", "mlp"]
"""A place of the network where numbers are dropped."""
LOST = ("nothing would be dropped", "everything would be dropped")
"""What would happen if float32 made 0 of a share, or 1."""


class Dropout(Frozen):
    """Shares of numbers that training drops; the others are divided by what is left of 1, so that means stay."""

    effects: ClassVar[dict[str, tuple[str, str]]] = dict.fromkeys(get_args(Site), LOST)
    embedding: float = Field(0.0, ge=0, lt=1)
    """Of what each stack reads: the embeddings of its tokens with their positions (embd_pdrop in transformers)."""
    attention: float = Field(0.0, ge=0, lt=1)
    """Of the probabilities with which queries weigh keys, after the softmax (attention_dropout, attn_pdrop and
    attention_probs_dropout_prob in transformers)."""
    residual: float = Field(0.0, ge=0, lt=1)
    """Of what each branch of a block adds to the residual stream (resid_pdrop and hidden_dropout_prob in transformers;
    Vaswani et al. 2017, section 5.4)."""
    mlp: float = Field(0.0, ge=0, lt=1)
    """Of the hidden layer of feed-forward layers, after activation and gate (activation_dropout of BART, mlp_dropout of
    ModernBERT in transformers, and a place of T5's dropout_rate)."""

    def __bool__(self) -> bool:
        """Whether anything is dropped."""
        return bool(self.named)

    @property
    def named(self) -> dict[str, float]:
        """The shares that are not 0, by site."""
        return {site: share for site in get_args(Site) if (share := getattr(self, site))}

    @property
    def short(self) -> float | Dropout:
        """The one share that says the same, where there is one."""
        plain = of_branches(self.residual)
        return self.residual if self == plain else self


def of_branches(share: float) -> Dropout:
    """What one number means: the share of the embedding's and of each branch's outputs."""
    return Dropout(embedding=share, residual=share)


def by_site(dropout: float | Dropout) -> Dropout:
    """The shares of each site, however they were written."""
    return dropout if isinstance(dropout, Dropout) else of_branches(dropout)
