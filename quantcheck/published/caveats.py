"""What to know before a run is compared with the study's figures: caveats, their effects, where they hold.

A caveat holds for a figure when its predicate does; predicates are evaluated once, when the files are made,
and read the figures wherever these show what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantcheck.published.bound import AVERAGE
from quantcheck.published.figures import FULL_PRECISION, Caveat, Effect, PublishedFigure, half_unit

MAGNITUDE_FROM = 100.0  # perplexities are printed with two digits from here
AT_CHANCE = 37.0  # two points above what guessing scores on the five tasks
COLLAPSED_FROM = 1e3
OVERFITTED = 10.0
TEXT_LIMITS: dict[float, float] = {4: 2.0, 3: 20.75}  # per cent lost at most, says the text, at these widths
FOREIGN = ("OmniQuant", "I-LLM", "SpinQuant")
UNIFORM = ("RTN", "GPTQ", "AWQ", "QuIP")
OWN = ("SliM-LLM", "BiLLM", "IR-QLoRA", "DB-LLM")


@dataclass(frozen=True)
class Scene:
    """A figure among the figures of its model."""

    model: str
    figure: PublishedFigure
    figures: Sequence[PublishedFigure]

    @property
    def kind(self) -> str:
        """The metric's kind."""
        return self.figure.metric.partition("/")[0]

    @property
    def quantized(self) -> bool:
        """Whether it is not a full-precision figure."""
        return self.figure.method != FULL_PRECISION

    def beside(self, metric: str) -> float | None:
        """Another figure of the same row, an average as recomputed."""
        for other in self.figures:
            if (other.row, other.metric) == (self.figure.row, metric):
                return other.value if other.recomputed is None else other.recomputed
        return None

    def full_precision(self) -> float | None:
        """The full-precision figure of the same table and metric."""
        wanted = (self.figure.table, self.figure.metric, FULL_PRECISION)
        found = (f.value for f in self.figures if (f.table, f.metric, f.method) == wanted)
        return next(found, None)


def _order_of_magnitude(scene: Scene) -> bool:
    value = scene.figure.value
    return value is None or (scene.kind == "ppl" and value >= MAGNITUDE_FROM)


def _at_chance(scene: Scene) -> bool:
    if scene.kind != "acc" or (average := scene.beside(AVERAGE)) is None:
        return False
    perplexity = scene.beside("ppl/wikitext2")
    return average < AT_CHANCE or (perplexity is not None and perplexity >= COLLAPSED_FROM)


def _below_chance(scene: Scene) -> bool:
    return scene.figure.metric == "acc/arc_challenge" and (scene.figure.value or 0) < 25


def _fitted(scene: Scene) -> bool:
    if (scene.figure.method, scene.figure.metric) != ("GPTQ", "ppl/wikitext2"):
        return False
    own, other = scene.figure.value, scene.beside("ppl/c4")
    return own is not None and other is not None and other > OVERFITTED * own


def _off_average(scene: Scene) -> float:
    """How far a printed average is from that of the printed parts, in half units of its last digit."""
    figure = scene.figure
    if figure.recomputed is None or figure.value is None or figure.rounding is None:
        return 0.0
    return round(abs(figure.value - figure.recomputed) / figure.rounding, 3)


def _printed_otherwise(scene: Scene) -> bool:
    value, rounding = scene.figure.value, scene.figure.rounding
    if value is None or rounding is None:
        return False
    apart = ((abs(float(text) - value), half_unit(text)) for _, text in scene.figure.elsewhere)
    return any(distance > rounding + half for distance, half in apart)


def _outside_the_text(scene: Scene) -> bool:
    limit, full, value = TEXT_LIMITS.get(scene.figure.bits), scene.full_precision(), scene.figure.value
    if scene.kind != "score" or limit is None or full is None or value is None:
        return False
    return 100 * (1 - value / full) > limit


def _twin(scene: Scene) -> bool:
    figure = scene.figure
    return scene.kind == "score" and any(
        (other.metric, other.bits, other.printed) == (figure.metric, figure.bits, figure.printed)
        and other.method != figure.method
        and figure.value is not None
        for other in scene.figures
    )


Predicate = Callable[[Scene], bool]


def _listed() -> tuple[tuple[str, Effect, Predicate, str], ...]:
    return (
        (
            "rounding",
            Effect.NOTE,
            lambda s: s.kind == "ppl",
            "one decimal below 100, two digits from there: near full precision, rounding alone is .8 % on 8B "
            "and 1.7 % on 70B",
        ),
        (
            "window",
            Effect.NOTE,
            lambda s: s.kind == "ppl",
            "windows of 2048 tokens: LLaMA3-8B measures 5.76 at 4096 and 5.54 at 8192, so that only ratios "
            "to the own full precision compare",
        ),
        (
            "in_domain",
            Effect.NOTE,
            lambda s: s.figure.metric == "ppl/wikitext2" and s.figure.method not in (FULL_PRECISION, "RTN"),
            "methods were calibrated on the training part of the same corpus",
        ),
        (
            "corpus",
            Effect.EXCLUDED,
            lambda s: s.figure.metric in ("ppl/c4", "ppl/ptb"),
            "each method's repository evaluates a subset of its own: AWQ at 8 bits is printed below full "
            "precision; compares neither among methods nor with full precision",
        ),
        (
            "rtn_too_bad",
            Effect.SUSPECT,
            lambda s: s.model != "llava-next-8b" and s.figure.method == "RTN" and s.figure.bits <= 4,
            "RTN at 4 bits, groups of 128, costs 39 % on LLaMA3-8B here, 7 % on LLaVA with the same backbone "
            "and about 10 % elsewhere: a sane RTN beats these rows, one that meets them is suspect itself",
        ),
        (
            "order_of_magnitude",
            Effect.MAGNITUDE,
            _order_of_magnitude,
            "the model has collapsed; how far is chance, and two digits at most are printed",
        ),
        (
            "collapses_everywhere",
            Effect.NOTE,
            lambda s: s.figure.method in ("RTN", "AWQ") and s.figure.bits == 2,
            "RTN and AWQ collapse at 2 bits on every model of the study, other methods do not; no cause is "
            "given",
        ),
        (
            "fitted",
            Effect.NOTE,
            _fitted,
            "ten times lower than on C4 or more: fitted to the corpus it was calibrated on",
        ),
        (
            "at_chance",
            Effect.MAGNITUDE,
            _at_chance,
            "the row answers as guessing does: an average below 37, where guessing makes 35, or a "
            "perplexity of 1000",
        ),
        (
            "below_chance",
            Effect.NOTE,
            _below_chance,
            "plain accuracy of ARC-challenge falls below the 25 of guessing",
        ),
        (
            "per_channel",
            Effect.NOTE,
            lambda s: s.figure.method in UNIFORM and s.figure.group_size is None,
            "one scale a row: at 3 bits, groups of 128 change more than the method does; rows of 8 bits and "
            "of QuIP exist in this form only",
        ),
        (
            "nominal_bits",
            Effect.NOTE,
            lambda s: s.figure.method in ("PB-LLM", "BiLLM", "SliM-LLM"),
            "the width is of codes alone, or an average of several: masks, scales, zero points come on top",
        ),
        (
            "average_off",
            Effect.NOTE,
            lambda s: 1 < _off_average(s) <= 2,
            "the printed average is a unit of its last digit off that of the printed figures, as rounding "
            "the parts can make it; the recomputed one counts",
        ),
        (
            "average_wrong",
            Effect.NOTE,
            lambda s: _off_average(s) > 2,
            "the printed average is not that of the printed figures; the recomputed one counts",
        ),
        (
            "other_accuracy",
            Effect.EXCLUDED,
            lambda s: s.figure.method == "SpinQuant" and s.kind == "acc",
            "above full precision on ARC-challenge and HellaSwag: by all appearances acc_norm, copied from "
            "the method's own paper",
        ),
        (
            "copied",
            Effect.EXCLUDED,
            lambda s: s.figure.method in FOREIGN and s.kind == "ppl",
            "by all appearances copied from the method's own paper, of another evaluation",
        ),
        (
            "column_inferred",
            Effect.NOTE,
            lambda s: s.figure.method in FOREIGN and s.kind == "ppl",
            "the row has dashes, and which column the figure belongs to was inferred",
        ),
        (
            "printed_otherwise",
            Effect.WIDENS,
            _printed_otherwise,
            "the authors print another value in another place, beyond rounding; the bound spans both",
        ),
        (
            "outside_the_text",
            Effect.NOTE,
            _outside_the_text,
            "the text claims a smaller loss at this width than the table shows (2 % at 4 bits, 20.75 % at 3)",
        ),
        (
            "twin",
            Effect.EXCLUDED,
            _twin,
            "another method of this width has the very same figure: one of the two may be a copy",
        ),
        (
            "mme",
            Effect.EXCLUDED,
            lambda s: s.figure.metric.startswith("score/mme_"),
            "points, not a share of items: small, noisy and without an error to state",
        ),
        (
            "splits",
            Effect.NOTE,
            lambda s: s.kind == "score",
            "neither toolkit nor split nor number of runs is stated",
        ),
        (
            "recipe",
            Effect.NOTE,
            lambda s: s.figure.method in ("QLoRA", "IR-QLoRA") and s.kind == "acc",
            "fine-tuned on Alpaca with hyper-parameters that are not printed",
        ),
        (
            "hardware",
            Effect.EXCLUDED,
            lambda s: s.kind == "cost",
            "time, memory and speed of one machine",
        ),
        (
            "speed_outside_the_text",
            Effect.NOTE,
            lambda s: s.figure.metric == "cost/speed_token_per_s" and (s.figure.value or 0) > 80,
            "the text speaks of 50 to 80 tokens a second",
        ),
        (
            "single_run",
            Effect.NOTE,
            lambda s: s.quantized and s.kind != "cost",
            "one run, no error bars: a single run's noise is part of the bound",
        ),
        (
            "own_method",
            Effect.NOTE,
            lambda s: s.figure.method in OWN,
            "the method is by authors of the study",
        ),
    )


RULES = tuple((Caveat(name, effect, text), holds) for name, effect, holds, text in _listed())


def caveats_of(model: str, figure: PublishedFigure, figures: Sequence[PublishedFigure]) -> tuple[Caveat, ...]:
    """The caveats that hold for a figure among the figures of its model."""
    scene = Scene(model, figure, figures)
    return tuple(caveat for caveat, holds in RULES if holds(scene))
