"""A request, indexed: its mentions, its numbers, what it asks about, its longest list. Built once for a verdict."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property

from agentraft_ray.verifier.classifier.words import Mention, mentions
from agentraft_ray.verifier.content import normalised

__all__ = ["Given"]

_KEYS = re.compile(r"([A-Za-z_]\w*)\s?=\s?(?=\w)")
_STOP = frozenset("the and for are was from with what which who does than that this you has have its answer question".split())


class Given:
    """A request, indexed."""

    def __init__(self, request: str) -> None:
        self.text = request
        self.folded = f" {normalised(request)} "
        self.mentions = mentions(request)
        self.numbers = [mention.value for mention in self.mentions if mention.value is not None]

    @cached_property
    def asked(self) -> frozenset[str]:
        """The words of the last part but stop-words: what the request asks about, most often."""
        last = max((mention.part for mention in self.mentions), default=0)
        parts = {last, last - 1}
        return frozenset(mention.key for mention in self.mentions if mention.part in parts and len(mention.key) > 2) - _STOP

    @cached_property
    def times(self) -> Counter[str]:
        """How often each word stands in the request."""
        return Counter(mention.key for mention in self.mentions)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of what the request spells out as ``key=value``."""
        return [found.casefold() for found in _KEYS.findall(self.text)]

    def places(self, text: str) -> list[Mention]:
        """The mentions at which `text` stands as a whole phrase, apart from case."""
        keys = [mention.key for mention in mentions(text)]
        if not keys:
            return []
        spans = range(len(self.mentions) - len(keys) + 1)
        return [self.mentions[at] for at in spans if all(self.mentions[at + step].key == key for step, key in enumerate(keys))]

    def has(self, text: str) -> bool:
        """Whether `text` stands in the request as whole words, apart from case and spaces."""
        folded = normalised(text)
        at = self.folded.find(folded)
        while folded and at >= 0:
            before, after = self.folded[at - 1 : at], self.folded[at + len(folded) : at + len(folded) + 1]
            if not (before.isalnum() and folded[0].isalnum()) and not (after.isalnum() and folded[-1].isalnum()):
                return True
            at = self.folded.find(folded, at + 1)
        return False

    @cached_property
    def longest_list(self) -> list[Mention]:
        """The longest run of mentions in the request that stand in cells of their own, one beside the other."""
        runs: list[list[Mention]] = [[]]
        for mention in self.mentions:
            last = runs[-1][-1] if runs[-1] else None
            if last is None or mention.part != last.part or mention.cell != last.cell + 1:
                runs.append([])
            runs[-1].append(mention)
        return max(runs, key=len)
