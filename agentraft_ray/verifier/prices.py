"""What a model's call costs: a table of the user's own, else the package genai-prices (extra ``prices``), else nobody knows."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.asking import in_thread

__all__ = ["Price", "PriceTable", "load_catalogue", "usd_of"]

_PER = 1_000_000
_CATALOGUE_NAMES = {"bedrock": "aws", "gemini": "google"}  # providers that genai-prices knows under another name


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens. `cached_input` is for tokens that the provider had in its own cache; None: as for all others.

    >>> Price(input=1.0, output=5.0).of(1_000_000, 100_000)
    1.5
    """

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        if not all(0 <= one < float("inf") for one in (self.input, self.output, self.cached_input or 0.0)):
            raise InvalidConfig(f"prices are numbers from 0 up, in US dollars per million tokens, not {self!r}")

    def of(self, tokens_in: int, tokens_out: int, tokens_cached: int = 0) -> float:
        """US dollars for one call; `tokens_cached` are among `tokens_in`."""
        cached = self.input if self.cached_input is None else self.cached_input
        return ((tokens_in - tokens_cached) * self.input + tokens_cached * cached + tokens_out * self.output) / _PER


PriceTable = Mapping[str, Price]
"""Prices by model, or by ``provider:model``."""


def usd_of(
    table: PriceTable,
    provider: str,
    model: str,
    tokens_in: int,
    tokens_out: int,
    tokens_cached: int = 0,
    *,
    base_url: str | None = None,
) -> float | None:
    """The price of a call in US dollars; None where nobody knows it, never 0 for that reason.

    `base_url` = where the call goes, if not to the provider itself: a server of one's own has no list price.
    """
    own = table.get(f"{provider}:{model}") or table.get(model)
    if own is not None:
        return own.of(tokens_in, tokens_out, tokens_cached)
    catalogue = _catalogue()
    if catalogue is None:
        return None
    where = {"provider_api_url": base_url} if base_url else {"provider_id": _CATALOGUE_NAMES.get(provider, provider)}
    try:
        usage = catalogue.Usage(input_tokens=tokens_in, output_tokens=tokens_out, cache_read_tokens=tokens_cached)
        return float(catalogue.calc_price(usage, model, **where).total_price) or None  # a model without a price comes out at 0
    except (LookupError, ValueError):
        return None


async def load_catalogue() -> None:
    """Load the list prices, if their package is there, in a thread: it takes a good part of a second."""
    if not _catalogue.cache_info().currsize:
        await in_thread(_catalogue)


@cache
def _catalogue() -> Any:
    if importlib.util.find_spec("genai_prices") is None:
        return None
    import genai_prices  # noqa: PLC0415 - an extra

    genai_prices.calc_price(genai_prices.Usage(input_tokens=1), "gpt-4o", provider_id="openai")  # which reads the tables
    return genai_prices
