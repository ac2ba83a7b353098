"""What a figure depends on.

A *basis* decides whether two figures may be compared at all: when one field differs, the baseline is stale.
The *machine* is recorded and named when a gate turns red, but does not block: the accepted drift covers the
noise among processors. Within one kind of machine, with the same libraries, the same codes come out.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import platform
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from quantcheck.measurement import digest

_CODE = (
    "*/**/*.py",
    "artifact_facts.py",
    "measurement.py",
    "noise.py",
    "recalibration.py",
    "results.py",
    "runner.py",
    "spec.py",
    "stopping.py",
)
_OTHER = {"builtin", "report", "suites", "baselines"}
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "lm-eval", "peft", "bitsandbytes")


@dataclass(frozen=True)
class Basis:
    """What must agree between a baseline and a run, beside the metric's own items, protocol and version.

    Attributes:
        device: kind, ``cpu`` or ``cuda``.
        dtype: the model computes in.
        model: digest of the full-precision weights.
        tokenizer: digest of the tokenizer's files.
        calibration: digest of the calibration windows; empty for data-free methods.
        method_version: of the method's code; raised when its results change.
        seed: of the run.
    """

    device: str
    dtype: str
    model: str
    tokenizer: str
    calibration: str
    method_version: int
    seed: int

    def differences(self, stored: Mapping[str, object]) -> tuple[str, ...]:
        """Each field that differs from a stored basis, as ``field: stored X, now Y``."""
        return tuple(
            f"{field}: accepted with {stored.get(field)!r}, now {now!r}"
            for field, now in asdict(self).items()
            if stored.get(field) != now
        )


def made_key(made: Mapping[str, object]) -> str:
    """A short content address of a figure's provenance, its date aside: equal ones are stored once."""
    told = {name: value for name, value in made.items() if name != "date"}
    return digest([json.dumps(told, sort_keys=True)])[:8]


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that a figure can depend on; ``absent`` where one is not installed."""
    return {name: _version(name) for name in LIBRARIES}


@cache
def machine() -> dict[str, str]:
    """Processor, threads, Python and operating system: recorded, never blocking."""
    return {
        "processor": _processor(),
        "threads": os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def same_codes(made: Mapping[str, object], device: str) -> bool:
    """Whether quantizing must give the very codes of a run whose provenance is ``made``.

    Sums of floats depend on processor, threads and libraries, and on a GPU on the order in which its cores
    are done; where none of that can differ, an algorithm with the same seed and data has one result.
    """
    return (
        device == "cpu" and made.get("machine") == machine() and made.get("libraries") == library_versions()
    )


def source_digest(target: object = None) -> str:
    """Digest of the code that a figure depends on: quantcheck's own, and that of ``target``'s class.

    A raised version says that results changed; this digest keeps a cache from answering for code that was
    edited since. Code without a file, typed at a prompt, gets a digest of its own each time: it is never
    answered for.
    """
    kind = target if isinstance(target, type) else type(target)
    if target is None or kind.__module__.startswith("quantcheck."):
        return _rooms_digest()
    try:
        return digest([_rooms_digest(), *_code(kind)])
    except (OSError, TypeError):
        return digest([_rooms_digest(), uuid.uuid4().bytes])


def _code(kind: type) -> list[bytes]:
    """The files and the constants that make up a class, inherited ones too.

    The files are asked of the functions first: a class is looked up by its module's name, and one
    ``conftest`` takes another's place among the imported modules.
    """
    members = [item for each in kind.__mro__ if each is not object for item in sorted(vars(each).items())]
    bare = [(name, getattr(item, "__func__", getattr(item, "fget", item))) for name, item in members]
    files = {item.__code__.co_filename for _, item in bare if inspect.isfunction(item)}
    # Plain values alone: the repr of others may be an address, another one in each process.
    constants = [f"{name}={item!r}" for name, item in bare if isinstance(item, bool | int | float | str)]
    return [Path(file).read_bytes() for file in sorted({*files, inspect.getfile(kind)})] + [
        constant.encode() for constant in constants
    ]


@cache
def _rooms_digest() -> str:
    root = Path(__file__).parent
    found = (path.relative_to(root) for pattern in _CODE for path in root.glob(pattern))
    paths = sorted({path for path in found if not _OTHER & set(path.parts)})
    return digest(part for path in paths for part in (path.as_posix(), (root / path).read_bytes()))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """The processor's name with what tells its kind: clouds give several generations one name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            parts = [line.partition(":") for line in lines]
        told = {name.strip(): value.strip() for name, _, value in reversed(parts)}
        name = told["model name"]
    except (OSError, KeyError):
        return platform.processor() or "unknown"
    kind = [f"{what} {told[what]}" for what in ("cpu family", "model", "stepping") if what in told]
    instructions = digest(sorted(told.get("flags", "").split()))[:8]
    return f"{name} ({', '.join([*kind, f'instructions {instructions}'])})"


def object_digest(target: object) -> str:
    """Digest of an object's or class's file, and of its settings: two of one class may be set differently."""
    kind = target if isinstance(target, type) else type(target)
    settings = sorted(getattr(target, "__dict__", {}).items()) if kind is not target else []
    return digest([source_digest(target), kind.__qualname__, repr(settings)])
