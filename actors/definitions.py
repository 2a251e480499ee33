"""How a wrapped pipeline travels between processes: by import path, or by value where it has none.

A definition by path is plain data and may lie in the store, so that another cluster can go on with its runs. One by value holds
pickled code: it goes from process to process and never into the store, and is gone with the last process that knows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agentraft_ray.actors.messages import decode
from agentraft_ray.api import default_verifier
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Pipeline
from agentraft_ray.runtime.blueprint import Blueprint, RunSettings, blueprint_of
from agentraft_ray.runtime.naming import import_object, path_of
from agentraft_ray.verifier.base import Verifier

__all__ = ["Definition", "definition_of", "document_name", "load_blueprint"]


class Definition(msgspec.Struct, frozen=True, array_like=True):
    """A pipeline and a verifier by import path ("" = not by path), the settings of `wrap`, and the pickled rest.

    `value` = ``{"pipeline": ..., "verifier": ...}`` of what has no path, b"" where everything has one. Without a verifier in
    either, every process finds one as `wrap` does; where that differs, the fingerprints do.
    """

    pipeline: str
    verifier: str
    settings: RunSettings
    value: bytes = b""

    @property
    def is_by_path(self) -> bool:
        """Whether any process that can import it can load it, also after this cluster is gone."""
        return not self.value


def definition_of(pipeline: Pipeline | str, verifier: Verifier | str | None, settings: RunSettings) -> Definition:
    """The definition of what `wrap` was given; objects that are variables of importable modules travel by path.

    Raises InvalidConfig for what has no path and cannot be pickled.
    """
    found: Pipeline = import_object(pipeline) if isinstance(pipeline, str) else pipeline
    modules = [*_modules_of(found), "__main__"]
    if isinstance(pipeline, str):
        modules.insert(0, pipeline.partition(":")[0])
    pipeline_path = pipeline if isinstance(pipeline, str) else path_of(found, modules)
    verifier_path = verifier if isinstance(verifier, str) else "" if verifier is None else path_of(verifier, modules)
    carried: dict[str, Any] = {}
    if not pipeline_path:
        carried["pipeline"] = found
    if verifier is not None and not verifier_path:
        carried["verifier"] = verifier
    return Definition(pipeline_path, verifier_path, settings, _pickled(carried, found.name) if carried else b"")


def load_blueprint(data: bytes) -> Blueprint:
    """The blueprint of an encoded definition, in this process. Raises InvalidConfig, InvalidPipeline, VerifierUnavailable."""
    definition: Definition = decode(data, Definition)
    carried = _unpickled(definition.value) if definition.value else {}
    pipeline = carried.get("pipeline") or import_object(definition.pipeline)
    verifier = carried.get("verifier")
    if verifier is None:
        verifier = import_object(definition.verifier) if definition.verifier else default_verifier()
    for found, kind in ((pipeline, Pipeline), (verifier, Verifier)):
        if not isinstance(found, kind):
            raise InvalidConfig(f"{definition.pipeline or definition.verifier!r} names a {type(found).__name__}, not a {kind.__name__}")
    return blueprint_of(pipeline, verifier, definition.settings)


def document_name(fingerprint: bytes) -> str:
    """Under which name a definition by path lies in the store."""
    return f"definition:{fingerprint.hex()}"


def _modules_of(pipeline: Pipeline) -> Iterable[str]:
    return [name for step in pipeline.block if isinstance(name := getattr(step.fn, "__module__", None), str)]


def _pickled(carried: dict[str, Any], name: str) -> bytes:
    from ray import cloudpickle  # noqa: PLC0415 - the library's own pickling lacks functions of the main program

    try:
        data: bytes = cloudpickle.dumps(carried)
        return data
    except Exception as error:
        raise InvalidConfig(
            f"pipeline {name!r} is no variable of an importable module, and cannot travel by value: {type(error).__name__}: {error}; "
            "put the pipeline (and its verifier) into a module, and name it by 'package.module:attribute'"
        ) from error


def _unpickled(value: bytes) -> dict[str, Any]:
    from ray import cloudpickle  # noqa: PLC0415

    try:
        carried: dict[str, Any] = cloudpickle.loads(value)
        return carried
    except Exception as error:
        raise InvalidConfig(
            f"a pipeline that travels by value does not load here: {type(error).__name__}: {error}; its modules must be importable "
            "in every process, and Python the same"
        ) from error
