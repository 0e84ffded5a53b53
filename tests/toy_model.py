"""A tiny random Llama with its own byte-level BPE tokenizer: the real engine at toy size, in milliseconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agents.model import SharedModel

torch.set_num_threads(1)  # tiny matrices: a second thread only waits, above all beside other test processes

SENTENCES = (
    "Which planet of the solar system is the largest one?",
    "Jupiter is the largest planet; its moon Europa hides an ocean under the ice.",
    "<workflow>QR,R,DS,AG</workflow> <workflow>R,AG</workflow> <workflow>QDS</workflow> <workflow>QDP</workflow>",
    "<answer>Paris</answer> <query>capital of France</query> <id>Document0,Document2</id>",
    "<q1>Who wrote Dune?</q1><q2>When was #1 born?</q2><q3>Where was he born?</q3>",
    "Document0: Paris is the capital of France. Document1: Berlin is the capital of Germany.",
    "You answer questions. Choose a workflow for the question. Question: who was born first, Ada or Alan?",
    "Main question: what is the name of the river that flows through the city where the author died?",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"]


@cache
def toy_tokenizer() -> Any:
    """Train a byte-level BPE tokenizer of at most 700 tokens on `SENTENCES`; ids 0-3 are special."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<file_sep>"],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def toy_module(seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 0.15) -> LlamaForCausalLM:
    """Build a random Llama: 3 layers, hidden 64, 4 query and 2 key-value heads; `scale` = spread of its weights."""
    tokenizer = toy_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 4,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=scale,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        attn_implementation="sdpa",
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    module = LlamaForCausalLM(config).to(dtype).eval()
    torch.random.set_rng_state(state)
    return module


def toy_model(seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> SharedModel:
    """Build a `SharedModel` around `toy_module`; options go to its constructor."""
    return SharedModel(toy_module(seed, dtype), toy_tokenizer(), name="toy", **options)
