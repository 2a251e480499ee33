"""What the calls of one model cost: at the most before a call, and as far as it is known after it."""

from __future__ import annotations

from collections.abc import Mapping

from agentraft_ray.taxonomy import FREE, Cost, VerifierFault
from agentraft_ray.verifier.prices import Price, PriceTable, load_catalogue, usd_of
from agentraft_ray.verifier.providers.completion import Completion
from agentraft_ray.verifier.providers.faults import MAY_BE_BILLED

__all__ = ["OWN_CALL", "Billing"]

OWN_CALL = "custom"
"""The provider of a call that is the user's own; it has no list price."""

_CHARS_PER_TOKEN = 4  # an estimate, where the call does not say how many tokens it took
_BYTES_PER_TOKEN_MIN = 3  # of UTF-8, before a call: English has 4 to 5, Chinese about 3


class Billing:
    """The price list for one model, with the user's own prices first. `max_tokens` bounds its answers."""

    def __init__(self, provider: str, model: str, max_tokens: int, prices: PriceTable | None, base_url: str | None = None) -> None:
        self._provider = provider
        self._model = model
        self._max_tokens = max_tokens
        self._prices: Mapping[str, Price] = dict(prices or {})
        self._base_url = base_url

    async def most(self, prompt: str) -> Cost:
        """What a call costs at the most, going by the length of its prompt."""
        if self._provider != OWN_CALL:
            await load_catalogue()
        tokens_in = len(prompt.encode("utf-8", "replace")) // _BYTES_PER_TOKEN_MIN + 1
        return Cost(tokens_in + self._max_tokens, self._usd(self._model, tokens_in, self._max_tokens, 0))

    def cost(self, answer: object, prompt: str) -> Cost | None:
        """What a call has cost that ended with `answer` (a completion, a text, a fault); None where nobody knows."""
        if isinstance(answer, VerifierFault):
            return None if answer.kind in MAY_BE_BILLED else FREE
        if not isinstance(answer, Completion) or not answer.tokens_in + answer.tokens_out:
            said = answer.text if isinstance(answer, Completion) else answer if isinstance(answer, str) else ""
            return Cost((len(prompt) + len(said)) // _CHARS_PER_TOKEN, None)
        tokens = (answer.tokens_in, answer.tokens_out, answer.tokens_cached)
        usd = self._usd(answer.model, *tokens) if answer.model else None  # it may be a dated version of the one that was asked
        return Cost(answer.tokens_in + answer.tokens_out, self._usd(self._model, *tokens) if usd is None else usd)

    def _usd(self, model: str, tokens_in: int, tokens_out: int, tokens_cached: int) -> float | None:
        if self._provider == OWN_CALL and not self._prices:
            return None
        return usd_of(self._prices, self._provider, model, tokens_in, tokens_out, tokens_cached, base_url=self._base_url)
