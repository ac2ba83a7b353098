"""Kernels: the time of products with quantized weights beside torch's and the libraries' own.

1, 16 and 128 tokens, a column each, times weights of ``--rows`` by ``--cols`` that stay packed. "Dequantize
then linear" is plain torch: it decodes the whole weight and multiplies by it. "Not quantized" multiplies by
the weight that was decoded beforehand. The memory floor is the time to read the packed weight once, at the
rate of a copy. Of further numbers of rows, the problems of `WIDEST` are timed alone.

Nothing is timed before every result is as near to the float64 product as its dtype lets it be, in the
Frobenius norm: four unit roundoffs for inputs, weights, scales and results, ``sqrt(K)`` of float32 for sums,
and what rounding the inputs itself does where they are rounded. A wrong code anywhere in a block is far out.

The peers live in an environment of their own (the extra ``interop``), with quantcheck on PYTHONPATH; those
that are not installed are left out with a word. ``--device cuda`` times Triton's kernels instead::

    PYTHONPATH=. interop/bin/python benchmarks/kernels.py --into docs/performance.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.kernel_peers import COARSEST, PEERS, Multiply, Peer, Weight, build_reference
from benchmarks.timing import heads, nothing, publish, ratios, row, spread, turns
from quantcheck.codecs.normal_float import codebook
from quantcheck.kernels import build
from quantcheck.kernels.base import Operand
from quantcheck.kernels.tokens import round_tokens
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe

TOKENS = (1, 16, 128)
TITLES = ("weight", "who", *(f"x {tokens}: ms, times quantcheck's" for tokens in TOKENS))
OURS, FLOOR = "quantcheck", "memory floor"
ROUNDOFFS = 4
STEPS = 1.001
"""How much more than float64 a kernel may lose by rounding inputs: a half may go either way."""
COPIED = 1 << 28
"""Bytes of the copy that memory is timed by."""


class Different(Exception):
    """A result is too far from the float64 product."""


@dataclass(frozen=True)
class Problem:
    """One kind of weight, and its inputs.

    Attributes:
        family: of the kernels: ``grouped``, ``codebook``, ``planes`` or ``integer``.
        bits: width of a code; of planes, how many there are.
        dtype: of the inputs.
        group_size: columns that share a scale; ``None``: all.
        act_bits: width that inputs are rounded to; ``None``: left as they are.
    """

    family: str
    bits: int
    dtype: str = "float32"
    group_size: int | None = 128
    act_bits: int | None = None

    def __str__(self) -> str:
        groups = "per channel" if self.group_size is None else f"group {self.group_size}"
        what = {
            "grouped": f"{self.bits} bits, {groups}",
            "codebook": "NF4, block 64",
            "planes": f"{self.bits} binary planes, {groups}",
            "integer": f"W{self.bits}A{self.act_bits}, {groups}",
        }[self.family]
        return f"{what}, {self.dtype}"

    def operand(self, rows: int, cols: int) -> Operand:
        """Draw a weight."""
        match self.family:
            case "codebook":
                operand = CodebookRecipe(rows, cols).operand()
                return replace(operand, levels=codebook("nf4", "cpu"))
            case "planes":
                return PlanesRecipe(rows, cols, self.bits, self.group_size).operand()
        zero_points = "none" if self.family == "integer" else "random"
        recipe = GroupedRecipe(rows, cols, self.bits, self.group_size, zero_points=zero_points)
        return replace(recipe, scale_dtype="float16").operand()


PROBLEMS = (
    *(Problem("grouped", bits) for bits in (2, 3, 4, 8)),
    Problem("grouped", 4, "bfloat16"),
    Problem("codebook", 4),
    Problem("codebook", 4, "bfloat16"),
    Problem("planes", 2),
    Problem("integer", 8, group_size=None, act_bits=8),
    Problem("integer", 4, act_bits=4),
)
WIDEST = (
    Problem("grouped", 4),
    Problem("grouped", 4, "bfloat16"),
    Problem("codebook", 4),
    Problem("integer", 8, group_size=None, act_bits=8),
)


def compare(
    problem: Problem, operand: Operand, rounds: int, left_out: dict[str, str], floor: float
) -> dict[str, list[str]]:
    """Let ours and the peers take turns.

    Args:
        problem: the kind of weight.
        operand: the weight, on the device that runs.
        rounds: timed runs of each.
        left_out: who cannot be imported is noted here.
        floor: seconds to read the weight once.

    Returns:
        For everybody who was timed a cell for each number of tokens.

    Raises:
        Different: a result is too far from the float64 product.
    """
    device = next(value for value in vars(operand).values() if isinstance(value, Tensor)).device
    weight = Weight(operand, getattr(torch, problem.dtype), problem.group_size, problem.act_bits)
    who = {OURS: ours(problem, weight), **prepared(weight, PEERS, left_out)}
    x = torch.randn(max(TOKENS), operand.shape[1], generator=torch.Generator().manual_seed(1))
    x = x.to(device, weight.dtype)
    exact = build_reference(replace(weight, dtype=torch.float32)).double()
    for name, multiply in who.items():
        coarsest = max(weight.dtype, COARSEST.get(name, weight.dtype), key=_unit)
        confirm(f"{problem}: {name}", x, multiply(x), exact, problem.act_bits, coarsest)
    del exact
    wait = torch.cuda.synchronize if device.type == "cuda" else nothing
    cells: dict[str, list[str]] = {name: [] for name in (*who, FLOOR)}
    for tokens in TOKENS:
        seconds = turns({name: partial(multiply, x[:tokens]) for name, multiply in who.items()}, rounds, wait)
        for name, times in {**seconds, FLOOR: [floor] * rounds}.items():
            faster = "" if name == OURS else f", {spread(ratios(times, seconds[OURS]))}"
            cells[name].append(f"{1000 * statistics.median(times):.1f}{faster}")
    return cells


def ours(problem: Problem, weight: Weight) -> Multiply:
    """Prepare our kernel, Triton's on a GPU."""
    on_gpu = any(value.is_cuda for value in vars(weight.operand).values() if isinstance(value, Tensor))
    kernel = build(f"{'triton' if on_gpu else 'cpu'}_{problem.family}")
    layout = kernel.prepare(weight.operand, weight.dtype)
    return lambda x: kernel.matmul(x, layout, act_bits=problem.act_bits)


def prepared(weight: Weight, peers: Sequence[Peer], left_out: dict[str, str]) -> dict[str, Multiply]:
    """Prepare the peers; who cannot be imported is noted in ``left_out``."""
    found: dict[str, Multiply] = {}
    for peer in peers:
        try:
            found.update(peer(weight))
        except ImportError as error:
            left_out[peer.__name__] = str(error)
    return found


def confirm(
    what: str, x: Tensor, got: Tensor, exact: Tensor, act_bits: int | None, coarsest: torch.dtype
) -> None:
    """Hold a product to what rounding may do to it, in the Frobenius norm.

    Args:
        what: the problem and who has solved it, for the message.
        x: the inputs.
        got: the product.
        exact: the weight, float64 [out, in].
        act_bits: width that the inputs are rounded to.
        coarsest: of the dtypes that are rounded to.

    Raises:
        Different: it is farther from the float64 product.
    """
    wanted = x.double() @ exact.T
    off = ((got.double() - wanted).norm() / wanted.norm()).item()
    allowed = ROUNDOFFS * _unit(coarsest) + x.shape[1] ** 0.5 * _unit(torch.float32)
    if act_bits is not None:
        steps, scales = round_tokens(x, act_bits)
        lost = (steps.double() * scales.double() - x.double()) @ exact.T
        allowed += STEPS * (lost.norm() / wanted.norm()).item()
    if not off <= allowed:
        raise Different(f"{what} is {off:.2g} off, by norm; rounding explains {allowed:.2g}")


def _unit(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def memory_rate(device: str, wait: Callable[[], None]) -> float:
    """Return bytes a second that a copy reads and writes, the best of five."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(5):
        wait()
        start = time.perf_counter()
        target.copy_(source)
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * COPIED / best


def moved(operand: Operand, device: str) -> Operand:
    """Put a weight on a device."""
    tensors = {
        field.name: value.to(device)
        for field in fields(operand)
        if isinstance(value := getattr(operand, field.name), Tensor)
    }
    return replace(operand, **tensors)


def stored_bytes(operand: Operand) -> int:
    """Count the bytes of a packed weight; where groups lie is left out."""
    tensors = (value for name, value in vars(operand).items() if name != "g_idx")
    return sum(value.nbytes for value in tensors if isinstance(value, Tensor))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; a result that is too far off ends it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 14336], help="out-features")
    parser.add_argument("--cols", type=int, default=4096, help="in-features (default 4096)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--into", type=Path, help="document to write the tables into")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    wait = torch.cuda.synchronize if options.device == "cuda" else nothing
    rate, left_out, lines = memory_rate(options.device, wait), dict[str, str](), list[str]()
    libraries = {"torch"}
    for place, rows in enumerate(options.rows):
        lines += (f"**{rows} x {options.cols}**", "", *heads(TITLES))
        for problem in PROBLEMS if place == 0 else WIDEST:
            print(f"{rows} x {options.cols}: {problem}", file=sys.stderr)
            operand = moved(problem.operand(rows, options.cols), options.device)
            floor = stored_bytes(operand) / rate
            cells = compare(problem, operand, options.rounds, left_out, floor)
            libraries |= {name.split(",")[0] for name in cells} - {OURS, FLOOR}
            lines += (row((problem, name, *each)) for name, each in cells.items())
        lines.append("")
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    setting = f"{where}, {options.rounds} rounds after one to warm up, a copy moves {rate / 1e9:.1f} GB/s; "
    setting += ", ".join(f"{name} {version(name)}" for name in sorted(libraries)) + "."
    without = [f"Left out: {name} ({why})." for name, why in left_out.items()]
    name = "kernels" if options.device == "cpu" else f"kernels {options.device}"
    publish([setting, *without, "", *lines], name, options.into)


if __name__ == "__main__":
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    main()
