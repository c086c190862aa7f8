"""PyTorch twins of the other networks: RED-CNN to UNet, critic and VGG."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import instance_norm, interpolate, leaky_relu, max_pool2d
from twins_layers import BatchNorm, conv, deconv


class REDCNN(nn.Module):
    def __init__(self, n_filters=96, kernel_size=5, final_relu=True):
        super().__init__()
        self.final_relu = final_relu
        for i in range(1, 6):
            setattr(self, f"conv{i}", conv(1 if i == 1 else n_filters, n_filters, kernel_size))
            setattr(self, f"deconv{i}", deconv(n_filters, 1 if i == 5 else n_filters, kernel_size))

    def forward(self, x):
        relu = torch.relu
        h2 = relu(self.conv2(relu(self.conv1(x))))
        h4 = relu(self.conv4(relu(self.conv3(h2))))
        h = relu(self.deconv1(relu(self.conv5(h4))) + h4)
        h = relu(self.deconv3(relu(self.deconv2(h))) + h2)
        out = self.deconv5(relu(self.deconv4(h))).float() + x
        return relu(out) if self.final_relu else out


class CPCE(nn.Module):
    def __init__(self, n_filters=32, use_bias=False, final_relu=True):
        super().__init__()
        n, self.final_relu = n_filters, final_relu
        for i in range(1, 5):
            setattr(self, f"conv{i}", conv(1 if i == 1 else n, n, bias=use_bias))
        for i in range(5, 8):
            setattr(self, f"deconv{i}", deconv(n, n, bias=use_bias))
            setattr(self, f"project{i}", conv(2 * n, n, 1, bias=use_bias))
        self.deconv8 = deconv(n, 1, bias=use_bias)

    def last_layer(self, x):
        relu = torch.relu
        h1 = relu(self.conv1(x))
        h2 = relu(self.conv2(h1))
        h3 = relu(self.conv3(h2))
        h = relu(self.conv4(h3))
        h = relu(self.project5(relu(torch.cat([h3, self.deconv5(h)], 1))))
        h = relu(self.project6(relu(torch.cat([h2, self.deconv6(h)], 1))))
        h = relu(self.project7(relu(torch.cat([h1, self.deconv7(h)], 1))))
        return self.deconv8(h).float()

    def forward(self, x):
        out = self.last_layer(x)
        return torch.relu(out) if self.final_relu else out


class MAPNN(nn.Module):
    def __init__(self, n_modules=5, n_filters=32, use_bias=False, clip=True):
        super().__init__()
        self.n_modules, self.clip = n_modules, clip
        self.module = CPCE(n_filters, use_bias)

    def forward(self, x):
        images = []
        for _ in range(self.n_modules):
            x = torch.relu(x + self.module.last_layer(x))
            x = x.clamp(0, 1) if self.clip else x
            images.append(x)
        return torch.stack(images)


class DnCNN(nn.Module):
    def __init__(
        self,
        depth=17,
        n_filters=64,
        in_channels=1,
        momentum=0.9,
        epsilon=1e-5,
    ):
        super().__init__()
        self.depth, n = depth, n_filters
        for i in range(1, depth + 1):
            inputs = in_channels if i == 1 else n
            setattr(self, f"conv{i}", conv(inputs, 1 if i == depth else n, padding="same"))
            if 1 < i < depth:
                setattr(self, f"bn{i}", BatchNorm(n, momentum, epsilon))

    def forward(self, x):
        h = torch.relu(self.conv1(x))
        for i in range(2, self.depth):
            norm = getattr(self, f"bn{i}")
            h = torch.relu(norm(getattr(self, f"conv{i}")(h)))
        return x[:, :1] - getattr(self, f"conv{self.depth}")(h).float()


class CNN10(DnCNN):
    def __init__(self, depth=11, **fields):
        super().__init__(depth, **fields)


class DRL(nn.Module):
    def __init__(
        self, n_filters=64, in_channels=1, input_residual=True, momentum=0.99, epsilon=1e-3
    ):
        super().__init__()
        n, self.input_residual = n_filters, input_residual
        self.conv1 = conv(in_channels, n, 5, "same")
        for i, dilation in zip(range(2, 7), (2, 3, 4, 3, 2), strict=True):
            inputs = 2 * n if i == 6 else n
            setattr(self, f"conv{i}", conv(inputs, n, padding="same", dilation=dilation))
            setattr(self, f"bn{i}", BatchNorm(n, momentum, epsilon))
        self.conv7 = conv(2 * n, 1, padding="same")

    def forward(self, x):
        h1 = torch.relu(self.conv1(x))
        h2 = torch.relu(self.bn2(self.conv2(h1)))
        h3 = torch.relu(self.bn3(self.conv3(h2)))
        h4 = torch.relu(self.bn4(self.conv4(h3)))
        h5 = torch.relu(self.bn5(self.conv5(h4)))
        h6 = torch.relu(self.bn6(self.conv6(torch.cat([h5, h2], 1))))
        out = self.conv7(torch.cat([h6, h1], 1)).float()
        return x[:, :1] + out if self.input_residual else x[:, :1] - out


class WGANVGG(nn.Module):
    def __init__(self, n_filters=32, padding="valid", use_bias=False, final_relu=True):
        super().__init__()
        n, self.final_relu = n_filters, final_relu
        for i in range(1, 9):
            layer = conv(1 if i == 1 else n, 1 if i == 8 else n, 3, padding, bias=use_bias)
            setattr(self, f"conv{i}", layer)

    def forward(self, x):
        for i in range(1, 8):
            x = torch.relu(getattr(self, f"conv{i}")(x))
        x = self.conv8(x).float()
        return torch.relu(x) if self.final_relu else x


class DCSCN(nn.Module):
    def __init__(
        self, widths=(32, 26, 22, 18, 14, 11, 8), a1=24, b1=8, activation="relu", kernel=3
    ):
        super().__init__()
        self.widths, self.prelu = widths, activation == "prelu"
        total = sum(widths)
        for i, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            self._add(f"conv{i}", inputs, outputs, kernel)
        self._add("a1", total, a1, 1)
        self._add("b1", total, b1, 1)
        self._add("b2", b1, b1, kernel)
        self.reconstruct = conv(a1 + b1, 1, 1)

    def _add(self, name, inputs, outputs, k):
        setattr(self, name, conv(inputs, outputs, k, "same"))
        if self.prelu:
            setattr(self, f"{name}_act", nn.PReLU(outputs))

    def _run(self, name, x):
        x = getattr(self, name)(x)
        return getattr(self, f"{name}_act")(x) if self.prelu else torch.relu(x)

    def forward(self, x):
        h, outputs = x, []
        for i in range(1, len(self.widths) + 1):
            h = self._run(f"conv{i}", h)
            outputs.append(h)
        h = torch.cat(outputs, 1)
        joined = [self._run("a1", h), self._run("b2", self._run("b1", h))]
        return x + self.reconstruct(torch.cat(joined, 1)).float()


def _norm_relu(x):
    return torch.relu(instance_norm(x, eps=1e-5))


def _resize(x, size):
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class HRNet(nn.Module):
    def __init__(self, widths=(32, 64, 128, 256), new_scale="previous", final_relu=True):
        super().__init__()
        self.widths, self.new_scale, self.final_relu = widths, new_scale, final_relu
        self.stem = conv(1, widths[0], padding="same")
        for stage in range(1, len(widths) + 1):
            for j in range(stage):
                for k in (1, 2):
                    layer = conv(widths[j], widths[j], padding="same")
                    setattr(self, f"stage{stage}_branch{j}_conv{k}", layer)
            for target in range(stage + 1 if stage < len(widths) else 0):
                for source in self._sources(stage, target):
                    name = f"fuse{stage}_{source}to{target}"
                    if source > target:
                        setattr(self, name, conv(widths[source], widths[target], 1))
                    for step in range(source + 1, target + 1):
                        layer = conv(widths[step - 1], widths[step], padding="same", stride=2)
                        setattr(self, f"{name}_{step - source}", layer)
        self.predictor = conv(sum(widths), 1, 1)

    def _sources(self, stage, target):
        only_previous = target == stage and self.new_scale == "previous"
        return [target - 1] if only_previous else list(range(stage))

    def forward(self, x):
        size = x.shape[2:]
        scales = [_norm_relu(self.stem(x))]
        for stage in range(1, len(self.widths) + 1):
            for j in range(stage):
                for k in (1, 2):
                    layer = getattr(self, f"stage{stage}_branch{j}_conv{k}")
                    scales[j] = _norm_relu(layer(scales[j]))
            if stage < len(self.widths):
                scales = [self._target(stage, target, scales) for target in range(stage + 1)]
        h = torch.cat([_resize(s, size) for s in scales], 1)
        out = self.predictor(h).float()
        return torch.relu(out) if self.final_relu else out

    def _target(self, stage, target, scales):
        total = 0
        for source in self._sources(stage, target):
            h, name = scales[source], f"fuse{stage}_{source}to{target}"
            if source > target:
                h = _resize(_norm_relu(getattr(self, name)(h)), scales[target].shape[2:])
            for step in range(source + 1, target + 1):
                h = _norm_relu(getattr(self, f"{name}_{step - source}")(h))
            total = total + h
        return total


class UNet(nn.Module):
    def __init__(self, widths=(32, 64, 128, 256, 512, 512, 512, 512, 512), final_relu=True):
        super().__init__()
        self.levels, self.final_relu = len(widths), final_relu
        for i, (a, b) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            setattr(self, f"down{i}", conv(a, b, padding="same", stride=2))
        inputs = widths[-1]
        for i in range(self.levels, 0, -1):
            outputs = widths[i - 2] if i > 1 else 1
            setattr(self, f"up{i}", conv(inputs, outputs, padding="same"))
            inputs = 2 * outputs

    def forward(self, x):
        kept = []
        for i in range(1, self.levels + 1):
            x = getattr(self, f"down{i}")(x)
            x = torch.relu(x) if x.shape[2:] == (1, 1) else _norm_relu(x)
            kept.append(x)
        for i in range(self.levels, 1, -1):
            x = _resize(x, (2 * x.shape[2], 2 * x.shape[3]))
            x = torch.cat([_norm_relu(getattr(self, f"up{i}")(x)), kept[i - 2]], 1)
        x = self.up1(_resize(x, (2 * x.shape[2], 2 * x.shape[3]))).float()
        return torch.relu(x) if self.final_relu else x


class Critic(nn.Module):
    def __init__(self, size=64, flatten=True):
        super().__init__()
        self.flatten = flatten
        widths = (1, 64, 64, 128, 128, 256, 256)
        for i in range(1, 7):
            stride = 2 if i % 2 == 0 else 1
            layer = conv(widths[i - 1], widths[i], padding="same", stride=stride)
            setattr(self, f"conv{i}", layer)
        side = size
        for _ in range(3):
            side = -(-side // 2)
        self.dense1 = nn.Linear(256 * side**2 if flatten else 256, 1024)
        self.dense2 = nn.Linear(1024, 1)

    def forward(self, x):
        for i in range(1, 7):
            x = leaky_relu(getattr(self, f"conv{i}")(x), 0.2)
        x = x.permute(0, 2, 3, 1)
        x = x.flatten(1) if self.flatten else x
        x = self.dense2(leaky_relu(self.dense1(x), 0.2)).float()
        return x.flatten(1).mean(1)


class VGG(nn.Module):
    def __init__(self, depth=16, layers=("block1_conv2",)):
        super().__init__()
        self.layers = layers
        counts = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
        self.order, inputs = [], 3
        for b, (n, width) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True), start=1):
            for k in range(1, n + 1):
                name = f"block{b}_conv{k}"
                if set(layers) <= set(self.order):
                    return
                setattr(self, name, conv(inputs, width, padding="same"))
                self.order.append(name)
                inputs = width

    def forward(self, x):
        outputs, block = {}, "1"
        for name in self.order:
            if name[5] != block:
                x, block = max_pool2d(x, 2), name[5]
            x = outputs[name] = torch.relu(getattr(self, name)(x))
        return tuple(outputs[name] for name in self.layers)


class Cascade(nn.Module):
    """Stages are twins already."""

    def __init__(self, stages, concat=False, blend=1.0):
        super().__init__()
        self.n, self.concat, self.blend = len(stages), concat, blend
        for i, stage in enumerate(stages):
            setattr(self, f"stages_{i}", stage)

    def forward(self, x):
        out = x
        for i in range(self.n):
            stage = getattr(self, f"stages_{i}")
            stage.train(self.training and i == self.n - 1)
            out = stage(torch.cat([out, x], 1) if self.concat and i else out)
        return self.blend * out + (1 - self.blend) * x


PAPERS = {
    "REDCNN": REDCNN,
    "CPCE": CPCE,
    "MAPNN": MAPNN,
    "DnCNN": DnCNN,
    "CNN10": CNN10,
    "DRL": DRL,
    "WGANVGG": WGANVGG,
    "CNNL1": WGANVGG,
    "DCSCN": DCSCN,
    "HRNet": HRNet,
    "UNet": UNet,
    "Critic": Critic,
    "VGG": VGG,
    "Cascade": Cascade,
}
