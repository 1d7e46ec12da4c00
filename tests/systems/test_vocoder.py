"""The vocoder whole: sounds to learn from, a step as plain torch and accelerated, figures of what is known, files, what is refused."""

import copy
import json
import math
import sys
import types
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

import ganfast
from ganfast import cli
from ganfast.models import MultiPeriodDiscriminator, MultiResolutionDiscriminator
from ganfast.systems import running, spectra, vocoder
from ganfast.systems.sources import speech, wav
from ganfast.systems.vocoder import SYSTEM, Options, given, held, pieces, stretches
from ganfast.train.networks import Networks
from tests.systems.test_run import fails

SMALL = {"sounds": "tones", "clips": 6, "mels": 16, "fft": 128, "rates": (8, 4), "segment": 512, "batch_size": 2, "width": 8,
         "block_kernels": (3,), "dilations": (1,), "periods": (2, 3), "width_d": 2, "adversarial_every": 2, "fused": False,
         "precision": "fp32", "device": "cpu"}  # fmt: skip
FLAGS = ["--sounds=tones", "--clips=6", "--mels=16", "--fft=128", "--rates", "8", "4", "--segment=512", "--batch-size=2", "--width=8",
         "--block-kernels", "3", "--dilations", "1", "--periods", "2", "3", "--width-d=2", "--no-fused", "--precision=fp32",
         "--device=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    options = Options(**SMALL, steps=60)
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    return trainer, options


def test_a_short_training_comes_nearer(trained):
    trainer, options = trained
    figures = SYSTEM.figures(trainer, options)
    assert figures["distance_ratio"] == figures["distance"] / figures["distance_start"] < 0.85
    assert figures["over_griffin_lim"] == figures["distance"] / figures["griffin_lim"]
    assert SYSTEM.figures(trainer, options) == figures
    fresh = SYSTEM.trainer(options)
    made = fresh.sample(len(held(options)), given(options.analysis, held(options)))  # its average is still the network as it began
    begun = spectra.distance(made, held(options), options.sample_rate).mean().item()
    assert figures["distance_start"] == pytest.approx(begun, rel=1e-5)


def test_figures_of_what_is_known(trained, monkeypatch):
    _, options = trained
    sounds = held(options)
    for answer, distance, mel in ((sounds, 0, 0), (3 * sounds, 2 + math.log(3), math.log(3))):
        told = types.SimpleNamespace(sample=lambda n, asked, answer=answer: answer)
        figures = SYSTEM.measure(told, options)
        assert figures["distance"] == pytest.approx(distance, abs=0.2) and figures["mel"] == pytest.approx(mel, abs=0.1)
    by_griffin_lim = spectra.griffin_lim(options.analysis, options.analysis.log_mel(sounds))
    figures = SYSTEM.measure(types.SimpleNamespace(sample=lambda n, asked: by_griffin_lim), options)
    assert figures["over_griffin_lim"] == 1


def step_of(networks, options, wave, mel):
    """Gradients of both sides' losses, by the name of the network and the parameter."""
    backend = None if options.fused else "torch"
    fake = networks.generator(mel)
    batch = types.SimpleNamespace(real=wave, fake=lambda _: fake.detach())
    vocoder.told(backend)(networks, batch).backward()
    told = {f"{n}.{k}": p.grad.clone() for n in vocoder.JUDGES for k, p in networks[n].named_parameters()}
    batch.fake = lambda _: fake
    loss = vocoder.judged(backend, 1.0, 2.0)(networks, batch)[0] + 15 * vocoder.spectra(8000)(networks, batch)
    (loss + 45 * vocoder.mels(options.analysis)(networks, batch)).backward()
    return told | {f"generator.{k}": p.grad for k, p in networks.generator.named_parameters()}


def test_a_steps_gradients_accelerated_are_those_of_plain_torch():
    torch.manual_seed(0)
    options = Options(**SMALL)
    plain = {"generator": vocoder.generator(options), "periods": MultiPeriodDiscriminator((2, 3), 2)}
    plain |= {"resolutions": MultiResolutionDiscriminator(spectra.resolutions(8000), 2)}
    plain = {name: network.double() for name, network in plain.items()}
    fast = {name: ganfast.accelerate(copy.deepcopy(network)) for name, network in plain.items()}
    sound = torch.rand(2, 1, 512, dtype=torch.float64) - 0.5
    mel = given(options.analysis, sound)
    wanted = step_of(Networks(**plain), options, sound, mel)
    found = step_of(Networks(**fast), options, sound, mel)
    assert len(wanted) == len(found) > 60
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda words, name=name: f"{name}: {words}")


def test_losses_are_those_of_the_papers():
    real = [(torch.tensor([[0.5, 1.0]]), [torch.tensor([1.0, 3.0]), torch.tensor([2.0])])]
    made = [(torch.tensor([[0.0, 0.5]]), [torch.tensor([2.0, 5.0]), torch.tensor([0.0])])]
    judge = lambda sound: real if sound == "real" else made
    networks = Networks(generator=None, periods=judge, resolutions=judge)
    batch = types.SimpleNamespace(real="real", fake=lambda _: "made")
    told = (0.5**2 + 0) / 2 + (0 + 0.5**2) / 2  # (D(x) - 1)^2 and D(G(s))^2, of each of two judges
    assert vocoder.told("torch")(networks, batch).item() == pytest.approx(2 * told)
    loss, numbers = vocoder.judged("torch", 1.0, 2.0)(networks, batch)
    assert numbers["adversarial"].item() == pytest.approx(2 * (1 + 0.25) / 2) and numbers["features"].item() == pytest.approx(2 * 3.5)
    assert loss.item() == pytest.approx(1.25 + 2 * 7)


def test_pieces_belong_to_their_mels():
    mel = Options(**SMALL).analysis
    sounds = [torch.randn(5000) * 0.1, torch.cat([torch.zeros(2000), torch.randn(3000)])]
    data = pieces(sounds, mel, 512, 1)
    assert data["wave"].shape[1:] == (1, 512) and data["mel"].shape[1:] == (16, 16) and len(data["mel"]) == len(data["wave"])
    assert data["wave"].abs().amax((1, 2)).min() > 0.01  # what is silent is left out
    inner = (given(mel, data["wave"]) - data["mel"])[:, :, 2:-2]  # at its ends a piece alone is mirrored
    torch.testing.assert_close(inner, torch.zeros_like(inner), rtol=0, atol=1e-4)
    assert not pieces(sounds, mel, 512, 2)["wave"][0].equal(data["wave"][0])
    assert len(pieces([torch.zeros(600)], mel, 512, 1)["wave"]) > 0


def test_stretches():
    found = stretches([torch.arange(7.0), torch.arange(2.0)], 3)
    assert found.flatten(1).tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 0]]


def test_tones_follow_from_the_seed_and_what_is_held_out_does_not():
    (one, test), (same, _), (other, same_test) = (speech.made("tones", 8000, 3, seed) for seed in (1, 1, 2))
    assert len(one) == 3 and len(test) == speech.HELD
    assert all(a.equal(b) for a, b in zip(one, same)) and not one[0][:4000].equal(other[0][:4000])
    assert all(a.equal(b) for a, b in zip(test, same_test))
    for sound in one:
        assert 8000 < len(sound) < 40000 and 0.7 < sound.abs().max() < 0.9 and sound.dtype == torch.float32
        assert sound[:500].std() == pytest.approx(speech.ROOM, rel=0.2)  # the room alone


def spoken(folder, name, code=0):
    """Stands in for espeak-ng: writes as many samples as the text has letters, at 22050 Hz."""
    program = folder / name
    program.write_text(
        f"#!{sys.executable}\nimport sys, wave\n"
        "given = sys.argv[1:]\nfile, text = given[given.index('-w') + 1], given[-1]\n"
        f"if {code}: sys.exit('no voices')\n"
        "with wave.open(file, 'wb') as f:\n    f.setparams((1, 2, 22050, 0, 'NONE', ''))\n"
        "    f.writeframes(b''.join((9000 if i % 40 < 20 else -9000).to_bytes(2, 'little', signed=True) for i in range(441 * len(text))))\n"
    )
    program.chmod(0o755)


def test_speech_is_spoken_by_the_program_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert speech.program() is None and Options().kind == "tones"
    with pytest.raises(ValueError, match=r"sounds got 'speech', wants espeak-ng or espeak on PATH. --sounds tones is made here"):
        speech.made("speech", 8000, 2, 0)
    spoken(tmp_path, "espeak")
    assert speech.program() == "espeak" and Options().kind == "speech"
    train, test = speech.made("speech", 8000, 3, 0)
    assert [len(sound) for sound in train] == [160 * len(text) for text in speech.SENTENCES[:3]]  # resampled
    assert {len(sound) for sound in test} == {160 * len(text) for text in speech.SENTENCES[-speech.LAST :]}
    assert speech.credit("speech").endswith("espeak")
    spoken(tmp_path, "espeak-ng", code=1)
    assert speech.program() == "espeak-ng"
    with pytest.raises(RuntimeError, match="vocoder: espeak-ng failed: no voices"):
        speech.made("speech", 8000, 2, 0)


def test_sentences_that_are_held_out_are_in_no_training(monkeypatch):
    asked = []
    monkeypatch.setattr(speech, "_spoken", lambda count, rate, seed, texts: asked.append(set(texts)) or [])
    speech.made("speech", 8000, 2, 0)
    assert all(asked) and not asked[0] & asked[1] and len(asked[0] | asked[1]) == len(speech.SENTENCES)


def write(path, rate=8000, seconds=1.0, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).normal(0, 0.1, int(rate * seconds))
    wavfile.write(path, rate, (sound * 32767).clip(-32768, 32767).astype(np.int16))


def test_a_folder_is_parted_by_file(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i:02d}.wav", seconds=0.1 + i / 100)
    train, test = speech.folder(str(tmp_path), 8000)
    assert [len(sound) for sound in test] == [800 + 80 * 9] and len(train) == 11
    for i in range(10):
        (tmp_path / f"{i:02d}.wav").unlink()
    train, test = speech.folder(str(tmp_path), 8000)
    assert ([len(s) for s in train], [len(s) for s in test]) == ([1600], [1680])


def test_folders_that_cannot_be_used_say_why(tmp_path):
    for words, data in ((r"is no folder", tmp_path / "none"), ("holds 0 WAV files, wants a folder of at least two", tmp_path)):
        with pytest.raises(ValueError, match=words):
            SYSTEM.trainer(Options(**SMALL | {"sounds": None, "clips": 160, "data": str(data), "run_dir": str(tmp_path / "run")}))
    for name in ("a", "b"):
        write(tmp_path / f"{name}.wav", 44100)
    refused = r"data has 2 files whose sample rate is not 8000 Hz: a.wav \(44100 Hz\), b.wav \(44100 Hz\). Nothing is resampled here: "
    with pytest.raises(ValueError, match=refused + "--sample-rate 44100 takes these as they are, and ffmpeg -i IN.wav -ar 8000 OUT.wav"):
        speech.folder(str(tmp_path), 8000)
    write(tmp_path / "a.wav", 8000)
    with pytest.raises(ValueError, match=r"data has 1 files whose sample rate is not 8000 Hz: b.wav.*Nothing is resampled here: ffmpeg"):
        speech.folder(str(tmp_path), 8000)
    (tmp_path / "b.wav").write_text("x")
    with pytest.raises(ValueError, match=r"data has 1 files that cannot be read: b.wav \("):
        speech.folder(str(tmp_path), 8000)
    assert not (tmp_path / "run").exists()


def comment(path):
    content = path.read_bytes()
    at = content.index(b"ICMT")
    return content[at + 8 : content.index(b"\0", at + 8)].decode()


def test_a_run_its_samples_and_files_of_ones_own(tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["run", "vocoder", "--run-dir", str(run), "--steps=3", *FLAGS])
    result = json.loads((run / "result.json").read_text())
    assert result["figures"]["distance"] > 0 and result["credit"] == "made here" and "goal <= 0.5" in capsys.readouterr().out
    with Image.open(run / "picture.png") as image:
        assert image.text["Synthetic"].startswith("yes") and image.size[0] > 2 * 370
    said = comment(run / "generated.wav")
    assert said.startswith("Synthetic: yes") and "Model: vocoder: BigVGANGenerator" in said
    assert comment(run / "original.wav") == "Original: held-out sound, not made by the network; Credit: made here"
    assert "by Griffin-Lim" in comment(run / "griffin_lim.wav")
    cli.main(["run", "vocoder", "--run-dir", str(run), "--resume", "--steps=4"])
    assert json.loads((run / "result.json").read_text())["steps"] == 4
    original, rate = wav.read(run / "original.wav")
    system, options = running.saved(run)
    trainer = running.put_back(system, options, run)
    assert rate == 8000 and (original - held(options).flatten()).abs().max() < 1e-4
    wanted = trainer.sample(len(held(options)), given(options.analysis, held(options))).flatten()
    assert (wav.read(run / "generated.wav")[0] - wanted).abs().max() < 1e-4

    cli.main(["sample", str(run), "--count=2", "--seed=5", "--out", str(tmp_path / "out")])
    names = {f"sound-00{i}-{name}.wav" for i in range(2) for name in ("original", "generated", "griffin_lim")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names and "6 sounds in" in capsys.readouterr().out
    assert "Seed: 5" in comment(tmp_path / "out" / "sound-000-generated.wav")

    write(tmp_path / "mine" / "a.wav", seconds=0.3)
    write(tmp_path / "mine" / "short.wav", seconds=0.01)
    (tmp_path / "mine" / "text.wav").write_text("x")
    cli.main(["sample", str(run), "--input", str(tmp_path / "mine"), "--out", str(tmp_path / "made")])
    said = capsys.readouterr().out
    assert "4 sounds in" in said and "left out, as they cannot be read: text.wav" in said
    with wave.open(str(tmp_path / "made" / "a-generated.wav")) as file:
        assert file.getnframes() == 2400
    assert len(wav.read(tmp_path / "made" / "short-griffin_lim.wav")[0]) == 80
    assert "Input: a.wav" in comment(tmp_path / "made" / "a-generated.wav")
    assert "Network trained on: made here" in comment(tmp_path / "made" / "a-generated.wav")
    write(tmp_path / "fast.wav", 44100)
    refused = fails(capsys, "sample", run, "--input", tmp_path / "fast.wav")
    assert "input has 1 files whose sample rate is not 8000 Hz: fast.wav (44100 Hz). Nothing is resampled here: ffmpeg" in refused
    assert "wants a WAV file or a folder of WAV files" in fails(capsys, "sample", run, "--input", tmp_path / "nothing")


def test_without_discriminators():
    trainer = SYSTEM.trainer(Options(**SMALL | {"adversarial": 0.0, "mel": 0.0}, steps=1))
    assert list(trainer.networks) == ["generator"] and [list(phase.terms) for phase in trainer.phases] == [["spectrum"]]
    every = SYSTEM.trainer(Options(**SMALL | {"adversarial_every": 1}, steps=1))
    assert [phase.name for phase in every.phases] == ["d", "gan"]
    trainer.fit(progress_bar=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rates": ()}, r"rates got \(\), wants numbers of at least 1"),
        ({"width": 12}, r"width got 12, wants a multiple of 8: 3 steps halve it"),
        ({"fft": 100}, r"fft got 100, wants an even number more than 128"),
        ({"segment": 2000}, r"segment got 2000, wants a multiple of 128.*of at least fft, 512"),
        ({"segment": 256}, r"segment got 256, wants a multiple of 128"),
        ({"mels": 400}, r"of 400 mels hold no frequency"),
        ({"learning_rate": 0.0}, r"learning_rate got 0.0, wants a number above 0"),
        ({"features": -1.0}, r"features got -1.0, wants 0"),
        ({"mel": 0.0, "spectrum": 0.0}, r"mel got 0.0, wants a weight above 0 where spectrum is 0"),
        ({"adversarial_every": 0}, r"adversarial_every got 0, wants at least 1"),
        ({"sounds": "songs"}, r"sounds='songs' is unknown"),
        ({"data": "x", "clips": 3}, r"clips got 3, wants no value beside data"),
        ({"data": "x", "sounds": "tones"}, r"sounds got 'tones', wants no value beside data"),
    ],
)
def test_options_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        Options(**changes)
