"""Python environments beside the project's own, for what must not get into that: where they are, what is in them, how they are made."""

from __future__ import annotations

import hashlib
import json
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ROOT", "install", "installed", "python_of"]

ROOT = Path(__file__).resolve().parents[1]

_LIST = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
_LIST_S_MAX = 60
_INSTALL_S_MAX = 1_800
_STAMP = ".installed"


def python_of(environment: Path) -> Path:
    """Its interpreter."""
    return environment / "bin" / "python"


def installed(environment: Path) -> dict[str, str]:
    """Versions of the installed distributions by name in small letters; empty where there is no such environment."""
    python = python_of(environment)
    if not python.exists():
        return {}
    done = subprocess.run(  # noqa: S603 - our own arguments, no shell
        [str(python), "-s", "-E", "-c", _LIST], stdout=subprocess.PIPE, timeout=_LIST_S_MAX, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def install(environment: Path, requirements: Path, *words: str, then: Sequence[Sequence[str]] = ()) -> None:
    """Make the environment with the pinned requirements, unless it has them already; `words` are further ones for pip, `then` further
    calls of it. Raises subprocess.CalledProcessError when pip cannot."""
    wanted = hashlib.sha256(repr((requirements.read_text(encoding="utf-8"), words, then)).encode()).hexdigest()
    stamp = environment / _STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    if not python_of(environment).exists():
        venv.create(environment, with_pip=True)
    for call in ([*words, "--requirement", str(requirements)], *then):
        pip = [str(python_of(environment)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *call]
        subprocess.run(pip, timeout=_INSTALL_S_MAX, check=True)  # noqa: S603
    stamp.write_text(wanted, encoding="utf-8")
