"""Directions of functions of the latent that are known."""

import math

import pytest
import torch

from ganfast.systems import directions
from ganfast.systems.directions import LONGEST, Directions, learned, tried


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def linear(z):
    return {"a": 2 * z[:, 0] + z[:, 1] + 5, "b": 3 * z[:, 1], "c": z[:, 2] - z[:, 0]}


def test_each_moves_its_own_measure_by_one_deviation_and_no_other():
    z = normal(2000, 6)
    found = learned(z, linear(z))
    assert found.names == ("a", "b", "c") and found.r2.min() > 0.999
    assert found.mean[0] == pytest.approx(5, abs=0.2) and found.sd[1] == pytest.approx(3, rel=0.05)
    before = linear(z)
    for name in found.names:
        after = linear(found.along(z, {name: 1.5}))
        for other, sd in zip(found.names, found.sd):
            moved = ((after[other] - before[other]) / sd).mean().item()
            assert moved == pytest.approx(1.5 if other == name else 0, abs=0.02)
    both = linear(found.along(z, {"a": 1.0, "c": -2.0}))
    assert ((both["c"] - before["c"]) / found.sd[2]).mean() == pytest.approx(-2, abs=0.02)


def test_a_latent_may_have_any_shape():
    z = normal(500, 6).view(500, 2, 3, 1)
    found = learned(z, linear(z.flatten(1)))
    assert found.vectors.shape == (3, 2, 3, 1) and found.along(z, {"a": 1}).shape == z.shape


def test_what_the_class_explains_is_not_asked_of_the_latent():
    z, labels = normal(1000, 4), torch.arange(1000) % 5
    measures = {"m": z[:, 1] + 4.0 * (labels % 2)}
    told, not_told = learned(z, measures, labels), learned(z, measures)
    assert told.r2[0] > 0.999 and not_told.r2[0] < 0.3
    moved = told.along(z, {"m": 1.0}) - z
    assert moved[0, 1].item() == pytest.approx(told.sd[0].item(), rel=0.01) and moved[0, [0, 2, 3]].abs().max() < 1e-3


def test_labels_and_noise():
    z = normal(3000, 5)
    found = learned(z, {"label": (z[:, 0] > 0.5).float(), "noise": normal(3000, 1, seed=1)[:, 0]})
    lengths = found.vectors.norm(dim=1)
    assert found.vectors[0, 0] > 0.95 * lengths[0] and 0.4 < found.r2[0] < 0.7
    assert found.r2[1] < 0.005 and lengths[1] == pytest.approx(LONGEST, rel=1e-4)


def test_what_many_numbers_explain_by_chance_counts_for_nothing():
    z = normal(300, 100)
    assert learned(z, {"noise": normal(300, 1, seed=1)[:, 0]}).r2[0] < 0.15


def test_two_measures_that_are_nearly_one_have_no_endless_directions():
    z = normal(1000, 3)
    found = learned(z, {"a": z[:, 0], "same": z[:, 0] + 1e-4 * z[:, 1]})
    assert found.vectors.norm(dim=1).max() <= LONGEST * 1.001
    assert found.vectors[:, 0].min() > 0.9


def curved(z):
    return {"a": z[:, 0], "b": z[:, 1] + 0.2 * z[:, 0] ** 3}


def test_a_trial_corrects_what_is_not_linear_and_says_what_moves():
    z, others = normal(4000, 3), normal(500, 3, seed=1)
    found = learned(z, curved(z))
    as_learned, corrected = (tried(found, others, curved, rounds=rounds) for rounds in (0, 2))
    assert found.moved is None and as_learned.vectors.equal(found.vectors)
    along = lambda one: one.moved[0, 1].abs().item()
    assert along(as_learned) > 0.2 and along(corrected) < 0.25 * along(as_learned)
    ends = [curved(corrected.along(others, {"a": far}))["a"] for far in (-2, 2)]
    assert corrected.moved[0, 0].item() == pytest.approx(((ends[1] - ends[0]).mean() / found.sd[0]).item(), rel=1e-4)
    assert corrected.moved[0, 0].item() == pytest.approx(4, abs=0.05)
    assert corrected.others("a") == {"b": pytest.approx(along(corrected))}


def test_what_is_alike_at_both_ends_or_differs_between_pictures_is_not_lost():
    """From end to end the mean of neither moves; of the first it does against the middle, of the second in each picture."""
    z, others = normal(4000, 4), normal(1000, 4, seed=1)
    measured = lambda z: {"a": z[:, 0], "bulge": z[:, 1] - 0.5 * z[:, 0] ** 2, "apart": z[:, 2] + z[:, 0] * z[:, 3].sign()}
    found = tried(learned(z, measured(z)), others, measured)
    net, end, each = (found.others("a", what) for what in ("net", "end", "each"))
    assert net == found.others("a") and max(net.values()) < 0.1
    sd = dict(zip(found.names, found.sd.tolist()))
    step = 2 * found.vectors[0, 0].item()
    assert step == pytest.approx(2, abs=0.1) and end["bulge"] == pytest.approx(step**2 / 2 / sd["bulge"], abs=0.15)
    assert end["apart"] < 0.15 and each["apart"] == pytest.approx(step / sd["apart"], rel=0.05)
    assert end["bulge"] <= each["bulge"] and found.moved.equal(found.ends[1] - found.ends[0])
    values = [measured(found.along(others, {"a": far}))["bulge"].mean() for far in (0, -2, 2)]
    ends = [((value - values[0]) / sd["bulge"]).item() for value in values[1:]]
    assert found.ends[:, 0, 1].tolist() == pytest.approx(ends, abs=1e-3) and end["bulge"] == pytest.approx(max(map(abs, ends)), abs=1e-3)


def test_a_correction_is_exact_where_moves_add_up():
    moved = torch.tensor([[1.2, 0.3, -0.2], [0.1, 0.8, 0.2], [0.0, -0.1, 0.9]], dtype=torch.float64)
    after = directions.corrected(torch.eye(3, dtype=torch.float64), moved) @ moved
    assert torch.allclose(after, torch.eye(3, dtype=torch.float64), atol=1e-6)


def test_what_hardly_moves_its_own_measure_corrects_no_other():
    moved = torch.tensor([[1.0, 0.3], [0.2, 0.1]], dtype=torch.float64)
    vectors = directions.corrected(torch.eye(2, dtype=torch.float64), moved)
    assert vectors.tolist() == [[1, 0], pytest.approx([-0.3, 1.5])]  # and grows by a half


def test_by_counts_what_is_reached_where_a_measure_saturates():
    z, others = normal(4000, 3), normal(500, 3, seed=1)
    saturated = lambda z: {"a": (z[:, 0] / 2).tanh()}
    found = learned(z, saturated(z))
    moved = [tried(found, others, saturated, rounds=rounds).moved.item() for rounds in (0, 2)]
    assert moved[0] < 3.5 and 4.05 > moved[1] > moved[0] + 0.2


def test_a_correction_that_makes_it_worse_is_taken_back():
    z, others = normal(4000, 3), normal(500, 3, seed=1)
    waves = lambda z: {"a": (1.3 * z[:, 0]).sin()}  # further is not more
    found = learned(z, waves(z))
    moved = [tried(found, others, waves, rounds=rounds).moved.item() for rounds in (0, 1, 4)]
    longer = directions.replace(found, vectors=1.5 * found.vectors)
    assert tried(longer, others, waves, rounds=0).moved.item() < moved[0]  # what was proposed first
    assert moved[0] <= moved[1] <= moved[2]


def test_they_are_kept_in_a_file(tmp_path):
    z = normal(500, 4)
    found = tried(learned(z, linear(z)), z, linear, reach=1.0)
    found.save(tmp_path / "found.json", step=7)
    back, more = Directions.load(tmp_path / "found.json")
    assert more == {"step": 7} and back.names == found.names and back.reach == 1.0
    for field in ("vectors", "mean", "sd", "r2", "moved", "ends", "each"):
        assert torch.allclose(getattr(back, field), getattr(found, field))
    assert back.only("b").vectors.equal(back.vectors[1:2])
    joined = directions.joined([back.only("c"), back.only("a")])
    assert joined.names == ("c", "a") and joined.vectors.equal(back.vectors[[2, 0]]) and joined.moved is None
    (tmp_path / "found.json").write_text('{"names": ["a"]}')
    with pytest.raises(ValueError, match=r"edit: .*found.json cannot be read"):
        Directions.load(tmp_path / "found.json")


def test_bad_input_is_a_word():
    z = normal(100, 4)
    with pytest.raises(ValueError, match=r"direction='slnt' is unknown; valid: slant.* Did you mean 'slant'"):
        learned(z, {"slant": z[:, 0]}).along(z, {"slnt": 1.0})
    for measures, words in {
        "none": ({}, "measures is empty"),
        "shape": ({"m": z}, r"measure m has shape \[100, 4\], wants \[100\]"),
        "nan": ({"m": torch.where(z[:, 0] > 1, math.nan, z[:, 0])}, "measure m is not finite for"),
        "same": ({"m": torch.full((100,), 3.0)}, "measure m is the same for all pictures"),
    }.values():
        with pytest.raises(ValueError, match=words):
            learned(z, measures)
    with pytest.raises(ValueError, match="there are 7 samples, wants 10 at least"):
        learned(z[:7], {"m": z[:7, 0]})
