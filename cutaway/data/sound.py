"""Augmentation of sound: functions of (x, generator) on whole batches of waveforms, each with numbers of its own."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cutaway.data import geometry
from cutaway.errors import ArgumentError

Waves = Float[Tensor, "n *c t"]
_LOBES, _WINDOW = 16, 512  # zero crossings of the interpolating kernel on each side; samples of a spectrum


def resample(x: Waves, factor: Float[Tensor, "n"] | float, length: int | None = None) -> Waves:
    """Play waveforms faster: read them at steps of `factor` samples, band-limited, with silence outside.

    Args:
        x: waveforms `(N, T)` or `(N, C, T)`.
        factor: one for all or one for each, above 0; frequencies are multiplied by it.
        length: samples of the result; None for T over the (largest) factor, rounded.

    Source: Smith, Gossett, "A flexible sampling-rate conversion method", 1984.

    >>> resample(torch.ones(2, 100), 2.0).shape
    torch.Size([2, 50])
    """
    factor = _each(x, factor)
    length = round(x.shape[-1] / float(factor.max())) if length is None else length
    place = torch.arange(length, device=x.device, dtype=x.dtype) * factor[:, None]  # (N, L) samples of x
    first, cutoff = place.floor(), (1 / factor).clamp(max=1)[:, None]  # of half the sampling rate
    reach = math.ceil(_LOBES * float(factor.max().clamp(min=1)))  # samples to each side
    y = torch.zeros(*x.shape[:-1], length, device=x.device, dtype=x.dtype)
    for tap in range(1 - reach, reach + 1):
        at = first + tap
        off = (place - at) * cutoff  # (N, L) zero crossings from the centre
        weight = cutoff * torch.sinc(off) * torch.cos(off.clamp(-_LOBES, _LOBES) * (math.pi / 2 / _LOBES)) ** 2
        weight = weight * ((at >= 0) & (at < x.shape[-1]))
        y += _read(x, at.clamp(0, x.shape[-1] - 1).long()) * _along(weight, x)
    return y


def stretch(x: Waves, factor: Float[Tensor, "n"] | float, length: int | None = None) -> Waves:
    """Play waveforms faster at their own pitch, by a phase vocoder.

    Args:
        x, factor, length: as for `resample`; frequencies stay, the duration is divided by the factor.

    Source: Flanagan, Golden, "Phase vocoder", 1966.

    >>> stretch(torch.ones(2, 1000), 2.0).shape
    torch.Size([2, 500])
    """
    factor = _each(x, factor)
    length = round(x.shape[-1] / float(factor.max())) if length is None else length
    hop, window = _WINDOW // 4, torch.hann_window(_WINDOW, device=x.device, dtype=x.dtype)
    padded = F.pad(x.flatten(0, -2), (0, _WINDOW))
    spectra = torch.stft(padded, _WINDOW, hop, window=window, pad_mode="constant", return_complex=True)
    spectra = spectra.unflatten(0, x.shape[:-1])  # (N, *C, F, M)
    count = math.ceil(length / hop) + 1
    place = torch.arange(count, device=x.device, dtype=x.dtype) * factor[:, None]  # (N, count) frames of x
    last = spectra.shape[-1] - 1
    before, after = (_read(spectra, (place.floor() + step).clamp(max=last).long()) for step in (0, 1))
    share = _along(place.frac() * (place <= last), spectra)
    size = (1 - share) * before.abs() + share * after.abs()
    turn = (after * before.conj()).angle()  # (N, *C, F, count) phase from one hop to the next
    phase = before[..., :1].angle() + turn.cumsum(-1) - turn
    whole = torch.polar(size * _along((place <= last).to(x.dtype), spectra), phase)
    return torch.istft(whole.flatten(0, -3), _WINDOW, hop, window=window, length=length).unflatten(0, x.shape[:-1])


def speed(x: Waves, generator: torch.Generator, low: float = 0.9, high: float = 1.1) -> Waves:
    """Play waveforms faster or slower, pitch and all, by a factor in [low, high]; cut or filled with silence to T."""
    return resample(x, _drawn(x, generator, low, high), x.shape[-1])


def tempo(x: Waves, generator: torch.Generator, low: float = 0.9, high: float = 1.1) -> Waves:
    """Play waveforms faster or slower at their own pitch, by a factor in [low, high]; cut or filled to T."""
    return stretch(x, _drawn(x, generator, low, high), x.shape[-1])


def pitch(x: Waves, generator: torch.Generator, low: float = -2.0, high: float = 2.0) -> Waves:
    """Move the pitch by a number of semitones in [low, high]; the duration stays."""
    ratio = 2 ** (_drawn(x, generator, low, high) / 12)
    longer = stretch(x, 1 / ratio, math.ceil(x.shape[-1] * 2 ** (high / 12)))
    return resample(longer, ratio, x.shape[-1])


def noise(
    x: Waves, generator: torch.Generator, low: float = 10.0, high: float = 30.0, background: Waves | None = None
) -> Waves:
    """Add noise at a signal-to-noise ratio in [low, high] decibels: white, or pieces of `background` `(M, T)`."""
    decibels = _along(_drawn(x, generator, low, high)[:, None], x)
    if background is None:
        added = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    elif background.shape[1:] != x.shape[1:] or not len(background):
        raise ArgumentError(f"background of shape {tuple(background.shape)}: expected (M, T) or (M, C, T) as x has it")
    else:
        which = torch.randint(len(background), (len(x),), generator=generator, device=generator.device)
        added = background.to(x)[which.to(x.device)]
    power, own = (z.square().flatten(1).mean(1).reshape(decibels.shape) for z in (x, added))
    return x + added * (power / own.clamp(min=1e-20) / 10 ** (decibels / 10)).sqrt()


def shift(x: Waves, generator: torch.Generator, share: float = 0.1) -> Waves:
    """Move waveforms in time by up to `share` of their duration each way; silence comes in."""
    length = x.shape[-1]
    at = torch.arange(length, device=x.device) - _drawn(x, generator, -share * length, share * length).round()[:, None]
    return _read(x, at.clamp(0, length - 1).long()) * _along((at >= 0) & (at < length), x)


def gain(x: Waves, generator: torch.Generator, decibels: float = 6.0) -> Waves:
    """Make waveforms louder or softer by up to `decibels`; nothing is clipped."""
    return x * _along(10 ** (_drawn(x, generator, -decibels, decibels) / 20)[:, None], x)


SOUND_AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    one.__name__: one for one in (pitch, speed, tempo, noise, shift, gain)
}


def _check(x: Tensor) -> None:
    if x.ndim not in (2, 3) or not x.is_floating_point() or not x.shape[-1]:
        raise ArgumentError(f"x of shape {tuple(x.shape)}, {x.dtype}: expected float waveforms (N, T) or (N, C, T)")


def _drawn(x: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """One number for every waveform, `(N,)`."""
    _check(x)
    return geometry.uniform(x, generator, low, high)


def _each(x: Tensor, factor: Tensor | float) -> Tensor:
    """One positive factor for every waveform, `(N,)`."""
    _check(x)
    factors = torch.as_tensor(factor, device=x.device, dtype=x.dtype).expand(len(x))
    if not (factors > 0).all() or not factors.isfinite().all():
        raise ArgumentError(f"factor={factor}: expected finite numbers above 0")
    return factors


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values `(N, L)` shaped to act on `(N, *, L)`."""
    return values.reshape(len(values), *(1,) * (x.ndim - 2), values.shape[-1])


def _read(x: Tensor, at: Tensor) -> Tensor:
    """Entries of the last axis at places `(N, L)`, the same in every channel."""
    return x.gather(-1, _along(at, x).expand(*x.shape[:-1], at.shape[-1]))
