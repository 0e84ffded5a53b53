"""A whole model split over ranks by FSDP2, through the forward passes and the loss that adapters are trained with.

No command of JADE trains whole models. This is how far the launch file for it is known to be right: its kind of
sharding, at toy size, over real processes that speak gloo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file, save_file

from tests.rank_jobs import job
from tests.toy_model import toy_module

LAUNCH = Path(__file__).resolve().parent.parent / "configs/accelerate-fsdp.yaml"
STEPS = 3


def split(module: Any, size: int) -> None:
    """Split a model's weights over the ranks as the launch file asks: by decoder layer, whole only while one runs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    asked = load_config_from_file(str(LAUNCH)).fsdp_config
    assert asked["fsdp_version"] == 2 and asked["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    options = {"mesh": init_device_mesh("cpu", (size,)), "reshard_after_forward": asked["fsdp_reshard_after_forward"]}
    for layer in module.model.layers:
        assert type(layer).__name__ in module._no_split_modules
        fully_shard(layer, **options)
    fully_shard(module.lm_head, **options)  # the trainer calls decoder and head one after the other
    fully_shard(module.model, **options)


def fine_tune(folder: str) -> None:
    """Take PPO's loss down for some steps, over all weights above the embeddings; rank 0 writes them."""
    from torch.distributed.tensor import DTensor

    from agents.model import SharedModel
    from evaluation.ranks import joined
    from tests.test_sft import rows
    from tests.toy_model import toy_tokenizer
    from training.learner import Learner
    from training.losses import policy_loss
    from training.minibatch import collate, minibatches
    from training.supervised import supervised_buffer, supervised_calls

    with joined("cpu") as ranks:
        module = toy_module()
        shared = SharedModel(module, toy_tokenizer(), name="toy")
        buffer = supervised_buffer(supervised_calls(rows(), shared), {})
        learner = Learner(shared, 0)
        learner.checkpointing = True
        if ranks.size > 1:
            split(module, ranks.size)
        learning = [item.requires_grad_(True) for name, item in module.named_parameters() if "embed" not in name]
        adam = torch.optim.AdamW(learning, lr=2e-3)
        for step in range(STEPS):
            batches = minibatches(buffer.lengths, 1, 256, (0, step))[0]
            batches = batches[: len(batches) // 2 * 2]  # as many for one rank as for the other: all meet in each layer
            assert len(batches) >= 4
            for places in ranks.mine(batches):
                batch = collate(buffer, places, pad_id=0, device=torch.device("cpu"))
                scores = learner.score(batch, [buffer.rows[place].call for place in places], None)
                assert batch.weights is not None
                gain = torch.ones_like(batch.weights)
                old = scores.logprobs.detach()
                loss = policy_loss(scores.logprobs, old, old, gain, batch.weights, 0.2, 2.0)
                (ranks.size * loss).backward()  # FSDP takes the mean over ranks, the trainer's weights want the sum
            norm = torch.nn.utils.clip_grad_norm_(learning, 1.0)
            assert float(norm.full_tensor() if isinstance(norm, DTensor) else norm) > 0.1
            adam.step()
            adam.zero_grad()
        whole = {
            name: (item.full_tensor() if isinstance(item, DTensor) else item).detach().clone()
            for name, item in module.named_parameters()
        }
        held = sum(item.to_local().numel() for item in learning if isinstance(item, DTensor))
        assert ranks.size == 1 or held < 0.6 * sum(item.numel() for item in learning), "the weights are not split"
        if ranks.leads:
            save_file(whole, Path(folder) / f"{ranks.size}.safetensors")


def test_two_ranks_that_hold_half_the_weights_each_take_the_steps_of_one(tmp_path: Path) -> None:
    for size in (1, 2):
        log = tmp_path / f"log{size}"
        assert job(fine_tune, size, log, str(tmp_path)) == [0] * size, Path(f"{log}.0").read_text()[-3000:]
    one, two, before = load_file(tmp_path / "1.safetensors"), load_file(tmp_path / "2.safetensors"), toy_module()
    start = before.state_dict()
    moved = {name: float((one[name] - start[name]).abs().max()) for name in one}
    assert all((size > 1e-3) == ("embed" not in name) for name, size in moved.items()), moved
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5  # moves of 6e-3 at most
