"""The table of networks: exact counts, receptive fields, operations, `ldct models`."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from ldct_jax.cli.models import models
from ldct_jax.errors import UsageError
from ldct_jax.models.cascade import Cascade
from ldct_jax.models.catalogue import CATALOGUE, parameter_count, receptive_field
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.cpce import CPCE, MAPNN
from ldct_jax.models.dcscn import DCSCN
from ldct_jax.models.dncnn import CNN10, DnCNN
from ldct_jax.models.drl import DRL
from ldct_jax.models.flops import flops, flops_512
from ldct_jax.models.image_clones import ImageClones
from ldct_jax.models.layers import Conv
from ldct_jax.models.redcnn import REDCNN
from ldct_jax.models.vgg import VGG
from ldct_jax.models.wgan_vgg import CNNL1, WGANVGG
from ldct_jax.models.whole_slices import denoise


@pytest.mark.promise("every-network")
@pytest.mark.core
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_network_has_exactly_its_parameters(name):
    entry = CATALOGUE[name]
    found = parameter_count(entry.build(), entry.input_shape)
    assert found == (entry.parameters, entry.batch_stats)


@pytest.mark.core
def test_the_papers_own_totals():
    """Where a paper counts BatchNorm's running statistics in."""
    for name, total in (("drl", 225_601), ("cnn10", 335_873)):
        assert CATALOGUE[name].parameters + CATALOGUE[name].batch_stats == total
    for layers in range(4, 18, 2):
        count = 9 * (layers - 1) * 48**2 + (layers + 17) * 48 + 1
        assert CATALOGUE[f"pcn_layers{layers}"].parameters == count
    two = Cascade((DRL(), DRL(input_residual=False)))
    assert parameter_count(two) == (2 * 224_961, 2 * 640)
    assert parameter_count(ImageClones(CATALOGUE["dcscn"].build(), 5))[0] == 25_906


SMALL = {
    "pcn": ClonesNet(n_filters=2, n_clones=2, n_layers=6),
    "scn": ClonesNet(2, 2, 4, transfer="image", coupled=False, residual="incremental"),
    "cpce_clone": ClonesNet(2, 2, 6, kernel_size=5, backbone="cpce"),
    "redcnn": REDCNN(n_filters=2, kernel_size=3),
    "cpce": CPCE(n_filters=2, use_bias=True),
    "mapnn": MAPNN(n_filters=2, n_modules=2, use_bias=True, clip=False),
    "dncnn": DnCNN(depth=4, n_filters=2),
    "cnn10": CNN10(n_filters=2),
    "drl": DRL(n_filters=2),
    "wgan_vgg": WGANVGG(n_filters=2),
    "cnn_l1": CNNL1(n_filters=2),
    "dcscn": DCSCN(widths=(2, 2, 2), a1=2, b1=2),
    "cascade": Cascade((DRL(n_filters=2), DRL(n_filters=2, in_channels=2)), concat=True),
    "image_clones": ImageClones(DCSCN(widths=(2, 2), a1=2, b1=2), 3),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_receptive_field_is_what_a_pixel_depends_on(name):
    model = SMALL[name]
    field = receptive_field(model)
    side = field + 6
    x = jnp.ones((1, side, side, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    # With positive weights nothing is cut off and nothing cancels.
    variables = jax.tree_util.tree_map_with_path(
        lambda path, s: jnp.full(s.shape, 0.0 if path[-1].key == "mean" else 0.3), shapes
    )
    centre = side // 2
    quick = {"xla_backend_optimization_level": 0}  # it runs once: compiling is all the work
    grad = jax.grad(lambda x: denoise(model, variables, x)[0, centre, centre, 0])
    influence = jax.jit(grad, compiler_options=quick)(x)
    rows = np.flatnonzero(np.asarray(influence[0, :, :, 0]).any(1))
    assert rows.max() - rows.min() + 1 == field


def test_vggs_receptive_field():
    assert receptive_field(VGG(16, ("block1_conv2",))) == 5
    assert receptive_field(VGG(16, ("block2_conv1",))) == 10


def test_operations_of_a_layer_and_of_the_paper_s_network():
    image = jax.ShapeDtypeStruct((2, 10, 12, 3), jnp.float32)

    def count(layer, **kwargs):
        params = jax.eval_shape(layer.init, jax.random.key(0), image)
        return flops(layer.apply, params, image, **kwargs)

    assert count(Conv(3, 5)) == 2 * 2 * 8 * 10 * 9 * 3 * 5
    # A transposed convolution multiplies each pixel of its input with each weight, once.
    assert count(Conv(3, 5, padding="full")) == 2 * 2 * 10 * 12 * 9 * 3 * 5
    assert count(Conv(3, 5, padding="full"), padding=True) == 2 * 2 * 12 * 14 * 9 * 3 * 5
    assert count(Conv(3, 5, padding="same"), padding=True) == 2 * 2 * 10 * 12 * 9 * 3 * 5
    assert count(Conv(3, 5, padding="same", stride=2), padding=True) == 2 * 2 * 5 * 6 * 9 * 3 * 5
    # The full PCN on a 55x55 patch: 0.438 GMAC a clone, plain; loops count with their length.
    patch = jax.ShapeDtypeStruct((1, 55, 55, 1), jnp.float32)
    for loop in ("scan", "python"):
        model = ClonesNet(shortcuts=False, loop=loop)
        params = jax.eval_shape(model.init, jax.random.key(0), patch)
        assert flops(model.apply, params, patch) / 2e9 / 4 == pytest.approx(0.438, abs=6e-4)
    short = ClonesNet()
    assert flops(short.apply, params, patch) < 0.95 * flops(model.apply, params, patch)


def test_operations_of_loops_of_unknown_length_are_refused():
    with pytest.raises(UsageError, match="unknown length"):
        flops(lambda x: jax.lax.while_loop(lambda x: x[0] < 3, lambda x: x + 1, x), jnp.zeros(2))


def test_operations_of_a_slice():
    assert flops_512(CATALOGUE["critic64"].build()) is None
    # 512² pixels · 25,775 weights, less the products with the padding.
    assert flops_512(DCSCN()) == pytest.approx(2 * 512**2 * 25_775, rel=5e-3)


def check_rows(rows, catalogue):
    rows = {row["name"]: row for row in rows}
    assert list(rows) == list(catalogue)
    for name, entry in catalogue.items():
        found = rows[name]["parameters"], rows[name]["batch_stats"]
        assert found == (entry.parameters, entry.batch_stats)
    assert rows["pcn"]["receptive_field"] == 69 and rows["critic64"]["flops_512"] is None


@pytest.mark.promise("lists")
def test_ldct_models_prints_what_it_counts(monkeypatch):
    few = {name: CATALOGUE[name] for name in ("pcn", "drl", "critic64")}
    monkeypatch.setattr("ldct_jax.models.flops.CATALOGUE", few)
    result = CliRunner().invoke(models, ["--json"])
    assert result.exit_code == 0
    check_rows(json.loads(result.stdout), few)
    lines = CliRunner().invoke(models, []).stdout.splitlines()
    assert len(lines) == 4 and "GFLOP" in lines[0] and "187,921" in lines[1]
    assert "(+ 640)" in lines[2] and "whole image" in lines[3]


@pytest.mark.long
def test_ldct_models_prints_every_network():
    check_rows(json.loads(CliRunner().invoke(models, ["--json"]).stdout), CATALOGUE)


@pytest.mark.long
def test_the_page_shows_what_ldct_models_prints():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    shown = page.split("```\n")[1].split("```")[0].splitlines()
    printed = [x.rstrip() for x in CliRunner().invoke(models, []).stdout.splitlines()]
    assert len(shown) > 15 and set(shown) <= set(printed)
