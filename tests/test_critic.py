import pytest
import torch

from training.critic import ValueHead


def test_a_new_head_says_the_first_batchs_means_whatever_it_sees() -> None:
    head = ValueHead(8)
    assert torch.equal(head(torch.randn(3, 8)), torch.zeros(3, 2))
    head.start_at(torch.tensor([0.4, -0.1]))
    assert torch.equal(head(torch.randn(3, 8)), torch.tensor([[0.4, -0.1]] * 3))
    with pytest.raises(ValueError, match=r"need \(2,\)"):
        head.start_at(torch.zeros(1))


def test_the_head_computes_in_fp32() -> None:
    assert ValueHead(4)(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.float32
