"""The tiny world's own language model: a byte-level BPE tokenizer on its texts, and a small random Llama.

Words carry their trailing space, tags and chains of modules are one piece each, so a name is the same token
in a passage, a question and an answer, and a plan is one decision. That makes minutes on two cores enough to
learn to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from agents.role import Prompts
from agents.roster import ROLES
from agents.workflow import BY_TEXT
from training.tinyworld import World, read_ask, steps

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PIECES = r"</?[a-z0-9]+>|[A-Z]{1,3}(?:,[A-Z]{1,3})+|#\d ?|\w+ ?|[^\w\s] ?|\s"
TINY_PROMPTS = Prompts("bare", tuple((name, name.replace("_", " ")) for name in ROLES))
"""The name of the role as its instruction: a model that is trained from nothing needs no explanation."""


def texts(world: World, prompts: Prompts = TINY_PROMPTS) -> Iterator[str]:
    """Yield every kind of text that the model will read or write in `world` and its siblings."""
    for passage in world.passages:
        yield f"Document0: {passage['title']} | {passage['text']}\n"
    for example in (*world.train, *world.dev):
        ask = read_ask(example.question)
        yield f"Question: {example.question}\n<query>{example.question[12:-1]}</query>"
        hops = steps(world, ask) if ask is not None else []
        yield "".join(f"<q{i}>{written.text}</q{i}>" for i, (written, _, _) in enumerate(hops, 1))
        yield "\n".join(f"{resolved.text} = {answer}" for _, resolved, answer in hops)
    yield from (f"<workflow>{plan}</workflow>" for plan in BY_TEXT)
    yield from ("<answer>unknown</answer>", "<id>Document0,Document1,Document2</id>", "system\nuser\nassistant\n")
    name = world.people[0]
    document = {"number": 0, "title": name, "text": "trade baker"}
    inputs: dict[str, Any] = {
        "question": f"What is the trade of {name}?", "main": f"What is the trade of the teacher of {name}?",
        "query": f"trade of {name}", "documents": [document, {**document, "number": 1}, {**document, "number": 2}],
        "answered": [{"question": "x?", "answer": "y"}],
        "hops": [{"question": "x?", "answer": ""}, {"question": "y?", "answer": None, "skipped": "budget"}],
        "max_hops": 4, "turns_left": 4, "retrievals_left": 4,
    }  # fmt: skip
    for role in ROLES.values():
        for depth in range(3):
            for message in role.messages({**inputs, "depth_left": depth}, prompts):
                yield message["content"]
    yield from ("Documents: none", "x? = (not answered yet)", "Left: depth 0, turns 12, retrievals 3")


def tiny_tokenizer(world: World, prompts: Prompts = TINY_PROMPTS, extra: Iterable[str] = ()) -> Any:
    """Train a byte-level BPE tokenizer until every word of the world is one token; deterministic.

    Args:
        world: Whose texts to train on; siblings share its words.
        prompts: The prompt set that the roles will speak under.
        extra: Further texts, such as the prompts of roles of your own.

    Returns:
        A fast transformers tokenizer with a ChatML template; end of text and padding are `<|im_end|>`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts(world, prompts), *extra], trainer)
    wrap: Any = PreTrainedTokenizerFast  # untyped
    fast = wrap(tokenizer_object=tokenizer, eos_token=END, pad_token=END, additional_special_tokens=[START])
    fast.chat_template = TEMPLATE
    return fast


def tiny_config(tokenizer: Any, hidden: int = 96, layers: int = 3, heads: int = 4) -> LlamaConfig:
    """Return the configuration of a small Llama for `tokenizer`: 0.35 million parameters, context 512.

    Weights start at a standard deviation of hidden^-½: with transformers' 0.02, which suits wide models, so
    narrow a one takes twice as long to start copying. Measured recipe: 500 AdamW steps (lr 3e-3 falling to
    0, betas 0.9 and 0.98) of 32 rows of the oracle's runs in 16 siblings, with 0.3 of the loss on the
    prompt tokens too, read 94 % of unseen facts and decompose all unseen questions (one core, one to two
    minutes).

    Args:
        tokenizer: From `tiny_tokenizer`.
        hidden: Width; a multiple of 2·heads.
        layers: Depth; copying needs two.
        heads: Attention heads.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        initializer_range=hidden**-0.5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids(START),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_model(config: LlamaConfig, seed: int = 0) -> LlamaForCausalLM:
    """Return a randomly initialised fp32 model in evaluation mode; the global generator stays as it was."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)  # fp32: the default dtype
    model.train(False)
    return model
