"""What is looked at before any figure: the verdict that nothing, or something else, was quantized."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quantcheck.artifact_facts import OUTPUTS, WEIGHTS, ArtifactFacts
from quantcheck.gate import AcceptedFigure, Bounds, Verdict, judge
from quantcheck.measurement import measurement
from unit.builders import BLOCKS, LAYERS, evidence, facts, layer, measured

UNTOUCHED = {"blocks": BLOCKS, "reference_untouched": True}


def both(**changes: object) -> ArtifactFacts:
    return ArtifactFacts(LAYERS, tuple(layer(name, **changes) for name in LAYERS), **UNTOUCHED)


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (both(differs=False), "every decoded weight equals the full-precision one bit for bit"),
        (both(differs=None), "every decoded weight equals the full-precision one bit for bit"),
        (replace(facts(), reference_untouched=False), "the full-precision model was changed while"),
        (replace(facts(), reference_untouched=None), "the full-precision model was changed while"),
        (
            replace(facts(), outside=("model.image_newline", "model.vision_tower.conv.weight")),
            "model.image_newline, first of 2, is not the full-precision model's, although the spec leaves it",
        ),
        (facts(kernel="fast"), f"{LAYERS[1]}, first of 1, is computed by fast, not with its decoded weight"),
    ],
)
def test_what_was_not_really_quantized_is_red_before_any_figure(artifact: ArtifactFacts, reason: str) -> None:
    found = judge(evidence(artifact=artifact))
    assert found.verdict is Verdict.NOT_QUANTIZED
    assert found.reasons[0].startswith(reason)


def test_layers_are_computed_by_the_kernels_that_were_asked_for() -> None:
    fast = both(kernel="fast")
    assert judge(evidence(artifact=fast, kernels=("slow", "fast"))).verdict is Verdict.PASS
    found = judge(evidence(artifact=facts(kernel="fast"), kernels=("slow", "fast")))
    assert found.verdict is Verdict.NOT_QUANTIZED
    assert found.reasons == (
        f"{LAYERS[0]}, first of 1, is computed by decode, not by slow or fast: it fell back",
    )


@pytest.mark.parametrize("outside", [None, ()])
def test_a_vision_part_that_stayed_as_it_was_or_is_not_there_is_no_fault(outside: tuple[str, ...]) -> None:
    assert judge(evidence(artifact=replace(facts(), outside=outside))).verdict is Verdict.PASS


def test_one_layer_that_rounding_leaves_alone_is_no_fault() -> None:
    assert judge(evidence(artifact=facts(differs=False))).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("outcomes", "verdict"), [([1.0, 2.0], "NOT_QUANTIZED"), ([1.0, 2.0 + 1e-12], "PASS")]
)
def test_a_reference_measured_twice_is_no_quantized_model(outcomes: list[float], verdict: str) -> None:
    found = judge(
        evidence(
            candidate=measured("ppl/web", outcomes),
            reference=measured("ppl/web", [1.0, 2.0]),
            baseline=AcceptedFigure(1.5),
        )
    )
    assert found.verdict == verdict


def test_answers_may_all_be_those_of_the_reference() -> None:
    answers = measured("acc/x", [1.0, 0.0, 1.0])
    found = judge(evidence("acc/x", candidate=answers, reference=answers, baseline=AcceptedFigure(2 / 3)))
    assert found.verdict is not Verdict.NOT_QUANTIZED


def test_one_window_may_be_equal_by_chance() -> None:
    one = measured("ppl/web", [1.0])
    collapsed = Bounds(None, 0.1, "no floor")
    found = judge(evidence(candidate=one, reference=one, baseline=AcceptedFigure(1.0), bounds=collapsed))
    assert found.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("right", "verdict"), [(0.5, "INCONCLUSIVE"), (0.25, "INCONCLUSIVE"), (0.75, "PASS")]
)
def test_a_reference_that_guesses_cannot_tell(right: float, verdict: str) -> None:
    answers = [1.0] * int(400 * right) + [0.0] * (400 - int(400 * right))
    reference = measurement("acc/x", answers, "items", "p", 1, chance=0.5)
    found = judge(evidence("acc/x", candidate=reference, reference=reference, baseline=AcceptedFigure(right)))
    assert found.verdict == verdict
    if verdict == "INCONCLUSIVE":
        assert found.reasons[0].startswith(f"the reference scores {right:g} where guessing scores 0.5")


def test_windows_of_one_document_count_as_one() -> None:
    outcomes = [0.1, 0.1, 0.1, 0.3, 0.3, 0.3]
    alone = evidence(
        "kld/x", candidate=measured("kld/x", outcomes), reference=None, bounds=Bounds(0.35, 9, "")
    )
    together = replace(alone, candidate=measurement("kld/x", outcomes, "items", "p", 1, [7, 7, 7, 2, 2, 2]))
    free, clustered = judge(alone).test, judge(together).test
    assert free is not None
    assert clustered is not None
    assert (free.bound.clusters, clustered.bound.clusters) == (6, 2)
    assert clustered.bound.upper > 2 * free.bound.upper
    assert "6 items in 2 independent groups cannot tell" in judge(together).reasons[-1]


def test_items_that_share_a_passage_count_as_one() -> None:
    reference = measured("acc/x", [1.0] * 60)
    answers, passages = [0.0] * 6 + [1.0] * 54, [at // 6 for at in range(60)]
    candidate = measurement("acc/x", answers, "items", "windows of 512", 1, passages)
    clustered = judge(evidence("acc/x", candidate=candidate, reference=reference)).test
    free = judge(evidence("acc/x", candidate=measured("acc/x", answers), reference=reference)).test
    assert free is not None
    assert clustered is not None
    assert clustered.bound.clusters == 10
    assert clustered.bound.upper > free.bound.upper


def test_the_artifact_is_known_by_all_that_was_stored() -> None:
    assert facts().digest == facts().digest
    assert len({facts().digest, facts(digest="0").digest, replace(facts(), beside="gains").digest}) == 3


def test_errors_are_told_by_layer_and_by_block() -> None:
    assert facts(weight_error=None).errors(WEIGHTS) == {LAYERS[0]: 0.01}
    assert facts().errors(OUTPUTS) == {"model.layers.0": 0.02, "model.layers.1": 0.04}
