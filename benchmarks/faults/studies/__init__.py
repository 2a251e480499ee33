"""The studies: what `python -m benchmarks` can measure. Each is a value; nothing runs on import."""

from benchmarks.faults.studies.base import Cell, Claim, Result, Study
from benchmarks.faults.studies.money import EARLY, FRONTIER
from benchmarks.faults.studies.outages import BREAKER, VERIFIER_FAULTS
from benchmarks.faults.studies.panels import FLAT, QUORUM
from benchmarks.faults.studies.retries import RETRIES, ROLLBACK
from benchmarks.faults.studies.seed import HEADLINE, LENGTH, QUALITY

__all__ = ["SEED", "STUDIES", "Cell", "Claim", "Result", "Study"]

SEED = ("headline", "length", "quality")
"""What is measured where nothing is named: the seed's reports."""

STUDIES: dict[str, Study] = {
    study.name: study for study in (HEADLINE, LENGTH, QUALITY, FLAT, QUORUM, RETRIES, ROLLBACK, BREAKER, VERIFIER_FAULTS, FRONTIER, EARLY)
}
"""All studies by their names, in the order in which they are reported."""
