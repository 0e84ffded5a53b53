"""Configuration: arbitrary YAML with arbitrary command-line words over it, and arbitrary values of the real commands.

Either a configuration comes out whose values, given again, make the same one; or `ConfigError`. Words that argparse
itself takes (--help, --config) are left out: they end the program or open files by design.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from agents.errors import ConfigError
from evaluation.config import merge_config, read_config
from evaluation.evaluate_config import EvalConfig
from evaluation.mismatch_config import MismatchConfig
from fuzz.material import Material
from fuzz.scratch import put
from fuzz.target import Target, hold
from training.ppo_config import PPOConfig
from training.sft_config import SFTConfig

REAL: tuple[type[Any], ...] = (PPOConfig, SFTConfig, EvalConfig, MismatchConfig)


@dataclass
class Sample:
    """A configuration with a field of every type that the real ones have."""

    name: str = "a"
    """A text."""
    maybe: str | None = None
    """A text or nothing."""
    count: int = 3
    """A whole number."""
    limit: int | None = 8
    """A whole number or nothing."""
    rate: float = 0.5
    """A number, at least 0."""
    target: float | None = None
    """A number or nothing."""
    flag: bool = True
    """Yes or no."""
    names: list[str] = field(default_factory=lambda: ["a"])
    """Texts."""
    sizes: list[int] = field(default_factory=list)
    """Whole numbers."""

    def __post_init__(self) -> None:
        """Refuse a negative rate, as the real ones refuse theirs."""
        if not self.rate >= 0:
            raise ConfigError(f"rate={self.rate}: give a number of at least 0")


WORDS = (
    *(f"{item.name}: " for item in fields(Sample)),
    *(f"--{item.name}" for item in fields(Sample)),
    *("=", "\n", "- ", ": ", "[", "]", "{", "}", "&a ", "*a", "!!python/object:os.system ", "!!binary ", "<<: ", "???"),
    *("${name}", "${oc.env:HOME}", "${", "null", "true", "~", "1e3", "0x1f", ".nan", ".inf", "'", '"', "#", "|\n", "%"),
    *("1_000", "{1:2}", "{[]:1}", "(1,2)", "b'x'", "1j", "9" * 40, "((((((((", "--", "---\n", "...\n", "\x00", "? "),
)


def _again(config: Any) -> None:
    """What came out is of its kind, and given again it makes the same."""
    kind, values = type(config), asdict(config)
    hold(isinstance(config, REAL) or kind is Sample, f"a {kind.__name__} came out")
    if "${" in repr(values) or "???" in repr(values) or "nan" in repr(values):
        return  # text that stands for other text, and the number that is not itself
    hold(asdict(merge_config(kind, values)) == values, f"{values} given again makes the same")


def _check_files(data: bytes) -> None:
    """A file, and after a NUL the words of a command line, one a line."""
    text, _, words = data.partition(b"\x00")
    file = put("config.yaml", text)
    rest = [word for word in words.decode("utf-8", "surrogateescape").split("\n") if not _of_argparse(word)]
    try:
        config, _ = read_config(Sample, ["--config", str(file), *rest], "fuzz")
    except ConfigError:
        return
    _again(config)


def _of_argparse(word: str) -> bool:
    name = word.partition("=")[0]
    return (
        word == "-h"
        or word.startswith("-h")
        or any(len(name) > 1 and whole.startswith(name) for whole in ("--help", "--config", "--dry-run"))
    )


def _check_real(data: bytes) -> None:
    """Arbitrary values for fields of the real commands: as a layer, or as words of the command line."""
    material = Material(data)
    kind = material.pick(REAL)
    names = [item.name for item in fields(kind)]
    layer: dict[str, Any] = {material.pick(names): material.value() for _ in range(1 + material.below(3))}
    try:
        config = merge_config(kind, layer)
    except ConfigError as error:
        hold(str(error), "a refusal says why")
        return
    _again(config)


def _file_seeds() -> Iterator[bytes]:
    yield b"name: b\ncount: 4\nrate: 1.5\nflag: false\nnames: [x, y]\nsizes: [1, 2]\nlimit: null\n\x00--count\n5"
    yield b"{name: b, maybe: ~}\x00--names\n['x']\n--rate=2e-4\n--target\nnone"
    yield b"a: &a [1]\nsizes: *a\n\x00--sizes=[1,2]"
    yield b"name: ${maybe}\n\x00--flag\nfalse"
    yield b"\x00--rate\n-1"


def _real_seeds(most: int = 96) -> Iterator[bytes]:
    for kind in range(len(REAL)):
        for name in range(0, most):
            yield bytes([kind, 0, name, name % 9, 2, 5, 5, 5])


TARGETS = (
    Target(
        "configuration",
        "a configuration that, given again, makes itself, or ConfigError, from any YAML and any words",
        _check_files,
        _file_seeds,
        WORDS,
        256,
        100_000,
    ),
    Target(
        "commands",
        "the same for any values of any fields of the real commands",
        _check_real,
        _real_seeds,
        longest=64,
        runs=50_000,
    ),
)
