import json
import shutil
from pathlib import Path

import pytest
import torch

from agents.errors import ConfigError, SetupError
from tests.ppo_toy import start_adapter, toy_session
from training import checkpoint
from training.adapter import TRAINED
from training.checkpoint import LATEST, PREVIOUS, find_checkpoint, load_checkpoint, read_state
from training.session import Session


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def stepped(folder: Path, start: Path | None, **changes: object) -> Session:
    """Take one Adam step on arbitrary gradients, as version 1."""
    session = toy_session(folder, start=start, **changes)
    generator = torch.Generator().manual_seed(1)
    for parameter in [*session.optimiser.policy, *session.optimiser.critic]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    session.optimiser.adam.step()
    session.state.iteration = 1
    session.state.history = {"rollout/reward": [0.5]}
    session.advance()
    session.save()
    return session


@pytest.mark.parametrize("critic", ["head", "adapter"])
@pytest.mark.parametrize("warm", [True, False])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, start: Path, critic: str, warm: bool) -> None:
    origin = start if warm else None
    saved = stepped(tmp_path, origin, critic=critic)
    loaded = toy_session(tmp_path, start=origin, critic=critic)
    assert loaded.state == saved.state and loaded.state.iteration == 1 and loaded.state.version == 1
    for one, other in zip(saved.optimiser.policy, loaded.optimiser.policy, strict=True):
        assert torch.equal(one, other) and other.requires_grad
    for one, other in zip(saved.optimiser.critic, loaded.optimiser.critic, strict=True):
        assert torch.equal(one, other)
    tables = [session.optimiser.adam.state_dict()["state"] for session in (saved, loaded)]
    for key, entry in tables[0].items():
        assert all(torch.equal(entry[name], tables[1][key][name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    assert loaded.players.shared.identity["policy"] == saved.state.policy
    assert loaded.players.shared.identity["version"] == "1"


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path, start: Path) -> None:
    stepped(tmp_path, start, critic="adapter")
    suffixes = {path.suffix for path in (tmp_path / LATEST).rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md"}


@pytest.mark.parametrize("name", ["heads.safetensors", "optimizer.safetensors", "adapter/adapter_model.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, start: Path, name: str) -> None:
    session = stepped(tmp_path, start)
    path = tmp_path / LATEST / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ConfigError, match=f"{Path(name).name} is missing or truncated.*{PREVIOUS}"):
        toy_session(tmp_path, start=start)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ConfigError, match=f"{Path(name).name} is corrupt"):
        load_checkpoint(tmp_path / LATEST, session.players, session.optimiser)
    (tmp_path / LATEST / "state.json").write_text("{")
    with pytest.raises(ConfigError, match=r"state.json is missing or corrupt"):
        read_state(tmp_path / LATEST)


def test_the_previous_checkpoint_survives_a_full_disk(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = stepped(tmp_path, start)
    before = {path.name: path.read_bytes() for path in (tmp_path / LATEST).glob("*") if path.is_file()}

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_save", full)
        session.state.iteration = 2
        with pytest.raises(SetupError, match=r"No space left.*untouched"):
            session.save()
    assert before == {path.name: path.read_bytes() for path in (tmp_path / LATEST).glob("*") if path.is_file()}
    assert toy_session(tmp_path, start=start).state.iteration == 1


def test_killed_between_the_two_renames_the_previous_one_is_found(tmp_path: Path, start: Path) -> None:
    stepped(tmp_path, start)
    shutil.rmtree(tmp_path / PREVIOUS)
    (tmp_path / LATEST).rename(tmp_path / PREVIOUS)
    assert find_checkpoint(tmp_path) == tmp_path / PREVIOUS
    assert toy_session(tmp_path, start=start).state.iteration == 1


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path, start: Path) -> None:
    stepped(tmp_path, start)
    with pytest.raises(ConfigError, match="estimator: 'tree_gae' → 'loo'"):
        toy_session(tmp_path, start=start, estimator="loo")
    with pytest.raises(ConfigError, match="resume is off"):
        toy_session(tmp_path, start=start, resume=False)
    assert toy_session(tmp_path, start=start, lr=1e-5, iterations=9).state.iteration == 1  # may be changed


def test_a_changed_start_adapter_is_noticed(tmp_path: Path) -> None:
    folder = start_adapter(tmp_path / "start", seed=5)
    stepped(tmp_path / "run", folder)
    start_adapter(folder, seed=6)
    with pytest.raises(ConfigError, match="another start adapter"):
        toy_session(tmp_path / "run", start=folder)


def test_an_adapter_of_another_text_is_refused_before_anything_is_written(tmp_path: Path, start: Path) -> None:
    folder = tmp_path / "start"
    shutil.copytree(start, folder)
    card = json.loads((folder / "jade.json").read_text())
    (folder / "jade.json").write_text(json.dumps({**card, "text": "other"}))
    with pytest.raises(ConfigError, match="text hash other"):
        toy_session(tmp_path / "run", start=folder)
    assert not (tmp_path / "run").exists()
    assert TRAINED not in json.dumps(card)
