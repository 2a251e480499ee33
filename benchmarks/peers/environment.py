"""The peers' own Python environment: where it is, what is in it, and how it is made. Ours gets none of their packages."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["REQUIREMENTS", "default_environment", "install", "installed", "python_of"]

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

_ROOT = Path(__file__).resolve().parents[2]
_LIST = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
_LIST_S_MAX = 60
_INSTALL_S_MAX = 1_800


def default_environment() -> Path:
    """`.venv-peers` beside the project's own environment."""
    return _ROOT / ".venv-peers"


def python_of(environment: Path) -> Path:
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


def install(environment: Path) -> None:
    """Make the environment and install the pinned peers in it. Raises subprocess.CalledProcessError when pip cannot."""
    if not python_of(environment).exists():
        venv.create(environment, with_pip=True)
    words = ["install", "--quiet", "--disable-pip-version-check", "--requirement", str(REQUIREMENTS)]
    subprocess.run([str(python_of(environment)), "-m", "pip", *words], timeout=_INSTALL_S_MAX, check=True)  # noqa: S603


if __name__ == "__main__":
    install(Path(sys.argv[1]) if len(sys.argv) > 1 else default_environment())
