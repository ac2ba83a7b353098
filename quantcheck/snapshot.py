"""The syrupy extension: where ``--snapshot-update`` lands.

syrupy decides that a figure is to be stored; this module says where. A snapshot is one figure in a baseline
file, addressed by ``model|device|spec|tier|metric``. Nothing is ever removed here: a run with model B leaves
model A's files alone, and a baseline is deleted by deleting its file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filelock import FileLock
from syrupy.data import SnapshotCollection, SnapshotCollections
from syrupy.extensions.base import AbstractSyrupyExtension

from quantcheck import changelog
from quantcheck.baseline import BaselineFile, Figure, baseline_path, read_baseline, write_baseline
from quantcheck.measurement import digest

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion
    from syrupy.location import PyTestLocation

SEPARATOR = "|"


class BaselineExtension(AbstractSyrupyExtension):
    """Stores figures in the baseline files below ``root``, which a subclass sets."""

    root: ClassVar[Path]
    file_extension = "json"
    write_immediately = True

    @classmethod
    def get_location(cls, *, test_location: PyTestLocation, index: Any) -> str:
        """The baseline file of the figure that ``index`` addresses."""
        model, device, spec, _, _ = str(index).split(SEPARATOR)
        return str(baseline_path(cls.root, model, device, spec))

    @classmethod
    def matches_test_location(cls, *, test_location: PyTestLocation, snapshot_location: str) -> bool:
        """Any test may store a figure: files are named after specs, not after tests."""
        return True

    def serialize(self, data: Any, **_: Any) -> str:
        """One figure with its address and provenance, as JSON; a non-finite number is refused."""
        return json.dumps(data, sort_keys=True, allow_nan=False)

    def discover_snapshots(self, **_: Any) -> SnapshotCollections:
        """None: syrupy deletes what it discovers and does not see used, such as another model's baselines."""
        return SnapshotCollections()

    def read_snapshot_collection(self, *, snapshot_location: str) -> SnapshotCollection:
        """An empty collection, for the reason given at `discover_snapshots`."""
        return SnapshotCollection(location=snapshot_location)

    def read_snapshot_data_from_location(
        self, *, snapshot_location: str, snapshot_name: str, session_id: str
    ) -> None:
        """Nothing: the gate has read and judged the accepted figure before it asks for an update."""
        return

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        """Never deletes; see the module's docstring."""

    @classmethod
    def write_snapshot_collection(
        cls, *, snapshot_collection: SnapshotCollection, name_order: dict[str, int] | None = None
    ) -> None:
        """Merge the figures into their file, under a lock: workers update one file side by side."""
        location = Path(snapshot_collection.location)
        with _lock(location):
            for snapshot in snapshot_collection:
                _merge(cls.root, json.loads(str(snapshot.data)))


def accept(
    snapshot: SnapshotAssertion,
    root: Path,
    address: tuple[str, str, str, str, str],
    figure: Figure,
    made: Mapping[str, Any],
    row: str,
) -> None:
    """Store ``figure`` below ``root`` by syrupy, and ``row`` in the changelog where it is another one.

    ``address`` is model, device, spec, tier and metric.

    Raises:
        BaselineError, ValueError, OSError: whatever kept the figure from being stored; syrupy itself would
            hide it.
    """
    extension = type("BaselineExtension", (BaselineExtension,), {"root": root})
    payload = {"address": list(address), "figure": asdict(figure), "made": dict(made), "row": row}
    bound = snapshot(name=SEPARATOR.join(address), extension_class=extension)
    if not bound == payload:
        cause = snapshot.executions[snapshot.num_executions - 1].exception
        raise cause or RuntimeError("syrupy refused to store the figure: --snapshot-update is not set")


def _merge(root: Path, payload: dict[str, Any]) -> None:
    model, device, spec, tier, metric = payload["address"]
    stored = read_baseline([root], model, device, spec) or BaselineFile(model, device, spec, {}, {})
    figure = Figure(**payload["figure"])
    if figure != stored.get(tier, metric):  # two tests of a run may accept one gate
        with _lock(root / changelog.FILE):
            changelog.append(root, payload["row"])
    write_baseline(root, stored.with_figure(tier, metric, figure, payload["made"]))


def _lock(path: Path) -> FileLock:
    """What workers hold to write ``path``; it lies where no version control sees it."""
    return FileLock(Path(tempfile.gettempdir()) / f"quantcheck-{digest([str(path)])}.lock")
