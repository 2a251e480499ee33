"""What a verdict costs is known whatever becomes of it, and no call begins that the budget does not allow."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentraft_ray.errors import BudgetExhausted
from agentraft_ray.taxonomy import FREE, Allowance, Cost
from agentraft_ray.verifier.spending import Spending

PRICES = st.none() | st.floats(0, 10)
COSTS = st.builds(Cost, st.integers(0, 1_000), PRICES, st.floats(0, 10))


@given(st.lists(COSTS, max_size=6))
def test_a_sum_is_unknown_if_a_part_is_and_says_what_it_is_at_least(costs: list[Cost]) -> None:
    total = sum(costs, FREE)
    assert total.tokens == sum(cost.tokens for cost in costs)
    assert (total.usd is None) == any(cost.usd is None for cost in costs)
    assert math.isclose(total.usd_at_least, sum(cost.usd or 0.0 for cost in costs), abs_tol=1e-9)
    assert total.usd is None or total.known_usd == 0


@given(st.lists(COSTS, min_size=1, max_size=5))
def test_less_undoes_a_sum(costs: list[Cost]) -> None:
    rest = sum(costs, FREE).less(costs[0])
    again = sum(costs[1:], FREE)
    assert rest.tokens == again.tokens
    assert math.isclose(rest.usd_at_least, again.usd_at_least, abs_tol=1e-9)


def test_a_call_that_gets_no_answer_is_booked_at_an_unknown_price() -> None:
    spending = Spending()
    with spending.call(Cost(100, 0.5)) as call:
        call.cost = Cost(80, 0.25)
    with pytest.raises(OSError, match="reset"), spending.call(Cost(100, 0.5)):
        raise OSError("reset")
    assert spending.so_far() == Cost(180, None, 0.0, 0.25)


def test_what_is_under_way_is_known_too() -> None:
    spending = Spending()
    part = spending.part()
    with part.call(Cost(100, 0.5)) as call:
        assert spending.so_far() == part.so_far() == Cost(100, None, 0.0)
        call.cost = Cost(60, 0.1)
        assert spending.so_far() == Cost(60, 0.1)
    assert spending.part().so_far() == FREE


@pytest.mark.parametrize(
    ("allowance", "most", "resource"),
    [
        (Allowance(tokens=99), Cost(100, 0.0), "tokens"),
        (Allowance(tokens=100), Cost(100, None), ""),
        (Allowance(usd=0.1), Cost(10**9, 0.2), "usd"),
        (Allowance(usd=0.2), Cost(10**9, 0.2), ""),
        (Allowance(usd=5.0), Cost(1, None), "usd"),
        (Allowance(usd=5.0, unpriced=True), Cost(1, None), ""),
        (Allowance(usd=5.0, unpriced=True), Cost(1, None, 0.0, 6.0), "usd"),
        (Allowance(0, 0.0), Cost(0, 0.0), ""),
    ],
)
def test_no_call_begins_that_the_allowance_does_not_cover(allowance: Allowance, most: Cost, resource: str) -> None:
    spending = Spending(allowance)
    if not resource:
        with spending.part().call(most):
            pass
        return
    with pytest.raises(BudgetExhausted) as refused, spending.part().call(most):
        raise AssertionError("it must not begin")
    assert refused.value.resource == resource
    assert spending.so_far() == FREE


def test_calls_under_way_at_the_same_time_share_one_allowance() -> None:
    spending = Spending(Allowance(tokens=250))
    one, other = spending.part(), spending.part()
    with one.call(Cost(100)) as first, other.call(Cost(100)):
        with pytest.raises(BudgetExhausted), one.call(Cost(100)):
            pass
        first.cost = Cost(50)
        with one.call(Cost(100)):
            pass


async def test_a_cancelled_call_is_booked() -> None:
    spending = Spending()

    async def ask() -> None:
        with spending.call(Cost(70)):
            await asyncio.Event().wait()

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spending.so_far() == Cost(70, None, 0.0)
