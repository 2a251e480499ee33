"""Pipelines by import path, ready to be run in this process, and remembered in the store so that others can go on with their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentraft_ray.actors.definitions import Definition, definition_of, document_name, load_blueprint
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.seal import Seal
from agentraft_ray.config import Budget
from agentraft_ray.errors import FingerprintMismatch, InvalidConfig
from agentraft_ray.runtime.blueprint import Blueprint, RunSettings
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.taxonomy import Cost

__all__ = ["Offer", "budget_of", "keep", "offer", "offer_of_run"]

_BUDGET = ("attempts", "tokens", "usd", "seconds", "reserve_tokens", "reserve_usd")


@dataclass(frozen=True, slots=True)
class Offer:
    """A pipeline that can be run here: by which path it was named, and all that hosting its runs needs."""

    path: str
    verifier: str
    definition: bytes
    blueprint: Blueprint

    @property
    def fingerprint(self) -> bytes:
        """Of its plan."""
        return self.blueprint.plan.fingerprint


def offer(path: str, verifier: str = "", settings: RunSettings | None = None) -> Offer:
    """Import a pipeline (and a verifier) by its path. Raises InvalidConfig, InvalidPipeline, VerifierUnavailable."""
    return _loaded(encode(definition_of(path, verifier or None, settings or RunSettings())))


async def keep(store: RunStore, known: Offer) -> None:
    """Note in the store how a pipeline is found, so that whoever has its module can go on with its runs."""
    name = document_name(known.fingerprint)
    if await store.document(name) != known.definition:
        await store.put_document(name, known.definition)


async def offer_of_run(store: RunStore, seal: Seal, run_id: str, allowed: set[tuple[str, str]] | None = None) -> Offer:
    """The pipeline that a run was admitted with, as the store knows it; only one of `allowed` (path, verifier) is imported.

    Raises RunNotFound, and FingerprintMismatch where the store does not know it, it is not allowed, or it has changed.
    """
    fingerprint = (await RunLogs(store, seal).admitted_plan(run_id)).fingerprint
    data = await store.document(document_name(fingerprint))
    if data is None:
        raise FingerprintMismatch(
            f"run {run_id}: nothing in the store says where its pipeline is; name it: --pipeline package.module:attribute", run_id=run_id
        )
    definition: Definition = decode(data, Definition)
    if allowed is not None and (definition.pipeline, definition.verifier) not in allowed:
        raise FingerprintMismatch(f"run {run_id}: its pipeline {definition.pipeline!r} is not one that is served here", run_id=run_id)
    found = _loaded(data)
    if found.fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"run {run_id}: {definition.pipeline!r} is another pipeline now, or is judged otherwise, than when the run was admitted; "
            "restore it, or fork the run",
            run_id=run_id,
        )
    return found


def budget_of(limits: Mapping[str, Any]) -> Budget | None:
    """A budget by its limits' names; None for none. Raises InvalidConfig for a name or number that cannot be."""
    unknown = sorted(set(limits) - set(_BUDGET))
    if unknown:
        raise InvalidConfig(f"a budget has no limit {unknown[0]!r}; there are: {', '.join(_BUDGET)}")
    if not limits:
        return None
    try:
        whole = {name: int(limits[name]) for name in ("attempts", "tokens") if name in limits}
        other = {name: float(limits[name]) for name in ("usd", "seconds") if name in limits}
        reserve = Cost.of(int(limits.get("reserve_tokens", 0)), float(limits.get("reserve_usd", 0.0)))
    except (TypeError, ValueError) as error:
        raise InvalidConfig(f"a budget is made of numbers: {error}") from None
    return Budget(**whole, **other, reserve=reserve)  # type: ignore[arg-type]


def _loaded(definition: bytes) -> Offer:
    decoded: Definition = decode(definition, Definition)
    return Offer(decoded.pipeline, decoded.verifier, definition, load_blueprint(definition))
