"""Options, each once, as data: ``--quantcheck-<name>`` on the command line, ``quantcheck_<name>`` in ini."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantcheck.errors import QuantcheckError
from quantcheck.plan import TIERS
from quantcheck.spec import BUILTIN, ModelSpec

if TYPE_CHECKING:
    from quantcheck.report.writer import ReportTarget

DEFAULT_SEED = 20240414


@dataclass(frozen=True)
class Option:
    """One option; ``many`` ones may be repeated, a list in the ini file; of flags, it takes the ``kept``."""

    name: str
    help: str
    metavar: str | None = None
    default: str | None = None
    choices: tuple[str, ...] = ()
    many: bool = False
    flag: bool = False
    kept: bool = False

    @property
    def dest(self) -> str:
        """The ini key and the attribute of ``config.option``."""
        return f"quantcheck_{self.name.replace('-', '_')}"


OPTIONS = (
    Option("list", "print the gates that would run, with their marks, and exit", flag=True),
    Option("tier", "how much to measure (default: smoke)", "TIER", "smoke", TIERS),
    Option(
        "model",
        f"full-precision model to quantize and gate: a folder or a hub id, "
        f"[NAME=]PATH_OR_HUB_ID[@revision]; repeatable (default: {BUILTIN})",
        "MODEL",
        many=True,
    ),
    Option(
        "specs",
        "only these specs, codecs and kernels: globs over their ids, comma-separated; a spec without "
        "wildcards is added even if the tier leaves it out",
        "GLOB[,GLOB]",
    ),
    Option("methods", "only these methods: globs, comma-separated", "GLOB[,GLOB]"),
    Option(
        "text",
        "UTF-8 file to measure perplexity and KL divergence on; repeatable; needed by models other than the "
        "built-in one",
        "FILE",
        many=True,
    ),
    Option(
        "text-separator",
        "string between documents in the text files (default: the whole file is one document)",
        "STRING",
    ),
    Option(
        "text-bos",
        "where the BOS token goes: 'document' (before each, default), 'first' or 'none'",
        "RULE",
        "document",
    ),
    Option(
        "windows", "number of contiguous windows to measure (default: as many as the tier says, or all)", "N"
    ),
    Option(
        "window", "tokens in a window (default: 2048, or the model's context where that is shorter)", "TOKENS"
    ),
    Option(
        "calibration",
        "UTF-8 file for methods that calibrate, read by the same separator and BOS rule; must not share "
        "windows with the texts",
        "FILE",
    ),
    Option(
        "calibration-images",
        "file of pictures with texts, JSON lines of id, image and text, on which methods calibrate a LLaVA "
        "instead",
        "FILE",
    ),
    Option(
        "calibration-windows",
        "number of calibration windows (default: 128; built-in model 16, 64 and 128 by tier), or of pictures "
        "with texts (default: all of the file)",
        "N",
    ),
    Option(
        "instructions",
        "file in the Alpaca format, JSON or JSON lines, for methods that are fine-tuned; the built-in model "
        "brings its own",
        "FILE",
    ),
    Option(
        "baselines",
        "folder of accepted figures (default: baselines/ below the root folder; packaged ones are a "
        "fallback)",
        "DIR",
    ),
    Option("cache", "folder of the disk cache, or 'off' for a cache that ends with the run", "DIR|off"),
    Option(
        "device",
        "where models run (default: cuda if there is one)",
        "DEVICE",
        "auto",
        ("auto", "cpu", "cuda"),
    ),
    Option(
        "dtype",
        "computing dtype (default: float32 on the CPU, the checkpoint's own on a GPU)",
        "DTYPE",
        "auto",
        ("auto", "float32", "bfloat16", "float16"),
    ),
    Option(
        "kernels",
        "registered kernels to compute quantized layers by, comma-separated; the first that takes a layer's "
        "weight does (default: torch's own product with the decoded weight)",
        "NAME[,NAME]",
    ),
    Option(
        "require",
        "fail at once unless this is there: 'cuda', or the name of a Python package; repeatable",
        "WHAT",
        many=True,
    ),
    Option("seed", f"of everything random (default: {DEFAULT_SEED})", "N", str(DEFAULT_SEED)),
    Option("report", "write a report, KIND:PATH with KIND json; repeatable", "KIND:PATH", many=True),
    Option(
        "progress",
        "progress line on long work (default: on a terminal)",
        "WHEN",
        "auto",
        ("auto", "on", "off"),
    ),
    Option(
        "inconclusive",
        "whether a gate that cannot tell fails, or warns while exploring at a desk (default: fail)",
        "WHAT",
        "fail",
        ("fail", "warn"),
    ),
    Option(
        "recalibrations",
        "how often a calibrated method is calibrated anew, with other samples, when its figures are "
        "accepted: that measures their noise, below which no gate makes a claim; 0 leaves it out (default: "
        "4)",
        "N",
        "4",
    ),
    Option(
        "sequential",
        "measure items in random order and stop as soon as a gate is decided (needs accepted figures)",
        flag=True,
        kept=True,
    ),
    Option("update-in-ci", "let --snapshot-update accept baselines although CI is set", flag=True),
    Option(
        "reason",
        "why --snapshot-update accepts these figures, for the changelog beside them (default: not given)",
        "TEXT",
    ),
    Option(
        "release",
        "this run decides a release: refuse --snapshot-update and gates that only warn",
        flag=True,
    ),
)


@dataclass(frozen=True)
class Settings:
    """The options of a run, checked; see `OPTIONS` for what each means."""

    tier: str
    models: tuple[ModelSpec, ...]
    specs: tuple[str, ...]
    methods: tuple[str, ...]
    texts: tuple[Path, ...]
    text_separator: str | None
    text_bos: str
    windows: int | None
    window: int | None
    calibration: Path | None
    calibration_images: Path | None
    calibration_windows: int | None
    instructions: Path | None
    baselines: Path
    cache: str | None
    device: str
    dtype: str
    kernels: tuple[str, ...]
    require: tuple[str, ...]
    seed: int
    reports: tuple[ReportTarget, ...]
    progress: str
    inconclusive: str
    recalibrations: int
    sequential: bool
    update: bool
    update_in_ci: bool
    reason: str | None
    release: bool

    @property
    def baseline_folders(self) -> tuple[Path, ...]:
        """Where accepted figures are looked up, in this order; only the first is ever written to."""
        packaged = _packaged("baselines")
        return (self.baselines, *([packaged] if packaged.resolve() != self.baselines.resolve() else []))


def add_options(parser: pytest.Parser) -> None:
    """Register every option with pytest, on the command line and in the ini file."""
    group = parser.getgroup("quantcheck", "quantcheck: gates for quantized models")
    for option in OPTIONS:
        flag = f"--quantcheck-{option.name}"
        if option.flag:
            group.addoption(flag, action="store_true", dest=option.dest, default=False, help=option.help)
            if option.kept:
                parser.addini(option.dest, option.help, type="bool", default=False)
            continue
        extra: dict[str, Any] = {"choices": option.choices} if option.choices else {}
        action = "append" if option.many else "store"
        group.addoption(
            flag,
            action=action,
            dest=option.dest,
            metavar=option.metavar,
            help=option.help,
            default=None,
            **extra,
        )
        if option.many:
            parser.addini(option.dest, option.help, type="args", default=[])
        else:
            parser.addini(option.dest, option.help, type="string", default="")


def given_on_command_line(config: pytest.Config) -> bool:
    """Whether any option of quantcheck's was given there, as opposed to the ini file."""
    return any(config.getoption(option.dest, default=None) for option in OPTIONS)


def read_settings(config: pytest.Config) -> Settings:
    """Check the options of this run.

    Raises:
        QuantcheckError: a value that cannot be used.
    """
    from quantcheck.report.writer import ReportTarget

    given = {option.name: _given(config, option) for option in OPTIONS}
    values = {option.name: given[option.name] or option.default for option in OPTIONS}
    models = tuple(ModelSpec.parse(text) for text in values["model"] or (BUILTIN,))
    _refuse_twins(models)
    return Settings(
        tier=_one_of(values, "tier"),
        models=tuple(_resolved(model, config) for model in models),
        specs=_globs(values["specs"]),
        methods=_globs(values["methods"]),
        texts=tuple(_path(config, "text", text) for text in values["text"] or ()),
        text_separator=_unescaped(values["text-separator"]),
        text_bos=str(values["text-bos"]),
        windows=_integer("windows", values["windows"], least=1),
        window=_integer("window", values["window"], least=2),
        calibration=_path(config, "calibration", values["calibration"]) if values["calibration"] else None,
        calibration_images=(
            _path(config, "calibration-images", values["calibration-images"])
            if values["calibration-images"]
            else None
        ),
        calibration_windows=_integer("calibration-windows", values["calibration-windows"], least=1),
        instructions=_path(config, "instructions", values["instructions"])
        if values["instructions"]
        else None,
        baselines=(
            _path(config, "baselines", values["baselines"])
            if values["baselines"]
            else config.rootpath / "baselines"
        ),
        cache=values["cache"]
        if values["cache"] in {None, "off"}
        else str(_path(config, "cache", values["cache"])),
        device=_one_of(values, "device"),
        dtype=_one_of(values, "dtype"),
        kernels=_globs(values["kernels"]),
        require=tuple(values["require"] or ()),
        seed=_integer("seed", values["seed"], least=0) or 0,
        reports=tuple(ReportTarget.parse(text) for text in values["report"] or ()),
        progress=_one_of(values, "progress"),
        inconclusive=_one_of(values, "inconclusive"),
        recalibrations=_integer("recalibrations", values["recalibrations"], least=0) or 0,
        sequential=bool(values["sequential"]),
        update=bool(config.getoption("update_snapshots", default=False)),
        update_in_ci=bool(values["update-in-ci"]),
        reason=_said(config, values["reason"]),
        release=bool(values["release"]),
    )


def in_ci() -> bool:
    """Whether this run is one of a CI, as the variable ``CI`` tells."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def _packaged(name: str) -> Path:
    """A folder that the package ships: inside it when installed, beside it in a source checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else inside.parent.parent / name


def _given(config: pytest.Config, option: Option) -> Any:
    value = config.getoption(option.dest, default=None)
    if value or (option.flag and not option.kept):
        return value
    return config.getini(option.dest) or None


def _one_of(values: dict[str, Any], name: str) -> str:
    choices = next(option.choices for option in OPTIONS if option.name == name)
    if values[name] not in choices:
        raise QuantcheckError(
            f"quantcheck_{name.replace('-', '_')} = {values[name]!r}; choose one of {', '.join(choices)}"
        )
    return str(values[name])


def _globs(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _integer(name: str, text: str | None, *, least: int) -> int | None:
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise QuantcheckError(f"--quantcheck-{name} must be a whole number of at least {least}, got {text!r}")
    return value


def _path(config: pytest.Config, name: str, text: str) -> Path:
    """A path as the shell means it, or, from the ini file, relative to that file."""
    on_command_line = config.getoption(f"quantcheck_{name}", default=None)
    here = config.invocation_params.dir
    base = here if on_command_line or config.inipath is None else config.inipath.parent
    return (base / Path(text).expanduser()).resolve()


def _said(config: pytest.Config, reason: str | None) -> str | None:
    given = config.getoption("quantcheck_reason", default=None)
    if given is not None and not given.strip():
        raise QuantcheckError(
            "--quantcheck-reason is empty: say why these figures are accepted, or leave the option out"
        )
    return reason


def _unescaped(text: str | None) -> str | None:
    return text.replace("\\n", "\n").replace("\\t", "\t") if text else None


def _resolved(model: ModelSpec, config: pytest.Config) -> ModelSpec:
    path = _path(config, "model", model.source)
    return ModelSpec(model.name, str(path), model.revision) if path.is_dir() and not model.builtin else model


def _refuse_twins(models: tuple[ModelSpec, ...]) -> None:
    names = [model.name for model in models]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise QuantcheckError(
            f"two models are called {twins[0]!r}: their baselines would overwrite each other; name one with "
            f"NAME=PATH"
        )
