"""Augmentation of sound against what it does to sines, ramps and powers; labels, lengths and seeds."""

import math

import pytest
import torch

from cutaway import data
from cutaway.data import sound
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.rng import generator

RATE = 8000
FREQUENCIES = (220.0, 440.0, 1000.0)


def sines(seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(int(RATE * seconds)) / RATE
    return torch.stack([torch.sin(2 * math.pi * f * time) for f in FREQUENCIES])


def peak(x: torch.Tensor) -> torch.Tensor:
    """The frequency of the highest peak of the spectrum, in Hz."""
    n = 8 * x.shape[-1]
    return torch.fft.rfft(x * torch.hann_window(x.shape[-1]), n).abs().argmax(-1) * (RATE / n)


@pytest.mark.parametrize("name", data.SOUND_AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(6, 3000), (6, 2, 3000)])
def test_every_augmentation_is_fixed_by_its_generator(name, shape, global_randomness_untouched):
    x = torch.rand(shape, generator=generator(5)) - 0.5
    kept = x.clone()
    function = data.SOUND_AUGMENTATIONS[name]
    first, second, other = (function(x, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == x.shape and first.dtype == x.dtype and first.isfinite().all()
    assert torch.equal(first, second) and not torch.equal(first, other) and torch.equal(x, kept)
    if name != "noise":  # each by its own number, in its place
        torch.testing.assert_close(function(x[:1], generator(1)), first[:1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("semitones", [-5.0, 2.0, 7.0, 12.0])
def test_pitch_moves_the_peak_and_keeps_the_length(semitones):
    x = sines()
    y = sound.pitch(x, generator(0), semitones, semitones)
    assert y.shape == x.shape
    torch.testing.assert_close(peak(y) / peak(x), torch.full((3,), 2 ** (semitones / 12)), rtol=2e-3, atol=0)
    inner = y[:, 1000:-1000]
    assert inner.abs().amax(1).min() > 0.8 and inner.abs().max() < 1.05
    assert inner.unfold(1, 400, 400).abs().amax(2).min() > 0.75  # no gaps, and sound up to the end


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0])
def test_resampling_and_stretching(factor):
    x = sines()
    faster, shorter = data.resample(x, factor), data.stretch(x, factor)
    assert faster.shape == shorter.shape == (3, round(RATE / factor))
    torch.testing.assert_close(peak(faster), factor * torch.tensor(FREQUENCIES), rtol=2e-3, atol=0)
    torch.testing.assert_close(peak(shorter), torch.tensor(FREQUENCIES), rtol=2e-3, atol=0)
    time = torch.arange(faster.shape[1]) * factor / RATE
    expected = torch.stack([torch.sin(2 * math.pi * f * time) for f in FREQUENCIES])
    torch.testing.assert_close(faster[:, 100:-100], expected[:, 100:-100], atol=0.01, rtol=0)
    torch.testing.assert_close(data.resample(x, 1.0), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(data.stretch(x, 1.0), x, atol=1e-4, rtol=0)


def test_resampling_lets_nothing_alias():
    time = torch.arange(RATE) / RATE
    high = torch.sin(2 * math.pi * 3000 * time)[None]  # twice as fast it would be above half the rate
    assert data.resample(high, 2.0)[:, 100:-100].abs().max() < 0.02


def test_each_waveform_has_its_own_factor():
    x, factors = sines(), torch.tensor([0.7, 1.0, 1.5])
    for function, faster in ((data.resample, factors), (data.stretch, torch.ones(3))):
        y = function(x, factors, RATE)
        for number in range(3):
            alone = function(x[number : number + 1], float(factors[number]), RATE)
            torch.testing.assert_close(y[number], alone[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(peak(y[:, :5000]), faster * torch.tensor(FREQUENCIES), rtol=5e-3, atol=0)


def test_speed_and_tempo_stay_in_their_range_and_are_cut_or_filled():
    x = sines().repeat(20, 1)
    ratio = peak(sound.speed(x, generator(0), 0.5, 2.0)) / torch.tensor(FREQUENCIES).repeat(20)
    assert 0.49 < ratio.min() < 0.7 and 1.6 < ratio.max() < 2.01
    assert sound.speed(x, generator(0), 2.0, 2.0)[:, 4100:].abs().max() < 1e-3  # silence after the end
    quick = sound.tempo(x[:3], generator(0), 2.0, 2.0)
    assert quick[:, 4600:].abs().max() < 0.01 and quick.shape == (3, RATE)
    torch.testing.assert_close(peak(quick), torch.tensor(FREQUENCIES), rtol=5e-3, atol=0)


@pytest.mark.parametrize("decibels", [-5.0, 0.0, 20.0])
def test_noise_has_the_ratio_that_is_asked(decibels):
    x = torch.randn(4, 2, 5000, generator=generator(1)) * torch.tensor([0.01, 0.1, 1, 10])[:, None, None]
    hum = torch.sin(torch.arange(5000) / 7).expand(3, 2, 5000)
    for background in (None, hum):
        added = sound.noise(x, generator(0), decibels, decibels, background) - x
        ratio = 10 * torch.log10(x.square().mean((1, 2)) / added.square().mean((1, 2)))
        torch.testing.assert_close(ratio, torch.full((4,), decibels), atol=0.05, rtol=0)
    direction = torch.cosine_similarity(added[3].flatten(), hum[0].flatten(), dim=0)
    assert direction > 0.999
    with pytest.raises(ArgumentError, match="background"):
        sound.noise(x, generator(0), background=torch.zeros(2, 7))


def test_shift_and_gain():
    x = torch.arange(1.0, 101.0).expand(200, 100)
    y = sound.shift(x, generator(0), share=0.2)
    moves = (y - x)[:, 50].round().long()  # a ramp tells how far it moved
    assert moves.min() == -20 and moves.max() == 20
    for row, move in zip(y[:40], moves[:40].tolist(), strict=True):
        inside = slice(max(0, -move), 100 - max(0, move))
        assert torch.equal(row[inside], x[0][inside] + move) and row.count_nonzero() == 100 - abs(move)
    louder = sound.gain(x, generator(0), decibels=6.0) / x
    torch.testing.assert_close(louder, louder[:, :1].expand_as(louder))
    assert 10 ** (-0.3) <= louder.min() < 0.55 and 1.9 < louder.max() <= 10**0.3


def test_bad_input_says_what_is_wanted():
    for bad in (torch.zeros(5), torch.zeros(2, 3, dtype=torch.int16), torch.zeros(2, 0), torch.zeros(1, 1, 1, 9)):
        for function in data.SOUND_AUGMENTATIONS.values():
            with pytest.raises(ArgumentError, match=r"\(N, T\)"):
                function(bad, generator(0))
    for factor in (0.0, -1.0, math.inf):
        with pytest.raises(ArgumentError, match="above 0"):
            data.resample(torch.zeros(2, 9), factor)
    with pytest.raises(LookupFailure, match="pitch"):
        data.augmentation("pitsch", of="sound")
    with pytest.raises(LookupFailure, match="sound"):
        data.augmentation("pitch", of="sounds")


def test_steps_are_chained():
    x = sines(0.2)
    chained = data.augmentation(("gain", {"decibels": 0.0}), ("shift", {"share": 0.0}), lambda x, _: x / 2, of="sound")
    assert torch.equal(chained(x, generator(0)), x / 2)
