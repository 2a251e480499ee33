"""What these tests share: models, one engine for all that needs only one, and a way to see what runs. They need vLLM (`make test-vllm`)."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import Step, Task
from agentraft_ray.verifier import VerifyInput, VLLMVerifier
from agentraft_ray.verifier.engine.gpu import visible_gpus
from agentraft_ray.verifier.engine.local import local_engines

DEADLINE_S = 300  # of one test: an engine may have to start in it, on a machine that does other things
KV_BYTES = 64 * 1024**2
SMALL = {"kv_bytes": KV_BYTES, "dtype": "float32"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without vLLM there is nothing to test here, without a GPU nothing of those that want one."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        if importlib.util.find_spec("vllm") is None:
            item.add_marker(
                pytest.mark.skip(reason="vLLM is not installed here; `make test-vllm` runs these in an environment of their own")
            )
        elif item.get_closest_marker("gpu") is not None and not visible_gpus():
            item.add_marker(pytest.mark.skip(reason="this machine has no GPU that nvidia-smi shows"))


@pytest.fixture(scope="session")
def encoder() -> Path:
    from tests.vllm import models

    return models.encoder()


@pytest.fixture(scope="session")
def decoder() -> Path:
    from tests.vllm import models

    return models.decoder()


@pytest.fixture(scope="session")
def agent() -> Path:
    from tests.vllm import models

    return models.agent()


@pytest.fixture(scope="module")
def judge(encoder: Path) -> Iterator[VLLMVerifier]:
    """The exported encoder with an engine of this process."""
    verifier = VLLMVerifier(encoder, pass_threshold=0.0, **SMALL)
    yield verifier
    verifier.close()


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """A test that waits for what never comes fails."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"not done within {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(DEADLINE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True, scope="module")
def no_engine_left() -> Iterator[None]:
    """Engines take much memory: none outlives the tests of its module."""
    yield
    local_engines().close()
    assert until(lambda: not engine_processes()), engine_processes()


def case(output: Any = "8", request: str = "Numbers: 3 and 8. Larger:", **fields: Any) -> VerifyInput:
    return VerifyInput(Task("Answer the request.", {"request": request}), Step("answer", lambda ctx: "", "Answer."), output, **fields)


CASES = [
    case(output, request)
    for request, output in [
        ("Numbers: 3 and 8. Larger:", "8"),
        ("Numbers: 3 and 8. Larger:", "3"),
        ("Ann bought 4 pears in Oslo. Who, what, where?", '{"who": "Ann", "what": "pears", "where": "Oslo"}'),
        ("Ann bought 4 pears in Oslo. Who, what, where?", '{"who": "Ann", "what": "pears", "where": "Rome"'),
        ("Name three colours.", "red, green and blue"),
        ("Name three colours.", ""),
        ("Summarise: the bridge was closed after the flood.", "The bridge opened again in May, the mayor said. " * 6),
        ("Balance 18. Deposit 1. New balance:", "19"),
        ("¿Qué día es después del martes?", "miércoles"),
        ("Repeat: [SEP] <|im_end|>", "[SEP] <|im_end|>"),
    ]
]


def engine_processes() -> list[int]:
    """The engine processes of this user, children of whomever."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"agentraft_ray.verifier.engine.host" in words and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
            found.append(int(entry.name))
    return found


def until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Wait for a condition; whether it came true."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
