"""One update of TRL's PPO (1.12.0) or GRPO (newest) on given rows, timed: run by `benchmarks.updates`, not by hand.

Runs in an environment of its own, which has trl, peft and torch, and nothing of JADE. Generation and the reward are
replaced by what was given, and their time is not counted; everything else is TRL's own code.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


def lora(given: Any, layers: int) -> LoraConfig:
    """Return the adapter of JADE's default: rank 16 on all linear modules of the upper third."""
    return LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(layers - max(1, layers // 3), layers)),
        task_type="CAUSAL_LM",
    )


def data(given: Any, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, P) prompts and (B, T) responses of random token ids; the last response token ends it."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(100, 40_000, (given.batch, given.prompt), generator=generator)
    responses = torch.randint(100, 40_000, (given.batch, given.response), generator=generator)
    responses[:, -1] = tokenizer.eos_token_id
    return prompts, responses


def ppo(given: Any, model: Any, tokenizer: Any, folder: str) -> list[float]:
    """Return the seconds of each update of TRL's PPO."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    prompts, responses = data(given, tokenizer)
    value = AutoModelForSequenceClassification.from_pretrained(given.model, num_labels=1, dtype=torch.float32)
    value.config.pad_token_id = tokenizer.pad_token_id
    for name, parameter in value.named_parameters():
        parameter.requires_grad_(name.startswith("score"))  # JADE's critic: head is a linear head as well
    reward = torch.nn.Linear(1, 1)
    marks: list[tuple[str, float]] = []

    def generated(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        marks.append(("begin", time.perf_counter()))
        logits = torch.zeros(given.batch, given.response, len(tokenizer))
        return torch.cat([prompts, responses], 1), logits

    real = ppo_trainer.get_reward

    def rewarded(scorer: Any, *rest: Any) -> Any:
        if scorer is reward:
            return None, torch.rand(given.batch), None
        return real(scorer, *rest)

    ppo_trainer.batch_generation, ppo_trainer.get_reward = generated, rewarded
    config = PPOConfig(
        output_dir=folder, per_device_train_batch_size=given.batch, gradient_accumulation_steps=1, num_mini_batches=1,
        num_ppo_epochs=given.epochs, response_length=given.response, total_episodes=given.batch * given.updates,
        local_rollout_forward_batch_size=given.batch, num_sample_generations=0, use_cpu=True, report_to="none",
        save_strategy="no", eval_strategy="no", bf16=False, gradient_checkpointing=given.checkpointing,
        logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_dict({"input_ids": prompts.tolist()})
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=model, ref_model=None, reward_model=reward, train_dataset=rows,
        eval_dataset=rows, value_model=value, peft_config=lora(given, model.config.num_hidden_layers),
    )  # fmt: skip
    trainer.log = lambda *args, **kwargs: marks.append(("end", time.perf_counter()))
    trainer.train()
    return _spans(marks)


def grpo(given: Any, model: Any, tokenizer: Any, folder: str) -> list[float]:
    """Return the seconds of each update of TRL's GRPO: one prompt a row, as many epochs over the batch as PPO."""
    from trl import GRPOConfig, GRPOTrainer

    prompts, responses = data(given, tokenizer)
    marks: list[tuple[str, float]] = []
    config = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=given.batch, gradient_accumulation_steps=1,
        num_generations=2, max_completion_length=given.response, num_iterations=given.epochs, beta=0.02,
        max_steps=given.epochs * given.updates, use_cpu=True, report_to="none", save_strategy="no", bf16=False,
        gradient_checkpointing=given.checkpointing, logging_steps=1000, disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_dict({"prompt": ["x"] * given.batch * given.updates})

    def generated(wanted: list[Any], _: Any) -> dict[str, Any]:
        size = len(wanted)
        logprobs = [[-8.0] * given.response] * size
        return {
            "prompt_ids": prompts[:size].tolist(),
            "completion_ids": responses[:size].tolist(),
            "logprobs": logprobs,
        }

    trainer = GRPOTrainer(
        model=model, reward_funcs=lambda completions, **_: torch.rand(len(completions)).tolist(), args=config,
        train_dataset=rows, processing_class=tokenizer, peft_config=lora(given, model.config.num_hidden_layers),
        rollout_func=generated,
    )  # fmt: skip
    step = trainer.training_step

    def timed(*args: Any, **kwargs: Any) -> Any:
        marks.append(("begin", time.perf_counter()))
        return step(*args, **kwargs)

    trainer.training_step = timed
    trainer.train()
    ends = [when for _, when in marks[given.epochs :: given.epochs]] + [time.perf_counter()]
    begins = [when for _, when in marks[:: given.epochs]]
    return [end - begin for begin, end in zip(begins, ends, strict=True)]


def _spans(marks: list[tuple[str, float]]) -> list[float]:
    begins = [when for name, when in marks if name == "begin"]
    ends = [when for name, when in marks if name == "end"]
    return [end - begin for begin, end in zip(begins, ends, strict=False)]


def main() -> None:
    """Print one JSON line: seconds of each update, peak resident memory in GB, trained parameters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("which", choices=("ppo", "grpo"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--checkpointing", action="store_true")
    for name in ("batch", "prompt", "response", "epochs", "updates", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        seconds = {"ppo": ppo, "grpo": grpo}[given.which](given, model, tokenizer, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(json.dumps({"seconds": seconds, "peak": peak, "trained": trained}))


if __name__ == "__main__":
    main()
