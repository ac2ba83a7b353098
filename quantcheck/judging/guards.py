"""What is looked at before any figure: was anything quantized, as asked for, and is every number finite?"""

from __future__ import annotations

import math

import numpy as np

from quantcheck.artifact_facts import DECODE, ArtifactFacts
from quantcheck.judging.evidence import Evidence
from quantcheck.measurement import Measurement, pairs

# Methods that mix widths come out near their nominal bits, not on them: BiLLM, called 1.1 bits, stores 1 bit
# and a second one for at most 49 of 128 columns, 1.38.
NOMINAL_SLACK = 0.3


def not_quantized(evidence: Evidence) -> str | None:
    """Why the figures are not those of a model quantized by the spec; ``None`` where they are."""
    artifact = evidence.artifact
    if artifact is None or not artifact.layers:
        return "nothing was quantized: the model holds no quantized layer"
    return (
        _left_out(artifact)
        or _strayed(artifact)
        or _other_width(artifact, evidence.bits, evidence.act_bits)
        or _other_computation(artifact, evidence.kernels)
        or _same_outputs(evidence.candidate, evidence.reference)
    )


def non_finite(evidence: Evidence) -> str | None:
    """Why there is no finite difference to judge; ``None`` where there is one."""
    assert evidence.artifact is not None
    if not evidence.artifact.finite:
        return "the artifact decodes to NaN or Inf"
    if evidence.candidate is None:
        return "the metric produced no figure: it vanished, or its code returned nothing for this model"
    for who, measured in (("quantized model", evidence.candidate), ("reference", evidence.reference)):
        if measured is not None and not (math.isfinite(measured.value) and math.isfinite(measured.mean)):
            return f"the {who}'s figure is {measured.value} over {measured.n} items"
    if not pairs(evidence.candidate, evidence.reference):
        return "the reference has no figure on the same items: there is no difference to judge"
    return None


def _left_out(artifact: ArtifactFacts) -> str | None:
    if missing := artifact.unquantized:
        expected = len(artifact.expected_layers)
        return f"{len(missing)} of {expected} decoder Linears are not quantized, {missing[0]} first"
    if not artifact.decoded:
        return "the weights that the model computes with are not what its stored tensors decode to"
    if not artifact.levels_respected:
        return "a group of weights has more levels than its width can tell apart"
    if not artifact.differs:
        return "every decoded weight equals the full-precision one bit for bit: nothing was rounded"
    return None


def _strayed(artifact: ArtifactFacts) -> str | None:
    """The vision tower and all else that a multimodal model's spec leaves alone must stay as they were."""
    if not artifact.outside:
        return None
    return (
        f"{artifact.outside[0]}, first of {len(artifact.outside)}, is not the full-precision model's, "
        "although the spec leaves it alone"
    )


def _other_width(artifact: ArtifactFacts, bits: float | None, act_bits: int | None) -> str | None:
    if bits is None:
        return None
    if not abs(artifact.nominal_bits - bits) <= NOMINAL_SLACK:
        return f"{artifact.nominal_bits:.4g} bits a weight are stored where the spec asks for {bits:g}"
    others = artifact.without_activations(act_bits)
    if not others:
        return None
    asked = "in floating point" if act_bits is None else f"rounded to {act_bits} bits"
    return f"{others[0]}, first of {len(others)}, does not take its inputs {asked} as the spec asks"


def _other_computation(artifact: ArtifactFacts, kernels: tuple[str, ...]) -> str | None:
    if artifact.reference_untouched is not True:
        return "the full-precision model was changed while it was quantized: it is no reference any more"
    others = [layer for layer in artifact.layers if layer.kernel not in (kernels or (DECODE,))]
    if not others:
        return None
    asked = f"by {' or '.join(kernels)}" if kernels else "with its decoded weight"
    first = others[0]
    return f"{first.name}, first of {len(others)}, is computed by {first.kernel}, not {asked}: it fell back"


def _same_outputs(candidate: Measurement | None, reference: Measurement | None) -> str | None:
    """Windows' figures are sums of thousands of floats: they agree to the last bit for one model only."""
    if candidate is None or reference is None or candidate.kind.name != "ppl":
        return None
    if candidate.n < 2 or not np.array_equal(candidate.outcomes, reference.outcomes):
        return None
    return (
        f"all {candidate.n} outcomes equal the reference's to the last bit: the reference was measured twice"
    )
