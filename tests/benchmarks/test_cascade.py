"""What is said of a cascade follows from the tally alone; a probe too many, or two at a time, is found."""

from __future__ import annotations

from benchmarks.cascade.report import SPREAD_S, executions, lines, shortfalls
from benchmarks.cascade.scene import COOLDOWN_S, Played
from benchmarks.chaos.tally import BEGAN, ENDED, Line

OPENED, HEALED = 100.0, 120.0


def ran(run: str, began: float, seconds: float = 0.1, attempt: int = 0) -> list[Line]:
    return [Line(kind, run, "convert", 0, attempt, "key", 1, at) for kind, at in ((BEGAN, began), (ENDED, began + seconds))]


def played(*probes: list[Line]) -> Played:
    extra = [line for probe in probes for line in probe]
    tally = [*ran("fragile-0", 90.0), *ran("fragile-1", 99.0), *extra, *ran("fragile-1", HEALED + 1, attempt=1), *ran("steady-0", 110.0)]
    found = Played(
        2, broken_at=98.0, opened_at=OPENED, killed_at=110.0, back_at=111.0, healed_at=HEALED, finished_at=125.0, succeeded=2,
        attempts={"fragile-0": 1, "fragile-1": 2 + len(probes)}, steady=[(110.0, 0.3, 1, True)],
    )  # fmt: skip
    found.lines = sorted(tally, key=lambda line: line.at)
    return found


def probe(number: int, at: float, seconds: float = 0.1) -> list[Line]:
    return ran("fragile-1", at, seconds, attempt=10 + number)


def test_one_probe_in_each_cooldown_is_as_it_must_be() -> None:
    fine = played(*(probe(number, OPENED + SPREAD_S + number * COOLDOWN_S) for number in range(10)))
    assert shortfalls(fine) == []
    told = "\n".join(lines(fine))
    assert "probes                                                       10   at most 1 at a time" in told
    assert "from the healing to the next attempt, s                    1.00" in told


def test_two_probes_at_a_time_and_a_probe_too_many_are_found() -> None:
    assert shortfalls(played(probe(0, 105.0, 1.0), probe(1, 105.5))) == ["2 probes at a time"]
    many = [probe(number, OPENED + SPREAD_S + number * 0.5) for number in range(30)]
    assert "30 probes; 20 are allowed in that time" in shortfalls(played(*many))


def test_runs_that_failed_or_are_wrong_or_ran_more_often_than_their_log_says_are_found() -> None:
    bad = played()
    bad.succeeded, bad.failed, bad.wrong, bad.attempts["fragile-0"] = 1, ["fragile-1: MaxRetriesExceeded"], ["fragile-0"], 3
    bad.steady.append((111.0, 0.3, 2, True))
    assert len(shortfalls(bad)) == 5


def test_an_execution_that_never_ended_is_not_counted_as_one_that_did() -> None:
    assert executions([Line(BEGAN, "fragile-0", "convert", 0, 0, "key", 1, 1.0)], "fragile") == []
