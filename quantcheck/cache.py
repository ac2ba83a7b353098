"""The one disk cache: quantized artifacts, reference outputs, calibration statistics and measurements.

An entry is addressed by the SHA-256 of everything it depends on, made once however many processes ask for
it, and checked against its manifest before it is handed out::

    CACHEDIR.TAG            tells backup tools to pass by
    entries/<digest>/       manifest.json and payload/; appears whole, by a rename, or not at all
    locks/<digest>.lock     held by whoever reads, makes, discards or evicts that entry
    sessions/<token>/       of one open cache: its lock, unfinished work, a mark for each entry it uses
    housekeeping.lock       held while sessions are added or swept, and while entries are evicted

Whether a session still lives is asked of its lock, which the operating system frees however its process ends:
neither process ids, which mean nothing on another host, nor clocks, which may be wrong, decide it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from quantcheck.errors import CacheError

SCHEMA = 1
DEFAULT_MAX_BYTES = 5 * 2**30

Part = str | int | float | bool | None

_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# quantcheck's cache: delete it while no run uses it.\n"
_DIGEST = re.compile("[0-9a-f]{64}")
_NO_SPACE_LEFT = 2**20
_REMEDY = "choose another with --quantcheck-cache DIR, or do without it by --quantcheck-cache off"
_TEMPORARY_REMEDY = "set TMPDIR to another folder, or keep a cache with --quantcheck-cache DIR"


@dataclass(frozen=True)
class CacheKey:
    """What an entry depends on; two keys are equal exactly when their digests are.

    Attributes:
        kind: what is stored: ``artifact``, ``reference``, ``calibration``, ``measurement``, ...
        parts: (name, value) pairs, kept sorted by name; ``1``, ``1.0``, ``True`` and ``"1"`` are four values.
        text: canonical JSON of schema version, kind and parts.
        digest: SHA-256 of that text, 64 hex digits.
    """

    kind: str = field(compare=False)
    parts: tuple[tuple[str, Part], ...] = field(compare=False)
    text: str = field(init=False, compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        named = dict(self.parts)
        if len(named) != len(self.parts):
            raise ValueError(f"{self.kind}: a part is named twice in {self.parts}")
        for name, value in named.items():
            if not isinstance(value, Part) or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"{self.kind}: {name}={value!r} is no text, finite number, bool or None")
        object.__setattr__(self, "parts", tuple(sorted(named.items())))
        object.__setattr__(self, "text", _canonical({"schema": SCHEMA, "kind": self.kind, "parts": named}))
        object.__setattr__(self, "digest", hashlib.sha256(self.text.encode()).hexdigest())

    @classmethod
    def of(cls, kind: str, /, **parts: Part) -> CacheKey:
        """Build a key from keywords: ``CacheKey.of("artifact", spec="gptq-w3-g128", seed=0)``."""
        return cls(kind, tuple(parts.items()))


@dataclass
class CacheCounts:
    """What happened in one open cache.

    Attributes:
        hits: entries found and sound.
        misses: entries that were not there, or were discarded.
        created: entries made; below ``misses`` where making one failed.
        evicted: entries removed to keep to the size bound.
        discarded: damaged entries removed.
    """

    hits: int = 0
    misses: int = 0
    created: int = 0
    evicted: int = 0
    discarded: int = 0


class Cache:
    """A size-bounded store of folders, shared by threads, processes and runs; made by `open` or `temporary`.

    Entries that an open cache of any process has handed out are never evicted, so that a returned path stays
    good until `close` or the end of the process, even when that exceeds the bound for a while.

    Attributes:
        root: absolute path of the cache folder.
        max_bytes: bound on the payloads' total size, in bytes; each open cache may exceed it by 1 %.
        counts: what happened so far.
    """

    @classmethod
    def open(
        cls, root: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, warn: Callable[[str], None] | None = None
    ) -> Cache:
        """Make or reuse the cache at ``root``, after probing that it can be written to.

        Damaged entries that are discarded later are told to ``warn``, by default a `RuntimeWarning`.

        Raises:
            CacheError: the folder cannot be made, locked or written to, or ``max_bytes`` is not positive.
        """
        return cls(root, max_bytes=max_bytes, warn=warn or _warn, remedy=_REMEDY)

    @classmethod
    def temporary(cls, root: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Cache:
        """Open a run's own cache in a temporary folder, which the processes of that run share.

        Whoever made the folder deletes it when the run ends. Raises as `open` does.
        """
        return cls(root, max_bytes=max_bytes, warn=_warn, remedy=_TEMPORARY_REMEDY)

    def __init__(self, root: Path, *, max_bytes: int, warn: Callable[[str], None], remedy: str) -> None:
        if max_bytes <= 0:
            raise CacheError(f"the cache's size bound must be positive, got {max_bytes} bytes")
        self.root = Path(root).expanduser().absolute()
        self.max_bytes = max_bytes
        self.counts = CacheCounts()
        self._warn = warn
        self._remedy = remedy
        self._verified: set[str] = set()
        self._unweighed = 0
        self._entries = self.root / "entries"
        self._housekeeping = FileLock(self.root / "housekeeping.lock")
        with self._reporting():
            for name in ("entries", "locks", "sessions"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        with self._locked(self._housekeeping), self._reporting():
            if not (self.root / "CACHEDIR.TAG").exists():
                (self.root / "CACHEDIR.TAG").write_text(_TAG)
            self._session = Path(tempfile.mkdtemp(dir=self.root / "sessions"))
            self._session_lock = FileLock(self._session / "lock", thread_local=False)
            self._session_lock.acquire()
            (self._session / "probe").write_bytes(bytes(4096))
            _sync(self._session / "probe")
        self._keep_house()

    def get_or_create(self, key: CacheKey, create: Callable[[Path], None]) -> Path:
        """Return the folder stored under ``key``, made by ``create`` where it is not there yet.

        ``create`` is given an empty folder and fills it. Of several callers, in whatever process, one creates
        and the others wait. What ``create`` raises reaches the caller and leaves no entry. The folder
        returned is the cache's own: read it, never write to it.

        Raises:
            CacheError: the cache folder is full or can no longer be used.
            ValueError: ``create`` wrote nothing.
        """
        entry = self._entries / key.digest
        with self._locked(self._lock(key.digest)):
            with self._reporting():
                (self._session / key.digest).touch()
                found = self._find(key, entry)
            if not found:
                self.counts.misses += 1
                self._make(key, entry, create)
        # Weighing every entry after every small write would cost more than the writes.
        if self._unweighed > self.max_bytes // 100:
            self._keep_house()
        return entry / "payload"

    def close(self) -> None:
        """Give up the entries in use: the paths handed out may be evicted from now on."""
        if self._session.exists():
            with self._locked(self._housekeeping):
                shutil.rmtree(self._session, ignore_errors=True)
        self._session_lock.release()

    def _find(self, key: CacheKey, entry: Path) -> bool:
        if os.path.lexists(entry):
            flaw = self._flaw(key, entry)
            if flaw is None:
                self._verified.add(key.digest)
                os.utime(entry / "manifest.json")
                self.counts.hits += 1
                return True
            self._remove(entry)
            self.counts.discarded += 1
            self._warn(f"discarded a damaged {key.kind} from the cache {self.root}: {flaw}; it is made anew")
        return False

    def _flaw(self, key: CacheKey, entry: Path) -> str | None:
        files = _vouched(key, entry / "manifest.json")
        if not files:
            return "its manifest is damaged, or of something else"
        if _sizes(entry / "payload") != {name: size for name, (size, _) in files.items()}:
            return "its files are not those of its manifest"
        # Hashing gigabytes again at every hit would cost more than it could find.
        if key.digest not in self._verified and _contents(entry / "payload") != files:
            return "its contents are not those of its manifest"
        return None

    def _make(self, key: CacheKey, entry: Path, create: Callable[[Path], None]) -> None:
        with self._reporting():
            work = Path(tempfile.mkdtemp(dir=self._session))
        try:
            draft = work / "entry"
            with self._reporting():
                (draft / "payload").mkdir(parents=True)
            create(draft / "payload")
            with self._reporting():
                _seal(key, draft)
                os.replace(draft, entry)
                _sync(entry.parent)
        except Exception as error:
            if _is_full(error, self.root):
                raise self._unusable(error) from error
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._verified.add(key.digest)
        self._unweighed += sum(_sizes(entry / "payload").values())
        self.counts.created += 1

    def _keep_house(self) -> None:
        """Sweep what dead sessions left, then evict the least recently used entries beyond the bound."""
        with self._locked(self._housekeeping), self._reporting():
            sessions = list(self._living_sessions())
            self._unweighed = 0
            entries = sorted(self._usage())
            excess = sum(size for _, _, size in entries) - self.max_bytes
            for _, digest, size in entries:
                if excess > 0 and self._evict(digest, sessions):
                    excess -= size

    def _living_sessions(self) -> Iterator[Path]:
        for folder in sorted((self.root / "sessions").iterdir()):
            if folder.is_symlink() or not folder.is_dir():
                continue
            try:
                with FileLock(folder / "lock").acquire(timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
            except Timeout:
                yield folder

    def _usage(self) -> Iterator[tuple[float, str, int]]:
        """When each entry was last used (seconds), its digest, and its payload's size in bytes.

        Whatever is damaged, or could not stay even alone, counts as never used.
        """
        for entry in self._entries.iterdir():
            if not _DIGEST.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # another process may discard it meanwhile
                manifest = entry / "manifest.json"
                size = sum(_sizes(entry / "payload").values())
                worth = manifest.exists() and size <= self.max_bytes
                yield manifest.lstat().st_mtime if worth else -math.inf, entry.name, size

    def _evict(self, digest: str, sessions: list[Path]) -> bool:
        try:
            with self._lock(digest).acquire(timeout=0):
                entry = self._entries / digest
                if any((session / digest).exists() for session in sessions) or not os.path.lexists(entry):
                    return False
                self._remove(entry)
                self.counts.evicted += 1
                return True
        except Timeout:
            return False

    def _remove(self, entry: Path) -> None:
        """Take an entry away at once, by a rename, before its files are deleted one by one."""
        work = Path(tempfile.mkdtemp(dir=self._session))
        os.replace(entry, work / "entry")
        shutil.rmtree(work, ignore_errors=True)

    def _lock(self, digest: str) -> FileLock:
        return FileLock(self.root / "locks" / f"{digest}.lock")

    @contextmanager
    def _locked(self, lock: FileLock) -> Iterator[None]:
        with self._reporting():
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn a failure of the cache's own file work into an error that says what to do."""
        try:
            yield
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CacheError:
        if _is_full(error, self.root):
            cause = f"is full ({error}; {_free(self.root)} bytes free): make room there"
        else:
            cause = f"cannot be used ({error}): make it a folder that can be written to"
        return CacheError(f"the cache folder {self.root} {cause}, {self._remedy}")


def default_root(environ: Mapping[str, str]) -> Path:
    """Where the cache lies by default: ``$XDG_CACHE_HOME/quantcheck``, else ``~/.cache/quantcheck``.

    Raises:
        CacheError: there is no home directory.
    """
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "quantcheck"
    try:
        return Path.home() / ".cache" / "quantcheck"
    except RuntimeError as error:
        raise CacheError(f"no home directory to keep the cache in; {_REMEDY}") from error


def _seal(key: CacheKey, draft: Path) -> None:
    """Bring a draft's files to disk and write the manifest that vouches for them."""
    files = _contents(draft / "payload")
    if not files:
        raise ValueError(f"nothing was written for {key.text}")
    manifest = {
        "key": json.loads(key.text),
        "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()},
    }
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    for folder, _, names in os.walk(draft, topdown=False):
        for name in (*names, "."):
            _sync(Path(folder, name))


def _vouched(key: CacheKey, manifest: Path) -> dict[str, tuple[int, str]]:
    """Bytes and SHA-256 of each file by the manifest; nothing where it is damaged or not of ``key``."""
    try:
        raw = json.loads(manifest.read_bytes())
        files = {name: (file["bytes"], file["sha256"]) for name, file in raw["files"].items()}
        return files if _canonical(raw["key"]) == key.text else {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def _sizes(payload: Path) -> dict[str, int]:
    """Size in bytes of each file below ``payload``, by relative path; empty where there is no such folder."""
    paths = (Path(folder, name) for folder, _, names in os.walk(payload) for name in names)
    return {path.relative_to(payload).as_posix(): path.lstat().st_size for path in paths}


def _contents(payload: Path) -> dict[str, tuple[int, str]]:
    """Size in bytes and SHA-256 of each file below ``payload``, by relative path."""
    contents = {}
    for name, size in _sizes(payload).items():
        with (payload / name).open("rb") as file:
            contents[name] = (size, hashlib.file_digest(file, "sha256").hexdigest())
    return contents


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_full(error: Exception, root: Path) -> bool:
    """Whether ``error`` comes of a full disk; safetensors says so in words only, and NumPy not even so."""
    if isinstance(error, CacheError):
        return False
    if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
        return True
    return isinstance(error, OSError) and error.errno is None and _free(root) < _NO_SPACE_LEFT


def _free(root: Path) -> int:
    """Bytes free where ``root`` lies, or would lie."""
    return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
