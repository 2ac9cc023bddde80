"""Checks of data that comes from files: JSON text, and tables of fields that become dataclasses."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from .errors import ConfigError

LARGEST = 2**63  # of a whole number whose field has no range of its own


@dataclass(frozen=True)
class Range:
    """Bounds of a number, or of each number of a tuple, both included: `Annotated[int, Range(1, 64)]`."""

    low: float
    high: float

    def check(self, value: Any, where: str) -> None:
        """Raise ConfigError for a number outside the bounds. None and other values pass: their type is checked first."""
        if isinstance(value, tuple):
            for i, one in enumerate(value):
                self.check(one, f"{where}[{i}]")
        elif isinstance(value, (int, float)) and not self.low <= value <= self.high:
            raise ConfigError(f"{where} is {value}, expected {self.low:g} to {self.high:g}.")


@dataclass(frozen=True)
class Length:
    """Bounds of the number of items of a tuple or string, both included: `Annotated[tuple[int, ...], Length(1, 8)]`."""

    low: int
    high: int

    def check(self, value: Any, where: str) -> None:
        """Raise ConfigError for too few or too many items."""
        if isinstance(value, (tuple, str)) and not self.low <= len(value) <= self.high:
            raise ConfigError(f"{where} has {len(value)} items, expected {self.low} to {self.high}.")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON from a file of unknown origin. Raises ValueError, also for nesting that is too deep to parse."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def build_dataclass(cls: type, data: Any, where: str) -> Any:
    """Build a dataclass from a table of its fields; types and ranges are checked. Raises ConfigError naming `where.field`."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {type(data).__name__}, expected a table of fields.")
    hints = typing.get_type_hints(cls, include_extras=True)
    unknown = sorted(map(shorten_value, data.keys() - hints.keys()))
    if unknown:
        raise ConfigError(f"{where} has the unknown field {unknown[0]}; known are {', '.join(hints)}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ConfigError(f"{where} is incomplete: it has no {missing[0]}.")
    values = {name: check_value(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:  # what only the fields together tell
        raise ConfigError(f"{where}: {error}") from error


def check_value(hint: Any, value: Any, where: str) -> Any:
    """Check a value against a field's type, and convert it: lists to tuples, tables to dataclasses. Raises ConfigError."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = check_value(options[0], value, where)
        for bound in options[1:]:
            bound.check(value, where)
        return value
    if origin in (typing.Union, types.UnionType):
        return _any_of(options, value, where)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return (
            value
            if isinstance(value, typing.cast(type, hint))
            else build_dataclass(typing.cast(type, hint), value, where)
        )
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in options):
            raise ConfigError(f"{where} is {shorten_value(value)}, expected one of {', '.join(map(repr, options))}.")
        return value
    if origin is tuple:
        return _tuple(options, value, where)
    if origin is dict:
        return _table(options, value, where)
    return _plain(hint, value, where)


def _plain(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < LARGEST else math.inf
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where} is {shorten_value(value)}, expected {kind.__name__}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, expected a finite number.")
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise ConfigError(f"{where} has more than 63 bits, expected a smaller number.")
    return value


def _tuple(options: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {shorten_value(value)}, expected a list.")
    kinds = [options[0]] * len(value) if options[1:] == (Ellipsis,) else list(options)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} has {len(value)} items, expected {len(kinds)}.")
    return tuple(
        check_value(kind, one, f"{where}[{i}]") for i, (kind, one) in enumerate(zip(kinds, value, strict=True))
    )


def _table(options: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {shorten_value(value)}, expected a table.")
    for key in value:
        if not isinstance(key, options[0]):
            raise ConfigError(f"{where} has the key {shorten_value(key)}, expected {options[0].__name__}.")
    return {key: check_value(options[1], one, f"{where}.{key}") for key, one in value.items()}


def _any_of(options: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as the first of a union's members that takes it."""
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return check_value(option, value, where)
        except ConfigError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    raise ConfigError(" Or: ".join(map(str, problems)))


def shorten_value(value: Any) -> str:
    """Format a value for an error message: one short line, however large or deep it is."""
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
