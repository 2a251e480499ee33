"""Where settings come from: arguments before environment before file before ``pyproject.toml``; and saying so of each one."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from agentraft_ray.errors import InvalidConfig

__all__ = ["CONFIG_FILE", "Setting", "Sourced", "explain", "made"]

CONFIG_FILE = "agentraft.toml"
_TABLES = ("serve",)  # of the file, which have settings of their own

S = TypeVar("S", bound="Sourced")


class Setting(NamedTuple):
    """One setting: what it is now, where that comes from, and what it means. A secret is shown as stars."""

    name: str
    value: Any
    source: str
    meaning: str


class Sourced(BaseSettings):
    """Settings that are looked for in the usual places. `table` = theirs in the file, "" for its top; `what` names them in errors."""

    table: ClassVar[str] = ""
    what: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not among the places
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from, the first one wins."""
        files = [InitSettingsSource(settings_cls, values) for _, values in _in_files(cls.table)]
        return (init_settings, env_settings, *files)


def made(settings: type[S], **arguments: Any) -> S:
    """The settings with these arguments. Raises InvalidConfig that names each value that cannot be, and where it may come from."""
    try:
        return settings(**arguments)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})" for one in error.errors())
        prefix, table = settings.model_config.get("env_prefix", ""), settings.table
        raise InvalidConfig(
            f"{settings.what}: {wrong}. They come from arguments, {prefix}* variables, {f'[{table}] in ' if table else ''}{CONFIG_FILE} "
            f"and [{'.'.join(filter(None, ('tool.agentraft', table)))}] in pyproject.toml"
        ) from None


def explain(settings: type[Sourced], **arguments: Any) -> list[Setting]:
    """Every setting with the place that its value comes from. Raises InvalidConfig as `made` does."""
    values = made(settings, **arguments)
    prefix = settings.model_config.get("env_prefix", "")
    environment = {name.upper() for name in os.environ}
    places = _in_files(settings.table)
    found = []
    for name, field in settings.model_fields.items():
        variable = f"{prefix}{name}".upper()
        if name in arguments:
            source = "argument"
        elif variable in environment:
            source = f"environment {variable}"
        else:
            source = next((place for place, given in places if name in given), "default")
        value = getattr(values, name)
        shown = "********" if isinstance(value, SecretStr) else value
        found.append(Setting(name, shown, source, field.description or ""))
    return found


def _in_files(table: str) -> list[tuple[str, dict[str, Any]]]:
    """The values in each file that there is, the first one wins. Raises InvalidConfig for a file that is no TOML."""
    named = os.environ.get("AGENTRAFT_CONFIG")
    if named and not Path(named).is_file():
        raise InvalidConfig(f"AGENTRAFT_CONFIG names {named!r}, which is no file")
    ours = _read(Path(named or CONFIG_FILE))
    project = _read(Path("pyproject.toml")).get("tool", {}).get("agentraft", {})
    return [(named or CONFIG_FILE, _table(ours, table)), ("pyproject.toml", _table(project, table))]


def _table(values: dict[str, Any], table: str) -> dict[str, Any]:
    found = values.get(table, {}) if table else {name: value for name, value in values.items() if name not in _TABLES}
    if not isinstance(found, dict):
        raise InvalidConfig(f"{CONFIG_FILE}: {table} is a table of settings: write [{table}], and under it one setting a line")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text()) if file.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{file}, from which settings come, is no TOML: {error}") from None
