"""The text side of a model that runs elsewhere: tokenizer, template and hashes, without its weights in memory.

Prompts are encoded here exactly as the trainer encodes them, so that a recorded run of a server can be replayed by the
model that learns from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agents.embedded import Progress, quiet
from agents.errors import ConfigError
from agents.model_facts import end_tokens, text_base
from agents.model_load import check_template, find_folder, weights_hash

if TYPE_CHECKING:
    from agents.model import SharedModel

UNKNOWN = "unknown"
"""Stands for the hash of weights that are not at hand; runs recorded so belong to no trainer."""


@dataclass(frozen=True)
class TextSide:
    """What must be known here of the model that a server runs."""

    tokenizer: Any
    """A fast transformers tokenizer with a chat template."""
    name: str
    """Name of the base in records."""
    weights: str
    """Hash of the base's weights as the trainer has them, or `UNKNOWN`."""
    ends: tuple[int, ...]
    """Tokens that end a response."""
    context_length: int
    """Most tokens of prompt and response together, as the model was built."""
    vocabulary: int
    """Width of the model's logits."""

    @property
    def base(self) -> str:
        """Return the part of the `text` hash that the base decides."""
        return text_base(self.weights, self.tokenizer)

    @staticmethod
    def load(model: str | Path | None = None, progress: Progress | None = None) -> TextSide:
        """Read the tokenizer and the configuration of a model, not its weights.

        Args:
            model: None = the embedded default; a folder; or a hub id. Where the folder holds no weights, what is
                recorded can be read but not trained on.
            progress: Called with one line per stage.

        Raises:
            ConfigError: It is no model folder, or its tokenizer cannot be used or has no chat template.
            SetupError: The embedded default cannot be prepared.
        """
        from transformers import AutoConfig, AutoTokenizer

        folder, name = find_folder(model, progress or (lambda line: None))
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(str(folder))
                config: Any = AutoConfig.from_pretrained(str(folder)).get_text_config()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ConfigError(
                f"the tokenizer of {folder} cannot be read ({error}); give the folder of the model that the server "
                "runs, with config.json and tokenizer.json"
            ) from error
        check_template(tokenizer, folder)
        try:
            weights = weights_hash(folder)
        except ConfigError:
            weights = UNKNOWN
        ends = end_tokens(_generation(folder), tokenizer)
        length = int(getattr(config, "max_position_embeddings", 2048))
        return TextSide(tokenizer, name, weights, ends, length, int(config.vocab_size))

    @staticmethod
    def of(shared: SharedModel) -> TextSide:
        """Return the text side of a model that is also loaded here, as beside a trainer."""
        ends = end_tokens(shared.module, shared.tokenizer)
        vocabulary = int(shared.module.config.vocab_size)  # type: ignore[union-attr, arg-type]
        return TextSide(shared.tokenizer, shared.name, shared.weights, ends, shared.context_length, vocabulary)


def _generation(folder: Path) -> Any:
    """Return what `end_tokens` reads of a model: its generation configuration, where the folder has one."""
    from transformers import GenerationConfig

    try:
        return SimpleNamespace(generation_config=GenerationConfig.from_pretrained(str(folder)))
    except (OSError, ValueError):
        return SimpleNamespace()
