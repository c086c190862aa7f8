"""Critic, gradient penalty and the other loss terms against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax import losses
from ldct_jax.models.critic import Critic
from ldct_jax.models.vgg import VGG

RNG = np.random.default_rng(0)
REAL = RNG.uniform(0, 1, (3, 8, 8, 1)).astype(np.float32)
FAKE = RNG.uniform(0, 1, (3, 8, 8, 1)).astype(np.float32)
MIX = RNG.uniform(0, 1, 3).astype(np.float32)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def close(ours, theirs, relative):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def torch_penalty(critic, real, fake, mix):
    """The WGAN-GP penalty written in torch, norm over all pixels of an image."""
    import torch

    mix = torch.from_numpy(mix).reshape(-1, 1, 1, 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1) ** 2


def test_critic_and_its_penalised_loss_are_those_of_torch(twins):
    critic = Critic(size=8)
    variables = critic.init(jax.random.key(0), REAL)
    noise = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda p: 2 * p + noise.uniform(-0.05, 0.05, p.shape).astype(np.float32), variables
    )
    other = twins.twin("Critic", size=critic.size, flatten=critic.flatten)
    twins.load_flax(other, variables)

    def objective(params):
        def scores(x):
            return critic.apply({"params": params}, x)

        real, fake = scores(REAL), scores(FAKE)
        penalty = losses.gradient_penalty(scores, REAL, FAKE, MIX)
        return jnp.mean(losses.critic_loss(real, fake) + 10.0 * penalty), (real, penalty)

    grads, (real, penalty) = jit(jax.grad(objective, has_aux=True))(variables["params"])
    t_real, t_fake = other(twins.images(REAL)), other(twins.images(FAKE))
    t_penalty = torch_penalty(other, twins.images(REAL), twins.images(FAKE), MIX)
    (t_fake - t_real + 10.0 * t_penalty).mean().backward()
    close(real, t_real.detach(), 1e-5)
    close(penalty, t_penalty.detach(), 1e-4)
    reference = twins.to_flax(other, gradients=True)["params"]
    # The last bias cancels between real and fake images.
    assert np.abs(reference["dense2"].pop("bias")).max() < 1e-6
    grads["dense2"].pop("bias")
    for path, theirs in jax.tree.leaves_with_path(reference):
        ours = functools.reduce(lambda t, p: t[p.key], path, grads)
        close(ours, theirs, 1e-4)


def test_a_generator_step_of_mapnn_has_the_gradients_of_torch(twins):
    """-E[D] + 50·MSE + 50·edges, through the critic into the image."""
    import torch
    from torch.nn.functional import conv2d, pad

    critic = Critic(flatten=False)
    # Large enough for more than one score.
    real, fake = (RNG.uniform(0, 1, (2, 16, 16, 1)).astype(np.float32) for _ in range(2))
    variables = jit(critic.init)(jax.random.key(0), real)
    other = twins.load_flax(twins.twin("Critic", flatten=False), variables)
    pixel = losses.Weighted((losses.mse, losses.edge_incoherence), (50.0, 50.0))

    def objective(x):
        return jnp.mean(losses.generator_loss(critic.apply(variables, x)) + pixel(x, real))

    ours = jit(jax.grad(objective))(fake)
    x = twins.images(fake).requires_grad_(True)
    kernel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])
    kernels = torch.stack([kernel, kernel.T])[:, None]

    def sobel(x):
        return conv2d(pad(x, (1, 1, 1, 1), mode="reflect"), kernels)

    y = twins.images(real)
    edges = ((sobel(x) - sobel(y)) ** 2).flatten(1).mean(1)
    total = -other(x) + 50 * ((x - y) ** 2).flatten(1).mean(1) + 50 * edges
    total.mean().backward()
    close(ours, twins.images_back(x.grad), 1e-4)


def test_the_perceptual_loss_has_the_gradients_of_torch(twins):
    import torch

    layers = ("block1_conv2", "block2_conv1")
    network = VGG(16, layers)
    x3 = np.repeat(REAL, 3, -1)
    variables = jit(network.init)(jax.random.key(0), x3)
    other = twins.load_flax(twins.twin("VGG", depth=16, layers=layers), variables)
    loss = losses.Perceptual(lambda x: network.apply(variables, jnp.repeat(x, 3, -1)))
    ours = jit(jax.grad(lambda x: loss(x, REAL).mean()))(FAKE)
    x = twins.images(FAKE).requires_grad_(True)
    with torch.no_grad():
        targets = other(twins.images(x3))
    terms = [
        ((a - b) ** 2).flatten(1).mean(1)
        for a, b in zip(other(x.repeat(1, 3, 1, 1)), targets, strict=True)
    ]
    sum(terms).mean().backward()
    close(ours, twins.images_back(x.grad), 1e-4)
