"""Conversations in a table: one turn of a user and the assistant's answer become a prompt and its response."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError

CHAT_NAMES = ("messages", "conversations", "conversation", "chat")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant"}


def is_chat(cell: Any) -> bool:
    """Whether a cell is a list of turns with a role and a content, or ``from`` and ``value``.

    Args:
        cell: Any.
    """
    return (
        isinstance(cell, (Sequence, np.ndarray))
        and not isinstance(cell, (str, bytes))
        and len(cell) > 0
        and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in cell)
    )


def chat_pairs(cells: Sequence[Any], file: str, column: str) -> tuple[list[str], list[str]]:
    """Prompts and responses of conversations that are one question and one answer.

    A language model learns such a pair as a chat in its own template, on the assistant's turn alone.

    Args:
        cells: A conversation each.
        file: What messages call the table.
        column: Its name.

    Returns:
        What the user says, and what the assistant answers.

    Raises:
        InjertoError: For the first row that is anything else.
    """
    prompts, responses = [], []
    for row, cell in enumerate(cells, 1):
        turns = [_turn(turn) for turn in cell] if is_chat(cell) else []
        if [role for role, _ in turns] != ["user", "assistant"] or not all(isinstance(said, str) for _, said in turns):
            roles = ", ".join(str(role) for role, _ in turns[:4]) or "none"
            raise InjertoError(
                f"{file}: column '{column}', row {row}: turns of {roles}; conversations of one user turn and one "
                "assistant turn, both texts, are learned: cut them so, or write columns prompt and response"
            )
        prompts.append(turns[0][1])
        responses.append(turns[1][1])
    return prompts, responses


def _turn(turn: Mapping[str, Any]) -> tuple[str, Any]:
    role = str(turn.get("role", turn.get("from")))
    return _ROLES.get(role.lower(), role), turn.get("content", turn.get("value"))
