from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import quantcheck
from quantcheck import cache as cache_module
from quantcheck.cache import SCHEMA, Cache, CacheKey, Part

KEY = CacheKey.of("artifact", spec="rtn-w4", seed=0)

parts = st.dictionaries(
    st.text(max_size=8),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    max_size=5,
)


def key(number: int) -> CacheKey:
    return CacheKey.of("artifact", number=number)


def writer(size: int = 100, fill: bytes = b"x") -> Callable[[Path], None]:
    return lambda folder: (folder / "data").write_bytes(fill * size) and None


def never(folder: Path) -> None:
    raise AssertionError("made again")


def entry(cache: Cache, of: CacheKey = KEY) -> Path:
    return cache.root / "entries" / of.digest


def stored(cache: Cache, *numbers: int) -> list[int]:
    return [number for number in numbers if entry(cache, key(number)).exists()]


def use_at(cache: Cache, number: int, seconds: float) -> None:
    os.utime(entry(cache, key(number)) / "manifest.json", (seconds, seconds))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened = Cache.open(tmp_path / "cache")
    yield opened
    opened.close()


def python(script: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that runs ``script`` with ``cache`` open at ``root``."""
    head = "import os, signal, sys, time; from pathlib import Path; from quantcheck.cache import *\n"
    head += "cache = Cache.open(Path(sys.argv[1]), max_bytes=1000)\n"
    source = str(Path(quantcheck.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", head + script, str(root), *arguments],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestKey:
    @given(parts, st.randoms(use_true_random=False))
    def test_order_of_parts_does_not_count(self, named: dict[str, Part], random: object) -> None:
        shuffled = list(named.items())
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert CacheKey("a", tuple(shuffled)) == CacheKey("a", tuple(named.items()))

    @given(parts, st.data())
    def test_any_change_changes_the_digest(self, named: dict[str, Part], data: st.DataObject) -> None:
        first = CacheKey("artifact", tuple(named.items()))
        name = data.draw(st.sampled_from([*named, "new"]))
        changed = {**named, name: f"{named.get(name)!r}'"}
        assert CacheKey("artifact", tuple(changed.items())).digest != first.digest
        assert CacheKey("reference", tuple(named.items())).digest != first.digest

    def test_values_of_different_types_differ(self) -> None:
        values: list[Part] = [1, 1.0, True, "1", None, "None", "true", 0, False, ""]
        keys = {CacheKey.of("artifact", value=value) for value in values}
        assert len(keys) == len({key.digest for key in keys}) == len(values)

    def test_digest_stays_what_it_was(self) -> None:
        text = '{"kind":"artifact","parts":{"seed":0,"spec":"rtn-w4"},"schema":1}'
        assert KEY.text == text
        assert KEY.digest == "8d2a29ccffd83f4a75f766b42f3ed66f3c5edc63617dbcb159681ecd47e29ad2"

    def test_digest_depends_on_the_schema(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_module, "SCHEMA", SCHEMA + 1)
        assert CacheKey.of("artifact", spec="rtn-w4", seed=0).digest != KEY.digest

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], b"1", Path("x")])
    def test_values_without_one_spelling_are_refused(self, value: Part) -> None:
        with pytest.raises(ValueError, match="artifact: value="):
            CacheKey.of("artifact", value=value)

    def test_a_part_named_twice_is_refused(self) -> None:
        with pytest.raises(ValueError, match="named twice"):
            CacheKey("artifact", (("seed", 0), ("seed", 1)))


class TestEntries:
    def test_made_once_and_found_again_by_a_later_run(self, cache: Cache) -> None:
        path = cache.get_or_create(KEY, writer())
        assert cache.get_or_create(KEY, never) == path
        later = Cache.open(cache.root)
        assert later.get_or_create(KEY, never) == path
        assert (path / "data").read_bytes() == b"x" * 100
        assert (cache.counts.hits, cache.counts.misses, cache.counts.created) == (1, 1, 1)
        assert (later.counts.hits, later.counts.misses, later.counts.created) == (1, 0, 0)

    def test_folders_within_an_entry_are_kept(self, cache: Cache) -> None:
        def nested(folder: Path) -> None:
            (folder / "a" / "b").mkdir(parents=True)
            (folder / "a" / "b" / "data").write_text("deep")

        path = cache.get_or_create(KEY, nested)
        assert Cache.open(cache.root).get_or_create(KEY, never) == path
        assert (path / "a" / "b" / "data").read_text() == "deep"

    def test_manifest_says_what_the_entry_depends_on(self, cache: Cache) -> None:
        cache.get_or_create(KEY, writer())
        manifest = json.loads((entry(cache) / "manifest.json").read_text())
        assert manifest["key"] == {
            "schema": SCHEMA,
            "kind": "artifact",
            "parts": {"seed": 0, "spec": "rtn-w4"},
        }
        assert manifest["files"]["data"]["bytes"] == 100

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, FileNotFoundError])
    def test_what_create_raises_reaches_the_caller_and_leaves_nothing(
        self, cache: Cache, error: type[BaseException]
    ) -> None:
        def fail(folder: Path) -> None:
            writer()(folder)
            raise error

        with pytest.raises(error):
            cache.get_or_create(KEY, fail)
        assert not entry(cache).exists()
        assert not list((cache.root / "sessions").glob("*/*/entry"))
        assert (cache.counts.misses, cache.counts.created) == (1, 0)
        cache.get_or_create(KEY, writer())

    def test_an_entry_of_nothing_is_refused(self, cache: Cache) -> None:
        with pytest.raises(ValueError, match=r"nothing was written for .*rtn-w4"):
            cache.get_or_create(KEY, lambda folder: None)
        assert not entry(cache).exists()

    def test_one_entry_may_be_made_from_another(self, cache: Cache) -> None:
        def outer(folder: Path) -> None:
            inner = cache.get_or_create(key(1), writer(fill=b"y"))
            shutil.copy(inner / "data", folder)

        path = cache.get_or_create(KEY, outer)
        assert (path / "data").read_bytes() == b"y" * 100

    def test_names_never_reach_the_file_system(self, cache: Cache, tmp_path: Path) -> None:
        cache.get_or_create(CacheKey.of("../../evil", name="/etc/\0../"), writer())
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]
        assert all(len(path.name) == 64 for path in (cache.root / "entries").iterdir())

    def test_the_folder_is_tagged_as_a_cache(self, cache: Cache) -> None:
        signature = "Signature: 8a477f597d28d172789f06886806bc55"
        assert (cache.root / "CACHEDIR.TAG").read_text().startswith(signature)


class TestProcesses:
    def test_processes_that_ask_together_make_an_entry_once(self, tmp_path: Path) -> None:
        script = """
def create(folder):
    time.sleep(0.3)
    (folder / "data").write_text(str(os.getpid()))
print("ready", flush=True)
sys.stdin.readline()
print((cache.get_or_create(CacheKey.of("a"), create) / "data").read_text(), cache.counts.created)
"""
        processes = [python(script, tmp_path) for _ in range(3)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = [process.communicate("go\n")[0].split() for process in processes]
        makers = {maker for maker, _ in answers}
        assert len(makers) == 1
        assert sorted(created for _, created in answers) == ["0", "0", "1"]

    def test_threads_that_ask_together_make_an_entry_once(self, cache: Cache) -> None:
        together = threading.Barrier(4)

        def ask() -> None:
            together.wait()
            cache.get_or_create(KEY, writer())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (cache.counts.created, cache.counts.hits) == (1, 3)

    @pytest.mark.parametrize(
        ("killed", "survives"),
        [
            ("while creating", False),
            ("before the rename", False),
            ("after the rename", True),
        ],
    )
    def test_a_kill_leaves_nothing_that_is_misread(self, tmp_path: Path, killed: str, survives: bool) -> None:
        script = """
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
def create(folder):
    (folder / "data").write_text("old")
    if sys.argv[2] == "while creating":
        die()
replace = os.replace
def replaced(*arguments):
    if sys.argv[2] == "after the rename":
        replace(*arguments)
    die()
os.replace = replaced
cache.get_or_create(CacheKey.of("a"), create)
"""
        process = python(script, tmp_path, killed)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(list((tmp_path / "sessions").iterdir())) == 1

        cache = Cache.open(tmp_path)
        assert len(list((tmp_path / "sessions").iterdir())) == 1  # the dead one swept, our own there
        path = cache.get_or_create(CacheKey.of("a"), writer(1, fill=b"new"))
        assert (path / "data").read_text() == ("old" if survives else "new")
        assert cache.counts.created == (0 if survives else 1)

    def test_a_kill_while_removing_leaves_no_half_entry(self, cache: Cache) -> None:
        cache.get_or_create(KEY, writer())
        (entry(cache) / "payload" / "data").unlink()
        cache.close()
        script = """
import shutil
shutil.rmtree = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
cache.get_or_create(CacheKey.of("artifact", spec="rtn-w4", seed=0), lambda folder: None)
"""
        process = python(script, cache.root)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not entry(cache).exists()
        assert Cache.open(cache.root).get_or_create(KEY, writer()).exists()

    def test_work_and_entries_of_a_living_process_are_left_alone(self, tmp_path: Path) -> None:
        script = """
def create(folder):
    (folder / "data").write_bytes(bytes(900))
    print("working", flush=True)
    sys.stdin.readline()
def create_used(folder):
    (folder / "data").write_bytes(b"1")
used = cache.get_or_create(CacheKey.of("artifact", number=1), create_used)
path = cache.get_or_create(CacheKey.of("artifact", number=2), create)
print((used / "data").read_bytes(), len((path / "data").read_bytes()))
"""
        process = python(script, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        other = Cache.open(tmp_path, max_bytes=1)
        other.get_or_create(key(3), writer())
        assert stored(other, 1, 2, 3) == [1, 3]
        answer, _ = process.communicate("go on\n")
        assert answer.split() == ["b'1'", "900"]
        Cache.open(tmp_path, max_bytes=1)
        assert stored(other, 1, 2, 3) == [3]  # its user ended, ours did not

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_does_not_end_its_parents_session(self, cache: Cache) -> None:
        child = os.fork()
        if child == 0:
            failed = True
            try:
                cache.get_or_create(key(1), writer())
                failed = False
            finally:
                os._exit(failed)
        assert os.waitpid(child, 0)[1] == 0
        Cache.open(cache.root, max_bytes=1)
        cache.get_or_create(key(1), never)


class TestEviction:
    def fill(self, root: Path, *numbers: int) -> Cache:
        cache = Cache.open(root)
        for number in numbers:
            cache.get_or_create(key(number), writer())
            use_at(cache, number, 1000.0 + number)
        cache.close()
        return cache

    def test_the_least_recently_used_go_first(self, tmp_path: Path) -> None:
        self.fill(tmp_path, 1, 2, 3)
        cache = Cache.open(tmp_path, max_bytes=300)
        cache.get_or_create(key(4), writer())
        assert stored(cache, 1, 2, 3, 4) == [2, 3, 4]
        assert cache.counts.evicted == 1

    def test_a_hit_makes_an_entry_recent(self, tmp_path: Path) -> None:
        cache = self.fill(tmp_path, 1, 2, 3)
        reader = Cache.open(tmp_path)
        reader.get_or_create(key(1), never)
        reader.close()
        Cache.open(tmp_path, max_bytes=100)
        assert stored(cache, 1, 2, 3) == [1]

    def test_entries_in_use_stay_even_beyond_the_bound(self, tmp_path: Path) -> None:
        self.fill(tmp_path, 1, 2)
        cache = Cache.open(tmp_path, max_bytes=250)
        cache.get_or_create(key(1), never)
        cache.get_or_create(key(3), writer())
        cache.get_or_create(key(4), writer(1000))
        assert stored(cache, 1, 2, 3, 4) == [1, 3, 4]
        assert cache.counts.evicted == 1
        cache.close()
        Cache.open(tmp_path, max_bytes=250)
        assert stored(cache, 1, 2, 3, 4) == [1, 3]

    def test_an_entry_that_is_just_being_looked_at_stays(self, tmp_path: Path) -> None:
        cache = self.fill(tmp_path, 1, 2)
        with FileLock(tmp_path / "locks" / f"{key(1).digest}.lock"):
            Cache.open(tmp_path, max_bytes=1)
        assert stored(cache, 1, 2) == [1]

    def test_an_entry_that_vanishes_while_it_is_weighed_is_nobodys_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fill(tmp_path, 1)
        vanished = [(0.0, key(2).digest, 10**6)]
        monkeypatch.setattr(Cache, "_usage", lambda cache: iter(vanished))
        assert Cache.open(tmp_path, max_bytes=1).counts.evicted == 0

    def test_entries_with_unreadable_manifests_go_first(self, tmp_path: Path) -> None:
        cache = self.fill(tmp_path, 1, 2)
        (entry(cache, key(2)) / "manifest.json").unlink()
        Cache.open(tmp_path, max_bytes=100)
        assert stored(cache, 1, 2) == [1]

    @pytest.mark.parametrize("clock", [0.0, 1.0e11])
    def test_a_wrong_clock_costs_no_correctness(self, tmp_path: Path, clock: float) -> None:
        cache = self.fill(tmp_path, 1, 2)
        use_at(cache, 1, clock)
        running = Cache.open(tmp_path, max_bytes=150)
        assert stored(running, 1, 2) == ([2] if clock == 0 else [1])
        for number in (1, 2, 3):
            path = running.get_or_create(key(number), writer())
            assert (path / "data").read_bytes() == b"x" * 100

    def test_small_writes_are_not_each_followed_by_weighing_everything(self, tmp_path: Path) -> None:
        cache = Cache.open(tmp_path, max_bytes=10_000)
        weighed = []
        cache._keep_house = lambda: weighed.append(1)  # type: ignore[method-assign]
        cache.get_or_create(key(1), writer(60))
        assert not weighed
        cache.get_or_create(key(2), writer(60))
        assert weighed

    @settings(max_examples=15, deadline=None)  # each example writes to the disk
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 400)), max_size=6))
    def test_the_bound_holds_whenever_nothing_is_in_use(
        self, tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]]
    ) -> None:
        root = tmp_path_factory.mktemp("cache")
        for number, size in writes:
            cache = Cache.open(root, max_bytes=500)
            cache.get_or_create(key(number), writer(size))
            assert stored(cache, number) == [number]
            cache.close()
            Cache.open(root, max_bytes=500).close()
            assert sum(path.stat().st_size for path in root.glob("entries/*/payload/data")) <= 500
