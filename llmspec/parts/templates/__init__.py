"""A dialogue to tokens, and a prompt to the beginning of one."""

from llmspec.core.table import Table
from llmspec.parts.templates.base import ChatTemplate

TABLE = Table[ChatTemplate](
    __name__,
    {
        "role_tokens": "RoleTokens",
        "jinja": "Jinja",
    },
)

__all__ = ["TABLE", "ChatTemplate"]
