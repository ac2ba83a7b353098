"""Somebody else's codecs and kernels: registered, listed, chosen by globs, held to the contracts."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.project import matched, refused
from quantcheck.codecs import CODECS
from quantcheck.kernels import KERNELS

CODEC = """
    from quantcheck.codecs import CodecCapabilities
    from quantcheck.codecs.bitstream import Bitstream

    class Mine(Bitstream):
        name = "mine"
        capabilities = CodecCapabilities(bits=(3, 5))

        def _pack(self, parts, shape):
            return {pack}
"""
HOOK = """
    def pytest_quantcheck_register_codecs(codecs):
        codecs.register("mine", Mine, Mine.capabilities, origin="conftest.py")
"""
KERNEL = """
    from quantcheck.kernels import KernelCapabilities
    from quantcheck.kernels.reference import CodebookReference

    class Mine(CodebookReference):
        name = "mine"
        capabilities = KernelCapabilities(weights="codebook", bits=(4,), dtypes=("float32",))

        def matmul(self, inputs, prepared, *, act_bits=None):
            return super().matmul(inputs, prepared, act_bits=act_bits) * {factor}

    def pytest_quantcheck_register_kernels(kernels):
        kernels.register("mine", Mine(), Mine.capabilities, origin="conftest.py")
"""
SOUND = "super()._pack(parts, shape)"
REVERSED = "{'packed': super()._pack(parts, shape)['packed'].flip(1)}"
BROKEN = "test_what_is_packed_is_unpacked_bit_for_bit"
KNOWN = """
    schema = 1

    [[failure]]
    id = "{id}"
    reason = "the bytes of a row come in reverse"
    issue = "https://github.com/mine/mine/issues/12"
"""


def gate(pytester: pytest.Pytester, *arguments: str, specs: str = "mine-w3") -> pytest.RunResult:
    """Run the suites of codecs and kernels as a user does."""
    return pytester.runpytest_inprocess(
        *("--pyargs", "quantcheck.suites", "-ra", "-p", "no:cacheprovider", "-p", "no:unraisableexception"),
        *("-m", "codec or kernel", "--quantcheck-cache=off", f"--quantcheck-specs={specs}", *arguments),
        no_reraise_ctrlc=True,
    )


def know(pytester: pytest.Pytester, id: str) -> None:
    folder = pytester.path / "baselines"
    folder.mkdir(exist_ok=True)
    (folder / "known.toml").write_text(KNOWN.format(id=id).replace("\n    ", "\n"), encoding="utf-8")


def install(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with an entry point, as pip would leave it."""
    site = pytester.path / "site"
    info = site / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantcheck.codecs]\nmine = mine_codecs:Mine\n")
    pytester.makepyfile(**{"site/mine_codecs": CODEC.format(pack=SOUND)})
    monkeypatch.syspath_prepend(site)


def test_a_codec_of_a_conftest_is_held_to_the_contract(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CODEC.format(pack=SOUND) + HOOK)

    result = gate(pytester, specs="mine*")

    assert result.ret == pytest.ExitCode.OK
    matched(result, "quantcheck matrix: 0 specs of no method, 0 gates", "contracts: 2 codecs, 0 kernels")
    assert result.parseoutcomes()["passed"] > 20
    assert "mine" not in CODECS.names()


def test_a_codec_of_an_installed_package_is_listed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(pytester, monkeypatch)

    result = gate(pytester, "--quantcheck-list", specs="mine*")

    assert result.ret == pytest.ExitCode.OK
    matched(result, "mine-w3  codec", "mine-w5  codec")
    result.stdout.no_fnmatch_line("*gptq*")


def test_a_broken_codec_is_red_by_the_promise_that_it_breaks(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CODEC.format(pack=REVERSED) + HOOK)

    result = gate(pytester, "-k", BROKEN)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, f"FAILED *TestCodec::{BROKEN}?mine-w3?")


def test_a_kernel_of_a_conftest_is_held_to_the_contract(pytester: pytest.Pytester) -> None:
    promises = "test_products_are_within_their_bound or test_weights_are_rounded_once"
    pytester.makeconftest(KERNEL.format(factor=1.0))
    sound = gate(pytester, "-k", promises, specs="mine-w4")
    pytester.makeconftest(KERNEL.format(factor=1.001))
    broken = gate(pytester, "-k", promises, specs="mine-w4")

    matched(
        gate(pytester, "-k", "batch", specs="reference_codebook-w4"),
        "batch invariance of reference_codebook: ",
    )
    sound.assert_outcomes(passed=2, deselected=sound.parseoutcomes()["deselected"])
    matched(broken, "FAILED *TestKernel::test_products_are_within_their_bound?mine-w4?")
    assert "mine" not in KERNELS.names()


def test_a_known_failure_is_expected_until_it_passes(pytester: pytest.Pytester) -> None:
    know(pytester, f"mine-w3::{BROKEN}")
    pytester.makeconftest(CODEC.format(pack=REVERSED) + HOOK)
    known = gate(pytester, "-k", BROKEN, specs="mine*")
    pytester.makeconftest(CODEC.format(pack=SOUND) + HOOK)
    repaired = gate(pytester, "-k", BROKEN)

    assert known.parseoutcomes().items() >= {"xfailed": 1, "failed": 1}.items()
    matched(known, "XFAIL*mine-w3*the bytes of a row come in reverse*issues/12*")
    matched(repaired, "*XPASS(strict)*the bytes of a row come in reverse*", "*1 failed*")


def test_a_known_failure_that_names_no_test_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CODEC.format(pack=SOUND) + HOOK)
    know(pytester, "mine-w3::test_long_gone")

    refused(gate(pytester), "'mine-w3::test_long_gone' names no test any more")


def test_a_glob_that_names_neither_is_refused(pytester: pytest.Pytester) -> None:
    refused(gate(pytester, specs="gptq_v1-w3,nobody*"), "no spec of this tier matches 'nobody*'")


def test_a_codec_that_cannot_be_imported_is_refused_by_name(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(pytester, monkeypatch)
    Path(pytester.path / "site" / "mine_codecs.py").write_text("import no_such_package\n")

    refused(gate(pytester), "codec 'mine' of mine cannot be loaded", "no_such_package")


@pytest.mark.slow
def test_workers_share_the_promises(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    arguments = ("--pyargs", "quantcheck.suites", "-p", "no:cacheprovider", "-m", "codec", "-n", "2")

    result = pytester.runpytest_subprocess(*arguments, "--quantcheck-specs=bitstream-w3")

    assert result.ret == pytest.ExitCode.OK
