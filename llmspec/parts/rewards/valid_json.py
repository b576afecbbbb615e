"""Whether an answer is JSON."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.core import strict_json
from llmspec.core.problems import LlmspecError
from llmspec.parts.rewards.base import Answered, Reward


class ValidJSON(Reward):
    """1 where the whole answer is one JSON value, of a JSON Schema where one is given; else 0. Of what is JSON and not
    of the schema, a half."""

    kind: Literal["valid_json"] = "valid_json"
    formula: ClassVar[str] = "1 if JSON of the schema, 0.5 if JSON alone, else 0"
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """A JSON Schema (draft 2020-12); null: any JSON will do."""

    @field_validator("schema_")
    @classmethod
    def _sound(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            from_library = validators()
            try:
                from_library.check_schema(value)
            except Exception as error:  # its own kind of error, whose message is the first line
                raise ValueError(f"it is no JSON Schema: {str(error).splitlines()[0]}") from None
        return value

    @cached_property
    def _validator(self) -> Any:
        return validators()(self.schema_)

    def score(self, answer: Answered) -> float:
        try:
            value = strict_json.loads(answer.text)
        except (ValueError, RecursionError):
            return 0.0
        if self.schema_ is None:
            return 1.0
        # The library reads plain values: what was read strictly is written and read once more.
        return 1.0 if self._validator.is_valid(json.loads(json.dumps(value))) else 0.5


def validators() -> Any:
    """The class that checks values by a schema. Raises LlmspecError where the library is not installed."""
    try:
        from jsonschema import Draft202012Validator
    except ImportError:
        raise LlmspecError(
            "answers are checked against a JSON Schema by the library jsonschema, which is not installed",
            "pip install 'llmspec[rewards]', or leave `schema:` out",
        ) from None
    return Draft202012Validator
