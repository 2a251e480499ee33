"""Long text in overlapping pieces, so that a model sees all of it. Nothing is left out."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["windows"]

_BREAKS = ("\n\n", "\n", " ")


def windows(text: str, size: int, overlap: int) -> Iterator[str]:
    """Pieces of at most `size` characters that cover `text`; each repeats up to `overlap` characters of the one before.

    Cut at a paragraph, line or word where there is one in the last quarter. Requires ``0 <= overlap < size // 2``.
    """
    start = 0
    while len(text) - start > size:
        end = _cut(text, start + size - size // 4, start + size)
        yield text[start:end]
        start = end - overlap
    yield text[start:]


def _cut(text: str, earliest: int, latest: int) -> int:
    for mark in _BREAKS:
        at = text.rfind(mark, earliest, latest)
        if at >= 0:
            return at + len(mark)
    return latest
