"""The programs that a shard hosts: registered by clients, or found in the store where they travel by path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentraft_ray.actors.definitions import Definition, document_name
from agentraft_ray.actors.live import Program
from agentraft_ray.actors.messages import decode
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.errors import AgentRaftError, FingerprintMismatch

__all__ = ["Programs"]


class Programs:
    """Fingerprint -> program. What travels by path is also kept in the store, so that another process or cluster can go on with it."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._known: dict[bytes, Program] = {}
        self.on_loaded: Callable[[Program], None] = _nothing

    def get(self, fingerprint: bytes) -> Program | None:
        """A program that is loaded here."""
        return self._known.get(fingerprint)

    def definition(self, fingerprint: bytes) -> bytes | None:
        """The encoded definition of a program that is loaded here."""
        found = self._known.get(fingerprint)
        return None if found is None else found.definition

    def all(self) -> list[Program]:
        """Every program that is loaded here."""
        return list(self._known.values())

    async def load(self, definition: bytes) -> Program:
        """Load a definition, and keep nothing of it yet. Raises what loading it raises."""
        program = await asyncio.to_thread(Program, definition)
        return self._known.get(program.fingerprint, program)

    async def keep(self, program: Program) -> None:
        """Host a program from now on. Raises StoreError."""
        if program.fingerprint not in self._known:
            if _decoded(program.definition).is_by_path:
                await self._store.put_document(document_name(program.fingerprint), program.definition)
            self._add(program)

    async def find(self, fingerprint: bytes) -> Program:
        """The program with this fingerprint, from the store if need be.

        Raises FingerprintMismatch when nobody here knows it, or what its path leads to has changed.
        """
        found = self._known.get(fingerprint)
        if found is not None:
            return found
        definition = await self._store.document(document_name(fingerprint))
        if definition is None:
            raise FingerprintMismatch(
                "its pipeline travelled by value and is not known here any more; submit the run again from a program that has the "
                "pipeline, or put that into a module and name it by 'package.module:attribute'"
            )
        path = _decoded(definition).pipeline
        try:
            program = await asyncio.to_thread(Program, definition)
        except AgentRaftError:
            raise
        except Exception as error:
            raise FingerprintMismatch(f"its pipeline {path!r} cannot be loaded here: {type(error).__name__}: {error}") from error
        if program.fingerprint != fingerprint:
            raise FingerprintMismatch(f"{path!r} is another pipeline now than when the run was admitted; restore it, or fork the run")
        self._add(program)
        return self._known[fingerprint]

    def _add(self, program: Program) -> None:
        if program.fingerprint not in self._known:  # else two who needed it have loaded it at the same time
            self.on_loaded(program)
            self._known[program.fingerprint] = program


def _nothing(program: Program) -> None:
    """A hook that nobody has set."""


def _decoded(definition: bytes) -> Definition:
    decoded: Definition = decode(definition, Definition)
    return decoded
