"""Mels against their definition, Griffin-Lim and the distance by what is known of them; WAV files there and back."""

import math
import struct
import wave

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.io import wavfile

from ganfast.systems import spectra
from ganfast.systems.sources import own, wav
from ganfast.systems.spectra import Mel, distance, griffin_lim, mel_filters

RATE = 8000


def tone(*hertz: float, length: int = 4096, loud: float = 0.3) -> torch.Tensor:
    time = torch.arange(length) / RATE
    return sum(loud * torch.sin(2 * math.pi * f * time) for f in hertz)[None, None]


def test_mels_are_slaneys():
    """1000 Hz is the 15th mel, 6400 Hz the 42nd; below, a mel is 200 / 3 Hz."""
    assert [spectra.mels_of(hz) for hz in (0, 500, 1000)] == [0, 7.5, 15] and spectra.mels_of(6400) == pytest.approx(42)
    there = torch.tensor([0.0, 3.0, 15.0, 28.5, 42.0], dtype=torch.float64)
    assert [spectra.mels_of(hz) for hz in spectra.hertz(there).tolist()] == pytest.approx(there.tolist())


def test_filters_are_triangles_of_one_area():
    filters = mel_filters(16000, 1024, 20)
    assert filters.shape == (20, 513) and filters.min() == 0
    width = 16000 / 1024
    np.testing.assert_allclose(filters.sum(1) * width, 1, rtol=0.02)
    ends = spectra.hertz(torch.linspace(0, spectra.mels_of(8000), 22, dtype=torch.float64))
    peaks = filters.argmax(1) * width
    assert (peaks - ends[1:-1]).abs().max() <= width / 2 + 1e-9
    for i in (0, 7, 19):
        inside = (torch.arange(513) * width > ends[i]) & (torch.arange(513) * width < ends[i + 2])
        assert (filters[i] > 0).equal(inside)
    # librosa.filters.mel(sr=22050, n_fft=2048, n_mels=128): its first two values of the first filter that are not 0
    np.testing.assert_allclose(mel_filters(22050, 2048, 128)[0, 1:3], [0.01618285, 0.03236571], rtol=1e-5)


def test_a_frame_is_around_the_middle_of_its_samples():
    mel, sound = Mel(RATE, 256, 64, 20), torch.randn(2, 1, 640, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mel.magnitudes(sound)
    assert found.shape == (2, 129, 10) and found.dtype == torch.float64
    framed = F.pad(sound, (96, 96), mode="reflect")[1, 0, 64 * 3 : 64 * 3 + 256] * torch.hann_window(256, dtype=torch.float64)
    torch.testing.assert_close(found[1, :, 3], torch.fft.rfft(framed).abs(), rtol=1e-6, atol=1e-6)
    logs = mel.log_mel(sound)
    torch.testing.assert_close(logs, (mel_filters(RATE, 256, 20) @ found).clamp(min=1e-5).log())
    assert mel.log_mel(torch.zeros(1, 1, 640)).max() < -9 and mel.log_mel(torch.zeros(1, 1, 640)).isfinite().all()


def test_mels_are_float32_under_autocast():
    mel, sound = Mel(RATE, 256, 64, 20), tone(440)
    with torch.autocast("cpu", torch.bfloat16):
        assert mel.log_mel(sound.bfloat16()).dtype == torch.float32
        assert mel.log_mel(sound).equal(Mel(RATE, 256, 64, 20).log_mel(sound))
    assert torch.equal(mel.log_mel(sound), mel.log_mel(sound.clone()))


def test_the_inverse_transform():
    mel = Mel(RATE, 256, 64, 20)
    sound = torch.randn(2, 1, 640, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    framed = mel.framed(sound)
    torch.testing.assert_close(mel.inverse(mel.transform(framed))[:, 96:-96], sound[:, 0])


def test_magnitudes_have_the_mels():
    mel, sound = Mel(RATE, 256, 64, 24), tone(440, 1200)
    wanted = mel.log_mel(sound).double()
    found = spectra.magnitudes_of(mel, wanted)
    assert found.min() >= 0 and (mel.filters(found) @ found - wanted.exp()).abs().max() < 0.02 * wanted.exp().max()


def test_griffin_lim_hears_the_pitch():
    mel, sound = Mel(RATE, 512, 128, 60), tone(500, length=8192)
    made = griffin_lim(mel, mel.log_mel(sound))
    assert made.shape == sound.shape and made.abs().max() <= 1
    assert abs(torch.fft.rfft(made[0, 0]).abs().argmax().item() * RATE / 8192 - 500) < 20
    assert distance(made, sound, RATE) < 0.4 * distance(torch.rand_like(sound) - 0.5, sound, RATE)
    assert made.equal(griffin_lim(mel, mel.log_mel(sound))) and not made.equal(griffin_lim(mel, mel.log_mel(sound), seed=1))
    once = griffin_lim(mel, mel.log_mel(sound), iterations=1)
    assert (mel.log_mel(made) - mel.log_mel(sound)).abs().mean() < (mel.log_mel(once) - mel.log_mel(sound)).abs().mean()


def test_the_distance():
    sound = tone(300, 900)
    assert distance(sound, sound, RATE) == 0 and distance(-sound, sound, RATE) == 0  # it does not hear phases
    louder = distance(2 * sound, sound, RATE).item()
    assert 1 < louder < 1 + math.log(2) + 1e-5  # twice as loud: convergence 1, logarithms log 2 where it is not silent
    noise = torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(0)) * 0.1
    torch.testing.assert_close(distance(noise * 3, noise, RATE), torch.full((2,), 2 + math.log(3)), rtol=1e-4, atol=1e-4)
    assert distance(torch.zeros_like(sound), torch.zeros_like(sound), RATE) == 0
    far = distance(noise, noise.roll(1000, 2), RATE)
    assert far.shape == (2,) and far.min() > 1.0 and far.max() < 1.6  # two draws of one noise: 0.69 by logarithms, 0.65 by convergence


def test_the_distance_has_a_gradient_in_silence():
    made = torch.zeros(1, 1, 2048, requires_grad=True)
    (distance(made, tone(300, length=2048), RATE).sum() + Mel(RATE, 256, 64, 20).log_mel(made).sum()).backward()
    assert made.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Mel(RATE, 128, 32, 100), r"mels hold no frequency of a transform of 128 points. Fewer mels, or more points"),
        (lambda: Mel(RATE, 128, 31, 10), r"hop got 31 with fft 128, wants fft less an even number"),
        (lambda: Mel(RATE, 128, 32, 10).log_mel(torch.zeros(1, 1, 100)), r"sound got \[1, 1, 100\], wants \[N, 1, T\], T a multiple of 32"),
        (lambda: Mel(RATE, 128, 32, 10).log_mel(torch.zeros(1, 320)), r"sound got \[1, 320\], wants \[N, 1, T\]"),
        (lambda: distance(torch.zeros(1, 1, 90), torch.zeros(1, 1, 91), RATE), r"made got \[1, 1, 90\], true \[1, 1, 91\]"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_file_there_and_back(tmp_path):
    sound = tone(440)[0, 0]
    wav.write(tmp_path / "a.wav", sound, RATE, {"Synthetic": "yes", "Seed": "3"})
    found, rate = wav.read(tmp_path / "a.wav")
    assert rate == RATE and (found - sound).abs().max() < 1 / 32000
    with wave.open(str(tmp_path / "a.wav")) as file:  # another reader
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (1, 2, RATE, 4096)
    content = (tmp_path / "a.wav").read_bytes()
    assert b"ICMT" in content and b"Synthetic: yes; Seed: 3\0" in content
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    wav.write(tmp_path / "loud.wav", torch.tensor([2.0, -2.0]), RATE, {})
    assert wav.read(tmp_path / "loud.wav")[0].tolist() == pytest.approx([1, -1], abs=1e-4)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int24", "int32", "float32"])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_all_kinds_are_read(tmp_path, kind, channels):
    sound = torch.stack([tone(440)[0, 0], tone(220)[0, 0]][:channels], 1)
    if kind == "float32":
        wavfile.write(tmp_path / "a.wav", RATE, sound.numpy())
    else:
        bits = int(kind.lstrip("uint"))
        numbers = (sound.double() * (2 ** (bits - 1) - 1)).round().long() + (128 if bits == 8 else 0)
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setparams((channels, bits // 8, RATE, 0, "NONE", ""))
            file.writeframes(b"".join((n % 2**bits).to_bytes(bits // 8, "little") for n in numbers.flatten().tolist()))
    found, rate = wav.read(tmp_path / "a.wav")
    assert rate == RATE and found.dtype == torch.float32
    assert (found - sound.mean(1)).abs().max() < (0.01 if kind == "uint8" else 1e-4)


def test_files_that_cannot_be_read_say_why(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    wavfile.write(tmp_path / "empty.wav", RATE, np.zeros(0, np.int16))
    wavfile.write(tmp_path / "nan.wav", RATE, np.full(9, np.nan, np.float32))
    for name, words in (("text", "not understood"), ("empty", "it holds no sound"), ("nan", "not finite"), ("none", "No such file")):
        with pytest.raises(own.Unreadable, match=words):
            wav.read(tmp_path / f"{name}.wav")


def test_files_of_a_folder(tmp_path):
    for name in ("b/2.WAV", "a.wav", ".hidden.wav", ".h/x.wav", "b/text.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [str(file.relative_to(tmp_path)) for file in wav.below("vocoder", tmp_path)] == ["a.wav", "b/2.WAV"]
