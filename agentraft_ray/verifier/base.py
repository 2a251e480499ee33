"""The verifier port: what a verifier is given, what it must answer, and what the runtime may ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality, Step, Task
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.verifier.spending import Spending

if TYPE_CHECKING:
    from agentraft_ray.verifier.calibration import Calibration
    from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["VerificationResult", "Verifier", "VerifyInput"]


@dataclass(frozen=True)
class VerifyInput:
    """Everything that one verdict may depend on.

    `output` is the decoded output of the step (an isolated copy). `history` holds ``(step name, output)`` of the committed
    ancestors, in pipeline order; it may load lazily. `deadline_s` is how long the verdict may take, in seconds. What it may cost,
    and what it has cost so far, is in `spending`; the verdict does not depend on either.
    """

    task: Task
    step: Step
    output: Any
    history: Sequence[tuple[str, Any]] = field(default_factory=list)
    attempt: int = 0
    deadline_s: float | None = None
    spending: Spending = field(default_factory=Spending, repr=False, compare=False)


class Verifier(ABC):
    """Judges one output. Implementations keep no state between verdicts that could change a later one."""

    @property
    def name(self) -> str:
        """Who decides, as it stands in `VerificationResult.verifier`."""
        return type(self).__name__

    @property
    def identity(self) -> str:
        """Name and settings in one line: part of the pipeline's fingerprint and of every certificate. Never a secret."""
        return self.name

    @abstractmethod
    async def verify(self, request: VerifyInput) -> VerificationResult:
        """Judge `request.output`. An exception counts as a verifier fault: it is neither a pass nor billed to the agent."""

    def verify_now(self, request: VerifyInput) -> VerificationResult | None:
        """The verdict of `verify` where it takes no waiting and next to no time, else None: ask `verify` then.

        A host that serves thousands of runs calls this on its event loop; only verifiers of fixed, fast rules answer here. They
        change nothing of what they are given: the task is shared by all verdicts of a run.
        """
        return None

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        """A verdict by another mechanism than the verifier named `previous`; None where there is none."""
        return None

    def missing(self) -> tuple[str, ...]:
        """What this process lacks to ask it, each in one line that says what to install or set; () where nothing shows."""
        return ()

    def engines(self) -> tuple[EngineSettings, ...]:
        """The engines of local models that it asks; on a cluster they are started before its first verdict. () for none."""
        return ()

    def uses_model(self, criticality: Criticality) -> bool:
        """Whether a step of this criticality is judged by more than fixed rules. Unknown verifiers count as more."""
        return True

    @property
    def pass_threshold(self) -> float | None:
        """The confidence under which it turns a pass into a rejection; None where it has no such setting."""
        return None

    def at_threshold(self, threshold: float) -> Verifier:
        """The same verifier with this `pass_threshold`, not calibrated. Raises InvalidConfig where it has none."""
        raise InvalidConfig(f"{self.name} has no threshold that could be chosen; measure it without a false-positive rate")

    @property
    def uncalibrated(self) -> Verifier:
        """The same verifier without its calibration: what a calibration is bound to."""
        return self

    def calibrations(self, criticality: Criticality) -> tuple[Calibration | None, ...]:
        """The calibrations of all models whose word may decide about a step of this criticality; None for one that has none."""
        return (None,) if self.uses_model(criticality) else ()
