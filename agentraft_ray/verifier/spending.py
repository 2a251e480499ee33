"""What the calls for one verdict cost, known at any moment: also when a verifier is cancelled, runs out of time or raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from agentraft_ray.errors import BudgetExhausted
from agentraft_ray.taxonomy import FREE, Allowance, Cost, VerificationResult

__all__ = ["PaidCall", "Spending", "billed", "fault"]


class PaidCall:
    """A call that is under way. Set `cost` when it has answered; else nobody knows what it cost, only that it was `most` tokens at most."""

    __slots__ = ("cost", "most")

    def __init__(self, most: Cost) -> None:
        self.most = most
        self.cost: Cost | None = None

    def so_far(self) -> Cost:
        """What it has cost, as far as that is known."""
        return self.cost if self.cost is not None else Cost(self.most.tokens, None, 0.0)


class Spending:
    """One tally for all who work on a verdict: members of a panel, windows of a long output, a request and its hedge.

    A call that would exceed the `allowance` is not begun. Verifiers that pay for their calls do so within `call`; those that ask
    others give each a `part`, so that they know what one of them had used when they cancel it.
    """

    __slots__ = ("_allowance", "_charged", "_open", "_spent", "_whole")

    def __init__(self, allowance: Allowance | None = None, *, whole: Spending | None = None) -> None:
        self._allowance = allowance
        self._whole = whole
        self._spent = FREE
        self._charged = FREE  # as `_spent`, but what nobody knows counts as the most that it can have been
        self._open: dict[PaidCall, None] | None = None

    def part(self) -> Spending:
        """A tally of its own within this one."""
        return Spending(whole=self)

    def so_far(self) -> Cost:
        """What has been used; calls that have no answer yet count with the tokens that they may take, at an unknown price."""
        return sum((call.so_far() for call in self._open or ()), self._spent)

    @contextmanager
    def call(self, most: Cost) -> Iterator[PaidCall]:
        """Pay for one call, which costs `most` at the most (``usd=None``: the price is unknown).

        Raises BudgetExhausted, before anything was spent, when the run's budget does not allow it.
        """
        self._check(most)
        call = PaidCall(most)
        tallies = [self, *self._wholes()]
        for tally in tallies:
            if tally._open is None:
                tally._open = {}
            tally._open[call] = None
        try:
            yield call
        finally:
            for tally in tallies:
                tally._close(call)

    def _close(self, call: PaidCall) -> None:
        assert self._open is not None
        del self._open[call]
        self._spent = self._spent + call.so_far()
        self._charged = self._charged + (call.cost or call.most)

    def _check(self, most: Cost) -> None:
        for tally in (self, *self._wholes()):
            if tally._allowance is not None:
                under_way = sum((call.cost or call.most for call in tally._open or ()), tally._charged)
                resource = tally._allowance.short_of(under_way + most)
                if resource:
                    left = getattr(tally._allowance, resource)
                    raise BudgetExhausted(
                        f"the run's budget leaves {left:g} {resource} for this verdict, which its next call may exceed; fork the run with"
                        " a larger budget",
                        resource=resource,
                        limit=left,
                    )

    def _wholes(self) -> Iterator[Spending]:
        whole = self._whole
        while whole is not None:
            yield whole
            whole = whole._whole


def fault(problem: BaseException, said: str, verifier: str, spending: Spending) -> VerificationResult:
    """The verdict where `verifier` has raised `problem`, in words `said`; with what it had used."""
    resource = str(problem.fields.get("resource", "")) if isinstance(problem, BudgetExhausted) else ""
    return VerificationResult.fault(said, verifier=verifier, cost=spending.so_far(), short_of=resource)


def billed(verdict: VerificationResult, spending: Spending) -> VerificationResult:
    """The verdict with its cost, which is what was paid within `spending` where the verifier does not say."""
    if verdict.cost == FREE and spending.so_far() != FREE:
        return replace(verdict, cost=spending.so_far())
    return verdict
