"""Field helpers: a default, a legal range and one line of help, kept beside the field."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

__all__ = ["ValueSpec", "option", "value_spec"]


@dataclasses.dataclass(frozen=True)
class ValueSpec:
    """What a value may be, beyond its type."""

    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    power_of_two: bool = False
    help: str = ""
    numbered: str = ""
    """The choice that may carry a number from 1, as in ``topk:64``."""

    def describe(self) -> str:
        """The legal values in words, for an error message."""
        if self.choices is not None:
            also = f"; or {self.numbered}:N with N from 1" if self.numbered else ""
            return "one of " + ", ".join(self.choices) + also
        words = "a power of two" if self.power_of_two else "a value"
        if self.low is not None and self.high is not None:
            return f"{words} from {_number(self.low)} to {_number(self.high)}"
        if self.low is not None:
            return f"{words} of at least {_number(self.low)}"
        return words

    def admits(self, value: object) -> bool:
        """Whether ``value`` (already of the right type) is legal."""
        if self.choices is not None:
            choice, separator, number = str(value).partition(":")
            if separator and choice == self.numbered:
                return number.isdecimal() and int(number) >= 1
            return value in self.choices
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if isinstance(value, float) and not math.isfinite(value):
                return False
            if self.low is not None and value < self.low:
                return False
            if self.high is not None and value > self.high:
                return False
            if self.power_of_two and (value < 1 or int(value) & (int(value) - 1)):
                return False
        return True


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    power_of_two: bool = False,
    numbered: str = "",
) -> Any:
    """A dataclass field with a default, a help line and a legal range."""
    spec = ValueSpec(low, high, choices, power_of_two, help, numbered)
    if isinstance(default, (list, dict)):
        return dataclasses.field(
            default_factory=lambda: type(default)(default), metadata={"spec": spec}
        )
    return dataclasses.field(default=default, metadata={"spec": spec})


def value_spec(field: dataclasses.Field[Any]) -> ValueSpec:
    """The :class:`ValueSpec` of a field; an unrestricted one if none was given."""
    match = field.metadata.get("spec", ValueSpec())
    assert isinstance(match, ValueSpec)
    return match
