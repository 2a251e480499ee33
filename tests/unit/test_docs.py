"""The documentation keeps its word: links lead somewhere, files that it names exist, its code runs, and its tables tell the truth."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray.telemetry.metrics import METRICS, exported_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "agentraft_ray").rglob("*.py")
    if re.search(r"^ *>>> ", file.read_text(), re.MULTILINE)
)
RUN = [DOCS / f"{name}.md" for name in ("quickstart", "concepts", "coming-from", "telemetry")]
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_REFERENCE = re.compile(r"`((?:tests|agentraft_ray|actors|cluster|benchmarks)/[\w/.-]+\.\w+)(?:::(\w+))?`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = _LINK.findall(_FENCE.sub("", page.read_text()))
    assert [target for target in targets if not (page.parent / target).exists()] == []
    if page.is_relative_to(DOCS):
        outside = [target for target in targets if not (page.parent / target).resolve().is_relative_to(DOCS)]
        assert outside == [], "the site has nothing but docs/; name the file in code style instead"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    missing = []
    for file, test in _REFERENCE.findall(page.read_text()):
        path = ROOT / file
        if not path.exists() or (test and not re.search(rf"def {test}\b", path.read_text())):
            missing.append(f"{file}::{test}" if test else file)
    assert missing == []


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


def test_python_examples_in_the_pages_compile() -> None:
    for page in PAGES:
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            compile(code, str(page), "exec", flags=0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_its_first_block_to_its_last(page: Path, tmp_path: Path) -> None:
    blocks = [code for not_run, code in _CODE.findall(page.read_text()) if not not_run]
    assert blocks
    program = tmp_path / f"{page.stem.replace('-', '_')}.py"
    program.write_text("\n\n".join(blocks))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}  # no keys, no REDIS_URL
    done = subprocess.run([sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    promised = [line.rpartition("  # ")[2] for code in blocks for line in code.splitlines() if line.lstrip().startswith("print(")]
    assert done.stdout.splitlines() == promised, "what the comments behind print say"


def test_the_quickstart_is_quick() -> None:
    assert len((DOCS / "quickstart.md").read_text().splitlines()) < 170


def _named(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for where in entry.values():
            if isinstance(where, str):
                yield where
            else:
                yield from _named(where)


def test_the_site_has_every_page_once() -> None:
    named = list(_named(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert len(named) == len(set(named))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    decisions = {page for page in there if re.fullmatch(r"decisions/\d{4}-.*", page)}
    assert set(named) == there - decisions, "put the page into `nav` of zensical.toml"
    listed = {f"decisions/{target}" for target in _LINK.findall((DOCS / "decisions" / "index.md").read_text())}
    assert listed == decisions, "list the decision in docs/decisions/index.md"


def test_the_reference_has_every_public_name_of_the_package() -> None:
    import agentraft_ray

    text = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE)) | set(agentraft_ray.errors.__all__)
    assert set(agentraft_ray.__all__) - shown == set()


def metrics_table() -> str:
    """The table of docs/telemetry.md, from the one in the source."""
    lines = ["| series | kind | labels | what |", "|---|---|---|---|"]
    for metric in METRICS:
        name = exported_names(metric)[0].removesuffix("_bucket")
        lines.append(f"| `{name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.about} |")
    return "\n".join(lines)


def test_the_page_about_telemetry_has_every_metric() -> None:
    assert metrics_table() in (DOCS / "telemetry.md").read_text(), f"put this there:\n{metrics_table()}"
