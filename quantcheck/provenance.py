"""What a figure depends on.

A *basis* decides whether two figures may be compared at all: when one field differs, the baseline is stale.
The *machine* is recorded and named when a gate turns red, but does not block: the accepted drift covers the
noise among processors.
"""

from __future__ import annotations

import importlib.metadata
import inspect
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

    @property
    def key(self) -> str:
        """A short content address, under which a baseline file stores this basis once."""
        return digest(f"{name}={value}" for name, value in sorted(asdict(self).items()))[:8]


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
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
