"""Import paths: from ``module:attribute`` to an object and back. How pipelines and verifiers are named across processes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from agentraft_ray.errors import InvalidConfig

__all__ = ["import_object", "path_of"]


def import_object(path: str) -> Any:
    """The object at ``package.module:attribute``. Raises InvalidConfig that says what is missing.

    >>> import_object("agentraft_ray.identity:digest").__name__
    'digest'
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise InvalidConfig(f"{path!r} is no import path; write 'package.module:attribute'")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidConfig(f"{path!r} cannot be imported here ({error}); put its module on the path of every process") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InvalidConfig(f"{path!r}: {getattr(found, '__name__', found)!r} has no {name!r}; name a variable of that module")
        found = getattr(found, name)
    return found


def path_of(wanted: object, modules: Iterable[str]) -> str:
    """The import path of `wanted` among the variables of `modules` (names of loaded modules); "" where it has none.

    What only the main program holds has no path, unless that was started by its name (``python -m package.module``).
    """
    for name in dict.fromkeys(modules):
        module = sys.modules.get(name)
        known_as = _importable_name(module)
        if module is None or not known_as:
            continue
        for attribute, value in list(vars(module).items()):
            if value is wanted:
                return f"{known_as}:{attribute}"
    return ""


def _importable_name(module: ModuleType | None) -> str:
    """The name under which another process can import a module."""
    if module is None or module.__name__ != "__main__":
        return module.__name__ if module is not None else ""
    spec = getattr(module, "__spec__", None)
    return spec.name if spec is not None else ""
