from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantcheck import cache as cache_module
from quantcheck.cache import SCHEMA, Cache, CacheKey, default_root
from quantcheck.errors import CacheError

KEY = CacheKey.of("artifact", spec="rtn-w4", seed=0)


def writer(size: int = 100, fill: bytes = b"x") -> Callable[[Path], None]:
    return lambda folder: (folder / "data").write_bytes(fill * size) and None


def never(folder: Path) -> None:
    raise AssertionError("made again")


def entry(cache: Cache, of: CacheKey = KEY) -> Path:
    return cache.root / "entries" / of.digest


@pytest.fixture
def warnings_told() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings_told: list[str]) -> Iterator[Cache]:
    opened = Cache.open(tmp_path / "cache", warn=warnings_told.append)
    yield opened
    opened.close()


def truncate(folder: Path) -> None:
    (folder / "payload" / "data").write_bytes(b"x" * 99)


def flip(folder: Path) -> None:
    (folder / "payload" / "data").write_bytes(b"x" * 99 + b"y")


def add(folder: Path) -> None:
    (folder / "payload" / "more").write_bytes(b"")


def lose(folder: Path) -> None:
    (folder / "payload" / "data").unlink()


def lose_payload(folder: Path) -> None:
    shutil.rmtree(folder / "payload")


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def manifest_of(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "manifest.json").write_text(text) and None


def manifest_with(part: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["key"][part] = value
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


def become_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("foreign")


def become_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("/nowhere")


DAMAGE = {
    "truncated": truncate,
    "flipped": flip,
    "file added": add,
    "file lost": lose,
    "payload lost": lose_payload,
    "manifest lost": lose_manifest,
    "manifest empty": manifest_of(""),
    "manifest cut": manifest_of('{"files": {"data"'),
    "manifest binary": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\0") and None,
    "manifest deep": manifest_of("[" * 100_000),
    "manifest a list": manifest_of("[]"),
    "manifest without files": manifest_of('{"files": {}, "key": {}}'),
    "manifest of numbers": manifest_of('{"files": {"data": 3}, "key": NaN}'),
    "schema": manifest_with("schema", SCHEMA + 1),
    "kind": manifest_with("kind", "reference"),
    "parts": manifest_with("parts", {"spec": "rtn-w4", "seed": False}),
    "a file": become_file,
    "a link": become_link,
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    def test_a_damaged_entry_is_made_anew_and_told_once(
        self, cache: Cache, warnings_told: list[str], damage: Callable[[Path], None]
    ) -> None:
        Cache.open(cache.root).get_or_create(KEY, writer())
        damage(entry(cache))
        path = cache.get_or_create(KEY, writer(fill=b"z"))
        assert (path / "data").read_bytes() == b"z" * 100
        assert cache.get_or_create(KEY, never) == path
        assert Cache.open(cache.root).get_or_create(KEY, never) == path
        assert len(warnings_told) == cache.counts.discarded == 1
        assert "damaged artifact" in warnings_told[0]
        assert str(cache.root) in warnings_told[0]

    def test_damage_is_noticed_after_a_first_look_too(self, cache: Cache) -> None:
        cache.get_or_create(KEY, writer())
        truncate(entry(cache))
        path = cache.get_or_create(KEY, writer())
        assert (path / "data").stat().st_size == 100

    def test_damage_is_a_warning_by_default(self, cache: Cache) -> None:
        cache.get_or_create(KEY, writer())
        truncate(entry(cache))
        with pytest.warns(RuntimeWarning, match="discarded a damaged artifact"):
            Cache.open(cache.root).get_or_create(KEY, writer())

    def test_foreign_files_are_left_alone(self, cache: Cache, warnings_told: list[str]) -> None:
        foreign = [cache.root / name / "notes.txt" for name in ("entries", "locks", "sessions")]
        for path in foreign:
            path.write_text("mine")
        (cache.root / "sessions" / "link").symlink_to(cache.root / "entries")
        small = Cache.open(cache.root, max_bytes=1)
        small.get_or_create(KEY, writer())
        assert all(path.read_text() == "mine" for path in foreign)
        assert not (cache.root / "entries" / "lock").exists()
        assert warnings_told == []


def no_space(folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_in_words(folder: Path) -> None:
    raise RuntimeError("I/O error: No space left on device (os error 28)")


def short_write(folder: Path) -> None:
    raise OSError("1000 requested and 16 written")


class TestUnusableFolder:
    def refused(self, error: CacheError, root: Path) -> bool:
        ways_out = ("--quantcheck-cache DIR", "--quantcheck-cache off")
        return str(root) in str(error) and all(way in str(error) for way in ways_out)

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for root in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(CacheError, match="cannot be used") as caught:
                Cache.open(root)
            assert self.refused(caught.value, root)

    @pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
    def test_a_read_only_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        def refuse(*arguments: object, **options: object) -> str:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("tempfile.mkdtemp", refuse)
        with pytest.raises(CacheError, match=os.strerror(code)) as caught:
            Cache.open(tmp_path)
        assert self.refused(caught.value, tmp_path)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(CacheError, match="cannot be used"):
            Cache.open(tmp_path / "cache")

    def test_a_full_disk_is_found_on_opening(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.fsync", no_space)
        with pytest.raises(CacheError, match="is full") as caught:
            Cache.open(tmp_path)
        assert self.refused(caught.value, tmp_path)

    @pytest.mark.parametrize("create", [no_space, no_space_in_words, short_write])
    def test_a_disk_that_fills_while_creating(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch, create: Callable[[Path], None]
    ) -> None:
        monkeypatch.setattr(cache_module, "_free", lambda root: 4321)
        with pytest.raises(CacheError, match=r"is full .*4321 bytes free") as caught:
            cache.get_or_create(KEY, create)
        assert self.refused(caught.value, cache.root)
        assert not entry(cache).exists()

    def test_a_disk_that_fills_while_sealing(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", no_space)
            with pytest.raises(CacheError, match="is full"):
                cache.get_or_create(KEY, writer())
        assert not entry(cache).exists()
        assert cache.get_or_create(KEY, writer()).exists()

    def test_a_full_inner_cache_is_told_as_it_is(self, cache: Cache, tmp_path: Path) -> None:
        inner = Cache.open(tmp_path / "inner")
        with pytest.raises(CacheError, match=f"^the cache folder {re.escape(str(inner.root))} is full"):
            cache.get_or_create(KEY, lambda folder: inner.get_or_create(KEY, no_space) and None)
        inner.close()

    def test_a_short_write_on_a_disk_with_room_is_not_called_full(self, cache: Cache) -> None:
        with pytest.raises(OSError, match="1000 requested"):
            cache.get_or_create(KEY, short_write)

    def test_a_folder_deleted_under_a_run(self, cache: Cache) -> None:
        shutil.rmtree(cache.root)
        with pytest.raises(CacheError, match="cannot be used"):
            cache.get_or_create(KEY, writer())

    def test_a_temporary_cache_tells_its_own_way_out(self, tmp_path: Path) -> None:
        cache = Cache.temporary(tmp_path)
        with pytest.raises(CacheError, match="TMPDIR"):
            cache.get_or_create(KEY, no_space)

    def test_a_bound_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(CacheError, match="must be positive, got 0"):
            Cache.open(tmp_path, max_bytes=0)


class TestDefaultRoot:
    def test_follows_xdg(self) -> None:
        assert default_root({"XDG_CACHE_HOME": "/big/disk"}) == Path("/big/disk/quantcheck")

    @pytest.mark.parametrize("environ", [{}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}])
    def test_is_below_home_otherwise(self, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
        monkeypatch.setenv("HOME", "/home/someone")
        assert default_root(environ) == Path("/home/someone/.cache/quantcheck")

    def test_no_home_is_an_error_with_a_way_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
        with pytest.raises(CacheError, match="--quantcheck-cache DIR"):
            default_root({})
