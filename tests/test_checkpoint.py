import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agents.errors import ConfigError, LedgerError, SetupError
from graphs.ledger import is_sealed
from tests.full_disk import full_disk
from tests.ppo_toy import start_adapter, toy_session
from tests.test_ppo import Notes, same, state_of
from training.adapter import TRAINED
from training.checkpoint import FRESH, LATEST, PREVIOUS, find_checkpoint, load_checkpoint
from training.ppo import run
from training.rollout import segment_file
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


def test_each_damaged_file_is_named_and_the_remedy_works(tmp_path: Path, start: Path) -> None:
    session = stepped(tmp_path, start, critic="adapter")
    files = sorted(path for path in (tmp_path / LATEST).rglob("*") if path.is_file())
    assert len(files) == 8  # two adapters with their configurations, a card, heads, optimiser, state
    for path in files:
        whole = path.read_bytes()
        for damaged in (whole[:-3], b"", None, whole[:-1] + bytes([whole[-1] ^ 1])):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            with pytest.raises(ConfigError) as error:
                load_checkpoint(tmp_path / LATEST, session.players, session.optimiser)
            message = str(error.value)
            assert str(path) in message and "\n" not in message and len(message) < 600
            assert "is missing or truncated" in message or "corrupt" in message
            assert f"remove {tmp_path / LATEST}: the run goes on from {PREVIOUS}" in message
        path.write_bytes(whole)
    files[0].unlink()
    with pytest.raises(ConfigError, match=f"remove {tmp_path / LATEST}"):
        toy_session(tmp_path, start=start, critic="adapter")
    shutil.rmtree(tmp_path / LATEST)
    assert toy_session(tmp_path, start=start, critic="adapter").state.iteration == 0


def test_the_disk_is_full_while_anything_is_written_and_the_run_goes_on_later(tmp_path: Path, start: Path) -> None:
    whole = toy_session(tmp_path / "whole", start=start)
    assert run(whole, Notes()) == 0  # type: ignore[arg-type]
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole" / LATEST).rglob("*.safetensors")}
    assert sizes["adapter_model.safetensors"] < sizes["optimizer.safetensors"]
    for name, largest, message in (
        ("advance", sizes["adapter_model.safetensors"] - 1, "policies/000001 cannot be written"),
        ("save", sizes["optimizer.safetensors"] - 1, r"\.checkpoint\.new cannot be written.*untouched: free the disk"),
        ("ship", sizes["adapter_model.safetensors"] // 2 - 1, "/adapter cannot be written"),
    ):
        session = toy_session(tmp_path / "full", start=start)
        work = getattr(session, name)

        def full(work: Callable[[], object] = work, largest: int = largest) -> object:
            with full_disk(largest):
                return work()

        setattr(session, name, full)
        with pytest.raises(SetupError, match=message):
            run(session, Notes())  # type: ignore[arg-type]
        assert not (tmp_path / "full" / FRESH).exists() and not list((tmp_path / "full").glob("*/.*.new"))
        assert find_checkpoint(tmp_path / "full") is not None
    resumed = toy_session(tmp_path / "full", start=start)
    assert run(resumed, Notes()) == 0  # type: ignore[arg-type]
    assert same(state_of(whole), state_of(resumed))


def test_the_disk_is_full_while_runs_are_recorded(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start)
    session.state.mlflow_run = Notes.run_id  # known: nothing is written before runs are recorded
    with (
        full_disk(20_000),
        pytest.raises(LedgerError, match=r"cannot be sealed.*File too large; make room, .* run it again"),
    ):
        run(session, Notes())  # type: ignore[arg-type]
    assert not is_sealed(segment_file(tmp_path, 0))
    assert toy_session(tmp_path, start=start).state.iteration == 0


def test_a_rollback_finds_the_previous_checkpoint_where_it_is_the_only_one(tmp_path: Path, start: Path) -> None:
    stepped(tmp_path, start)
    shutil.rmtree(tmp_path / PREVIOUS)
    (tmp_path / LATEST).rename(tmp_path / PREVIOUS)  # as a run leaves it that is killed between the two renames
    session = toy_session(tmp_path, start=start)
    session.roll_back()
    assert (session.state.iteration, session.state.rollbacks, session.state.version) == (2, 1, 1)


def test_a_half_copied_policy_is_put_back_from_the_checkpoint(tmp_path: Path, start: Path) -> None:
    stepped(tmp_path, start)
    policy = tmp_path / "policies" / "000001"
    whole = {path.name: path.read_bytes() for path in policy.iterdir()}
    (policy / "adapter_model.safetensors").unlink()
    toy_session(tmp_path, start=start)
    assert {path.name: path.read_bytes() for path in policy.iterdir()} == whole


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
