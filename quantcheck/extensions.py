"""What others plug in: methods, codecs and kernels, by entry point or by hook, for the length of one run.

An entry point of the group ``quantcheck.methods``, ``quantcheck.codecs`` or ``quantcheck.kernels`` names an
object with ``capabilities``, as the registries want it; a conftest or plugin registers by the hooks of
`quantcheck.hookspec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import Any

from quantcheck.codecs import CODECS
from quantcheck.errors import QuantcheckError, SpecError
from quantcheck.kernels import KERNELS
from quantcheck.methods import METHODS
from quantcheck.registry import Registry


@dataclass(frozen=True)
class Kind:
    """One kind of extension; its name is a word of the hook's and the entry point group's."""

    name: str
    registry: Registry[Any, Any]

    def register(self, hooks: Any) -> None:
        """Register what installed packages offer, then what conftests and plugins do.

        Raises:
            SpecError: a package does not load, or a name is taken.
        """
        for point in sorted(entry_points(group=f"quantcheck.{self.name}"), key=lambda point: point.name):
            origin = point.dist.name if point.dist else point.value
            try:
                target = point.load()
                capabilities = target.capabilities
            except Exception as error:
                raise SpecError(
                    f"{self.registry.kind} {point.name!r} of {origin} cannot be loaded "
                    f"({type(error).__name__}: {error}); repair that package or uninstall it"
                ) from error
            self.registry.register(point.name, target, capabilities, origin=origin)
        getattr(hooks, f"pytest_quantcheck_register_{self.name}")(**{self.name: self.registry})


KINDS = (Kind("methods", METHODS), Kind("codecs", CODECS), Kind("kernels", KERNELS))


class Extensions:
    """Registers everything when made, and takes it back when closed."""

    def __init__(self, hooks: Any) -> None:
        self._before = {kind.name: set(kind.registry.names()) for kind in KINDS}
        try:
            for kind in KINDS:
                kind.register(hooks)
        except QuantcheckError:
            self.close()
            raise

    def close(self) -> None:
        """Unregister what was registered since."""
        for kind in KINDS:
            for name in set(kind.registry.names()) - self._before[kind.name]:
                kind.registry.unregister(name)


def codec_ids() -> list[str]:
    """Every codec at every width, as ``name-wBITS``."""
    return [f"{name}-w{bits}" for name in CODECS.names() for bits in CODECS.entry(name).capabilities.bits]


def kernel_ids() -> list[str]:
    """Every kernel at every width of weights and inputs, as ``name-wBITS[aBITS]``."""
    return [
        f"{name}-w{bits}" + ("" if act_bits is None else f"a{act_bits}")
        for name in KERNELS.names()
        for bits in KERNELS.entry(name).capabilities.bits
        for act_bits in KERNELS.entry(name).capabilities.act_bits
    ]


def selected(ids: list[str], globs: tuple[str, ...]) -> list[str]:
    """Those that one of the globs matches; all of them where there is no glob."""
    return [id for id in ids if not globs or any(fnmatchcase(id, glob) for glob in globs)]
