"""What goes to the store actor and comes back: batches of appends and admissions, and errors as values. Nothing here is ever stored.

A batch of appends is `list[AppendEntry]`, one of admissions `list[NewRun]`. A call of a store actor that drains is answered with
`DRAINING`: nothing was done, the same bytes go to its successor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from agentraft_ray import errors
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.checkpoint.base import Admission, Answer, AnswerKind, AppendEntry, NewRun, RunMeta
from agentraft_ray.errors import AgentRaftError, StoreError

__all__ = ["DRAINING", "Outcome", "Refusal", "admissions_from", "admitted", "answers_from", "appended", "error_from", "refusal_of"]

DRAINING = b""

T = TypeVar("T")
_KINDS: dict[str, type[AgentRaftError]] = {
    name: kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type) and issubclass(kind, AgentRaftError)
}


class Refusal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An error of ours as a value: its class, text, and those of its fields that are plain data."""

    kind: str
    message: str
    fields: dict[str, str | int | float | bool | None] = {}


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer to a call that is no batch: a number where there is one to give (bytes freed), or why it was refused."""

    value: int = 0
    refusal: Refusal | None = None


class _Appended(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Answers to a batch of appends, but only those that the sender cannot foresee: what is in neither table was appended."""

    answers: dict[int, Answer]
    refusals: dict[int, Refusal]


class _Admitted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Answers to a batch of admissions; None where `refusals` has one."""

    answers: list[tuple[bool, RunMeta] | None]
    refusals: dict[int, Refusal]


# --- errors ----------------------------------------------------------------------------------------------------------------


def refusal_of(error: AgentRaftError) -> Refusal:
    """An error for its way over the wire."""
    plain = {name: value for name, value in error.fields.items() if value is None or isinstance(value, str | int | float)}
    return Refusal(type(error).__name__, str(error), plain)


def error_from(refusal: Refusal) -> AgentRaftError:
    """The error that a refusal stands for; one of an unknown class, from another version of us, is a StoreError."""
    return _KINDS.get(refusal.kind, StoreError)(refusal.message, **refusal.fields)


def _store_error_from(refusal: Refusal) -> StoreError:
    error = error_from(refusal)
    return error if isinstance(error, StoreError) else StoreError(str(error), **error.fields)


# --- batches ---------------------------------------------------------------------------------------------------------------


def appended(answers: Sequence[Answer | AgentRaftError]) -> bytes:
    """The answers to a batch of appends as bytes."""
    others = {at: one for at, one in enumerate(answers) if isinstance(one, Answer) and one.kind is not AnswerKind.APPENDED}
    return encode(_Appended(others, _refusals(answers)))


def answers_from(entries: Sequence[AppendEntry], data: bytes) -> list[Answer | StoreError]:
    """The inverse of `appended` for those who sent `entries`."""
    found: _Appended = decode(data, _Appended)
    answers: list[Answer | StoreError] = [
        Answer(AnswerKind.APPENDED, entry.token, entry.index + len(entry.records), entry.new_head) for entry in entries
    ]
    for at, answer in found.answers.items():
        answers[at] = answer
    for at, refusal in found.refusals.items():
        answers[at] = _store_error_from(refusal)
    return answers


def admitted(answers: Sequence[Admission | AgentRaftError]) -> bytes:
    """The answers to a batch of admissions as bytes."""
    plain = [None if isinstance(one, AgentRaftError) else (one.created, one.meta) for one in answers]
    return encode(_Admitted(plain, _refusals(answers)))


def admissions_from(news: Sequence[NewRun], data: bytes) -> list[Admission | StoreError]:
    """The inverse of `admitted` for those who sent `news`."""
    found: _Admitted = decode(data, _Admitted)
    return [
        Admission(*one) if one is not None else _store_error_from(found.refusals[at])
        for at, (_, one) in enumerate(zip(news, found.answers, strict=True))
    ]


def _refusals(answers: Sequence[T | AgentRaftError]) -> dict[int, Refusal]:
    return {at: refusal_of(one) for at, one in enumerate(answers) if isinstance(one, AgentRaftError)}
