import torch
from torch import nn

from train.evaluation.held_out import inside_forward


class Doubling(nn.Module):
    def forward(self, number):
        return 2 * number


def test_a_function_inside_a_forward_may_call_the_model_itself():
    model, called = Doubling(), []
    model.register_forward_pre_hook(lambda *_: called.append("before"))
    result = inside_forward(model, lambda: model(torch.tensor(3)) + 1)
    assert result == 7
    assert called == ["before", "before"]
    assert model(torch.tensor(3)) == 6


def test_a_forward_that_was_replaced_before_is_put_back():
    model = Doubling()
    model.forward = lambda number: 3 * number
    assert inside_forward(model, lambda: model(torch.tensor(2))) == 6
    assert model(torch.tensor(2)) == 6
