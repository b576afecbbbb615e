"""A dialogue to tokens, and a prompt to the beginning of one."""

from llmspec.parts.templates.base import ChatTemplate
from llmspec.parts.templates.jinja import Jinja
from llmspec.parts.templates.role_tokens import RoleTokens

TABLE: dict[str, type[ChatTemplate]] = {"role_tokens": RoleTokens, "jinja": Jinja}

__all__ = ["TABLE", "ChatTemplate"]
