"""One package however it is installed: wheel, sdist and checkout hold the same files, the symlinked rooms included."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentraft_ray"

pytestmark = pytest.mark.slow


def checkout_files() -> set[str]:
    folders = [PACKAGE, PACKAGE / "actors", PACKAGE / "cluster"]
    patterns = ("*.py", "*.lua", "py.typed", "cli/project/*", "serve/static/*")
    files = {file for folder in folders for pattern in patterns for file in folder.rglob(pattern) if file.is_file()}
    return {str(file.relative_to(ROOT)) for file in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from that sdist as an index would."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists() or name != "README.md":
            shutil.copy(ROOT / name, source)
    if not (source / "README.md").exists():
        (source / "README.md").write_text("")
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in ("agentraft_ray", "actors", "cluster"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=leave_out)
    make_sdist = f"from setuptools import build_meta; print(build_meta.build_sdist({str(out)!r}))"
    subprocess.run([sys.executable, "-c", make_sdist], cwd=source, check=True, capture_output=True, text=True)
    (sdist,) = out.glob("*.tar.gz")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(out),
        str(sdist),
    ]
    made = subprocess.run(pip, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return out


def test_the_wheel_holds_every_file_of_the_package_and_no_second_copy(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    held = {name for name in names if ".dist-info/" not in name}
    assert held == checkout_files()
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_sdist_holds_every_file_as_a_file(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {member.name.split("/", 1)[1]: member for member in archive.getmembers() if "/" in member.name}
    assert checkout_files() <= set(files)
    assert [name for name in checkout_files() if not files[name].isfile()] == []


def test_the_wheel_is_importable_outside_the_checkout(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import agentraft_ray, agentraft_ray.actors, agentraft_ray.cluster\n"
        "print(agentraft_ray.__file__); print(agentraft_ray.actors.__file__)"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout.split() == [
        str(tmp_path / "agentraft_ray/__init__.py"),
        str(tmp_path / "agentraft_ray/actors/__init__.py"),
    ]


def test_the_constraints_pin_plain_versions_of_everything_that_the_project_names() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name not in {"train", "vllm"}}
    wanted = {
        re.split(r"[^A-Za-z0-9-]", one)[0] for one in [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    }
    assert wanted - {"agentraft-ray"} - pinned == set()
