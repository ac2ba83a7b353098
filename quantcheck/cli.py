"""The command line: published figures, and two records explained. No torch, no pytest.

Exit codes: 0 when nothing is worse, 1 when something is, 2 when the command cannot be carried out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from quantcheck import __version__
from quantcheck.errors import QuantcheckError
from quantcheck.published import FULL_PRECISION, Answer, Published, PublishedFigure, load, names
from quantcheck.report import comparison
from quantcheck.report import published as rendered
from quantcheck.report.reader import read_run

USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        worse: bool = options.run(options)
    except QuantcheckError as error:
        print(f"quantcheck: error: {error}", file=sys.stderr)
        return USAGE
    return int(worse)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantcheck",
        description="Published figures of quantized models, and two records of gates compared.",
        epilog="exit codes: 0 nothing is worse, 1 something is, 2 usage",
    )
    parser.add_argument("--version", action="version", version=f"quantcheck {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    published = commands.add_parser("published", help="print published figures, beside those of a run")
    published.add_argument("--model", metavar="NAME", help=f"one of {', '.join(names())} (default: all)")
    published.add_argument("--method", metavar="GLOB", default="*", help="methods or spec ids (default: all)")
    published.add_argument("--record", metavar="RUN.json", type=Path, help="a report of --quantcheck-report")
    published.set_defaults(run=_published)
    diff = commands.add_parser("diff", help="explain what differs between two records, gate by gate")
    diff.add_argument("old", metavar="OLD", type=Path, help="the earlier report of --quantcheck-report")
    diff.add_argument("new", metavar="NEW", type=Path, help="the later one")
    diff.set_defaults(run=_diff)
    return parser


def _diff(options: argparse.Namespace) -> bool:
    found = comparison.compare(read_run(options.old), read_run(options.new))
    print("\n".join(comparison.lines(found)))
    return found.worse > 0


def _published(options: argparse.Namespace) -> bool:
    files = [load(name) for name in ([options.model] if options.model else names())]
    if options.record is None:
        print("\n\n".join(_tables(files, options.method)))
        return False
    run = read_run(options.record)
    found = [entry for entry in rendered.beside(files, run) if _chosen(entry.match.figure, options.method)]
    if not found:
        raise QuantcheckError(
            f"no gate of {options.record} has a published figure: figures are found by model "
            f"({', '.join(source for file in files for source in (file.model, *file.sources))}), spec and "
            f"metric, such as {files[0].model}/gptq-w4-g128/ppl/wikitext2"
        )
    print("\n".join(rendered.lines(found)))
    return any(entry.match.finding.answer is Answer.WORSE for entry in found)


def _tables(files: Sequence[Published], glob: str) -> Iterator[str]:
    chosen = [(file, _with_references(file, glob)) for file in files]
    if not any(figures for _, figures in chosen):
        methods = dict.fromkeys(entry.method for file in files for entry in file.figures)
        raise QuantcheckError(f"no published figure matches {glob!r}; methods are {', '.join(methods)}")
    return ("\n".join(rendered.tables(file, figures)) for file, figures in chosen if figures)


def _with_references(file: Published, glob: str) -> list[PublishedFigure]:
    """The figures that a glob chooses, under those of full precision in the same tables."""
    found = {entry.table for entry in file.figures if _chosen(entry, glob)}
    return [
        entry
        for entry in file.figures
        if entry.table in found and (entry.method == FULL_PRECISION or _chosen(entry, glob))
    ]


def _chosen(figure: PublishedFigure, glob: str) -> bool:
    return any(fnmatchcase(name.casefold(), glob.casefold()) for name in (figure.method, figure.row))


if __name__ == "__main__":
    sys.exit(main())
