"""The adapter folder: a plain peft adapter plus `jade.json`, which says what the adapter was trained under.

An adapter answers only to the prompts, the grammar and the base that it was trained with; the folder names them,
and a reader compares (DESIGN §6). An adapter may also be named by the MLflow run that logged it, and is fetched then.
Nothing here loads peft or torch, and mlflow only to fetch.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from agents.errors import ConfigError, SetupError
from agents.home import jade_home

if TYPE_CHECKING:
    from mlflow import MlflowClient

Info = TypeVar("Info", "AdapterInfo", "MergedInfo")
_log = logging.getLogger("jade.adapters")
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "jade.json"
LOGGED = "adapter"
"""Artifact folder of an MLflow run that holds its adapter."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")
REFUSALS = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST",
     "INVALID_STATE", "NOT_FOUND", "NOT_IMPLEMENTED"}
)  # fmt: skip
"""MLflow error codes that trying again cannot mend."""
PATIENT = 30, 1
"""Seconds and further tries of a request to a tracking server, where its answer is waited for."""
_LIMITED = RLock()


@dataclass(frozen=True)
class AdapterInfo:
    """What `jade.json` holds."""

    text: str
    """The `text` hash in force while training."""
    base: str
    """Name of the base model."""
    base_weights: str
    """Hash of the base model's weights."""
    prompts: str
    """Prompt set: "examples", "bare", or the name of a prompt folder."""
    temperature: float = 1.0
    """τ of the sampled calls that it was trained on."""
    roles: tuple[str, ...] = ()
    """Roles that were trained; the others ran frozen."""
    version: int = 0
    """Number of PPO updates behind it."""


def content_hash(folder: Path) -> str:
    """Return the adapter's identity: blake2b over its weights and its peft configuration.

    Raises:
        ConfigError: One of the two files is missing.
    """
    digest = blake2b(digest_size=16)
    for name in (WEIGHTS, CONFIG):
        with _existing(folder, name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_adapter_info(folder: Path, info: AdapterInfo) -> None:
    """Write `jade.json` beside a saved peft adapter.

    Raises:
        ConfigError: The folder holds no peft adapter.
    """
    for name in (WEIGHTS, CONFIG):
        _existing(folder, name)
    text = json.dumps(asdict(info), indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def read_adapter(
    folder: Path, *, base_weights: str | None = None, text: str | None = None, prompts: str | None = None
) -> AdapterInfo:
    """Read an adapter folder and check it against what is to run it.

    Args:
        folder: The adapter folder.
        base_weights: Weights hash of the loaded base; None = do not compare.
        text: The `text` hash in force; None = do not compare.
        prompts: The prompt set in force; None = do not compare.

    Raises:
        ConfigError: A file is missing or unreadable, or the adapter belongs to another base, prompt set or text.
    """
    for name in (WEIGHTS, CONFIG):
        _existing(folder, name)
    info = _parse(_existing(folder, CARD), AdapterInfo)
    if base_weights is not None and info.base_weights != base_weights:
        raise ConfigError(
            f"adapter {folder} was trained on base {info.base!r} (weights {info.base_weights}), but the loaded base "
            f"has weights {base_weights}; load that base, or choose an adapter of this one"
        )
    if prompts is not None and info.prompts != prompts:
        raise ConfigError(
            f"adapter {folder} was trained under prompt set {info.prompts!r}, not {prompts!r}; "
            f"leave the prompt set to the adapter, do without it (--adapter none), or train one under {prompts!r}"
        )
    if text is not None and info.text != text:
        raise ConfigError(
            f"adapter {folder} was trained under text hash {info.text}, now in force is {text}: tokenizer, chat "
            "template, prompts, grammar or record schema have changed since; use the JADE version that trained it, "
            "or train it again"
        )
    return info


@dataclass(frozen=True)
class MergedInfo:
    """What `jade.json` of an exported model holds: an adapter that was added to its base for good."""

    base: str
    """Name of the base model."""
    base_weights: str
    """Hash of the base model's weights."""
    adapter: str
    """Content hash of the adapter."""
    prompts: str
    """Prompt set that the adapter was trained under."""
    temperature: float = 1.0
    roles: tuple[str, ...] = ()
    version: int = 0
    dtype: str = "fp32"
    """Number format of the stored weights."""
    kind: str = "merged"


def read_merged(model: str | Path) -> MergedInfo | None:
    """Return the note of a model folder that `jade export` wrote; None for any other model.

    Raises:
        ConfigError: The note is corrupt.
    """
    path = Path(model).expanduser() / CARD
    return _parse(path, MergedInfo) if path.is_file() else None


def adapter_folder(given: str | Path) -> Path:
    """Return the folder of an adapter given as a folder, or as the id of the MLflow run that logged it.

    Raises:
        ConfigError: No such run, or it has no adapter.
        SetupError: The tracking store does not answer.
    """
    folder = Path(given).expanduser()
    if _RUN_ID.fullmatch(str(given)) and not folder.exists():
        return fetch_adapter(str(given))
    return folder


def tracking_uri() -> str:
    """Return the address of the store: `MLFLOW_TRACKING_URI`, else SQLite in mlflow/ of a clone, else of JADE_HOME."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    root = Path(__file__).resolve().parent.parent
    # installed as a package, mlflow/ beside us would be MLflow itself
    folder = (root if (root / "pyproject.toml").is_file() else jade_home()) / "mlflow"
    return f"sqlite:///{folder / 'mlflow.db'}"


def tracking_client(uri: str) -> MlflowClient:
    """Return a client of a tracking store; how long its requests take is said by `request_limits`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(uri)


@contextmanager
def request_limits(seconds: int, retries: int) -> Iterator[None]:
    """Let a lost tracking server cost what is done within so many seconds a try, not MLflow's four minutes.

    MLflow reads its limits from the environment at each request; what the user has set there stays in force.
    """
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    with _LIMITED:
        ours = {name: value for name, value in limits.items() if name not in os.environ}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                os.environ.pop(name, None)


def fetch_adapter(run_id: str) -> Path:
    """Return the local folder of the adapter that an MLflow run logged.

    It is downloaded when it is not here yet, or when the run has logged another one since; what is here serves while
    the store does not answer.

    Raises:
        ConfigError: No such run, or it has no adapter.
        SetupError: The store does not answer, and nothing was fetched before.
    """
    uri, target = tracking_uri(), jade_home() / "adapters" / run_id
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.is_file():
        raise ConfigError(f"run id {run_id!r}: there is no tracking store at {uri}; `mlflow ui` lists the runs of one")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with request_limits(*PATIENT), TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
            _download(tracking_client(uri), run_id, target, Path(scratch), uri)
    except ConfigError:
        raise
    except Exception as error:
        if getattr(error, "error_code", None) in REFUSALS:
            raise ConfigError(f"run id {run_id!r} in {uri}: {error}; `mlflow ui` lists the runs") from None
        if not target.is_dir():
            raise SetupError(f"adapter of run {run_id} cannot be fetched from {uri}: {error}") from None
        _log.warning("%s does not answer (%s): using what was fetched before, %s", uri, type(error).__name__, target)
    return target


def _download(client: MlflowClient, run_id: str, target: Path, scratch: Path, uri: str) -> None:
    """Bring `target` up to date; it changes by renames alone."""
    client.get_run(run_id)
    held = [item.path for item in client.list_artifacts(run_id, LOGGED)]
    if f"{LOGGED}/{CONFIG}" not in held:
        others = ", ".join(item.path for item in client.list_artifacts(run_id)) or "nothing"
        raise ConfigError(f"run {run_id} in {uri} has no adapter (artifact folder {LOGGED!r}); it holds: {others}")
    if target.is_dir():
        card = f"{LOGGED}/{CARD}"
        if card not in held or not (target / CARD).is_file():
            return
        if Path(client.download_artifacts(run_id, card, str(scratch))).read_bytes() == (target / CARD).read_bytes():
            return
    client.download_artifacts(run_id, LOGGED, str(scratch))
    if target.is_dir():
        target.replace(scratch / "before")
    (scratch / LOGGED).replace(target)


def _parse(path: Path, kind: type[Info]) -> Info:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(kind)}
        values = {name: value for name, value in data.items() if name in known}
        return kind(**{**values, "roles": _names(values.get("roles", ()))})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        what = "an adapter card" if kind is AdapterInfo else "the note of an exported model"
        raise ConfigError(f"{path} is not {what} ({error}); train or export it again") from error


def _names(roles: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(role) for role in roles)


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not folder.is_dir():
        raise ConfigError(f"adapter folder {folder} does not exist; give a folder that holds {WEIGHTS} and {CARD}")
    if not path.is_file():
        hint = "a peft adapter not made by JADE" if name == CARD else "no peft adapter in safetensors format"
        raise ConfigError(f"adapter folder {folder} has no {name} ({hint}); give a folder written by JADE's training")
    return path
