"""Every call to a Ray actor, and every exception of Ray, goes through here: a call either answers or raises PeerLost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from agentraft_ray.actors.names import NAMESPACE
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.errors import AgentRaftError

__all__ = ["RayPeer", "find", "is_dead", "stop"]


class RayPeer:
    """A named actor. Its handle is looked up at the first call, and again after it was lost: what has the name by then is asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._handle: Any = None

    def __repr__(self) -> str:
        return f"RayPeer({self.name!r})"

    async def call(self, method: str, *args: Any) -> Any:
        """What `method` returns. Raises PeerLost when the actor is gone, and AgentRaftError for what the method raised: a bug."""
        handle = self._handle
        if handle is None:
            handle = self._handle = await asyncio.to_thread(find, self.name)
        try:
            return await getattr(handle, method).remote(*args)
        except RayTaskError as error:
            raise AgentRaftError(f"actor {self.name} failed in {method}: {error.cause!r}\n{error.traceback_str}") from None
        except RayError as error:
            if self._handle is handle:
                self._handle = None
            raise PeerLost(f"actor {self.name} was lost in {method}: {_first_line(error)}", peer=self.name) from None


def find(name: str) -> Any:
    """The handle of the actor with this name; blocks. Raises PeerLost where there is none."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise PeerLost(f"there is no actor {name} now", peer=name) from None
    except RayError as error:
        raise PeerLost(f"actor {name} cannot be looked up: {_first_line(error)}", peer=name) from None


def is_dead(name: str) -> bool:
    """Whether no actor has this name; blocks. One that is being restarted is not dead."""
    try:
        find(name)
    except PeerLost:
        return True
    return False


def stop(name: str, *, restart: bool = False) -> None:
    """End the process of an actor at once; with `restart`, Ray starts it anew. Nothing happens where there is none."""
    with contextlib.suppress(PeerLost, RayError):
        ray.kill(find(name), no_restart=not restart)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
