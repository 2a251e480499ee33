"""`Calibration`: what was measured of a verifier, how, and its form as a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from agentraft_ray.config import FreshCalibration
from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.taxonomy import FREE, Cost, VerdictKind
from agentraft_ray.verifier.base import Verifier
from agentraft_ray.verifier.calibration.cases import LabelledCase
from agentraft_ray.verifier.calibration.measuring import Progress, measure
from agentraft_ray.verifier.content import strict_json
from agentraft_ray.verifier.proportion import Proportion

__all__ = ["Calibration"]

_FORMAT = 1
_VERSION_CHARS = 12
_DAY_S = 24 * 3600.0
_RIGHT = ErrorType.NONE.value
_PASS = VerdictKind.PASS.value
_NO_VERDICT = (VerdictKind.ABSTAIN.value, VerdictKind.FAULT.value)
_KINDS = {_PASS, *_NO_VERDICT, *(kind.value for kind in ErrorType if kind is not ErrorType.NONE)}


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often one verifier was right on labelled cases, and the threshold that it was measured with.

    It belongs to the verifier of that `identity` (model, prompt, settings, threshold) and to no other. `confusion` counts: what a case
    was labelled (``NONE`` = right) -> what the verifier said (``pass``, a class, ``abstain``, ``fault``). `groups` = groups of cases by
    label; `chosen_on` = cases that the threshold was chosen on, which are none of those that are counted.
    """

    verifier: str
    identity: str
    measured_at: datetime
    threshold: float | None
    confusion: Mapping[str, Mapping[str, int]]
    groups: Mapping[str, int]
    chosen_on: int = 0
    wanted_false_positive_rate: float | None = None
    cost: Cost = field(default=FREE, compare=False)

    @classmethod
    async def measure(
        cls,
        verifier: Verifier,
        cases: Iterable[LabelledCase],
        *,
        false_positive_rate: float | None = None,
        at_a_time: int = 8,
        deadline_s: float = 120.0,
        progress: Progress | None = None,
    ) -> Self:
        """Ask `verifier` about every case, `at_a_time` of them at once, each within `deadline_s`; ``progress(done, of)`` after each.

        With `false_positive_rate`, half of the cases choose the threshold that catches most within that rate of false alarms, and
        the other half measure it; without, all of them measure the verifier as it is.

        Raises InvalidConfig for cases that lack right or wrong outputs, for a verifier without a threshold that one is wanted of, and
        where no threshold is enough.
        """
        found = await measure(verifier, list(cases), false_positive_rate, at_a_time, deadline_s, progress)
        return cls(
            found.verifier.name,
            found.verifier.uncalibrated.identity,
            datetime.now(UTC).replace(microsecond=0),
            found.verifier.pass_threshold,
            found.confusion,
            found.groups,
            found.chosen_on,
            false_positive_rate,
            found.cost,
        )

    # --- what was measured ---------------------------------------------------------------------------------------------------

    @property
    def cases(self) -> int:
        """How many cases got a verdict that counts."""
        return sum(self._judged(label) for label in self.confusion)

    @property
    def unanswered(self) -> int:
        """How many cases got none: the verifier failed or abstained. They count neither way."""
        return sum(self.confusion[label].get(kind, 0) for label in self.confusion for kind in _NO_VERDICT)

    @property
    def recall(self) -> Proportion:
        """The share of wrong outputs that were rejected, whatever the class."""
        return self._rejected([label for label in self.confusion if label != _RIGHT])

    @property
    def false_positives(self) -> Proportion:
        """The share of right outputs that were rejected."""
        return self._rejected([_RIGHT])

    @property
    def recall_by_class(self) -> dict[ErrorType, Proportion]:
        """The same as `recall` for each class of wrong outputs there were."""
        return {ErrorType(label): self._rejected([label]) for label in self.confusion if label != _RIGHT}

    @property
    def version(self) -> str:
        """A digest of all that counts, for identities and certificates."""
        text = json.dumps(self._measured(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:_VERSION_CHARS]

    def flaw(self, wanted: FreshCalibration, now: float) -> str | None:
        """What this calibration lacks of what is `wanted` at the time `now` (seconds since the epoch), or None."""
        age_days = (now - self.measured_at.timestamp()) / _DAY_S
        if age_days > wanted.max_age_days or age_days < -1:
            return f"was measured on {self.measured_at:%Y-%m-%d}, not within the last {wanted.max_age_days:g} days"
        if self.cases < wanted.cases_min:
            return f"was measured on {self.cases} cases, fewer than {wanted.cases_min}"
        if self.recall.low < wanted.recall_min:
            return f"shows a recall of {self.recall}, whose lower bound is under {wanted.recall_min:.1%}"
        return None

    def report(self) -> str:
        """All of it in lines for people."""
        lines = [
            f"{self.verifier}, measured {self.measured_at:%Y-%m-%d} on {self.cases} cases, version {self.version}",
            f"threshold            {'none' if self.threshold is None else self.threshold}"
            + (f" (chosen on {self.chosen_on} others for at most {self.wanted_false_positive_rate:.1%})" if self.chosen_on else ""),
            f"recall               {self.recall}",
            *(f"  {kind.value:<18} {share}" for kind, share in self.recall_by_class.items()),
            f"false alarms         {self.false_positives}",
        ]
        if self.unanswered:
            lines.append(f"without a verdict    {self.unanswered}")
        money = "an unknown price" if self.cost.usd is None else f"${self.cost.usd:.4f}"
        least = f", at least ${self.cost.known_usd:.4f}" if self.cost.usd is None and self.cost.known_usd else ""
        lines.append(f"cost                 {self.cost.tokens:,} tokens, {money}{least}")
        return "\n".join(lines)

    # --- as a file -----------------------------------------------------------------------------------------------------------

    def save(self, path: Path | str) -> None:
        """Write it as JSON."""
        shares = {"all": self.recall, **{kind.value: share for kind, share in self.recall_by_class.items()}}
        shown = {
            "recall": {name: _shown(share) for name, share in shares.items()},
            "false_positives": _shown(self.false_positives),
            "unanswered": self.unanswered,
            "cost": {"tokens": self.cost.tokens, "usd": self.cost.usd, "usd_at_least": self.cost.usd_at_least},
        }
        text = json.dumps({"version": self.version, **self._measured(), "shown": shown}, indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote. Raises InvalidConfig for anything else, also for a file that was changed by hand."""
        try:
            value = strict_json(Path(path).read_text(encoding="utf-8"))
            made = cls(
                str(value["verifier"]),
                str(value["identity"]),
                datetime.fromisoformat(value["measured_at"]),
                None if value["threshold"] is None else float(value["threshold"]),
                _counts(value["confusion"]),
                {str(ErrorType(label)): int(count) for label, count in value["groups"].items()},
                int(value["chosen_on"]),
                value["wanted_false_positive_rate"],
            )
            is_whole = value["format"] == _FORMAT and value["version"] == made.version and made.measured_at.tzinfo is not None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
            raise InvalidConfig(f"{path} is no calibration that can be read: {type(problem).__name__}: {problem}") from problem
        if not is_whole:
            raise InvalidConfig(f"{path} is not what was measured: its contents do not have the version that it names; measure it anew")
        return made

    def check(self, verifier: Verifier) -> None:
        """Raises InvalidConfig unless `verifier` is the one that was measured."""
        found = verifier.uncalibrated.identity
        if found != self.identity:
            raise InvalidConfig(
                f"this calibration is of another verifier: it was measured with {self.identity}, this one is {found}; measure it with"
                " `python -m agentraft_ray.verifier.calibration`, and load what that writes"
            )

    def _measured(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "verifier": self.verifier,
            "identity": self.identity,
            "measured_at": self.measured_at.isoformat(),
            "threshold": self.threshold,
            "cases": self.cases,
            "confusion": {label: dict(counts) for label, counts in self.confusion.items()},
            "groups": dict(self.groups),
            "chosen_on": self.chosen_on,
            "wanted_false_positive_rate": self.wanted_false_positive_rate,
        }

    def _judged(self, label: str) -> int:
        return sum(count for kind, count in self.confusion[label].items() if kind not in _NO_VERDICT)

    def _rejected(self, labels: list[str]) -> Proportion:
        labels = [label for label in labels if label in self.confusion]
        judged = sum(self._judged(label) for label in labels)
        passed = sum(self.confusion[label].get(_PASS, 0) for label in labels)
        return Proportion(judged - passed, judged, sum(self.groups[label] for label in labels))


def _counts(value: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    found = {str(ErrorType(label)): dict(counts) for label, counts in value.items()}
    for counts in found.values():
        if set(counts) - _KINDS or not all(type(count) is int and count >= 0 for count in counts.values()):
            raise ValueError("it counts what no verifier says")
    return found


def _shown(share: Proportion) -> dict[str, float | int | None]:
    return {"count": share.count, "of": share.of, "rate": share.rate, "low": round(share.low, 4), "high": round(share.high, 4)}
