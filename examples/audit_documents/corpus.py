"""Which files are audited, and how their bytes become text. Nothing here knows about steps, verifiers or reports."""

from __future__ import annotations

import codecs
import hashlib
import importlib.metadata
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentraft_ray.checkpoint.embedded import default_directory

__all__ = [
    "DOCUMENTS_MAX",
    "DOCUMENT_BYTES_MAX",
    "Document",
    "NoDocuments",
    "collect",
    "corpus_digest",
    "decode",
    "is_binary",
    "read_bytes",
]

DOCUMENTS_MAX = 10_000  # the list of all documents is one step's output and has to stay well below 8 MiB
DOCUMENT_BYTES_MAX = 1024 * 1024  # longer files are listed, not read: they are data, not documents

_PROJECT = Path(__file__).resolve().parents[2]
_PROJECT_FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs", "benchmarks/README.md")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv"})
_LEGAL_NAMES = ("LICEN", "COPYING", "NOTICE", "AUTHORS")
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f\v\x1b\x08")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PROBE_BYTES = 8192


class NoDocuments(Exception):
    """There is nothing to audit, or too much of it; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file under the name that the report uses; `sha256` is over what is read of it, and its size."""

    name: str
    path: str
    size_bytes: int
    sha256: str


def collect(directory: str | None, *, without: str | None = None) -> list[Document]:
    """All documents, sorted by name: those under `directory`, by default the project's docs and the installed packages' papers.

    Hidden files, links and the file `without` (an earlier report) are left out. Raises NoDocuments.
    """
    if directory is not None and not Path(directory).is_dir():
        raise NoDocuments(f"{directory} is not a directory; name one that holds text documents")
    found = _project_and_packages() if directory is None else _below(Path(directory), Path(directory), without)
    documents: dict[str, Document] = {}
    for name, path in found:
        if len(documents) == DOCUMENTS_MAX:
            raise NoDocuments(f"{directory} holds more than {DOCUMENTS_MAX:,} files; name a smaller directory")
        documents.setdefault(name, _document(name, path))
    if not documents:
        raise NoDocuments(f"{directory} holds no files (hidden files and links do not count); name another directory")
    return [documents[name] for name in sorted(documents)]


def corpus_digest(documents: list[Document]) -> str:
    """One hex digest over the names and contents of all documents."""
    state = hashlib.sha256()
    for document in documents:
        state.update(f"{document.name}\0{document.sha256}\n".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def read_bytes(path: str) -> bytes | None:
    """The bytes of a file, one more than DOCUMENT_BYTES_MAX at the most; None where it cannot be opened."""
    try:
        with Path(path).open("rb") as file:
            return file.read(DOCUMENT_BYTES_MAX + 1)
    except OSError:
        return None


def is_binary(data: bytes) -> bool:
    """Whether bytes are no text in any common encoding: control characters that no text has, and no UTF-16 mark."""
    probe = data[:_PROBE_BYTES]
    return not data.startswith(_UTF16_MARKS) and len(probe.translate(None, _CONTROLS)) < len(probe)


def decode(data: bytes, *, tolerant: bool) -> str | None:
    """The text of a file, or None. UTF-8 only, unless `tolerant`: then also UTF-16 with a mark, and Windows-1252."""
    if data.startswith(_UTF16_MARKS):
        encodings: tuple[str, ...] = ("utf-16",) if tolerant else ()
    else:
        encodings = ("utf-8-sig", "cp1252", "latin-1") if tolerant else ("utf-8-sig",)
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def _document(name: str, path: Path) -> Document:
    data = read_bytes(str(path))
    size = 0 if data is None else path.stat().st_size
    seen = hashlib.sha256(b"unreadable" if data is None else data + b"\0%d" % size)
    return Document(name, str(path), size, seen.hexdigest())


def _below(top: Path, root: Path, without: str | None) -> Iterator[tuple[str, Path]]:
    left_out = {Path(without).resolve()} if without else set()
    store = default_directory().resolve()
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        folders[:] = sorted(one for one in folders if not _is_skipped(here / one) and (here / one).resolve() != store)
        for file in sorted(files):
            path = here / file
            if not file.startswith(".") and path.is_file() and not path.is_symlink() and path.resolve() not in left_out:
                # A name that is not UTF-8 cannot be stored or printed: the file is listed under an escaped name, unread.
                yield _printable(path.relative_to(root).as_posix()), Path(_printable(str(path)))


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in _SKIPPED_FOLDERS


def _project_and_packages() -> Iterator[tuple[str, Path]]:
    for entry in _PROJECT_FILES:
        path = _PROJECT / entry
        if path.is_dir():
            yield from ((f"project/{name}", file) for name, file in _below(path, _PROJECT, None))
        elif path.is_file():
            yield f"project/{entry}", path
    # Of this environment alone, whatever else a process has on its path: every worker must find the same.
    for distribution in importlib.metadata.distributions(path=sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})):
        package = f"packages/{distribution.metadata['Name']}-{distribution.version}"
        for file in distribution.files or ():
            # Some packages carry other packages' papers deeper inside; those are not theirs.
            inner = "/".join(file.parts[1:]) if file.parts[0].endswith(".dist-info") else ""
            path = Path(str(file.locate()))
            if inner and (inner == "METADATA" or file.name.upper().startswith(_LEGAL_NAMES)) and path.is_file():
                yield f"{package}/{_printable(inner)}", path


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\n", "\\n")
