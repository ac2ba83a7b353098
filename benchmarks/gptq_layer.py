r"""GPTQ on one layer: the time of quantcheck's core routine beside gptqmodel's and llmcompressor's.

All are given the same weight and the same finished Hessian, and do the same work: fit the grids to the
original weight (groups are static, since llmcompressor has no others), factor the damped Hessian, round
column by column in blocks of 128. quantcheck also packs its codes and decodes them again. They take turns,
and who goes first rotates with the rounds, so that what else the machine does hits all alike; a ratio is that
of the times within a round. Outputs must be equally wrong, or nothing is reported.

The peers live in an environment of their own, with quantcheck on PYTHONPATH; one that is not installed is
left out with a word::

    python -m venv peers
    peers/bin/pip install -c constraints.txt torch gptqmodel==7.6.0 optimum==2.3.0 \
        llmcompressor==0.14.0.1 compressed-tensors==0.19.0
    GPTQMODEL_CPU_WORKERS=2 PYTHONPATH=. peers/bin/python benchmarks/gptq_layer.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import heads, ratios, row, spread
from quantcheck.methods.gptq import Gptq
from quantcheck.spec import QuantSpec

PERCDAMP, BLOCK_SIZE = 0.01, 128
EQUAL = 1e-3  # relative difference of output errors, as between two orders of the calibration tokens
SPECS = ("gptq-w4-g128-static_groups", "gptq-w4")

Routine = Callable[[], Tensor]
"""Quantizes and returns the decoded weight [out, in], in float32."""


@dataclass(frozen=True)
class Problem:
    """One layer to quantize."""

    weight: Tensor
    hessian: Tensor
    spec: QuantSpec

    @classmethod
    def random(cls, size: int, spec: str) -> Problem:
        """Draw a square layer and the Hessian of correlated inputs, a quarter more tokens than columns."""
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(size, size, generator=generator)
        mix = torch.eye(size) + torch.randn(size, size, generator=generator) / size**0.5
        inputs = torch.randn(size + size // 4, size, generator=generator) @ mix
        return cls(weight, 2 * inputs.T @ inputs, QuantSpec.parse(spec))

    def output_error(self, decoded: Tensor) -> float:
        """Return ``||X (W - Wq)^T|| / ||X W^T||``."""

        def energy(matrix: Tensor) -> float:
            return ((matrix @ self.hessian) * matrix).sum(dtype=torch.float64).item()

        return float((energy(self.weight - decoded) / energy(self.weight)) ** 0.5)


@dataclass
class Result:
    """What one implementation did on one problem."""

    seconds: list[float] = field(default_factory=list)
    error: float = 0.0


def ours(problem: Problem) -> Routine:
    """Prepare quantcheck's `Gptq.quantize_weight`."""

    def run() -> Tensor:
        packed = Gptq().quantize_weight(problem.weight, problem.hessian, problem.spec, torch.float32)
        return packed.decode()

    return run


def gptqmodel(problem: Problem) -> Routine:
    """Prepare gptqmodel's `GPTQ.quantize`."""
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    linear = nn.Linear(*reversed(problem.weight.shape), bias=False)
    linear.weight = nn.Parameter(problem.weight.clone(), requires_grad=False)
    config = QuantizeConfig(
        bits=int(problem.spec.bits),
        group_size=problem.spec.group_size or -1,
        sym=False,
        desc_act=False,
        act_group_aware=False,
        static_groups=bool(problem.spec.option("static_groups", False)),
        damp_percent=PERCDAMP,
        fallback=None,
        offload_to_disk=False,
    )
    quantizer = GPTQ(linear, config)
    quantizer.quantizer.configure(perchannel=True)
    quantizer.H, quantizer.nsamples = problem.hessian.clone(), 1
    return lambda: quantizer.quantize(blocksize=BLOCK_SIZE)[0]


def llmcompressor(problem: Problem) -> Routine:
    """Prepare llmcompressor's `quantize_weight`, and the fit of its grids by compressed-tensors."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
    from compressed_tensors.quantization.utils import calculate_qparams
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    group_size = problem.spec.group_size
    arguments = QuantizationArgs(
        num_bits=int(problem.spec.bits),
        symmetric=False,
        group_size=group_size,
        strategy=QuantizationStrategy.GROUP if group_size else QuantizationStrategy.CHANNEL,
    )
    weight, hessian = problem.weight.clone()[None], problem.hessian.clone()[None]

    def run() -> Tensor:
        groups = weight[0].unflatten(1, (-1, group_size or weight.shape[2]))
        scale, zero_point = calculate_qparams(groups.amin(dim=2), groups.amax(dim=2), arguments)
        found = quantize_weight(
            weight, hessian, scale[None], zero_point[None], None, arguments, BLOCK_SIZE, PERCDAMP
        )
        return found[0][0]

    return run


PEERS = {"quantcheck": ours, "gptqmodel": gptqmodel, "llmcompressor": llmcompressor}


def installed(prepare: Callable[[Problem], Routine]) -> bool:
    """Tell whether a peer can be imported, with a word where it cannot."""
    try:
        prepare(Problem.random(8, "gptq-w4"))
    except ImportError as error:
        print(f"{prepare.__name__} is left out: {error}", file=sys.stderr)
        return False
    return True


def compare(problem: Problem, names: list[str], rounds: int) -> dict[str, Result]:
    """Let the named implementations take turns, once to warm up and then ``rounds`` times."""
    results = {name: Result() for name in names}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            run = PEERS[name](problem)
            start = time.perf_counter()
            decoded = run()
            seconds = time.perf_counter() - start
            results[name].error = problem.output_error(decoded)
            results[name].seconds += [seconds] if turn else []
    return results


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most memory that ``run`` held at once beyond what it was given, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def share_of_allowance(problem: Problem, run: Callable[[], object]) -> float:
    """Return peak memory, weight and Hessian included, over six weights and three Hessians of float32."""
    weight, hessian = problem.weight.nbytes, problem.hessian.nbytes
    return (peak_bytes(run) + weight + hessian) / (6 * weight + 3 * hessian)


def table(results: dict[str, Result]) -> str:
    """Lay out medians, ranges and ratios as markdown."""
    mine = results["quantcheck"].seconds
    lines = heads(("", "seconds, median (range)", "times quantcheck's, median (range)", "output error"))
    for name, result in results.items():
        faster = spread(ratios(result.seconds, mine))
        lines.append(row((name, spread(result.seconds), faster, f"{result.error:.5f}")))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 where the outputs are not equally wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the layer (default 4096)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--specs", nargs="+", default=SPECS, help="per channel, or with static groups")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    names = [name for name, prepare in PEERS.items() if installed(prepare)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *names[1:]))
    print(f"{options.size} x {options.size}, {options.threads} threads, {options.rounds} rounds, {versions}")
    for spec in options.specs:
        problem = Problem.random(options.size, spec)
        results = compare(problem, names, options.rounds)
        errors = [result.error for result in results.values()]
        if max(errors) > (1 + EQUAL) * min(errors):
            print(f"{spec}: output errors differ: {errors}", file=sys.stderr)
            return 1
        share = share_of_allowance(problem, ours(problem))
        print(f"\n{spec}; quantcheck's peak memory is {share:.2f} of the allowance\n")
        print(table(results))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    sys.exit(main())
