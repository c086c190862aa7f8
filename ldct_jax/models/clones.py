"""Clone networks: SCN, PCN and every ablation between them, as one module (Li & Wang).

One denoiser, the *clone*, is applied T times with shared weights. What passes from clone to
clone, what each clone sees of the noisy image, and to what its residual is added are flags;
the loss over all clones instead of the last ("parallel output") belongs to the training, not here.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldct_jax.errors import UsageError
from ldct_jax.models.layers import Conv, check_images, relu, unrolling

TRANSFERS = ("image", "feature")
RESIDUALS = ("incremental", "brute_force")
FIRST_TRANSFERS = ("f0", "zeros")
BACKBONES = ("redcnn", "cpce")
LOOPS = ("auto", "scan", "unrolled", "python")


class Clone(nn.Module):
    """One clone: ``n_layers``/2 convolutions, as many deconvolutions, symmetric shortcuts.

    ``low`` is F^l (conv1), ``high`` is F^h (conv2 … the last but one deconvolution) and ``out``
    the deconvolution of O in eq. 30. Shortcut s_e, the output of conv e, is kept for
    e = m-1, m-3, … and joins after deconv (m-e): added before the ReLU (``redcnn``), or for
    ``cpce`` every s_1 … s_{m-1} is concatenated and projected by a 1x1 convolution.
    """

    in_low: int
    in_high: int
    n_filters: int
    n_layers: int
    kernel_size: int
    kind: str
    initialization: str
    dtype: Any

    def setup(self):
        n, m = self.n_filters, self.n_layers // 2

        def layer(features_in, features_out, padding, **kwargs):
            return Conv(
                features_in,
                features_out,
                kernel_size=kwargs.pop("kernel_size", self.kernel_size),
                padding=padding,
                initialization=self.initialization,
                dtype=self.dtype,
                **kwargs,
            )

        self.conv1 = layer(self.in_low, n, "valid")
        self.conv2 = layer(self.in_high, n, "valid")
        for i in range(3, m + 1):
            setattr(self, f"conv{i}", layer(n, n, "valid"))
        for j in range(1, m):
            setattr(self, f"deconv{j}", layer(n, n, "full"))
            if self.kind == "cpce":
                setattr(self, f"project{j}", layer(2 * n, n, "valid", kernel_size=1))
        setattr(self, f"deconv{m}", layer(n, 1, "full", last=True))

    def low(self, x_bhw1):
        """conv1 + ReLU: (B, H, W, in_low) → (B, H-2, W-2, n) for 3x3 kernels."""
        return relu(self.conv1(x_bhw1))

    def fixed_part(self, f0_bhwn):
        """conv2 of the part of Cat(F_0, F) that all clones share: W_a * F_0 + bias."""
        kernel = self.conv2.kernel[:, :, : self.n_filters]
        return self.conv2.add_bias(self.conv2.convolve(f0_bhwn, kernel))

    def high(self, s1, features, fixed=None):
        """F^h. ``features`` is conv2's input, or its second half where ``fixed`` is given."""
        m = self.n_layers // 2
        if fixed is None:
            x = self.conv2(features)
        else:
            kernel = self.conv2.kernel[:, :, self.n_filters :]
            x = fixed if features is None else fixed + self.conv2.convolve(features, kernel)
        x = relu(x)
        skips = {1: s1, 2: x}
        for i in range(3, m + 1):
            x = skips[i] = relu(getattr(self, f"conv{i}")(x))
        for j in range(1, m):
            x, e = getattr(self, f"deconv{j}")(x), m - j
            if self.kind == "cpce":
                x = relu(jnp.concatenate([skips[e], x], axis=-1))
                x = getattr(self, f"project{j}")(x)
            elif j % 2 == 1:
                x = x + skips[e]
            x = relu(x)
        return x

    def out(self, features):
        """The last deconvolution, cast to float32: (B, H-2, W-2, n) → (B, H, W, 1)."""
        return getattr(self, f"deconv{self.n_layers // 2}")(features).astype(jnp.float32)

    def outs(self, stack):
        """:meth:`out` of all clones' features, clone by clone: (T, B, H, W, 1)."""
        last = getattr(self, f"deconv{self.n_layers // 2}")
        outs = jnp.stack([last.convolve(features, last.kernel) for features in stack])
        return last.add_bias(outs).astype(jnp.float32)


class ClonesNet(nn.Module):
    """T weight-shared clones on a noisy image: (B, H, W, 1) → (T, B, H, W, 1), last = result.

    The defaults are the full PCN of the paper. Images are float, usually in [0, 1]; height and
    width are free above ``kernel_size`` - 1 times ``n_layers``/2.

    Args:
      n_filters: kernels in each layer but the last (the paper's 48).
      n_clones: T.
      n_layers: L = 2m, even and at least 4: m convolutions and m deconvolutions in a clone.
      transfer: what clone t receives of clone t-1: the ``image`` x_{t-1} or the ``feature`` F_{t-1}
        (eqs 25-27; conv1 then runs once, on the noisy image y).
      coupled: concatenate the noisy part first: Cat(y, x_{t-1}) (eq. 16) or Cat(F_0, F_{t-1})
        (eq. 27).
      residual: ``incremental`` x_t = x_{t-1} + … (eq. 11/25) or ``brute_force`` x_t = y + …
        (eq. 23/28).
      first_transfer: what stands for the transferred item at t = 1: ``f0`` (F_0, or y with image
        transfer), or ``zeros``, which needs ``coupled``.
      backbone: the clone's CNN: ``redcnn`` (shortcuts are added) or ``cpce`` (concatenated and
        projected).
      initialization: see :func:`ldct_jax.models.layers.initializers`.
      final_relu: end each clone with a ReLU (eq. 30). Turn it off where the window's lower end
        must not cut the image.
      dtype: computing type of the layers. Parameters, images and the residual addition are float32.
      loop: ``scan`` (one rolled ``nn.scan``), ``unrolled`` (the same scan, unrolled), ``python``,
        or ``auto``: unrolled on an accelerator, where a rolled loop writes every activation once
        more to hand it to its backward pass, and rolled on a CPU, where it compiles faster. All
        give the same parameters and the same function.
      shortcuts: use the exact algebra that saves work with feature transfer: conv2 of F_0 once
        for all clones, and in a rolled loop all output deconvolutions as one batched one.
    """

    n_filters: int = 48
    n_clones: int = 4
    n_layers: int = 10
    kernel_size: int = 3
    transfer: str = "feature"
    coupled: bool = True
    residual: str = "brute_force"
    first_transfer: str = "f0"
    backbone: str = "redcnn"
    initialization: str = "lecun"
    final_relu: bool = True
    dtype: Any = jnp.float32
    loop: str = "auto"
    shortcuts: bool = True

    def _check(self):
        for value, legal, name in (
            (self.transfer, TRANSFERS, "transfer"),
            (self.residual, RESIDUALS, "residual"),
            (self.first_transfer, FIRST_TRANSFERS, "first_transfer"),
            (self.backbone, BACKBONES, "backbone"),
            (self.loop, LOOPS, "loop"),
        ):
            if value not in legal:
                raise UsageError(f"{name}={value!r}: use one of {', '.join(legal)}")
        if self.n_layers < 4 or self.n_layers % 2:
            raise UsageError(
                f"n_layers={self.n_layers}: a clone needs an even number of at least 4"
            )
        if self.n_clones < 1 or self.n_filters < 1:
            raise UsageError("n_clones and n_filters must be at least 1")
        if self.first_transfer == "zeros" and not self.coupled:
            raise UsageError(
                "first_transfer='zeros' needs coupled=True: otherwise no clone ever sees the image"
            )

    def setup(self):
        self._check()
        self.body = self._clone(2 if self.coupled and self.transfer == "image" else 1)

    def _clone(self, in_low: int) -> Clone:
        """The clone, whose first layer sees ``in_low`` images."""
        n, both = self.n_filters, self.coupled and self.transfer == "feature"
        return Clone(
            in_low=in_low,
            in_high=2 * n if both else n,
            n_filters=n,
            n_layers=self.n_layers,
            kernel_size=self.kernel_size,
            kind=self.backbone,
            initialization=self.initialization,
            dtype=self.dtype,
            name="clone",
        )

    def __call__(self, y_bhw1, train: bool = False):
        self._check_input(y_bhw1)
        y = y_bhw1.astype(jnp.float32)
        if self.transfer == "image":
            return self._image_clones(y)
        if not self.shortcuts:
            return self._feature_clones_plain(y)
        stack = self._features(y)
        if self._unroll() > 1:
            # The stack of an unrolled loop is only named, never written; as one batch it would be.
            deltas = self.body.outs(stack)
        else:
            t, b, h, w, n = stack.shape
            deltas = self.body.out(stack.reshape(t * b, h, w, n)).reshape(t, *y.shape)
        return self._images(y, deltas)

    def denoise(self, y_bhw1):
        """Only the result, (B, H, W, 1) → (B, H, W, 1): skips the outputs nobody asked for."""
        if self.transfer == "image" or self.residual == "incremental" or not self.shortcuts:
            return self(y_bhw1)[-1]
        self._check_input(y_bhw1)
        y = y_bhw1.astype(jnp.float32)
        return self._close(y + self.body.out(self._features(y, keep="last")))

    def _check_input(self, y):
        min_side = (self.kernel_size - 1) * (self.n_layers // 2) + 1
        check_images(y, f"a clone network of {self.n_layers} layers", min_side=min_side)

    def _close(self, x):
        return relu(x) if self.final_relu else x

    def _images(self, y, deltas):
        """O's residual for all clones at once, from the stacked outputs of the deconvolution."""
        if self.residual == "brute_force":
            return self._close(y + deltas)
        x, images = y, []
        for t in range(self.n_clones):
            x = self._close(x + deltas[t])
            images.append(x)
        return jnp.stack(images)

    def _unroll(self) -> int:
        unroll = {"scan": 1, "unrolled": self.n_clones}
        return unrolling(self.n_clones, unroll.get(self.loop))

    def _repeat(self, step, carry):
        """Apply ``step(body, carry) -> (carry, out)`` T times: (carry, stacked outs)."""
        if self.loop == "python":
            outs = []
            for _ in range(self.n_clones):
                carry, out = step(self.body, carry)
                outs.append(out)
            return carry, None if outs[0] is None else jnp.stack(outs)
        scan = nn.scan(
            lambda body, carry, _: step(body, carry),
            variable_broadcast="params",
            split_rngs={"params": False},
            length=self.n_clones,
            unroll=self._unroll(),
        )
        return scan(self.body, carry, None)

    def _features(self, y, keep: str = "all"):
        """The high-level features (T, B, H-2, W-2, n) of all clones, or of the last one."""
        f0 = self.body.low(y)
        fixed = self.body.fixed_part(f0) if self.coupled else None

        def step(body, features):
            features = body.high(f0, features, fixed)
            return features, (features if keep == "all" else None)

        last, stack = self._repeat(step, self._first(f0))
        return stack if keep == "all" else last

    def _feature_clones_plain(self, y):
        """Feature transfer written as the paper has it, without the algebraic shortcuts."""
        f0 = self.body.low(y)

        def step(body, carry):
            features, x = carry
            inputs = jnp.concatenate([f0, features], axis=-1) if self.coupled else features
            features = body.high(f0, inputs)
            base = x if self.residual == "incremental" else y
            x = self._close(base + body.out(features))
            return (features, x), x

        return self._repeat(step, (self._first(f0), y))[1]

    def _image_clones(self, y):
        def step(body, carry):
            x, transferred = carry
            inputs = jnp.concatenate([y, transferred], axis=-1) if self.coupled else transferred
            f0 = body.low(inputs)
            base = x if self.residual == "incremental" else y
            x = self._close(base + body.out(body.high(f0, f0)))
            return (x, x), x

        return self._repeat(step, (y, self._first(y)))[1]

    def _first(self, item):
        return jnp.zeros_like(item) if self.first_transfer == "zeros" else item
