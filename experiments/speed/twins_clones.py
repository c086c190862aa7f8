"""PyTorch twin of the clone networks (SCN, PCN and the ablation between them).

``shortcuts=False`` is the network as the paper writes it; ``shortcuts=True`` uses the same exact
algebra as ours (conv2 of F_0 once for all clones, all output deconvolutions as one batch).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import conv2d
from twins_layers import conv, deconv


class Clone(nn.Module):
    """m convolutions, m deconvolutions, the symmetric shortcuts of ``kind``."""

    def __init__(self, in_low, in_high, n, n_layers, k, kind):
        super().__init__()
        self.m, self.n, self.kind = n_layers // 2, n, kind
        for i in range(1, self.m + 1):
            inputs = {1: in_low, 2: in_high}.get(i, n)
            setattr(self, f"conv{i}", conv(inputs, n, k))
        for j in range(1, self.m + 1):
            setattr(self, f"deconv{j}", deconv(n, 1 if j == self.m else n, k))
            if kind == "cpce" and j < self.m:
                setattr(self, f"project{j}", conv(2 * n, n, 1))

    def low(self, x):
        return torch.relu(self.conv1(x))

    def fixed_part(self, f0):
        return conv2d(f0, self.conv2.weight[:, : self.n], self.conv2.bias)

    def after_fixed(self, fixed, features):
        return fixed + conv2d(features, self.conv2.weight[:, self.n :])

    def high(self, s1, after_conv2):
        x = torch.relu(after_conv2)
        kept = {1: s1, 2: x}
        for i in range(3, self.m + 1):
            x = kept[i] = torch.relu(getattr(self, f"conv{i}")(x))
        for j in range(1, self.m):
            x = getattr(self, f"deconv{j}")(x)
            shortcut = kept[self.m - j]
            if self.kind == "cpce":
                x = getattr(self, f"project{j}")(torch.relu(torch.cat([shortcut, x], 1)))
            elif j % 2 == 1:
                x = x + shortcut
            x = torch.relu(x)
        return x

    def out(self, features):
        return getattr(self, f"deconv{self.m}")(features)


class Clones(nn.Module):
    """(B, 1, H, W) → (T, B, 1, H, W)."""

    def __init__(
        self,
        n_filters=48,
        n_clones=4,
        n_layers=10,
        kernel_size=3,
        transfer="feature",
        coupled=True,
        residual="brute_force",
        first_transfer="f0",
        backbone="redcnn",
        final_relu=True,
        shortcuts=True,
    ):
        super().__init__()
        self.n_clones, self.transfer, self.coupled = n_clones, transfer, coupled
        self.residual, self.first_transfer = residual, first_transfer
        self.final_relu, self.shortcuts = final_relu, shortcuts
        feature = transfer == "feature"
        self.clone = Clone(
            2 if coupled and not feature else 1,
            2 * n_filters if coupled and feature else n_filters,
            n_filters,
            n_layers,
            kernel_size,
            backbone,
        )

    def forward(self, y):
        if self.transfer == "image":
            return self._image(y)
        return self._feature_short(y) if self.shortcuts else self._feature_plain(y)

    def denoise(self, y):
        """The last clone's image; only its output is computed where the algebra allows."""
        if self.transfer == "image" or self.residual == "incremental" or not self.shortcuts:
            return self(y)[-1]
        return self._close(y + self.clone.out(self._features(y)[-1]).float())

    def _close(self, x):
        return torch.relu(x) if self.final_relu else x

    def _first(self, item):
        return torch.zeros_like(item) if self.first_transfer == "zeros" else item

    def _image(self, y):
        x, transferred, images = y, self._first(y), []
        for _ in range(self.n_clones):
            f0 = self.clone.low(torch.cat([y, transferred], 1) if self.coupled else transferred)
            delta = self.clone.out(self.clone.high(f0, self.clone.conv2(f0))).float()
            x = transferred = self._close((x if self.residual == "incremental" else y) + delta)
            images.append(x)
        return torch.stack(images)

    def _feature_plain(self, y):
        f0 = self.clone.low(y)
        x, features, images = y, self._first(f0), []
        for _ in range(self.n_clones):
            inputs = torch.cat([f0, features], 1) if self.coupled else features
            features = self.clone.high(f0, self.clone.conv2(inputs))
            base = x if self.residual == "incremental" else y
            x = self._close(base + self.clone.out(features).float())
            images.append(x)
        return torch.stack(images)

    def _features(self, y):
        f0 = self.clone.low(y)
        fixed = self.clone.fixed_part(f0) if self.coupled else None
        features, all_features = self._first(f0), []
        for _ in range(self.n_clones):
            if self.coupled:
                after = self.clone.after_fixed(fixed, features)
            else:
                after = self.clone.conv2(features)
            features = self.clone.high(f0, after)
            all_features.append(features)
        return all_features

    def _feature_short(self, y):
        deltas = self.clone.out(torch.cat(self._features(y))).float()
        deltas = deltas.reshape(self.n_clones, *y.shape)
        if self.residual == "brute_force":
            return self._close(y + deltas)
        x, images = y, []
        for delta in deltas:
            x = self._close(x + delta)
            images.append(x)
        return torch.stack(images)
