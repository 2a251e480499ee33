"""The Dockerfile, as far as it can be checked without building it: hadolint, and that it copies what there is."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "cluster" / "deploy" / "Dockerfile"


def test_hadolint_has_nothing_to_say() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([tool, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, ""), found.stdout


def test_what_is_copied_and_installed_exists() -> None:
    text = DOCKERFILE.read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {name for group in re.findall(r"whl\)\[([a-z,]+)\]", text) for name in group.split(",")}
    assert wanted
    assert wanted <= set(extras)
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    assert len(set(re.findall(r"^FROM (?:python:\$\{PYTHON\}-slim-bookworm|cpu) AS (\w+)$", text, re.MULTILINE)) & {"cpu", "gpu"}) == 2


def test_the_context_holds_what_the_package_is_built_from_and_little_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    assert all((ROOT / name).exists() for name in kept)
    assert {"agentraft_ray", "actors", "cluster", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= kept
