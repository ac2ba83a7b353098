"""The benchmarks of codecs and kernels: who takes turns, what is compared first, what a document gets.

Nothing is asked of the times themselves; peers that stand for real libraries are made up here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from unit.builders import figure, measured

from quantcheck.artifact_facts import WEIGHTS
from quantcheck.baseline import BaselineFile
from quantcheck.codecs import CODECS
from quantcheck.extensions import codec_ids
from quantcheck.judging.drift import HONEST
from quantcheck.outcomes import pack
from quantcheck.policy import read_policy
from quantcheck.statistics.band import reach

SHAPE = ["--rows", "32", "--cols", "512", "--threads", "1"]


@pytest.fixture(scope="module", autouse=True)
def importable(repository: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository)
        yield


@pytest.fixture
def timing() -> ModuleType:
    return importlib.import_module("benchmarks.timing")


@pytest.fixture
def codecs() -> ModuleType:
    return importlib.import_module("benchmarks.codecs")


@pytest.fixture
def kernels() -> ModuleType:
    return importlib.import_module("benchmarks.kernels")


@pytest.fixture
def case() -> ModuleType:
    return importlib.import_module("benchmarks.codec_case")


@pytest.fixture
def peers() -> ModuleType:
    return importlib.import_module("benchmarks.codec_peers")


@pytest.fixture
def threads() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)
    torch.set_grad_enabled(True)


def test_turns_rotate_and_the_first_one_is_not_timed(
    timing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, clock = [], iter(range(100))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))

    seconds = timing.turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)

    assert "".join(order) == "abc" + "bca" + "cab"
    assert seconds == {name: [1.0, 1.0] for name in "abc"}


def test_ratios_are_those_of_one_round(timing: ModuleType) -> None:
    assert timing.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert timing.spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"


def test_a_document_gets_lines_in_their_place_alone(timing: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n", encoding="utf-8")

    for _ in range(2):
        timing.publish(["one", "two"], "x", document)

    assert document.read_text() == "before\n<!-- x: begin -->\none\ntwo\n<!-- x: end -->\nafter\n"
    with pytest.raises(ValueError, match="no place to fill: <!-- y: begin -->"):
        timing.publish([], "y", document)


def test_performance_has_places_for_the_tables(timing: ModuleType, repository: Path) -> None:
    text = (repository / "docs" / "performance.md").read_text(encoding="utf-8")

    for name in ("codecs", "kernels"):
        assert "filled here" in timing.filled(text, name, ["filled here"])


@pytest.mark.usefixtures("threads")
def test_every_codec_packs_and_unpacks(
    codecs: ModuleType,
    peers: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(peers, "PEERS", {})

    codecs.main([*SHAPE, "--rounds", "1"])

    printed = capsys.readouterr().out
    for id_ in codec_ids():
        assert f"| `{id_}` | pack |" in printed
        assert f"| `{id_}` | unpack |" in printed
    assert f"of {2 * len(codec_ids())} take at most 10 clones" in printed


def test_further_rows_take_one_width_of_each_format(codecs: ModuleType) -> None:
    chosen = codecs.widths(["*"], all_of_them=False)

    assert [name for name, _ in chosen] == list(CODECS.names())
    assert ("hqq", 4) in chosen
    assert ("gptq_planar", 3) in chosen
    assert codecs.widths(["hqq-w[13]"], all_of_them=True) == [("hqq", 1), ("hqq", 3)]


def test_a_peer_that_packs_the_same_is_timed(
    codecs: ModuleType, case: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = case.Case.random("gptq_v2", 4, 32, 64)
    packed = weight.stored["qweight"]
    work = case.Work("pack", "peer copies", packed.clone, lambda found: {"qweight": found})

    lines = list(codecs.compare(weight, [work], rounds=2))

    assert [(line.direction, line.peer) for line in lines] == [("pack", "peer copies"), ("unpack", "")]
    assert len(lines[0].theirs) == len(lines[0].ours) == 2


@pytest.mark.parametrize("direction", ["pack", "unpack", "encode", "decode"])
def test_a_peer_that_makes_something_else_is_not_timed(
    codecs: ModuleType, case: ModuleType, direction: str
) -> None:
    weight = case.Case.random("gptq_v2", 4, 32, 64)
    name = {"unpack": "codes", "decode": "weights"}.get(direction, "qweight")
    right = {**weight.parts, **weight.stored, "weights": weight.codec.weights(weight.parts, weight.shape)}[
        name
    ]
    wrong = right.clone()
    wrong[-1, -1] += 1
    works = [
        case.Work(direction, f"peer {label}", made.clone, lambda found: {name: found})
        for label, made in (("right", right), ("wrong", wrong), ("short", right[:-1]))
    ]

    assert list(codecs.compare(weight, works[:1], rounds=1))
    for work in works[1:]:
        with pytest.raises(codecs.Different, match=f"gptq_v2-w4: {name} of {work.what} is not ours"):
            list(codecs.compare(weight, [work], rounds=1))


def test_a_peer_that_makes_nothing_is_not_timed(codecs: ModuleType, case: ModuleType) -> None:
    weight = case.Case.random("gptq_v2", 4, 32, 64)

    with pytest.raises(codecs.Different, match="has made nothing"):
        list(codecs.compare(weight, [case.Work("pack", "peer", lambda: None, lambda _: {})], rounds=1))


def test_encoding_finds_the_codes_again(codecs: ModuleType, case: ModuleType) -> None:
    weight = case.Case.random("gptq_v2", 4, 32, 256)

    packed = codecs.ours(weight, "encode")()

    assert all(torch.equal(packed[name], tensor) for name, tensor in weight.stored.items())


def test_who_is_not_installed_is_left_out_with_a_word(
    codecs: ModuleType,
    peers: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def somebody(weight: object) -> Iterator[object]:
        yield from ()
        raise ImportError("no module named somebody")

    monkeypatch.setattr(peers, "PEERS", {"hqq": (somebody,)})

    codecs.main([*SHAPE, "--rounds", "1", "--codecs", "hqq-w4"])

    assert "Left out: somebody (no module named somebody)." in capsys.readouterr().out


def test_targets_are_ten_clones_twice_python_and_once_compiled(codecs: ModuleType) -> None:
    def line(direction: str, ours: float, theirs: float, *, compiled: bool = False) -> str:
        *_, target = codecs.Line("x-w4", direction, [ours], [1.0], "peer", [theirs], compiled).cells
        return target

    assert line("pack", 10.0, 20.0) == "met"
    assert line("pack", 10.1, 20.0) == "over 10 clones, under 2 times"
    assert line("pack", 10.0, 19.9) == "under 2 times"
    assert line("pack", 10.0, 10.0, compiled=True) == "met"
    assert line("pack", 10.0, 9.9, compiled=True) == "under 1 times"
    assert line("decode", 100.0, 200.0) == "met"


@pytest.mark.usefixtures("threads")
def test_every_problem_is_timed(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, unquantized, *_ = kernels.PEERS
    monkeypatch.setattr(kernels, "PEERS", (plain, unquantized))
    monkeypatch.setattr(kernels, "COPIED", 1 << 20)

    kernels.main([*SHAPE, "--rounds", "1"])

    printed = capsys.readouterr().out
    for problem in kernels.PROBLEMS:
        for who in (kernels.OURS, "torch, dequantize then linear", kernels.FLOOR):
            assert f"| {problem} | {who} |" in printed


@pytest.mark.parametrize("family", ["grouped", "codebook", "planes", "integer"])
def test_a_product_with_one_wrong_block_is_not_timed(kernels: ModuleType, family: str) -> None:
    """64 weights of 32768 have their neighbours' places."""
    problem = next(problem for problem in kernels.PROBLEMS if problem.family == family)
    operand = problem.operand(64, 512)

    def swapped(weight: object) -> Iterator[tuple[str, object]]:
        decoded = importlib.import_module("benchmarks.kernel_peers").build_reference(weight)
        decoded[7, 64:128] = decoded[7, 64:128].view(-1, 2).flip(1).flatten()
        yield "swapped", lambda x: torch.nn.functional.linear(x, decoded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "PEERS", (swapped,))
        with pytest.raises(kernels.Different, match=r"swapped is .* off, by norm"):
            kernels.compare(problem, operand, 1, {}, 0.0)


def test_products_that_are_not_numbers_are_not_timed(kernels: ModuleType) -> None:
    x, exact = torch.ones(2, 8), torch.ones(4, 8, dtype=torch.float64)

    kernels.confirm("it", x, torch.full((2, 4), 8.0), exact, None, torch.float32)
    with pytest.raises(kernels.Different, match="it is nan off"):
        kernels.confirm("it", x, torch.full((2, 4), torch.nan), exact, None, torch.float32)


def test_the_packed_bytes_of_a_weight_are_counted(kernels: ModuleType) -> None:
    operand = kernels.Problem("grouped", 4).operand(64, 256)

    codes, scales, zero_points = 64 * 256 // 2, 64 * 2 * 2, 64 * 2
    assert kernels.stored_bytes(operand) == codes + scales + zero_points


def test_weights_move_to_a_device(kernels: ModuleType) -> None:
    moved = kernels.moved(kernels.Problem("codebook", 4).operand(8, 64), "meta")

    assert all(value.is_meta for value in vars(moved).values() if isinstance(value, Tensor))
    assert moved.shape == (8, 64)


@pytest.mark.parametrize(("changes", "widths"), [([0.0, 0.0], 0.0), ([0.5, -0.1], 0.5), ([0.0, -3.0], 3.0)])
def test_an_excess_is_told_in_widths_of_the_band_of_the_layer_that_is_farthest_out(
    changes: list[float], widths: float
) -> None:
    band = importlib.import_module("benchmarks.band")
    before = measured(WEIGHTS, [0.01, 0.02])
    accepted = figure(mean=before.mean, n=2, outcomes=pack(before), spread=(0.1, 0.1), freedom=8)
    file = BaselineFile("m", "cpu", "gptq-w4", {}, {f"{band.TIER} {WEIGHTS}": accepted})
    now = before.outcomes * np.exp(reach(0.1, 8, HONEST / 4) * np.array(changes))
    errors = {str(layer): error for layer, error in enumerate(now)}
    policy = read_policy(band.BASELINES / "policy.toml")
    assert band.excess(file, WEIGHTS, errors, policy) == pytest.approx(widths, abs=1e-5)
