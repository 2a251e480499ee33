"""The program that an engine runs in: ``python -m agentraft_ray.verifier.engine.host FD``, started by `process` and by nobody else.

One thread receives, the main thread is the engine's. When the parent is gone, by whatever way, this process and all it has started
end at once.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback

from agentraft_ray.errors import AgentRaftError, InvalidConfig, VerifierUnavailable
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.asking import describe
from agentraft_ray.verifier.engine.messages import Channel, Close, FromParent, Ready, Start, Unable
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["main"]

_SOURCE = "vllm"
_ORPHAN_LOOK_S = 2.0


def main(descriptor: int) -> int:
    """Serve one engine until the parent closes it or is gone; the exit code."""
    parent = os.getppid()
    channel = Channel(socket.socket(fileno=descriptor))
    first = channel.from_parent()
    if not first or not isinstance(first[0], Start):
        return 2
    inbox: queue.SimpleQueue[list[FromParent]] = queue.SimpleQueue()
    inbox.put(first[1:])
    threading.Thread(target=_receive, args=(channel, inbox), name="receive", daemon=True).start()
    threading.Thread(target=_watch, args=(parent,), name="watch", daemon=True).start()
    try:
        return _serve(first[0].settings, channel, inbox)
    except OSError:  # the parent went away in the middle of an answer
        return 1


def _serve(settings: EngineSettings, channel: Channel, inbox: queue.SimpleQueue[list[FromParent]]) -> int:
    started = time.monotonic()
    try:
        from agentraft_ray.verifier.engine.vllm_engine import VLLMEngine  # noqa: PLC0415 - seconds, in which we already listen

        engine = VLLMEngine(settings)
    except Exception as problem:  # noqa: BLE001 - vLLM raises anything; the parent is told what
        channel.send([Unable(0, _refusal(settings, problem))])
        traceback.print_exc()
        os._exit(1)  # torch's threads would take their seconds
    channel.send([Ready(engine.description, engine.labels_count, time.monotonic() - started)])
    while True:
        batch = [] if engine.is_busy else inbox.get()
        while not inbox.empty():
            batch = batch + inbox.get()
        for message in batch:
            if isinstance(message, Close):
                engine.close()
                os._exit(0)  # nothing is left to tidy up that would be worth the seconds
            engine.take(message)
        replies = engine.step()
        if replies:
            channel.send(replies)


def _refusal(settings: EngineSettings, problem: Exception) -> VerifierFault:
    if isinstance(problem, (InvalidConfig, VerifierUnavailable)):
        kind = FaultKind.UNAVAILABLE
    elif isinstance(problem, AgentRaftError):  # something is taken that may be free later
        kind = FaultKind.OVERLOADED
    elif isinstance(problem, ImportError):
        return VerifierFault(FaultKind.UNAVAILABLE, f"vLLM cannot be imported here ({problem}); see docs/vllm.md", _SOURCE)
    else:
        kind = FaultKind.UNAVAILABLE
    return VerifierFault(kind, f"vLLM cannot serve {settings.model}: {describe(problem)}", _SOURCE)


def _receive(channel: Channel, inbox: queue.SimpleQueue[list[FromParent]]) -> None:
    while (messages := channel.from_parent()) is not None:
        inbox.put(messages)
    _end()


def _watch(parent: int) -> None:
    """A parent that had forked leaves its end of the socket to its child: then only this tells that it is gone."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_LOOK_S)
    _end()


def _end() -> None:
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
