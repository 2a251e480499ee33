"""Recognising licences: from the words of a licence text, and from what a package declares. Ids are SPDX ids."""

from __future__ import annotations

import re

__all__ = ["declared_ids", "licence_ids"]

# A licence is recognised by phrases that all must occur, unless one of the others does.
_PHRASES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Apache-2.0", ("apache license", "version 2.0"), ()),
    ("MIT", ("permission is hereby granted, free of charge", "the above copyright notice and this permission notice"), ()),
    ("MIT-0", ("permission is hereby granted, free of charge", "without restriction"), ("copyright notice and this permission",)),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "endorse or promote products"), ()),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",), ("endorse or promote products",)),
    ("MPL-2.0", ("mozilla public license", "2.0"), ()),
    ("PSF-2.0", ("python software foundation license",), ()),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software", "appear in all copies"), ()),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software",), ("appear in all copies",)),
    ("Zlib", ("provided 'as-is', without any express or implied", "altered source versions must be plainly marked"), ()),
    ("CC0-1.0", ("cc0 1.0 universal",), ()),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",), ()),
    ("AGPL-3.0", ("gnu affero general public license", "version 3"), ()),
    ("LGPL", ("gnu lesser general public license", "version"), ()),
    ("GPL-2.0", ("gnu general public license", "version 2, june 1991"), ()),
    ("GPL-3.0", ("gnu general public license", "version 3, 29 june 2007"), ("gnu lesser general public license",)),
)

# What people write into metadata, after lower-casing and dropping "license" and "licence".
_SPELLINGS = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache, version 2.0": "Apache-2.0",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "mozilla public 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "python software foundation": "PSF-2.0",
    "psf": "PSF-2.0",
    "isc (iscl)": "ISC",
    "gnu general public v3 (gplv3)": "GPL-3.0",
}
_IDS = {name.lower(): name for name, _, _ in _PHRASES}


def licence_ids(text: str) -> list[str]:
    """SPDX ids of the licences whose wording stands in `text`, in the order of our table; empty where none is known."""
    words = " ".join(text.replace("\u2019", "'").replace('"', "'").lower().split())
    return [name for name, needed, forbidden in _PHRASES if _says(words, needed) and not any(one in words for one in forbidden)]


def declared_ids(declaration: str) -> list[str]:
    """SPDX ids in a declaration (an expression, a classifier's tail, free text). Bare "BSD" may be any BSD licence: no id."""
    found = []
    for part in re.split(r"\s+(?:and|or|with)\s+|[()]*/|;", declaration, flags=re.IGNORECASE):
        name = " ".join(re.sub(r"\blicen[sc]e\b|\bthe\b|\bosi approved\b", " ", part.lower()).split()).strip(" ,.:")
        known = _IDS.get(name.strip("()")) or _SPELLINGS.get(name)
        if known and known not in found:
            found.append(known)
    return found


def _says(words: str, phrases: tuple[str, ...]) -> bool:
    return all(phrase in words for phrase in phrases)
