"""A discriminator that ends in a sigmoid is refused, by what it computes; one that does not is left alone, whatever its numbers are."""

import pytest
from torch import nn, sigmoid, tanh

import ganfast.functional as GF
from ganfast.train import Trainer
from tests.train.test_own_things import config, fitted, nets, points


class Ending(nn.Module):
    """What comes last is called by a forward of the user's own; `aside` is listed last and comes first."""

    def __init__(self, end, aside: nn.Module | None = None) -> None:
        super().__init__()
        self.end, self.body, self.aside = end, nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.Conv2d(2, 4, 1), nn.Flatten()), aside

    def forward(self, x):
        return self.end(self.body(x if self.aside is None else x * self.aside(x)))


SIGMOIDS = {
    "a function": sigmoid,
    "then a mean over patches": lambda y: y.sigmoid().view(-1, 2, 2).mean((1, 2)),
    "in another dtype": lambda y: y.bfloat16().sigmoid().float().squeeze(-1),
    "ganfast's": lambda y: GF.bias_act(y, act="sigmoid"),
    "a module": nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()),
    "hard": nn.Sequential(nn.Linear(4, 1), nn.Hardsigmoid()),
}
LOGITS = {
    "logits between 0 and 1": lambda y: 0.5 + 0.1 * y.tanh(),
    "a scaled sigmoid": lambda y: 4 * y.sigmoid() - 2,
    "a gate": lambda y: y * y.sigmoid(),
    "tanh": tanh,
}


@pytest.mark.parametrize("end", SIGMOIDS)
def test_a_discriminator_that_ends_in_a_sigmoid_is_refused(end):
    with pytest.raises(ValueError, match="ends in a Sigmoid, and the losses take logits"):
        Trainer(nets()[0], Ending(SIGMOIDS[end]), points(), config()).step()


def test_such_a_sequence_is_refused_before_anything_runs():
    g, d = nets()
    with pytest.raises(ValueError, match="ends in a Sigmoid, and the losses take logits"):
        Trainer(g, nn.Sequential(d, nn.Sequential(nn.Identity(), nn.Sigmoid())), points(), config())


@pytest.mark.parametrize("end", LOGITS)
@pytest.mark.parametrize("aside", [None, nn.Sigmoid()], ids=["", "gate"])
def test_no_other_one_is_said_to_end_in_a_sigmoid(end, aside, capfd):
    fitted(nets()[0], Ending(LOGITS[end], aside), points(), config(log_every=1))
    assert "sigmoid" not in capfd.readouterr().err.lower()
