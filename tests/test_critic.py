import pytest
import torch
from torch import Tensor, nn

from training.critic import Critic, ValueHead, at_positions, call_values, token_values


def test_a_new_head_says_the_first_batchs_means_whatever_it_sees() -> None:
    head = ValueHead(8)
    assert torch.equal(head(torch.randn(3, 8)), torch.zeros(3, 2))
    head.start_at(torch.tensor([0.4, -0.1]))
    assert torch.equal(head(torch.randn(3, 8)), torch.tensor([[0.4, -0.1]] * 3))
    with pytest.raises(ValueError, match=r"need \(2,\)"):
        head.start_at(torch.zeros(1))


def test_values_are_read_at_the_last_prompt_token() -> None:
    # Hidden state = position number in each of 2 channels; head: team = 2·h0 + 1, format = −h1.
    hidden = torch.arange(4.0)[None, :, None].expand(2, 4, 2)
    head = ValueHead(2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
        head.linear.bias.copy_(torch.tensor([1.0, 0.0]))
    assert at_positions(hidden, torch.tensor([1, 3])).tolist() == [[1.0, 1.0], [3.0, 3.0]]
    assert call_values(head, hidden, torch.tensor([1, 3])).tolist() == [[3.0, -1.0], [7.0, -3.0]]
    assert token_values(head, hidden, torch.tensor([[1, 2], [3, 0]])).tolist() == [[3.0, 5.0], [7.0, 1.0]]


def test_the_head_computes_in_fp32() -> None:
    assert ValueHead(4)(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


class Trunk(nn.Module):
    """A stand-in for a model under one adapter: an embedding, no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.embed(input_ids) * attention_mask[..., None]
        return out


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_reach_the_trunk_only_where_it_is_the_critics_own(detach: bool) -> None:
    trunk, head = Trunk(), ValueHead(3)
    nn.init.ones_(head.linear.weight)
    critic = Critic(head, trunk, detach)
    values = critic(torch.tensor([[1, 2, 3]]), torch.ones(1, 3), torch.tensor([1]))
    values.sum().backward()  # type: ignore[no-untyped-call]
    assert head.linear.weight.grad is not None
    touched = trunk.embed.weight.grad is not None
    assert touched is not detach
    if touched:
        assert trunk.embed.weight.grad is not None
        assert trunk.embed.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [2]
