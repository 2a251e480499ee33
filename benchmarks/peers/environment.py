"""The peers' own Python environment. Ours gets none of their packages."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.environments import ROOT, installed, python_of
from benchmarks.environments import install as install_requirements

__all__ = ["REQUIREMENTS", "default_environment", "install", "installed", "python_of"]

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def default_environment() -> Path:
    """`.venv-peers` beside the project's own environment."""
    return ROOT / ".venv-peers"


def install(environment: Path) -> None:
    """Make the environment and install the pinned peers in it. Raises subprocess.CalledProcessError when pip cannot."""
    install_requirements(environment, REQUIREMENTS)


if __name__ == "__main__":
    install(Path(sys.argv[1]) if len(sys.argv) > 1 else default_environment())
