"""Faults in what it is compared with: caches, baselines, and the reference itself."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mutants.model.fault import Fault, Kind, Plant, Site, all_of, altered, layers
from mutants.model.stored import EVERY, scaled
from quantcheck.cache import CacheKey
from quantcheck.models.load import LoadedModel


class Forgetful:
    """Makes cache keys without one of their parts."""

    def __init__(self, *forgotten: str) -> None:
        self.forgotten = forgotten

    def of(self, kind: str, **parts: Any) -> CacheKey:
        return CacheKey.of(kind, **{name: part for name, part in parts.items() if name not in self.forgotten})


def after(plant: Plant, spec: str, *options: str) -> Plant:
    """Measure ``spec`` with the cache so broken, then the spec in question."""

    @contextmanager
    def struck(site: Site) -> Iterator[None]:
        with plant(site):
            site.measure(spec, *options)
            yield

    return struck


def forgetful(part: str, spec: str, *options: str) -> Plant:
    return after(altered("quantcheck.runner:CacheKey", lambda _: Forgetful(part)), spec, *options)


@contextmanager
def figures_outlive_artifacts(site: Site) -> Iterator[None]:
    """Answer for a new artifact with the figures of the old one."""
    edited: list[str] = []

    def keyed(real: Any) -> Any:
        return lambda self, model, spec: CacheKey.of(
            "artifact", of=real(self, model, spec).digest, edited=str(edited)
        )

    def blind(real: Any) -> Any:
        return lambda self, model, spec, *_: CacheKey.of("measurement", spec=str(spec))

    keys = all_of(
        altered("quantcheck.runner:Runner._artifact_key", keyed),
        altered("quantcheck.runner:Runner.figures_key", blind),
    )
    with keys(site):
        site.measure("rtn-w4")
        edited.append("scales")
        with layers(EVERY, scaled(1.05))(site):
            yield


@contextmanager
def copied(other: str, site: Site, *, renamed: bool) -> Iterator[None]:
    """Put another spec's accepted figures under the name of this one."""
    folder = next(site.baselines.glob("*/*/"))
    target = folder / "rtn-w4.json"
    shutil.copyfile(folder / f"{other}.json", target)
    if renamed:
        text = target.read_text(encoding="utf-8").replace(f'"spec": "{other}"', '"spec": "rtn-w4"', 1)
        target.write_text(text, encoding="utf-8")
    yield


@contextmanager
def other_tier(site: Site) -> Iterator[None]:
    """Take what a larger tier accepted for the figures of this one."""
    target = next(site.baselines.glob("*/*/rtn-w4.json"))
    raw = json.loads(target.read_text(encoding="utf-8"))
    for name, figure in raw["figures"].items():
        figure["n"] *= 4
        figure["items"] = figure["items"][::-1]
        assert name.startswith("smoke ")
    target.write_text(json.dumps(raw), encoding="utf-8")
    yield


def without_divergence(real: Any) -> Any:
    def measured(*given: Any, **named: Any) -> Any:
        return {name: each for name, each in real(*given, **named).items() if not name.startswith("kld")}

    return measured


def weights_shared(_: Callable[[LoadedModel], Any]) -> Callable[[LoadedModel], Any]:
    """Copy the modules of the reference, and not its weights, which a method may write to."""
    return lambda self: copy.deepcopy(self.model, {id(each): each for each in self.model.parameters()})


def _fault(name: str, spec: str, what: str, plant: Plant, **more: Any) -> Fault:
    return Fault(name, Kind.BOOKS, spec, what, plant, **more)


# fmt: off
FAULTS = (
    _fault("cache-without-spec", "rtn-w4", "a cache that answers for one spec with another, finer one",
        forgetful("spec", "rtn-w4-g128"), needs=("rtn-w4-g128",)),
    _fault("cache-without-seed", "quip-w4", "a cache that answers for one seed with another",
        forgetful("seed", "quip-w4", "--quantcheck-seed=1")),
    _fault("cache-without-dtype", "rtn-w4", "a cache that answers for float32 with bfloat16",
        forgetful("dtype", "rtn-w4", "--quantcheck-dtype=bfloat16"), alone=True),
    _fault("figures-outlive-artifacts", "rtn-w4", "scales 5 % off, and figures from before",
        figures_outlive_artifacts),
    _fault("baseline-copied", "rtn-w4", "another spec's baseline copied under this name",
        partial(copied, "rtn-w4-g128", renamed=False), compared="rtn-w4-g128", needs=("rtn-w4-g128",)),
    _fault("baseline-renamed", "rtn-w4", "another, worse spec's baseline renamed to this one",
        partial(copied, "rtn-w3-g128", renamed=True), compared="rtn-w3-g128", needs=("rtn-w3-g128",)),
    _fault("baseline-of-another-tier", "rtn-w4", "the baseline of another tier's items", other_tier),
    _fault("metric-vanished", "rtn-w4", "a metric that is measured no more",
        altered("quantcheck.runner:measure", without_divergence)),
    _fault("reference-written-to", "gptq-w4", "the reference shares its weights with what is quantized",
        altered("quantcheck.models.load:LoadedModel.fresh", weights_shared), alone=True),
)
# fmt: on
