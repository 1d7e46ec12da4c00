"""What cannot work is said at once, and in words."""

import pytest
import torch
from torch import nn

from ganfast.train import Phase, TrainConfig, Trainer, autoencoding
from tests.train.test_own_things import Net, config, fitted, nets, points


class Nothing(nn.Linear):
    def forward(self, x):
        return {"points": None, "x": super().forward(x)}


@pytest.mark.parametrize(
    ("generator", "words"),
    [
        (Nothing(3, 2), "the generator gives a NoneType, wants a tensor, or a tuple or dict whose first is one"),
        (nn.Linear(3, 5), r"generator gives shape \[8, 5\], the data have \[8, 2\]"),
    ],
)
def test_generators_that_cannot_serve(generator, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Trainer(generator, nets()[1], points(), config()).step()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1.0, {}), "loss of phase 'd' is float, wants a 0-d tensor"),
        ((torch.ones(3, requires_grad=True), {}), r"loss of phase 'd' is shape \[3\]"),
        ((torch.ones(()), {}), "requires_grad False"),
        ((torch.ones((), requires_grad=True), {"x": "1"}), "number 'x' is a str"),
        ((torch.ones((), requires_grad=True), [1.0]), "numbers of phase 'd' are a list, wants a dict"),
        ((torch.ones((), requires_grad=True), {"x": torch.ones(2)}), r"number 'x' is a tensor of shape \[2\]"),
    ],
    ids=str,
)
def test_objectives_that_cannot_serve(given, words):
    with pytest.raises(TypeError, match=words):
        Trainer(*nets(), points(), config(), objective=lambda *_: given).step()


class Frozen(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.requires_grad_(False)


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ((nn.Linear, nn.Linear(2, 1)), "generator is the class Linear"),
        ((lambda z: z, nn.Linear(2, 1)), "generator is a function"),
        ((Frozen(3, 2), nn.Linear(2, 1)), "the generator has no parameter that learns.*requires_grad=False"),
        ((nn.Linear(3, 2).double(), nn.Linear(2, 1)), r"the generator's weights are float64, wants float32: generator\.float\(\)"),
        ((nn.Linear(3, 2), nn.Linear(2, 1).half()), "discriminator's weights are float16, wants float32.*see TrainConfig.precision"),
        ((nn.Linear(3, 2), nn.Flatten()), "the discriminator has no parameter that learns"),
    ],
)
def test_networks_that_cannot_learn(networks, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Trainer(*networks, points(), config())


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ((nn.Linear(4, 2), nn.Linear(2, 1)), r"the first update failed: .*called with latents \[8, 3\], see latent_dim.*with \[8, 2\]"),
        ((nn.Linear(3, 2), nn.Linear(7, 1)), r"the first update failed: .*the discriminator with \[8, 2\]"),
        ((nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double()), nn.Linear(2, 1)), "the first update failed: .*dtype"),
    ],
)
def test_the_first_update_says_what_the_networks_got(networks, words):
    with pytest.raises(RuntimeError, match=words):
        Trainer(*networks, points(), config()).fit(progress_bar=False)


class Scalar(Net):
    def forward(self, x):
        return super().forward(x).mean()


class Half(Net):
    def forward(self, x):
        return super().forward(x[: len(x) // 2])


@pytest.mark.parametrize(("kind", "words"), [(Scalar, r"gives shape \[\] for 8"), (Half, r"gives shape \[4, 1\] for 8")])
def test_logits_that_are_not_of_each_sample(kind, words):
    with pytest.raises(ValueError, match=words):
        Trainer(nets()[0], kind(2, 1), points(), config()).step()


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([], "phases is .*wants some of"),
        ([Phase("d", "discriminator", ("adverserial",))], "Did you mean 'adversarial'"),
        ([Phase("d", "discriminator")], "a term of phase 'd'"),
        ([Phase("g", "generator", ("r1",))], "a term of phase 'g'='r1' is unknown"),
        ([Phase("d", "discriminator", ("r1",))], "has the term r1, whose weight in the config is 0"),
        ([Phase("d", "discriminator", ("adversarial",))] * 2, "called d, d"),
    ],
)
def test_phases_that_cannot_serve(phases, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Trainer(*nets(), points(), config(), phases=phases)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"network": ()}, r"network is \(\), wants a network's name"),
        ({"network": ("a", "a")}, "wants a network's name, or a tuple of names"),
        ({"terms": {"l1": "x"}}, r"the term 'l1' is 'x', wants a number for a known term, \(function, number\)"),
        ({"interval": 0}, "interval is 0"),
        ({"interval": 1.5}, "interval is 1.5"),
        ({"repeats": -1}, "repeats is -1"),
        ({"terms": "adversarial"}, "wants a tuple of names"),
    ],
    ids=str,
)
def test_a_phase_is_checked_when_it_is_made(how, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Phase(**{"name": "d", "network": "discriminator"} | how)


@pytest.mark.parametrize(
    ("data", "how", "words"),
    [
        (points(), {"condition": True}, "condition was given, and the data have no second item"),
        ((points(), torch.arange(40) % 4), {"condition": torch.eye(3)}, "condition has 3 rows, and the data 4 classes"),
        (points(), {"config": config(augment="color")}, "augment is 'color', and the data are no images"),
    ],
)
def test_data_and_settings_that_do_not_go_together(data, how, words):
    with pytest.raises(ValueError, match=words):
        Trainer(*nets(), data, **{"config": config()} | how)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": torch.zeros(40, 3)}, "a sample's shape is"),
        ({"config": config(latent_dim=5)}, r"latent_shape is \[5\]"),
        ({"data": (points(), torch.arange(40) % 4), "condition": True}, "a resumed run keeps its classes"),
    ],
    ids=["data", "latent", "condition"],
)
def test_a_run_goes_on_with_what_it_had(tmp_path, change, words):
    fitted(*nets(), points(), config(run_dir=str(tmp_path)))
    how = {"data": points(), "config": None} | change
    with pytest.raises(ValueError, match=words):
        Trainer.load(tmp_path, *nets(), how.pop("data"), how.pop("config"), **how)


def test_a_conditional_run_that_is_loaded_without_its_condition_names_it(tmp_path):
    data, networks = (points(), torch.arange(40) % 4), lambda: (Net(4, 2), Net(3, 1))
    fitted(*networks(), data, config(run_dir=str(tmp_path)), condition=torch.randn(4, 1))
    with pytest.raises(ValueError, match=r"The run had condition=.*Trainer.load takes again"):
        Trainer.load(tmp_path, *networks(), data)


OTHERS = {"loss": "lsgan", "smoothing": 0.2, "fused": True, "r1": 1.0, "r2": 1.0, "gradient_penalty": 1.0, "mode_seeking": 1.0}


@pytest.mark.parametrize("named", [False, True], ids=["objective", "term"])
@pytest.mark.parametrize("setting", OTHERS)
def test_an_autoencoder_and_its_run_have_one_config(setting, named):
    """Alarms go by the run's loss, penalties' weights by the run's."""
    usual = {"steps": 1, "batch_size": 4, "loss": "nonsaturating", "fused": False, "device": "cpu"}
    own, other = TrainConfig(**usual), TrainConfig(**usual | {setting: OTHERS[setting]})
    pair, images = (nn.Conv2d(1, 1, 3, 1, 1), nn.Conv2d(1, 1, 3)), torch.rand(8, 1, 8, 8) * 2 - 1

    def made(config):
        term = autoencoding(own)
        if not named:
            return Trainer(*pair, images, config, objective=term)
        phases = [Phase("d", "discriminator", {"a": (term, 1)}), Phase("g", "generator", {"a": (term, 1)})]
        return Trainer(networks=dict(zip(("generator", "discriminator"), pair)), data=images, config=config, phases=phases)

    made(TrainConfig(**usual | {"learning_rate": 1e-3})).step()  # what it does not read may differ
    with pytest.raises(ValueError, match=f"made (with|for) {setting}=.*, the run has "):
        made(other)


def test_a_config_that_was_changed_after_an_autoencoder_was_made_by_it():
    own = TrainConfig(steps=1, batch_size=4, loss="hinge", device="cpu")
    term = autoencoding(own)
    own.loss = "lsgan"
    with pytest.raises(ValueError, match=r"autoencoding was made with loss='hinge', the run has 'lsgan'\. Give both one TrainConfig"):
        Trainer(nn.Conv2d(1, 1, 3, 1, 1), nn.Conv2d(1, 1, 3), torch.rand(8, 1, 8, 8) * 2 - 1, own, objective=term)
