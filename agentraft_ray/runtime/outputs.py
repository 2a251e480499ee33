"""A run's committed outputs, as steps and verifiers see them: decoded anew at each look, loaded from the store where memory ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.checkpoint.seal import Seal
from agentraft_ray.errors import LogCorrupted
from agentraft_ray.protocol.plan import Plan
from agentraft_ray.protocol.records import Payload, StepCommitted, decode_record
from agentraft_ray.protocol.state import RunState

__all__ = ["AncestorOutputs", "CommittedOutputs", "History", "RunOutputs"]

_ENTRY_BYTES = 250  # what keeping an output takes besides its bytes; small outputs would otherwise cost many times the limit


class CommittedOutputs(Protocol):
    """What steps and verifiers look through: the committed outputs of one run, wherever they are kept."""

    @property
    def plan(self) -> Plan:
        """The plan of the run."""

    def value(self, step: int) -> Any:
        """The committed output of a step, decoded; an isolated copy. May block while it is read from the store."""

    def decode(self, step: int, data: bytes) -> Any:
        """An output of a step as everyone sees it."""


class RunOutputs:
    """The committed outputs of one run by step. The newest ones, up to `bytes_max`, are kept as bytes; older ones are read back."""

    def __init__(self, state: RunState, types: Sequence[Any], store: RunStore, seal: Seal, bytes_max: int) -> None:
        """`types` = the declared output type of each step of the pipeline's block, None for plain data."""
        self.state = state
        self._types = types
        self._store = store
        self._seal = seal
        self._bytes_max = bytes_max
        self._bytes = 0
        self._cache: OrderedDict[int, tuple[int, bytes]] = OrderedDict()  # step -> (log position, encoded output)

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.state.plan

    def keep(self, step: int, position: int, data: bytes) -> None:
        """Remember an output that was just committed."""
        old = self._cache.pop(step, None)
        self._bytes += len(data) - len(old[1]) if old else len(data) + _ENTRY_BYTES
        self._cache[step] = (position, data)
        while self._bytes > self._bytes_max and len(self._cache) > 1:
            _, (_, dropped) = self._cache.popitem(last=False)
            self._bytes -= len(dropped) + _ENTRY_BYTES

    def value(self, step: int) -> Any:
        """The committed output of a step, decoded; an isolated copy."""
        return self.decode(step, self.data(step))

    def type_of(self, step: int) -> Any:
        """The type that the step function declares for its output; None for plain data."""
        return self._types[step % len(self._types)]

    def decode(self, step: int, data: bytes) -> Any:
        """An output of a step as everyone sees it, through the type that the step function declares."""
        return decode_output(data, self.type_of(step))

    @property
    def kept_bytes(self) -> int:
        """What the outputs that are kept in memory take."""
        return self._bytes

    def data(self, step: int) -> bytes:
        """The encoded bytes of a committed output; blocks the caller where they are read back."""
        position = self.state.position(step)
        kept = self._cache.get(step)
        if kept is not None and kept[0] == position:
            return kept[1]
        record = self.record_at(position)
        if not isinstance(record, StepCommitted):
            raise self._missing(position)
        return self.payload_data(record.output, position)

    def record_at(self, position: int) -> Any:
        """The record at a log position, read back from the store; blocks the caller."""
        return self._opened(position, self._store.read_blocking(self.state.run_id, position))

    def payload_data(self, payload: Payload, position: int = -1) -> bytes:
        """The bytes of a payload, from its blob where the record does not hold them; blocks the caller."""
        if payload.data is not None:
            return payload.data
        for name in self._seal.blob_names(payload.digest):
            blob = self._store.blob_blocking(self.state.run_id, name)
            if blob is not None:
                return self._seal.open_blob(self.state.run_id, name, blob)
        raise self._missing(position)

    # --- the same for the event loop, which nothing may block ----------------------------------------------------------------

    def at_hand(self, steps: Iterable[int]) -> dict[int, bytes]:
        """The encoded outputs of committed steps, if memory holds all of them; else nothing."""
        found = {}
        for step in steps:
            kept = self._cache.get(step)
            if kept is None or kept[0] != self.state.position(step):
                return {}
            found[step] = kept[1]
        return found

    async def fetch(self, steps: Iterable[int]) -> dict[int, bytes]:
        """The encoded outputs of committed steps, from the store where memory ends."""
        found = {}
        for step, position in [(step, self.state.position(step)) for step in steps]:
            kept = self._cache.get(step)
            if kept is not None and kept[0] == position:
                found[step] = kept[1]
            else:
                found[step] = await self.fetch_payload((await self.fetch_record(position)).output, position)
        return found

    async def fetch_record(self, position: int) -> Any:
        """The record at a log position."""
        stored = await self._store.read(self.state.run_id, position, 1)
        return self._opened(position, stored[0] if stored else None)

    async def fetch_payload(self, payload: Payload, position: int = -1) -> bytes:
        """The bytes of a payload, from its blob where the record does not hold them."""
        if payload.data is not None:
            return payload.data
        for name in self._seal.blob_names(payload.digest):
            blob = await self._store.blob(self.state.run_id, name)
            if blob is not None:
                return self._seal.open_blob(self.state.run_id, name, blob)
        raise self._missing(position)

    def _opened(self, position: int, stored: bytes | None) -> Any:
        if stored is None:
            raise self._missing(position)
        return decode_record(self._seal.open(self.state.run_id, position, stored))

    def _missing(self, position: int) -> LogCorrupted:
        run_id = self.state.run_id
        return LogCorrupted(
            f"run {run_id}: the output committed at position {position} is not in the store any more; audit the log",
            run_id=run_id,
            index=position,
        )


class AncestorOutputs(Mapping[str, Any]):
    """Step name -> output, of all committed ancestors of a step. Looking one up decodes it, and loads it if it is not `near`."""

    def __init__(self, outputs: CommittedOutputs, step: int, near: Mapping[int, bytes]) -> None:
        """`near` = encoded outputs that are at hand, by step."""
        self._outputs = outputs
        self._step = step
        self._near = near
        self._seen: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._seen:
            return self._seen[name]
        plan = self._outputs.plan
        index = plan.index_of(name) if isinstance(name, str) else None
        if index is None or plan.depth_to(self._step, index) is None:
            raise KeyError(name)
        data = self._near.get(index)
        value = self._outputs.value(index) if data is None else self._outputs.decode(index, data)
        return self._seen.setdefault(name, value)

    def __iter__(self) -> Iterator[str]:
        plan = self._outputs.plan
        return (plan.name(index) for index in sorted(plan.ancestors(self._step)))

    def __len__(self) -> int:
        plan = self._outputs.plan
        return self._step if plan.is_chain else sum(1 for _ in plan.ancestors(self._step))

    def __repr__(self) -> str:
        return repr(dict(self)) if len(self) <= 100 else f"<outputs of {len(self)} steps>"


class History(Sequence[tuple[str, Any]]):
    """(step name, output) of the committed ancestors in pipeline order, loaded on access; compares equal to such a list."""

    def __init__(self, outputs: CommittedOutputs, step: int, near: Mapping[int, bytes]) -> None:
        self._outputs = outputs
        self._step = step
        self._near = near
        self._ancestors: Sequence[int] | None = None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._pair(step) for step in self._steps()[index]]
        return self._pair(self._steps()[index])

    def __len__(self) -> int:
        return len(self._steps())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self)) if len(self) <= 100 else f"<history of {len(self)} steps>"

    def _steps(self) -> Sequence[int]:
        if self._ancestors is None:
            plan = self._outputs.plan
            self._ancestors = range(self._step) if plan.is_chain else sorted(plan.ancestors(self._step))
        return self._ancestors

    def _pair(self, step: int) -> tuple[str, Any]:
        data = self._near.get(step)
        value = self._outputs.value(step) if data is None else self._outputs.decode(step, data)
        return self._outputs.plan.name(step), value
