"""A project made by `agentraft init`, with a store that stays up between commands, and a way to call commands in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.cluster.cli.main import main

MORE = """
from agentraft_ray import Pipeline, Step

out = Step("publish", lambda ctx: f"out {ctx.attempt}", needs_approval=True)
gated = Pipeline([Step("draft", lambda ctx: f"draft {ctx.attempt}"), out], name="gated")
broken = Pipeline([Step("fine", lambda ctx: 1), Step("bad", lambda ctx: 1 // 0, max_retries=0)], name="broken")
hostile = Pipeline([Step("say", lambda ctx: "\\x1b[31mred\\x07 " + ctx.task.goal)], name="hostile")
dear = Pipeline([Step(f"s{n}", lambda ctx: (ctx.spend(tokens=60), "x")[1]) for n in range(3)], name="dear")
"""


class Said(NamedTuple):
    """What a command said and ended with."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project directory with one more module, and its embedded store up."""
    root = tmp_path_factory.mktemp("cli")
    with pytest.raises(SystemExit) as ended:
        main(["init", str(root / "demo")])
    assert ended.value.code == 0
    (root / "demo" / "more.py").write_text(MORE)
    with EmbeddedServer(root / "demo" / ".agentraft"):
        yield root / "demo"


@pytest.fixture
def agentraft(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """Calls a command inside the project."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("AGENTRAFT_VERIFIER_PROVIDER", "none")
    for name in ("REDIS_URL", "RAY_ADDRESS", "AGENTRAFT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    path = list(sys.path)

    def call(*words: object, code: int | None = 0) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        told = capsys.readouterr()
        said = Said(int(ended.value.code or 0), told.out, told.err)
        assert code is None or said.code == code, said
        return said

    yield call
    sys.path[:] = path
