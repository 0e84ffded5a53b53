"""Named adapters on one backbone through peft: each call says which one speaks, and the base speaks with none.

peft is imported when the first adapter arrives (it costs seconds), and adapters are never merged into the base:
without one active, the model is the base bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import nn

from agents.errors import ConfigError
from agents.model_facts import tensor_bytes


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide what transformers says to peft about names that peft still uses: nobody else can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


class AdapterSet:
    """The adapters of one language model, which peft edits in place."""

    def __init__(self, module: nn.Module) -> None:
        """Start without adapters."""
        self._module = module
        self.peft: Any = None
        """The peft model around the same modules; None until the first adapter."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the loaded adapters, in loading order."""
        return () if self.peft is None else tuple(self.peft.peft_config)

    def load(self, name: str, folder: Path, *, trainable: bool = False) -> None:
        """Load a peft folder under a name, replacing an adapter of that name.

        Raises:
            ConfigError: peft cannot put the adapter on this base.
        """
        from peft import PeftModel
        from safetensors import SafetensorError

        self.remove(name)
        how: dict[str, Any] = {"adapter_name": name, "is_trainable": trainable, "use_safetensors": True}
        try:
            with _quietly():
                if self.peft is None:
                    self.peft = PeftModel.from_pretrained(self._module, str(folder), **how)
                else:
                    self.peft.load_adapter(str(folder), **how)
            missing = self._missing(name, folder)
        except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
            self.remove(name)
            raise ConfigError(
                f"adapter {folder} cannot be put on this base ({error}); choose an adapter trained on it"
            ) from error
        if missing:
            self.remove(name)
            raise ConfigError(
                f"adapter {folder} lacks {len(missing)} weights that its adapter_config.json asks for, such as "
                f"{missing[0]}; the two files do not belong together: copy the folder again, whole"
            )
        self.peft.eval()

    def _missing(self, name: str, folder: Path) -> list[str]:
        """Return which of an adapter's weights its file does not hold; peft would leave them untrained."""
        from peft import get_peft_model_state_dict
        from safetensors import safe_open

        wanted = get_peft_model_state_dict(self.peft, adapter_name=name, save_embedding_layers=False)
        with safe_open(str(folder / "adapter_model.safetensors"), "pt") as file:
            return sorted(set(wanted) - set(file.keys()))

    def create(self, name: str, config: Any) -> None:
        """Add a fresh adapter for training.

        Args:
            name: Its name.
            config: A peft configuration, such as `peft.LoraConfig`.

        Raises:
            ConfigError: The name is taken.
        """
        from peft import get_peft_model

        if name in self.names:
            raise ConfigError(f"adapter name {name!r} is taken; loaded: {', '.join(self.names)}")
        with _quietly():
            if self.peft is None:
                self.peft = get_peft_model(self._module, config, adapter_name=name)
            else:
                self.peft.add_adapter(name, config)
        self.peft.eval()

    def save(self, name: str, folder: Path) -> None:
        """Write one adapter as a plain peft folder (weights in safetensors).

        Raises:
            ConfigError: The adapter is not loaded.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        self._check(name)
        folder.mkdir(parents=True, exist_ok=True)
        # "auto" would ask the hub whether the base's vocabulary is what it was
        state = get_peft_model_state_dict(self.peft, adapter_name=name, save_embedding_layers=False)
        tensors = {key: value.detach().cpu().contiguous() for key, value in sorted(state.items())}
        save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        config = self.peft.peft_config[name]
        mode, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(folder))
        config.inference_mode = mode

    def remove(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored."""
        if name in self.names and len(self.names) == 1:
            self.peft.unload()
            self.peft = None
        elif name in self.names:
            self.peft.delete_adapter(name)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return one adapter's parameters by full name.

        Raises:
            ConfigError: The adapter is not loaded.
        """
        self._check(name)
        kept = [getattr(layer, kind) for layer in self._layers() for kind in layer.adapter_layer_names]
        own = {id(p) for modules in kept if name in modules for p in modules[name].parameters()}
        return {key: p for key, p in self._module.named_parameters() if id(p) in own}

    def fingerprint(self, name: str) -> str:
        """Return a hash of one adapter's parameters as they are in memory."""
        digest = blake2b(digest_size=16)
        for key, parameter in sorted(self.parameters(name).items()):
            digest.update(key.encode())
            digest.update(tensor_bytes(parameter))
        return digest.hexdigest()

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Let one adapter speak, or the base with None; restore what was active, gradients' flags included.

        Raises:
            ConfigError: The adapter is not loaded.
        """
        if name is not None:
            self._check(name)
        layers = self._layers()
        flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
        before = [(layer, list(layer.active_adapters), bool(layer.disable_adapters)) for layer in layers]
        try:
            for layer in layers:
                _activate(layer, [] if name is None else [name], name is None)
            _restore(flags)
            yield
        finally:
            for layer, active, disabled in before:
                _activate(layer, active, disabled)
            _restore(flags)

    def _layers(self) -> list[Any]:
        if self.peft is None:
            return []
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [layer for layer in self._module.modules() if isinstance(layer, BaseTunerLayer)]

    def _check(self, name: str) -> None:
        if name not in self.names:
            loaded = ", ".join(self.names) or "none"
            raise ConfigError(f"no adapter {name!r} is loaded; loaded: {loaded}. Load it with add_adapter")


def _activate(layer: Any, names: list[str], disabled: bool) -> None:
    layer.enable_adapters(not disabled)
    if names:
        layer.set_adapter(names)


def _restore(flags: list[tuple[nn.Parameter, bool]]) -> None:
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
