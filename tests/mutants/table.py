"""Who catches which mutant, as Markdown: ``python -m mutants.table``, run in ``tests``, fills the document.

A table stands between ``<!-- NAME -->`` and ``<!-- end -->`` in ``docs/mutants.md``; its rows are a list of
mutants with the promise that each must break, which the tests beside this file hold, and a usual test that
is tried on each of them here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutants import caught_codecs, kernels
from mutants.fixed_seed import round_trip_fails
from mutants.fixed_seed_kernels import product_fails

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "mutants.md"


@dataclass(frozen=True)
class Table:
    """One kind of mutants.

    Attributes:
        mutants: class, promise and message of each; a class may stand there more than once.
        usual_test: whether a usual test fails on a mutant.
    """

    mutants: Sequence[tuple[type, str, str]]
    usual_test: Callable[[Any], bool]

    def lines(self) -> Iterator[str]:
        """Return the table, and how many mutants are caught."""
        promises: dict[type, list[str]] = {}
        for mutant, promise, _ in self.mutants:
            promises.setdefault(mutant, []).append(promise)
        caught = {mutant: self.usual_test(mutant()) for mutant in promises}
        yield "| mutant | what is broken | the contract catches it by | fixed seed, multiples of 32 |"
        yield "|---|---|---|---|"
        for mutant, names in promises.items():
            by = ", ".join(f"`{name}`" for name in names)
            found = "caught" if caught[mutant] else "**missed**"
            yield f"| `{mutant.__name__}` | {inspect.getdoc(mutant)} | {by} | {found} |"
        yield ""
        count = len(promises)
        yield f"The contract catches {count} of {count} mutants, the usual test {sum(caught.values())}."


TABLES = {
    "codecs": Table(caught_codecs.MUTANTS, round_trip_fails),
    "kernels": Table(kernels.MUTANTS, product_fails),
}


def filled(text: str) -> str:
    """Fill the tables of a document."""
    for name, table in TABLES.items():
        body = "\n".join(table.lines())
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, body=body: f"{found[1]}{body}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
        assert count == 1, f"the document has {count} places for the table of {name}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
