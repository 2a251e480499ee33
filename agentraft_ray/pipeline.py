"""What a user writes: tasks, steps and pipelines. Values and their validation only; running them is `runtime`'s business."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as dataclass_replace
from enum import Enum
from typing import Any, Literal, overload

from agentraft_ray.errors import InvalidPipeline
from agentraft_ray.identity import idempotency_key
from agentraft_ray.taxonomy import FREE, Cost

__all__ = ["AheadBy", "Criticality", "Pipeline", "Step", "StepContext", "StepFunction", "Task", "step"]

StepFunction = Callable[["StepContext"], Any]
_STEP_NAME_CHARS_MAX = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Criticality(str, Enum):
    """How far a step's output is escalated: LOW stops at the rules, MEDIUM asks the small model, HIGH the large one."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True)
class Task:
    """What a run is to do. `inputs` must be plain data; `id` is the run id unless another one is given."""

    goal: str
    inputs: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])


@dataclass(frozen=True, slots=True)
class AheadBy:
    """First-to-ahead-by-k voting among samples of one step (Wald's sequential test, as in MAKER, arXiv 2511.09030).

    Samples that do not encode or raise are discarded, never repaired. Voting is confidently wrong where the majority is wrong.
    """

    k: int
    samples_max: int = 32

    def __post_init__(self) -> None:
        if self.k < 1 or self.samples_max < self.k:
            raise InvalidPipeline(f"AheadBy needs 1 <= k <= samples_max, not k={self.k}, samples_max={self.samples_max}")


@dataclass
class StepContext:
    """What a step function sees.

    `outputs` maps the names of all committed ancestors to their outputs (isolated copies). Those of the steps in `after=` are there
    at once; one from further back that has left memory is read from the store, and blocks its caller for that long.
    `attempt` counts from 0; `hint` is None at first. `lineage` counts the rollbacks that removed the step; `sample` numbers the
    votes of one attempt.
    """

    task: Task
    outputs: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    hint: str | None = None
    run_id: str = ""
    step_name: str = ""
    lineage: int = 0
    sample: int = 0
    cost: Cost = FREE

    @property
    def is_retry(self) -> bool:
        """True when an earlier attempt of this step failed."""
        return self.attempt > 0

    @property
    def idempotency_key(self) -> str:
        """The same over re-dispatch, retry and resume: pass it to whatever must happen once."""
        return idempotency_key(self.run_id, self.step_name, self.lineage)

    @property
    def attempt_key(self) -> str:
        """Another one for every attempt: for effects that a correction makes anew."""
        return idempotency_key(self.run_id, self.step_name, self.lineage, self.attempt)

    def spend(self, *, tokens: int = 0, usd: float | None = 0.0) -> None:
        """Book what this attempt used, for the run's budget and its result. `usd=None` means that the price is unknown.

        Book before or as you spend: what an attempt books after its time-out or its cancellation reaches nobody.
        Raises TypeError or ValueError for what is not a finite number from 0 up; tokens are whole.
        """
        self.cost = self.cost + Cost.of(tokens, usd)


@dataclass
class Step:
    """One step: a function of a `StepContext` (sync or async), and how it is judged, retried and placed.

    `after` names the steps it needs (default: the one listed before it; `()`: none). `max_errors` gives raises and time-outs a
    budget of their own. `version` is the part of the fingerprint that you change when the function changes its meaning.
    """

    name: str
    fn: StepFunction
    goal: str | None = None
    criticality: Criticality = Criticality.MEDIUM
    max_retries: int | None = None
    after: Sequence[str] | str | None = None
    timeout_s: float | None = None
    max_errors: int | None = None
    needs_approval: bool = False
    approve_before: bool = False
    samples: AheadBy | None = None
    version: str = ""
    isolate: Literal["process"] | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or len(self.name) > _STEP_NAME_CHARS_MAX or _CONTROL.search(self.name):
            raise InvalidPipeline(f"step name {self.name!r} must be 1 to {_STEP_NAME_CHARS_MAX} printable characters")
        if not callable(self.fn):
            raise InvalidPipeline(f"step {self.name!r}: fn must be a function of the step context, not {type(self.fn).__name__}")
        for name in ("max_retries", "max_errors", "timeout_s"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidPipeline(f"step {self.name!r}: {name}={value} must not be negative")
        if self.timeout_s == 0:
            raise InvalidPipeline(f"step {self.name!r}: timeout_s=0 leaves no time to run; leave it out for no time-out")
        self.criticality = Criticality(self.criticality)
        if isinstance(self.after, str):
            self.after = (self.after,)

    def __call__(self, ctx: StepContext) -> Any:
        return self.fn(ctx)


@overload
def step(name: StepFunction) -> Step: ...
@overload
def step(name: str | None = None, **options: Any) -> Callable[[StepFunction], Step]: ...
def step(name: Any = None, **options: Any) -> Any:
    """Make a `Step` of a function: ``@step``, ``@step()`` or ``@step("name", goal=..., criticality=...)``.

    >>> @step(goal="Say hello")
    ... def greet(ctx): return "Hello."
    >>> greet.name, greet.goal
    ('greet', 'Say hello')
    """
    if callable(name):
        return Step(_name_of(name), name)
    return lambda fn: Step(name or _name_of(fn), fn, **options)


def _name_of(fn: Any) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))


class Pipeline:
    """Steps in the order of their edges: a chain, or a DAG where steps say `after=`. The output of a run is that of the step listed last.

    Raises InvalidPipeline for no steps, duplicate names, an unknown `after`, or a cycle.

    >>> Pipeline([lambda ctx: 1, Step("b", lambda ctx: 2)]).parents(1)
    (0,)
    """

    def __init__(self, steps: Sequence[Step | StepFunction], name: str = "pipeline") -> None:
        self.name = name
        self.repeats = 1
        self._block = tuple(item if isinstance(item, Step) else Step(_name_of(item), item) for item in steps)
        if not self._block:
            raise InvalidPipeline(f"pipeline {name!r} has no steps")
        self._index = self._index_names()
        self._parents = tuple(self._parents_of(position) for position in range(len(self._block)))
        self._children = self._invert()
        self._refuse_cycles()

    @classmethod
    def repeat(cls, steps: Step | Sequence[Step], times: int, name: str = "pipeline") -> Pipeline:
        """A chain of `times` copies of a step or of a block of steps, named ``name[0]``, ``name[1]`` ..., generated, not listed."""
        block = [steps] if isinstance(steps, Step) else list(steps)
        if times < 1:
            raise InvalidPipeline(f"pipeline {name!r}: times={times} must be at least 1")
        if any(item.after is not None for item in block):
            raise InvalidPipeline(f"pipeline {name!r}: a repeated block is a chain; its steps take no after=")
        made = cls(block, name)
        made.repeats = times
        return made

    @property
    def block(self) -> tuple[Step, ...]:
        """The steps as they were given; a pipeline is `repeats` copies of it in a chain."""
        return self._block

    def __len__(self) -> int:
        return len(self._block) * self.repeats

    @property
    def steps(self) -> Sequence[Step]:
        """All steps by position; those of a repeated pipeline are made when they are looked at."""
        return self._block if self.repeats == 1 else _Repeated(self)

    def step_at(self, index: int) -> Step:
        """The step as given for position `index`; in a repeated pipeline its name lacks the ``[k]``, see `step_name`."""
        return self._block[index % len(self._block)]

    def step_name(self, index: int) -> str:
        """The unique name of the step at position `index`."""
        name = self._block[index % len(self._block)].name
        return name if self.repeats == 1 else f"{name}[{index // len(self._block)}]"

    def parents(self, index: int) -> tuple[int, ...]:
        """Positions of the steps that the one at `index` needs."""
        if self.repeats == 1:
            return self._parents[index]
        return (index - 1,) if index else ()

    def children(self, index: int) -> tuple[int, ...]:
        """Positions of the steps that need the one at `index`."""
        if self.repeats == 1:
            return self._children[index]
        return (index + 1,) if index + 1 < len(self) else ()

    def _index_names(self) -> dict[str, int]:
        index: dict[str, int] = {}
        for position, item in enumerate(self._block):
            if item.name in index:
                raise InvalidPipeline(f"pipeline {self.name!r} has two steps named {item.name!r}; give each a name of its own")
            index[item.name] = position
        return index

    def _parents_of(self, position: int) -> tuple[int, ...]:
        item = self._block[position]
        if item.after is None:
            return (position - 1,) if position else ()
        unknown = [name for name in item.after if name not in self._index]
        if unknown:
            raise InvalidPipeline(f"step {item.name!r} is after {unknown[0]!r}, which is no step of pipeline {self.name!r}")
        return tuple(dict.fromkeys(self._index[name] for name in item.after))

    def _invert(self) -> tuple[tuple[int, ...], ...]:
        children: list[list[int]] = [[] for _ in self._block]
        for position, parents in enumerate(self._parents):
            for parent in parents:
                children[parent].append(position)
        return tuple(map(tuple, children))

    def _refuse_cycles(self) -> None:
        missing = [len(parents) for parents in self._parents]
        free = [position for position, count in enumerate(missing) if count == 0]
        seen = 0
        while free:
            seen += 1
            for child in self._children[free.pop()]:
                missing[child] -= 1
                if missing[child] == 0:
                    free.append(child)
        if seen < len(self._block):
            stuck = ", ".join(repr(self._block[position].name) for position, count in enumerate(missing) if count)
            raise InvalidPipeline(f"pipeline {self.name!r} has a cycle among {stuck}; remove one `after`")


class _Repeated(Sequence[Step]):
    """The steps of a repeated pipeline, made on access."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __len__(self) -> int:
        return len(self._pipeline)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return dataclass_replace(self._pipeline.step_at(position), name=self._pipeline.step_name(position))

    def __iter__(self) -> Iterator[Step]:
        return (self[position] for position in range(len(self)))
