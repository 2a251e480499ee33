"""Options that many commands share: where the store is, how to print, and the settings of runs."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentraft_ray.cluster.cli.printing import Printer

if TYPE_CHECKING:
    from agentraft_ray.cluster.settings import ClusterSettings
    from agentraft_ray.ledger import Ledger
    from agentraft_ray.runtime.blueprint import RunSettings

__all__ = ["Duration", "by_option", "json_option", "ledger_of", "pair", "run_options", "store_options"]

Command = Callable[..., Any]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PLACE = ("store", "directory", "prefix", "durability")


def store_options(command: Command) -> Command:
    """``--store``, ``--directory`` ... : the command gets the settings as `place`."""

    @click.option("--store", metavar="URL", help="A Redis or Valkey server, or 'embedded': a server of our own on this machine.")
    @click.option("--directory", type=click.Path(path_type=Path), help="Data directory of the embedded store (default .agentraft).")
    @click.option("--prefix", help="How the store's keys begin (default agentraft).")
    @click.option("--durability", help="What the store must promise: fsync, replicated(n), memory or trust-server.")
    @click.option("--config", type=click.Path(exists=True, dir_okay=False), help="A file of settings instead of agentraft.toml.")
    @functools.wraps(command)
    def with_place(*args: Any, config: str | None, **words: Any) -> Any:
        from agentraft_ray.cluster.stores import settings_here  # noqa: PLC0415 - pydantic takes its time

        if config is not None:
            os.environ["AGENTRAFT_CONFIG"] = config
        given = {name: value for name in _PLACE if (value := words.pop(name)) is not None}
        return command(*args, place=settings_here(**given), **words)

    return with_place


def json_option(command: Command) -> Command:
    """``--json``: the command gets a `printer`."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    @functools.wraps(command)
    def with_printer(*args: Any, as_json: bool, **words: Any) -> Any:
        return command(*args, printer=Printer(as_json), **words)

    return with_printer


def by_option(command: Command) -> Command:
    """``--by``: who decides, for the log."""
    return click.option("--by", default=lambda: os.environ.get("USER", ""), help="Who decides, for the log (default: $USER).")(command)


def run_options(command: Command) -> Command:
    """The settings of runs, as `wrap` has them: the command gets `settings`, a function of those that hold where an option is not given."""

    @click.option("--max-retries", type=click.IntRange(0), help="Retries per step (default 2, advised at most 3).")
    @click.option("--failure-threshold", type=click.IntRange(1), help="Rejections in a row that open a step's breaker (default 5).")
    @click.option("--cooldown", "cooldown_seconds", type=float, help="Seconds that a breaker stays open (default 30).")
    @click.option("--on-open", type=click.Choice(["fail", "park"]), help="What a run does at an open breaker (park on a cluster).")
    @click.option("--budget", multiple=True, metavar="NAME=N", help="Limits: attempts, tokens, usd, seconds, reserve_tokens, reserve_usd.")
    @click.option("--require-model", is_flag=True, default=None, help="Refuse to judge HIGH steps by rules alone.")
    @functools.wraps(command)
    def with_settings(*args: Any, **words: Any) -> Any:
        names = ("max_retries", "failure_threshold", "cooldown_seconds", "on_open", "require_model")
        given = {name: value for name in names if (value := words.pop(name)) is not None}
        budget = dict(pair(text) for text in words.pop("budget"))
        if budget:
            given["budget"] = budget

        def settings(usual: Mapping[str, Any]) -> RunSettings:
            return _run_settings(**{**usual, **given})

        return command(*args, settings=settings, **words)

    return with_settings


def _run_settings(*, budget: Mapping[str, Any] | None = None, max_retries: int = 2, **words: Any) -> RunSettings:
    from agentraft_ray.cluster.offers import budget_of  # noqa: PLC0415
    from agentraft_ray.config import RetryPolicy  # noqa: PLC0415
    from agentraft_ray.runtime.blueprint import RunSettings  # noqa: PLC0415

    return RunSettings(retry=RetryPolicy(max_retries=max_retries), budget=budget_of(budget or {}), **words)


@asynccontextmanager
async def ledger_of(place: ClusterSettings) -> AsyncIterator[Ledger]:
    """The ledger of the store that the settings name, open. Raises InvalidConfig, StoreUnavailable, DurabilityUnverified."""
    from agentraft_ray.cluster.stores import limits_of, seal_of, store_of  # noqa: PLC0415
    from agentraft_ray.ledger import Ledger  # noqa: PLC0415

    store = store_of(place)
    ledger = Ledger(store, seal_of(place), limits_of(place))
    try:
        await store.open()
        yield ledger
    finally:
        await ledger.close()
        await store.close()


class Duration(click.ParamType[float]):
    """Seconds from ``90s``, ``15m``, ``12h``, ``7d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration; write 90s, 15m, 12h or 7d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


def pair(text: str) -> tuple[str, str]:
    """A name and a value from ``NAME=VALUE``."""
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise click.BadParameter(f"{text!r} is no NAME=VALUE")
    return name, value
