import dataclasses
import math
import threading

import pytest
import torch

from agents.call import Constraint, Request
from agents.model import SharedModel
from agents.sampling import uniforms
from tests.toy_model import toy_model, toy_module, toy_tokenizer

SYSTEM = "You answer questions. Choose a workflow for the question."
PLANS = Constraint(choices=("<workflow>R,AG</workflow>", "<workflow>QDS</workflow>", "<workflow>QDP</workflow>"))
ANSWER = Constraint(regex=r"<answer>[^<>\n]{1,20}</answer>")
EOS = 2


def _messages(question: str, system: str = SYSTEM):
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


@pytest.fixture(scope="module")
def model() -> SharedModel:
    return toy_model()


def _requests(model: SharedModel, **changes) -> list[Request]:
    """Mixed roles: two heads, three lengths, free and constrained, four temperatures."""
    questions = ("Who wrote Dune?", "Which planet is the largest one of the solar system?", "Berlin " * 20)
    systems = (SYSTEM, "You answer questions with documents. " * 3)
    requests = []
    for i, question in enumerate(questions):
        for tau in (0.0, 0.5, 1.0, 2.0):
            for constraint in (None, PLANS, ANSWER):
                prompt = model.encode(_messages(question, systems[i % 2]))
                key = (3, question, "root/AG", f"{tau}{constraint}")
                requests.append(Request(key, "AG", prompt, 16, tau, "</answer>", constraint))
    return [dataclasses.replace(request, **changes) for request in requests]


def test_recorded_logprobs_equal_teacher_forced_ones_alone_and_batched(model):
    requests = _requests(model)
    for completions in (model.sample(requests), [model.sample([r])[0] for r in requests]):
        rows = [
            (r.prompt.ids, c.response_ids, r.constraint, r.temperature or 1.0)
            for r, c in zip(requests, completions, strict=True)
        ]
        for completion, forced in zip(completions, model.teacher_force(rows), strict=True):
            assert completion.logprobs == pytest.approx(forced, abs=1e-4)
            assert len(completion.response_ids) == len(completion.logprobs) == len(completion.mask)


def test_fp32_samples_the_same_tokens_at_any_batch_size(model):
    requests = _requests(model)
    alone = [model.sample([r])[0].response_ids for r in requests]
    for rows in (2, 5, 32):
        other = toy_model(rows=rows, tokens=1500 if rows == 5 else 32_768)
        assert [c.response_ids for c in other.sample(requests)] == alone
    reversed_order = model.sample(requests[::-1])[::-1]
    assert [c.response_ids for c in reversed_order] == alone


def test_bf16_stays_within_the_parity_bound():
    model = toy_model(dtype=torch.bfloat16)
    requests = _requests(model)
    completions = model.sample(requests)
    rows = [
        (r.prompt.ids, c.response_ids, r.constraint, r.temperature or 1.0)
        for r, c in zip(requests, completions, strict=True)
    ]
    deltas = [
        abs(a - b)
        for c, forced in zip(completions, model.teacher_force(rows), strict=True)
        for a, b, m in zip(c.logprobs, forced, c.mask, strict=True)
        if m
    ]
    assert sum(deltas) / len(deltas) < 0.05  # random weights at spread 0.15: larger than a trained model's


def test_masks_say_which_tokens_were_sampled(model):
    planned, free = model.sample(
        [Request((1, "q"), "planner", model.encode(_messages("Who?")), 16, 1.0, None, c) for c in (PLANS, None)]
    )
    tokens = [toy_tokenizer().encode(choice, add_special_tokens=False) for choice in PLANS.choices]
    assert list(planned.response_ids) in tokens and planned.text in PLANS.choices
    branching = [
        len({t[i] for t in tokens if t[:i] == list(planned.response_ids[:i])}) for i in range(len(planned.mask))
    ]
    assert planned.mask == tuple(int(n > 1) for n in branching)
    assert all(lp == 0.0 for lp, m in zip(planned.logprobs, planned.mask, strict=True) if not m)
    assert all(lp < 0.0 for lp, m in zip(planned.logprobs, planned.mask, strict=True) if m)
    assert set(free.mask) == {1}


def test_greedy_is_the_argmax_with_logprobs_at_tau_one(model):
    prompt = model.encode(_messages("Who wrote Dune?"))
    completion = model.sample([Request((0,), "AG", prompt, 8, 0.0)])[0]
    ids = list(prompt.ids)
    with torch.inference_mode():
        for token, logprob in zip(completion.response_ids, completion.logprobs, strict=True):
            logits = model.module(input_ids=torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            assert logprob == pytest.approx(float(torch.log_softmax(logits, -1)[token]), abs=1e-4)
            ids.append(token)


def test_the_key_decides_and_nothing_else(model):
    prompt = model.encode(_messages("Who wrote Dune?"))
    requests = [Request((seed, "q", "root/AG", 0), "AG", prompt, 12) for seed in range(6)]
    first = [c.response_ids for c in model.sample(requests)]
    torch.manual_seed(123)
    assert [c.response_ids for c in model.sample(requests)] == first
    assert len(set(first)) == 6


def test_stop_tag_ends_the_response_and_cuts_the_text(model):
    prompt = model.encode(_messages("Who wrote Dune?"))
    long = model.sample([Request((5,), "AG", prompt, 40)])[0]
    stop = long.text[8:10]
    short = model.sample([Request((5,), "AG", prompt, 40, stop=stop)])[0]
    n = len(short.response_ids)
    assert short.response_ids == long.response_ids[:n]
    assert short.text.endswith(stop) and short.text == long.text[: len(short.text)] and not short.truncated
    decode = toy_tokenizer().decode
    assert stop in decode(list(short.response_ids)) and stop not in decode(list(short.response_ids[:-1]))


def _ends_with(model: SharedModel, token: int) -> SharedModel:
    """Make `token` the certain next token after anything, by a model whose head ignores its input."""
    module = toy_module()
    with torch.no_grad():
        module.model.norm.weight.zero_()  # logits all equal: the lowest id wins when greedy
    return SharedModel(module, toy_tokenizer(), name="flat")


def test_eos_belongs_to_the_response_when_sampled_and_is_never_appended():
    flat = _ends_with(toy_model(), 0)
    prompt = flat.encode(_messages("Who?"))
    width = flat.module.config.vocab_size
    key = next((k,) for k in range(9000) if int(uniforms((k,), 0, width).argmin()) == EOS)  # logits all equal
    ended = flat.sample([Request(key, "AG", prompt, 5)])[0]
    assert ended.response_ids == (EOS,) and not ended.truncated and ended.text == ""
    assert ended.logprobs[0] == pytest.approx(-math.log(width), abs=1e-4)
    greedy = flat.sample([Request((0,), "AG", prompt, 5, 0.0)])[0]
    assert greedy.response_ids == (0,) * 5 and greedy.truncated and EOS not in greedy.response_ids


def test_truncation_counts_forced_tokens(model):
    prompt = model.encode(_messages("Who?"))
    completion = model.sample([Request((1,), "planner", prompt, 2, 1.0, None, PLANS)])[0]
    assert completion.truncated and len(completion.response_ids) == 2 and completion.mask == (0, 0)
    assert completion.logprobs == (0.0, 0.0)


def test_choice_logprobs_are_exact_and_sum_to_one(model):
    prompt = model.encode(_messages("Who wrote Dune?"))
    choices = (*PLANS.choices, "<workflow>R")
    for tau in (0.5, 1.0, 2.0):
        logprobs = model.choice_logprobs(prompt, choices, tau=tau)
        assert sum(map(math.exp, logprobs)) == pytest.approx(1.0, abs=1e-5)
        sampled = model.sample([Request((k,), "p", prompt, 20, tau, None, Constraint(choices)) for k in range(3)])
        for completion in sampled:
            chosen = logprobs[choices.index(completion.text)]
            assert sum(completion.logprobs) == pytest.approx(chosen, abs=1e-4)


def test_sampled_choices_follow_their_exact_probabilities(model):
    prompt = model.encode(_messages("Who wrote Dune?"))
    probs = [math.exp(x) for x in model.choice_logprobs(prompt, PLANS.choices)]
    texts = [c.text for c in model.sample([Request((k,), "p", prompt, 20, 1.0, None, PLANS) for k in range(400)])]
    for choice, p in zip(PLANS.choices, probs, strict=True):
        assert abs(texts.count(choice) / 400 - p) < 4 * math.sqrt(p * (1 - p) / 400) + 1e-3


def test_teacher_forcing_a_response_outside_its_constraint_is_impossible(model):
    prompt = model.encode(_messages("Who?"))
    ids = toy_tokenizer().encode("<workflow>RQ", add_special_tokens=False)
    values = model.teacher_force([(prompt.ids, ids, PLANS, 1.0), (prompt.ids, (), None, 1.0)])
    assert values[0][-1] == -math.inf and values[1] == []


def test_text_streams_as_it_grows(model):
    seen: list[str] = []
    prompt = model.encode(_messages("Who wrote Dune?"))
    completion = model.sample([Request((5,), "AG", prompt, 10, on_text=seen.append)])[0]
    assert len(seen) == len(completion.response_ids)
    assert seen[-1] == completion.text.rstrip("\ufffd")


def test_threads_take_turns(model):
    requests = _requests(model)[:6]
    wanted = [c.response_ids for c in model.sample(requests)]
    results: dict[int, list] = {}

    def work(i: int) -> None:
        results[i] = [c.response_ids for c in model.sample(requests)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [wanted] * 3


def test_identity_moves_with_what_it_names():
    model = toy_model()
    same = toy_model()
    assert model.identity == same.identity
    other = toy_model(seed=1)
    assert other.identity["text"] != model.identity["text"] and other.identity["policy"] != model.identity["policy"]
    same.text_digest = "prompts"
    assert same.identity["text"] != model.identity["text"] and same.identity["policy"] == model.identity["policy"]


def test_an_architecture_with_sliding_windows_falls_back_and_agrees():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(toy_tokenizer()), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8, initializer_range=0.2,
        max_position_embeddings=512, eos_token_id=EOS, attn_implementation="sdpa",
    )  # fmt: skip
    model = SharedModel(MistralForCausalLM(config).eval(), toy_tokenizer())
    assert not model._layout.shares
    requests = _requests(model)
    completions = model.sample(requests)
    assert [model.sample([r])[0].response_ids for r in requests] == [c.response_ids for c in completions]
    rows = [
        (r.prompt.ids, c.response_ids, r.constraint, r.temperature or 1.0)
        for r, c in zip(requests, completions, strict=True)
    ]
    for completion, forced in zip(completions, model.teacher_force(rows), strict=True):
        assert completion.logprobs == pytest.approx(forced, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "mean", "total"),
    [("fp32", 1e-4, 1e-3), ("bf16", 0.06, 1.5)],  # measured on the untuned base: 3e-6, 6e-5; 0.041, 0.97
)
def test_the_real_model_stays_within_the_replay_bound(dtype, mean, total):
    model = SharedModel.load(dtype=dtype)
    questions = [f"What is the capital of {c}?" for c in ("France", "Peru", "Kenya", "Japan")]
    requests = [
        Request((s, q), "AG", model.encode(_messages(q, "Answer in <answer></answer>.")), 16, 1.0, "</answer>", c)
        for q in questions for s in range(2) for c in (None, ANSWER)
    ]  # fmt: skip
    completions = model.sample(requests)
    rows = [(r.prompt.ids, c.response_ids, r.constraint, 1.0) for r, c in zip(requests, completions, strict=True)]
    deltas, sums = [], []
    for completion, forced in zip(completions, model.teacher_force(rows), strict=True):
        row = [a - b for a, b, m in zip(completion.logprobs, forced, completion.mask, strict=True) if m]
        deltas += [abs(x) for x in row]
        sums.append(abs(sum(row)))
    assert sum(deltas) / len(deltas) <= mean
    assert max(sums) <= total
    if dtype == "fp32":
        assert [model.sample([r])[0].response_ids for r in requests] == [c.response_ids for c in completions]
