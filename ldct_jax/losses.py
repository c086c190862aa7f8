"""Training losses: pure functions on images in network units, one float32 number per image.

A loss is a callable ``(prediction, target) -> (B,)``. ``prediction`` is an image batch
(B, H, W, 1), or, for the clone losses, the stack (T, B, H, W, 1) that clone networks and MAP-NN
return; ``target`` is (B, H, W, 1). One number per image, so that a mask can weigh the images of a
padded batch. Everything is computed in float32, whatever the network computes in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ldct_jax.errors import UsageError

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def _difference(prediction, target):
    if prediction.ndim != 4:
        clones = (
            "; a network that returns all its clones needs last_clone(loss) or every_clone(loss)"
        )
        raise UsageError(
            f"this loss takes images (B, H, W, 1), not {tuple(prediction.shape)}"
            + clones * (prediction.ndim == 5)
        )
    if prediction.shape != target.shape:
        smaller = prediction.shape[::3] == target.shape[::3] and all(
            side // 2 < s < side
            for s, side in zip(prediction.shape[1:3], target.shape[1:3], strict=True)
        )
        raise UsageError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape"
            + ": a network without padding needs Central(loss)" * smaller
        )
    return prediction.astype(jnp.float32) - target.astype(jnp.float32)


def _per_image(values):
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def mse(prediction, target):
    """Mean squared error over the pixels of each image: two (B, H, W, 1) → (B,)."""
    return _per_image(jnp.square(_difference(prediction, target)))


def l1(prediction, target):
    """Mean absolute error over the pixels of each image: two (B, H, W, 1) → (B,)."""
    return _per_image(jnp.abs(_difference(prediction, target)))


@dataclasses.dataclass(frozen=True)
class LogMSE:
    """log(MSE + least²) of each image: two (B, H, W, 1) → (B,), the mean PSNR up to its scale.

    With mixed doses MSE is dominated by the noisiest images; here 10 % less error counts the same
    in every image. ``least``: an RMSE, network units; images far below it hardly count (patches of
    air have no error at all).
    """

    least: float = 4e-4

    def __post_init__(self):
        if not self.least > 0:
            raise UsageError(f"least={self.least}: an RMSE above 0")

    def __call__(self, prediction, target):
        return jnp.log(mse(prediction, target) + self.least**2)


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """The mean of ``base`` over images averaged in blocks of ``scales`` pixels: (B,).

    CT noise is correlated: what a network leaves of it are blobs of some pixels, a small part of
    the squared error but most of the error of block means. With a squared error as ``base`` every
    scale has its minimum at the same image, the posterior mean. Pixels at the right and lower edge
    that don't fill a block don't count.
    """

    base: Loss
    scales: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self):
        if not self.scales or any(s < 1 for s in self.scales):
            raise UsageError(f"scales={self.scales}: block sides of at least one pixel")

    def __call__(self, prediction, target):
        _difference(prediction, target)
        values = [
            self.base(_block_means(prediction, s), _block_means(target, s)) for s in self.scales
        ]
        return jnp.mean(jnp.stack(values), axis=0)


def _block_means(image_bhw1, side: int):
    """Means over ``side`` x ``side`` pixels: (B, H, W, 1) → (B, H//side, W//side, 1), float32."""
    b, h, w = image_bhw1.shape[:3]
    if min(h, w) < side:
        raise UsageError(f"{h}x{w} pixels don't hold a block of {side}x{side}")
    x = image_bhw1[:, : h // side * side, : w // side * side].astype(jnp.float32)
    return x.reshape(b, h // side, side, w // side, side, 1).mean(axis=(2, 4))


@dataclasses.dataclass(frozen=True)
class EveryClone:
    """The mean of ``base`` over all T clones (pcn eqs 18 and 29, "parallel output").

    ``prediction`` (T, B, H, W, 1) → (B,). A plain (B, H, W, 1) counts as one clone.
    """

    base: Loss

    def __call__(self, prediction, target):
        if prediction.ndim == 4:
            return self.base(prediction, target)
        return jnp.mean(jax.vmap(self.base, in_axes=(0, None))(prediction, target), axis=0)


@dataclasses.dataclass(frozen=True)
class LastClone:
    """``base`` of the last clone alone (pcn eq. 17): (T, B, H, W, 1) or (B, H, W, 1) → (B,)."""

    base: Loss

    def __call__(self, prediction, target):
        return self.base(last_image(prediction), target)


def every_clone(base: Loss) -> EveryClone:
    """:class:`EveryClone` of ``base``."""
    return EveryClone(base)


def last_clone(base: Loss) -> LastClone:
    """:class:`LastClone` of ``base``."""
    return LastClone(base)


def last_image(prediction):
    """The denoised image of what a network returned: (T, B, H, W, 1) or (B, H, W, 1) → the last."""
    return prediction[-1] if prediction.ndim == 5 else prediction


def central(image_bhw1, like):
    """The centre of ``image_bhw1`` at the height and width of ``like``, (B, h, w, 1)."""
    (h, w), (h_to, w_to) = image_bhw1.shape[1:3], like.shape[-3:-1]
    if h_to > h or w_to > w or (h - h_to) % 2 or (w - w_to) % 2:
        raise UsageError(f"{h_to}x{w_to} pixels can't be cut from the centre of {h}x{w}")
    top, left = (h - h_to) // 2, (w - w_to) // 2
    return image_bhw1[:, top : top + h_to, left : left + w_to]


@dataclasses.dataclass(frozen=True)
class Central:
    """``base`` against the centre of the target, for a network whose output is smaller.

    WGAN-VGG's generator without padding makes 64x64 of 80x80 pixels.
    """

    base: Loss

    def __call__(self, prediction, target):
        return self.base(prediction, central(target, prediction))


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Σ weights[i]·losses[i], e.g. MAP-NN's 50·MSE + 50·edges beside the adversarial term."""

    losses: tuple[Loss, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if len(self.losses) != len(self.weights) or not self.losses:
            raise UsageError(f"{len(self.losses)} losses but {len(self.weights)} weights")

    def __call__(self, prediction, target):
        terms = [
            w * loss(prediction, target) for loss, w in zip(self.losses, self.weights, strict=True)
        ]
        return sum(terms[1:], terms[0])


def sobel(image_bhw1):
    """Vertical and horizontal Sobel derivatives, borders mirrored: (B, H, W, 1) → (B, H, W, 2).

    Kernels ((-1, -2, -1), (0, 0, 0), (1, 2, 1)) and its transpose, not normalised; the mirror
    leaves out the border pixel itself.
    """
    x = jnp.pad(image_bhw1.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    smooth_w = x[:, :, :-2] + 2.0 * x[:, :, 1:-1] + x[:, :, 2:]
    smooth_h = x[:, :-2] + 2.0 * x[:, 1:-1] + x[:, 2:]
    dy = smooth_w[:, 2:] - smooth_w[:, :-2]
    dx = smooth_h[:, :, 2:] - smooth_h[:, :, :-2]
    return jnp.concatenate([dy, dx], axis=-1)


def edge_incoherence(prediction, target):
    """Mean squared difference of the Sobel derivatives (MAP-NN's edge term): → (B,)."""
    _difference(prediction, target)  # checks the shapes
    return _per_image(jnp.square(sobel(prediction) - sobel(target)))


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """Σ_i mean over the features of (φ_i(prediction) - φ_i(target))²: two (B, H, W, 1) → (B,).

    ``features`` maps (B, H, W, 1) to a sequence of feature maps (B, h_i, w_i, d_i), as
    :class:`ldct_jax.models.vgg.VGGFeatures` does. The mean is over h_i·w_i·d_i (cascade_drl,
    III-C); published codes differ here by factors of thousands, so the weight beside this term
    belongs to this convention only.
    """

    features: Any

    def __call__(self, prediction, target):
        _difference(prediction, target)
        pairs = zip(self.features(prediction), self.features(target), strict=True)
        terms = [
            _per_image(jnp.square(p.astype(jnp.float32) - t.astype(jnp.float32))) for p, t in pairs
        ]
        return sum(terms[1:], terms[0])


def critic_loss(scores_real, scores_fake):
    """What a Wasserstein critic minimises, without its penalty: D(fake) - D(real), (B,)."""
    return _scores(scores_fake) - _scores(scores_real)


def generator_loss(scores_fake):
    """The generator's adversarial term -D(G(x)): scores (B,) or (B, …) → (B,)."""
    return -_scores(scores_fake)


def gradient_penalty(critic: Loss, real, fake, mix):
    """(‖∇D(x̂)‖₂ - 1)² at x̂ = mix·real + (1 - mix)·fake: (B,) (Gulrajani et al. 2017).

    ``critic`` maps (B, H, W, 1) to scores (B, …) image by image (no batch statistics); ``mix`` is
    (B,), uniform in [0, 1). The norm is over all pixels of one image; several public ports of
    WGAN-VGG and MAP-NN take it along one axis only, which is another penalty.
    """
    real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
    mix = mix.reshape(-1, 1, 1, 1)
    between = mix * real + (1.0 - mix) * fake
    gradient = jax.grad(lambda x: jnp.sum(_scores(critic(x))))(between)
    squared = jnp.sum(jnp.square(gradient), axis=(1, 2, 3))
    # sqrt has no derivative at zero, which a critic reaches where all its units are off.
    norm = jnp.sqrt(jnp.maximum(squared, 1e-24))
    return jnp.square(norm - 1.0)


def _scores(scores):
    """One score per image: a patch critic's map is averaged."""
    scores = scores.astype(jnp.float32)
    return scores if scores.ndim == 1 else _per_image(scores)
