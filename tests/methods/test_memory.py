"""Quantizing a layer takes at most six times its float32 weights plus three Hessians; the benchmark runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from quantcheck.methods import METHODS
from quantcheck.methods.layerwise import HessianMethod, LinearMethod
from quantcheck.spec import QuantSpec

SQUARE, WIDE, TALL, LARGE = (384, 384), (192, 768), (768, 192), (1024, 1024)
CASES = [
    *(
        (spec, shape)
        for spec in (
            "rtn-w4-g128",
            "gptq-w4",
            "gptq-w8-sym",
            "gptq-w3-g128-act_order",
            "gptq-w4-g32-act_order-static_groups",
        )
        for shape in (SQUARE, WIDE, TALL)
    ),
    ("rtn-w8-g64-icq", SQUARE),
    ("gptq-w4-g64-icq", SQUARE),
    ("gptq-w4-g64-mse", TALL),
    ("slimllm-w2-g64", TALL),
    ("slimllm-w3-g64-lambda_salience=2", SQUARE),
    ("pbllm-w1.7-g64", SQUARE),
    ("quip-w2", SQUARE),
    ("billm-w1.1", LARGE),  # what it searches at a time is of one size, which a small layer is not above
    ("billm-w1.1-g128", LARGE),
]


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository)
        yield importlib.import_module("benchmarks.gptq_layer")


def quantizing(text: str, weight: torch.Tensor, hessian: torch.Tensor) -> Callable[[], object]:
    spec = QuantSpec.parse(text)
    target = METHODS.resolve(spec.method)
    method = target() if isinstance(target, type) else target
    if isinstance(method, LinearMethod):
        return lambda: method.quantize_weight(weight, spec, torch.float16)
    assert isinstance(method, HessianMethod)
    return lambda: method.quantize_weight(weight, hessian, spec, torch.float16)


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=str)
def test_a_layer_takes_no_more_memory_than_allowed(
    benchmark: ModuleType, spec: str, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    inputs = torch.randn(2 * shape[1], shape[1], generator=generator)
    hessian = inputs.T @ inputs
    given, allowed = weight.nbytes, 6 * weight.nbytes
    if not spec.startswith("rtn"):
        given, allowed = given + hessian.nbytes, allowed + 3 * hessian.nbytes
    assert benchmark.peak_bytes(quantizing(spec, weight, hessian)) + given <= allowed


def test_the_peak_counts_what_is_held_at_once(benchmark: ModuleType) -> None:
    def hold() -> None:
        first = torch.zeros(1 << 20)
        second = first + 1
        del first
        second.clone()

    assert 8 << 20 <= benchmark.peak_bytes(hold) < 9 << 20


def test_the_benchmark_compares_at_equal_error(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(benchmark, "PEERS", {"quantcheck": benchmark.ours, "absent": absent})
    try:
        assert benchmark.main(["--size", "64", "--rounds", "2", "--threads", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(True)
    output = capsys.readouterr()
    assert output.out.count("| quantcheck |") == 2
    assert "absent is left out: No module named 'nowhere'" in output.err


def test_the_benchmark_refuses_unequal_errors(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(problem: object) -> Callable[[], torch.Tensor]:
        return lambda: benchmark.ours(problem)() * 1.01

    monkeypatch.setattr(benchmark, "PEERS", {"quantcheck": benchmark.ours, "torch": worse})
    threads = torch.get_num_threads()
    try:
        assert benchmark.main(["--size", "64", "--rounds", "1", "--threads", "1", "--specs", "gptq-w8"]) == 1
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(True)
    assert "output errors differ" in capsys.readouterr().err


def absent(_: object) -> Callable[[], torch.Tensor]:
    raise ModuleNotFoundError("No module named 'nowhere'")
