"""What is quantized and how: frozen values whose text is the id used in tests, file names and tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePath

from quantcheck.errors import ModelError, SpecError
from quantcheck.registry import NAME, Capabilities

GRIDS = ("asym", "sym", "symr")
BUILTIN = "builtin-llama"
ULTRA_LOW_BITS = 4
OVER = "-over-"
"""Between two specs of a gate's id, the first of which ought not to be the worse."""

OptionValue = bool | int | float | str

_HEAD = re.compile(
    rf"(?P<method>{NAME.pattern})-w(?P<bits>[0-9]+(?:\.[0-9]+)?)(?:a(?P<act_bits>[0-9]+))?(?P<rest>(?:-.*)?)"
)
_OPTION = re.compile(rf"(?P<name>{NAME.pattern})(?:=(?P<value>[A-Za-z0-9_.]+))?")
_MODEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_WINDOWS_DEVICE = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


@dataclass(frozen=True)
class QuantSpec:
    """One way to quantize a model: ``gptq-w3-g128-act_order``.

    ``str(spec)`` is its id and `parse` reads it back. After method and width come, in this order, the group
    size (left out: per channel), the grid (left out: ``asym``) and the options, sorted by name (``name`` for
    a true flag, ``name=value`` otherwise).

    Attributes:
        method: registered method name.
        bits: nominal weight bits, in bits per weight.
        act_bits: activation bits, ``None`` when activations stay in floating point.
        group_size: consecutive input columns that share a scale; ``None`` is per channel.
        grid: ``asym`` (scale and zero point), ``sym`` (GPTQ's: scale 2m/(2^b-1), zero point 2^(b-1)) or
            ``symr`` (restricted range: 2^(b-1)-1 levels a side).
        options: the method's own options.
    """

    method: str
    bits: float
    act_bits: int | None = None
    group_size: int | None = None
    grid: str = "asym"
    options: tuple[tuple[str, OptionValue], ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.method):
            raise SpecError(f"{self.method!r} is no method name: lower-case letters, digits and '_'")
        if not 0 < self.bits <= 16:
            raise SpecError(f"bits must lie above 0 and at most at 16, got {self.bits:g}")
        if self.act_bits is not None and not 1 <= self.act_bits <= 16:
            raise SpecError(
                f"act_bits must lie from 1 to 16, got {self.act_bits}; leave 'a...' out for floating point"
            )
        if self.group_size is not None and self.group_size < 1:
            raise SpecError(
                f"group_size must be 1 or more, got {self.group_size}; leave '-g...' out for per-channel "
                f"scales"
            )
        if self.grid not in GRIDS:
            raise SpecError(f"unknown grid {self.grid!r}; known: {', '.join(GRIDS)}")
        for name, value in self.options:
            _check_option(name, value)
        object.__setattr__(self, "options", tuple(sorted(self.options)))

    def __str__(self) -> str:
        parts = [self.method, f"w{_number(self.bits)}" + (f"a{self.act_bits}" if self.act_bits else "")]
        if self.group_size is not None:
            parts.append(f"g{self.group_size}")
        if self.grid != "asym":
            parts.append(self.grid)
        parts += [_spelled(name, value) for name, value in self.options]
        return "-".join(parts)

    @classmethod
    def parse(cls, text: str) -> QuantSpec:
        """Read a spec id.

        Raises:
            SpecError: the text is no spec id; the message says which part is wrong.
        """
        head = _HEAD.fullmatch(text)
        if head is None:
            raise SpecError(
                f"{text!r} is no spec id; expected method-wBITS[aBITS][-gGROUP][-grid][-option[=value]...], "
                f"such as gptq-w3-g128"
            )
        tail = head["rest"].split("-")[1:]
        group_size, grid, options = None, None, {}
        for token in tail:
            if token == "g":
                raise SpecError(
                    f"group_size in {text!r} must be 1 or more; leave '-g...' out for per-channel scales"
                )
            if re.fullmatch("g[0-9]+", token):
                if group_size is not None:
                    raise SpecError(f"{text!r} gives two group sizes")
                group_size = int(token[1:])
            elif token in GRIDS:
                if grid is not None:
                    raise SpecError(f"{text!r} gives two grids")
                grid = token
            else:
                name, value = _option(token, text)
                if name in options:
                    raise SpecError(f"{text!r} gives option {name!r} twice")
                options[name] = value
        act_bits = int(head["act_bits"]) if head["act_bits"] else None
        bits = float(head["bits"])
        return cls(head["method"], bits, act_bits, group_size, grid or "asym", tuple(options.items()))

    def option(self, name: str, default: OptionValue) -> OptionValue:
        """The value of an option, or ``default`` when the spec does not give it."""
        return dict(self.options).get(name, default)

    @property
    def vision(self) -> bool:
        """Whether the vision tower of a multimodal model is quantized, too: the option ``vision``."""
        return bool(self.option("vision", False))

    @property
    def whole_bits(self) -> int:
        """The nearest whole width, which ``-m "bits(w=2)"`` selects (1.1 -> 1, 1.7 -> 2)."""
        return max(1, int(self.bits + 0.5))

    @property
    def ultra_low_bit(self) -> bool:
        """Whether the gates of this spec carry the ``ultra_low_bit`` mark."""
        return self.bits <= ULTRA_LOW_BITS


def refusal(spec: QuantSpec, capabilities: Capabilities) -> str | None:
    """Why a method with these capabilities cannot serve ``spec``; ``None`` when it can."""
    if not capabilities.serves(spec.bits):
        widths = _listed(capabilities.bits)
        if capabilities.between is not None:
            widths += (
                f" and all from {_listed(capabilities.between[:1])} to {_listed(capabilities.between[1:])}"
            )
        return f"{spec.method} supports {widths} weight bits, not {_number(spec.bits)}"
    if spec.act_bits not in capabilities.act_bits:
        return f"{spec.method} does not support {spec.act_bits or 16} activation bits"
    if spec.group_size is not None and not capabilities.grouped:
        return f"{spec.method} takes no group size"
    if spec.group_size is None and capabilities.group_required:
        return f"{spec.method} needs a group size, such as -g128"
    if spec.grid not in capabilities.grids:
        return f"{spec.method} supports the grids {', '.join(capabilities.grids)}, not {spec.grid}"
    return next(_option_refusals(spec, dict(capabilities.options)), None)


@dataclass(frozen=True)
class ModelSpec:
    """A full-precision model under test: ``PATH_OR_HUB_ID[@revision]``, or the built-in one.

    Attributes:
        name: folder name below ``baselines/`` and part of every test id.
        source: a folder, a hub id, or ``builtin-llama``.
        revision: hub revision, if one was given.
    """

    name: str
    source: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read ``[NAME=]PATH_OR_HUB_ID[@revision]``; the default name is the folder's, or the hub id's.

        A path that begins with ``/``, ``.`` or ``~`` has no revision: an ``@`` in it is part of the path.
        """
        alias, equals, rest = text.partition("=")
        source, revision = rest if equals and "/" not in alias else text, ""
        if not source.startswith((".", "/", "~")):
            source, _, revision = source.partition("@")
        source = source.rstrip("/") or source[:1]
        if not source:
            raise ModelError(
                f"{text!r} names no model; expected a folder or a hub id, optionally with @revision"
            )
        default = source.replace("/", "--") if _is_hub_id(source) else PurePath(source).name
        name = alias if equals and "/" not in alias else default
        if not _MODEL_NAME.fullmatch(name) or _WINDOWS_DEVICE.fullmatch(name):
            raise ModelError(f"model name {name!r} cannot be a folder name; give one with NAME={source}")
        return cls(name, source, revision or None)

    def __str__(self) -> str:
        return self.name

    @property
    def builtin(self) -> bool:
        """Whether this is the model that the package ships."""
        return self.source == BUILTIN

    @property
    def portable_source(self) -> str:
        """The source without what only one machine has: a hub id as it is, a folder by its name."""
        return self.source if _is_hub_id(self.source) else PurePath(self.source).name


def gate_id(model: str, spec: str, metric: str, against: str = "") -> str:
    """``model/spec/metric``, or ``model/spec-over-against/metric`` where two specs are compared."""
    return f"{model}/{spec}{OVER if against else ''}{against}/{metric}"


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def _option_refusals(spec: QuantSpec, known: Mapping[str, type]) -> Iterator[str]:
    for name, value in spec.options:
        if name not in known:
            yield f"{spec.method} has no option {name!r}; it has {', '.join(sorted(known)) or 'none'}"
        elif known[name] is not type(value) and not (known[name] is float and type(value) is int):
            yield f"option {name} of {spec.method} takes a {known[name].__name__}, got {value!r}"


def _option(token: str, text: str) -> tuple[str, OptionValue]:
    match = _OPTION.fullmatch(token)
    if match is None:
        raise SpecError(
            f"{token!r} in spec {text!r} is neither a group size (g128), a grid ({', '.join(GRIDS)}) nor an "
            f"option (name or name=value)"
        )
    return match["name"], True if match["value"] is None else _value(match["value"])


def _check_option(name: str, value: OptionValue) -> None:
    if name in GRIDS or re.fullmatch("g[0-9]*", name):
        raise SpecError(f"option {name!r} would read as a grid or a group size; rename it")
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"option {name} must be a finite number, got {value}")
    token = _spelled(name, value)
    _, read = _option(token, token)
    if read != value or isinstance(read, bool) is not isinstance(value, bool):
        raise SpecError(f"option {name} cannot be {value!r}: in a spec id that reads as {read!r}")


def _spelled(name: str, value: OptionValue) -> str:
    return name if value is True else f"{name}={_number(value)}"


def _value(text: str) -> OptionValue:
    if text in {"true", "false"}:
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(value: OptionValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float):
        return value
    return format(Decimal(repr(value)).normalize(), "f")


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(_number(value) for value in values)
