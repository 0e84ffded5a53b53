"""Chat templates of the families that people use, over real tokenizers of toy size; the bundled model's where it is.

Each family has the special tokens of its models and a template in their style. "letters" spells its turns out in plain
letters, as Llama 2 did; "folding" normalises what it reads, so that full-width signs become special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from agents.embedded import MODEL, quiet
from agents.home import jade_home
from agents.model_prompt import PromptEncoder
from tests.toy_model import CHATML, SENTENCES

LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}{% elif m['role'] == 'user' %}"
    "{{ '[INST]' + m['content'] + '[/INST]' }}{% else %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
LETTERS = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}"
    "{% elif m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' </s>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_CHATML_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<gh_stars>", "<|fim_prefix|>",
    "<|fim_suffix|>", "<|fim_middle|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<think>",
    "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
]  # fmt: skip
_LLAMA3_TOKENS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
    "<|python_tag|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>",
]  # fmt: skip
_MISTRAL_TOKENS = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[IMG]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]",
]  # fmt: skip
_GEMMA_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<unused0>"]


@dataclass(frozen=True, eq=False)
class Family:
    """A tokenizer with its template, and what may not be written in either's name."""

    name: str
    tokenizer: Any
    encoder: PromptEncoder
    markers: tuple[str, ...] = ()
    """Turn markers that are plain letters to the tokenizer."""

    @property
    def special(self) -> frozenset[int]:
        """Return the ids of all special tokens."""
        return frozenset(self.tokenizer.added_tokens_decoder)


def toy_family(
    name: str,
    tokens: Sequence[str],
    template: str,
    *,
    folds: bool = False,
    markers: tuple[str, ...] = (),
) -> Family:
    """Train a byte-level BPE tokenizer of at most 700 tokens.

    Args:
        name: How the table calls it.
        tokens: Its special tokens.
        template: Its chat template.
        folds: Normalise by NFKC and to lower case before special tokens are looked for, as some tokenizers do.
        markers: Turn markers of the template that are no tokens.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if folds:
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    special = [AddedToken(token, normalized=folds, special=True) for token in tokens]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    load: Any = PreTrainedTokenizerFast  # untyped in transformers
    tokenizer = load(tokenizer_object=backend, eos_token=tokens[2], chat_template=template)
    return Family(name, tokenizer, PromptEncoder(tokenizer), markers)


@cache
def families() -> Mapping[str, Family]:
    """Return all families by name; "smollm2" only where the bundled model was prepared before."""
    made = [
        toy_family("chatml", _CHATML_TOKENS, CHATML),
        toy_family("llama3", _LLAMA3_TOKENS, LLAMA3),
        toy_family("mistral", _MISTRAL_TOKENS, MISTRAL),
        toy_family("letters", ["<unk>", "<s>", "</s>"], LETTERS, markers=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")),
        toy_family("gemma", _GEMMA_TOKENS, GEMMA),
        toy_family("folding", _CHATML_TOKENS, CHATML, folds=True),
    ]
    folder = jade_home() / "models" / MODEL.folder
    if (folder / "tokenizer.json").is_file():
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        made.append(Family("smollm2", tokenizer, PromptEncoder(tokenizer)))
    return {family.name: family for family in made}
