"""The adapter that ships is the one that this code's prompts were trained with."""

import json
from pathlib import Path

from agents.adapters import read_adapter
from agents.role import Prompts
from agents.roster import ROLES, prompts_digest
from graphs.app import SHIPPED


def test_the_shipped_adapter_knows_every_role_and_is_small() -> None:
    card = read_adapter(SHIPPED)
    assert card.prompts == "bare" and set(card.roles) == set(ROLES)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 5_000_000
    assert not any(file.suffix in (".bin", ".pt", ".pkl") for file in SHIPPED.iterdir())


def test_its_configuration_names_no_place_on_anyones_disk() -> None:
    config = json.loads((SHIPPED / "adapter_config.json").read_text(encoding="utf-8"))
    assert not Path(str(config["base_model_name_or_path"])).is_absolute()


def test_prompts_are_those_that_it_was_trained_under() -> None:
    # A change of a bare prompt makes the shipped adapter refuse to load: train it again, then put the new digest here.
    assert prompts_digest(Prompts("bare")) == "7b1a89e5f47f7f25197dce6ba574848717799c18746ac87c83bf1e3977a2006a"
