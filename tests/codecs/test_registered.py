"""Every codec and kernel is registered as what it is, and docs/codecs.md says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quantcheck.codecs import CODECS, CodecError, build
from quantcheck.codecs.affine import AffineFormat
from quantcheck.errors import SpecError
from quantcheck.kernels import KERNELS


def rows(page: str, title: str) -> dict[str, list[str]]:
    """The cells of a table under a title, by each name in its first column."""
    table = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    return {
        name: [cell.strip() for cell in cells] for cells in lines for name in re.findall(r"`(\w+)`", cells[0])
    }


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "codecs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CODECS.names())
def test_a_codec_is_made_at_each_of_its_widths_and_no_other(name: str) -> None:
    widths = CODECS.entry(name).capabilities.bits
    assert [build(name, bits).id for bits in widths] == [f"{name}-w{bits}" for bits in widths]
    with pytest.raises(CodecError, match=f"{name} packs codes of .* bits, not 9"):
        build(name, 9)


def test_a_misspelled_codec_gets_a_hint() -> None:
    with pytest.raises(SpecError, match="did you mean 'gptq_v1'"):
        build("gtpq_v1", 4)


def test_the_docs_list_every_codec_with_its_widths_and_whether_it_converts(page: str) -> None:
    listed = rows(page, "Formats")
    assert listed.keys() == set(CODECS.names())
    for name, (_, bits, _, affine) in listed.items():
        widths = CODECS.entry(name).capabilities.bits
        low, _, high = bits.partition(" to ")
        said = range(int(low), int(high) + 1) if high else [int(width) for width in bits.split(", ")]
        assert set(widths) <= set(said), name
        assert bool(affine) is isinstance(build(name, widths[0]), AffineFormat), name


def test_the_docs_list_every_kernel(page: str) -> None:
    assert rows(page, "Kernels").keys() == set(KERNELS.names())
