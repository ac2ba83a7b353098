"""What a method promises about a whole model: layers, files, figures, and what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

from quantcheck.contracts.base import (
    Contract,
    assert_sound,
    differing,
    examples,
    logits_of,
    made,
    same,
    where,
)
from quantcheck.errors import QuantcheckError, QuantizationError, SpecError
from quantcheck.judging.guards import NOMINAL_SLACK
from quantcheck.methods.activations import ActivationQuantizer
from quantcheck.methods.artifact import Artifact, inspect
from quantcheck.methods.linear import QuantizedLinear
from quantcheck.methods.parts.walk import decoder_linears
from quantcheck.spec import QuantSpec
from quantcheck.strategies import TinyLlama, damaged, odd_models

SHAPES = 3
ORDER_SHARE = 0.1
"""How much of a model's quantization error another order of the calibration windows may move."""
WORSE = 1.05
"""How many times the error at fewer bits the error at more bits may be."""


class ModelPromises(Contract):
    """The tests on tiny models; see `quantcheck.contracts.MethodContract`."""

    def test_progress_is_told_of_every_linear_once(self, spec: str) -> None:
        """Counted from 1 to the total, each Linear once; a method that is ``tuned`` may count its steps."""
        found = made(type(self), spec)
        linears = sorted(decoder_linears(found.original))
        names = sorted(name for name, _, _ in found.told)
        assert names == linears or (names and self.capabilities().tuned), (
            f"{spec}: progress was told of {names}, not once of each of {linears}"
        )
        counted = [(done, total) for _, done, total in found.told]
        expected = [(done, len(names)) for done in range(1, len(names) + 1)]
        assert counted == expected, f"{spec}: progress was counted {counted}"

    def test_every_linear_is_stored_as_plain_finite_tensors(self, spec: str) -> None:
        """Every decoder Linear is there; what it decodes to is finite, what it stores can be shipped."""
        found = made(type(self), spec)
        linears = decoder_linears(found.original)
        assert found.artifact.weights.keys() == linears.keys(), (
            f"{spec}: not every decoder Linear was returned"
        )
        for name, packed in found.artifact.weights.items():
            case = f"{spec}: {name} {packed.shape}"
            decoded = packed.decode()
            assert decoded.dtype == torch.float32, f"{case} decodes to {decoded.dtype}"
            assert decoded.shape == linears[name].weight.shape, f"{case} decodes to {tuple(decoded.shape)}"
            assert torch.isfinite(decoded).all(), f"{case} decodes to NaN or Inf"
            for key, tensor in packed.tensors().items():
                assert "." not in key, f"{case} stores {key}: a name with a dot"
                assert tensor.is_contiguous(), f"{case} stores {key} with strides {tensor.stride()}"
                assert not tensor.requires_grad, f"{case} stores {key} with a gradient"

    def test_the_same_seed_gives_the_same_bits(self, spec: str) -> None:
        """Whatever the ambient random state is, and whatever was quantized before."""
        found, recipe = made(type(self), spec), self.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1234)
            again = self.quantize(recipe.build(), spec, recipe.windows())
        difference = differing(found.artifact, again)
        assert not difference, f"{spec}: two runs with one seed differ in {difference}"

    def test_what_is_saved_is_loaded_bit_for_bit(self, spec: str, tmp_path: Path) -> None:
        """An artifact and its file say the same, down to the bytes of a second file."""
        artifact = made(type(self), spec).artifact
        artifact.save(tmp_path / "first")
        loaded = Artifact.load(tmp_path / "first")
        loaded.save(tmp_path / "second")
        difference = differing(artifact, loaded)
        assert not difference, f"{spec}: saved and loaded, the artifact differs in {difference}"
        for name, packed in artifact.weights.items():
            assert same(packed.decode(), loaded.weights[name].decode()), (
                f"{spec}: saved and loaded, {name} {packed.shape} decodes to something else"
            )
            assert packed.nominal_bits == loaded.weights[name].nominal_bits, (
                f"{spec}: saved and loaded, {name} has other nominal bits"
            )
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes(), (
            f"{spec}: the loaded artifact is saved as other bytes"
        )

    def test_stored_bits_are_the_bytes_of_the_file(self, spec: str, tmp_path: Path) -> None:
        """Nothing that is shipped goes uncounted: packed weights, adapters, parameters."""
        artifact = made(type(self), spec).artifact
        artifact.save(tmp_path / "artifact")
        file = (tmp_path / "artifact").read_bytes()
        payload = len(file) - 8 - int.from_bytes(file[:8], "little")
        counted = sum(packed.stored_bits for packed in artifact.weights.values()) / 8
        counted += sum(adapter.stored_bits for adapter in artifact.adapters.values()) / 8
        counted += sum(tensor.nbytes for tensor in artifact.parameters.values())
        assert counted == payload, f"{spec}: {counted:g} bytes are counted, {payload} are stored"

    def test_nominal_bits_are_those_of_the_spec(self, spec: str) -> None:
        """Near the spec's width, as the gates ask, and never above what is stored."""
        artifact, asked = made(type(self), spec).artifact, QuantSpec.parse(spec).bits
        assert abs(artifact.nominal_bits - asked) <= NOMINAL_SLACK, (
            f"{spec}: {artifact.nominal_bits:g} nominal bits a weight, the spec asks for {asked:g}"
        )
        for name, packed in artifact.weights.items():
            stored = packed.stored_bits / math.prod(packed.shape)
            assert packed.nominal_bits <= stored, (
                f"{spec}: {name} {packed.shape} has {packed.nominal_bits:g} nominal bits a weight "
                f"and stores only {stored:g}"
            )

    def test_weights_take_no_more_levels_than_codes_can_tell_apart(self, spec: str) -> None:
        """``levels_respected`` holds for what is stored."""
        for name, packed in made(type(self), spec).artifact.weights.items():
            assert packed.levels_respected(packed.decode()), (
                f"{spec}: {name} {packed.shape} decodes to more levels a group than its codes can tell apart"
            )

    @where(lambda contract: bool(contract.narrow()))
    def test_float_weights_are_seen_not_to_be_quantized(self, narrow: str) -> None:
        """``levels_respected`` does not hold for weights that nobody quantized."""
        found = made(type(self), narrow)
        linears = decoder_linears(found.original)
        for name, packed in found.artifact.weights.items():
            assert not packed.levels_respected(linears[name].weight.detach()), (
                f"{narrow}: {name} {packed.shape} takes the float weights for quantized ones"
            )

    def test_the_model_computes_with_what_is_stored(self, spec: str) -> None:
        """Every decoder Linear multiplies by what its tensors decode to, and logits are finite."""
        found, recipe = made(type(self), spec), self.model
        model = found.artifact.apply(recipe.build())
        facts = inspect(model)
        assert not facts.unquantized, f"{spec}: {facts.unquantized} are not quantized"
        assert facts.decoded, f"{spec}: a Linear computes with other weights than it stores"
        parsed = QuantSpec.parse(spec)
        activation = ActivationQuantizer.of(parsed)
        for name, packed in found.artifact.weights.items():
            linear = cast("QuantizedLinear", model.get_submodule(name))
            inputs = torch.randn(2, 3, packed.shape[1], generator=torch.Generator().manual_seed(0))
            rounded = inputs if activation is None else activation(inputs)
            expected = F.linear(rounded, packed.decode(), linear.bias)
            if name in found.artifact.adapters:
                expected = expected + found.artifact.adapters[name].to(rounded)(rounded)
            outputs = ActivationQuantizer.of_outputs(parsed, name)
            expected = expected if outputs is None else outputs(expected)
            assert same(linear(inputs), expected), f"{spec}: {name} {packed.shape} computes something else"
        assert torch.isfinite(logits_of(model, recipe)).all(), (
            f"{spec}: the quantized model's logits are not finite"
        )

    def test_nothing_else_of_the_model_changes(self, spec: str) -> None:
        """What the method altered beside the decoder Linears' weights is reported, and shipped."""
        found, recipe = made(type(self), spec), self.model
        quantized = {f"{name}.weight" for name in decoder_linears(found.original)}
        before, left = dict(found.original.named_parameters()), dict(found.altered.named_parameters())
        applied = dict(found.artifact.apply(recipe.build()).named_parameters())
        for name in sorted(before.keys() - quantized - found.artifact.parameters.keys()):
            assert name not in left or same(left[name], before[name]), (
                f"{spec}: {name} was changed and is not reported in Quantized.parameters"
            )
            assert same(applied[name], before[name]), f"{spec}: {name} is another in the quantized model"
        for name, tensor in found.artifact.parameters.items():
            assert same(applied[name], tensor.to(applied[name].dtype)), (
                f"{spec}: {name} is not what is stored"
            )

    def test_what_is_not_quantized_stays_as_it_was(self, spec: str) -> None:
        """Another model answers bit for bit as before; calibration data, random and global state are kept."""
        recipe = self.model
        model, windows = recipe.build(), recipe.windows()
        logits, state, modes = logits_of(model, recipe), torch.get_rng_state(), _modes()
        self.quantize(recipe.build(), spec, windows)
        assert torch.equal(windows, recipe.windows()), f"{spec}: the calibration windows were written to"
        assert torch.equal(torch.get_rng_state(), state), f"{spec}: the ambient random state moved on"
        assert _modes() == modes, (
            f"{spec}: dtype, grad mode or determinism is left as {_modes()}, was {modes}"
        )
        assert same(logits_of(model, recipe), logits), (
            f"{spec}: a model that was not quantized answers differently"
        )

    def test_sixteen_bits_are_refused_or_the_identity(self, spec: str) -> None:
        """Of weights and of activations: a method never does something in between in silence."""
        parsed, recipe = QuantSpec.parse(spec), self.model
        wide = replace(parsed, bits=16.0)
        if self.refuses(wide):
            with pytest.raises(SpecError):
                self.quantize(recipe.build(), wide, recipe.windows())
        else:
            kept = self.quantize(recipe.build(), wide, recipe.windows(), scale_dtype=torch.float32)
            for name, linear in decoder_linears(recipe.build()).items():
                assert same(kept.weights[name].decode(), linear.weight), f"{wide}: {name} is not the identity"
        rounded, floating = replace(parsed, act_bits=16), replace(parsed, act_bits=None)
        if self.refuses(rounded):
            with pytest.raises(SpecError):
                self.quantize(recipe.build(), rounded, recipe.windows())
        elif not self.refuses(floating):
            logits = [
                logits_of(self.quantize(recipe.build(), each, recipe.windows()).apply(recipe.build()), recipe)
                for each in (rounded, floating)
            ]
            assert same(*logits), f"{spec}: 16 activation bits are not the identity"

    def test_half_precision_models_are_served(self, spec: str) -> None:
        """A bfloat16 checkpoint is quantized and computes on in bfloat16."""
        recipe = self.model
        artifact = self.quantize(recipe.build(torch.bfloat16), spec, recipe.windows())
        model = artifact.apply(recipe.build(torch.bfloat16))
        logits = logits_of(model, recipe)
        assert logits.dtype == torch.bfloat16, f"{spec}: a bfloat16 model answers in {logits.dtype}"
        assert inspect(model).really_quantized, f"{spec}: a bfloat16 model is not really quantized"
        assert torch.isfinite(logits).all(), f"{spec}: the logits of a bfloat16 model are not finite"

    def test_a_damaged_model_is_an_error_or_finite(self, spec: str, damage: str) -> None:
        """An error that names the layer, or weights as finite as ever: never NaN, never a crash."""
        recipe = replace(self.model, blocks=1)
        self._error_or_sound(damaged(recipe, damage), spec, recipe.windows(), f"{damage} in {recipe}")

    def test_a_handful_of_tokens_is_an_error_or_enough(self, spec: str) -> None:
        """Two tokens, far fewer than columns: an error that names the layer, or finite weights."""
        recipe = replace(self.model, blocks=1)
        self._error_or_sound(recipe.build(), spec, recipe.windows()[:1, :2], f"two tokens for {recipe}")

    @examples(SHAPES)
    @given(recipe=odd_models())
    def test_a_model_of_any_shape_is_an_error_or_sound(self, spec: str, recipe: TinyLlama) -> None:
        """Tails, primes, fewer columns than a group."""
        self._error_or_sound(recipe.build(), spec, recipe.windows(), str(recipe))

    @where(lambda contract: contract.calibration_order_free)
    def test_the_order_of_calibration_windows_hardly_matters(self, spec: str) -> None:
        """The weights move by a small share of their quantization error."""
        found, recipe = made(type(self), spec), self.model
        order = torch.randperm(len(recipe.windows()), generator=torch.Generator().manual_seed(0))
        other = self.quantize(recipe.build(), spec, recipe.windows()[order])
        moved = lost = 0.0
        for name, linear in decoder_linears(found.original).items():
            decoded = found.artifact.weights[name].decode()
            moved += float((other.weights[name].decode() - decoded).square().sum())
            lost += float((linear.weight.detach() - decoded).square().sum())
        assert moved <= ORDER_SHARE**2 * lost, (
            f"{spec}: another order of the windows moves the weights by {math.sqrt(moved / lost):.2g} "
            "of their error"
        )

    @where(lambda contract: contract.adapted)
    def test_an_adapter_whose_b_is_zero_changes_nothing(self, spec: str) -> None:
        """Each Linear has an adapter; with B = 0 the logits are those without adapters, bit for bit."""
        artifact, recipe = made(type(self), spec).artifact, self.model
        assert artifact.adapters.keys() == artifact.weights.keys(), f"{spec}: not every Linear has an adapter"
        silent = {
            name: replace(adapter, lora_b=torch.zeros_like(adapter.lora_b))
            for name, adapter in artifact.adapters.items()
        }
        with_zero, without = (
            logits_of(replace(artifact, adapters=adapters).apply(recipe.build()), recipe)
            for adapters in (silent, {})
        )
        assert same(with_zero, without), f"{spec}: adapters with B = 0 change the logits"

    @where(lambda contract: bool(contract.widths))
    def test_more_bits_are_not_much_worse(self) -> None:
        """The relative error of the logits, at each width against the width before."""
        reference = logits_of(self.model.build(), self.model)
        errors = []
        for spec in self.widths:
            artifact = self.quantize(self.model.build(), spec, self.model.windows())
            logits = logits_of(artifact.apply(self.model.build()), self.model)
            errors.append(float((logits - reference).norm() / reference.norm()))
        table = ", ".join(f"{spec} {error:.3g}" for spec, error in zip(self.widths, errors, strict=True))
        for fewer, more in pairwise(errors):
            assert more <= WORSE * fewer, f"more bits are worse: {table}"

    def _error_or_sound(self, model: nn.Module, spec: str, windows: Tensor, case: str) -> None:
        shapes = {
            name: (each.out_features, each.in_features) for name, each in decoder_linears(model).items()
        }
        try:
            artifact = self.quantize(model, spec, windows)
        except QuantizationError as error:
            assert "model.layers." in str(error) or not self.layerwise(), (
                f"{spec}: for {case}, the error names no layer: {error}"
            )
            return
        except QuantcheckError:
            return
        for name, shape in shapes.items():
            assert_sound(artifact.weights[name], shape, f"{spec}: for {case}, {name}")


def _modes() -> tuple[object, ...]:
    return torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
