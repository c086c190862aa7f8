"""Figures: PNG, the same bytes for the same numbers, what they show, refusals."""

import io

import numpy as np
import pytest

from ldct_jax import hu
from ldct_jax.errors import UsageError
from ldct_jax.metrics import noise
from ldct_jax.report import figures, images
from ldct_jax.report.figures import Bar, Curve, Point


def pixels(figure: figures.Figure) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")).astype(int)


def slices():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    full = np.where(np.hypot(x, y) < 0.8, 40.0, -1000.0) + 5 * rng.standard_normal((64, 64))
    return {"low dose": full + 60 * rng.standard_normal((64, 64)), "normal dose": full}


def every_figure():
    curves = [Curve(f"variant {i}", range(1, 6), 40 + i + np.arange(5.0)) for i in range(9)]
    pair = slices()
    low, full = (np.stack([a, a[::-1]]) for a in pair.values())
    analysis = noise.noise_analysis(low, (low + full) / 2, full)
    mask = noise.band_mask((64, 64))
    bar = {"a": [Bar(1.0, 0.1), Bar(2.0, 0.1, "*")]}
    return [
        figures.lines("lines", "Lines", curves[:2], "x [mm]", "y [HU]", log_y=True, log_x=True),
        figures.lines("conv", "PSNR", curves, "step", "PSNR [dB]", references={"low": 39.0}),
        figures.bars(
            "bars",
            "By dose",
            ["5%", "10%"],
            bar,
            "dose",
            "SSIM",
        ),
        figures.lines("gap", "RMSE", [Curve("HRNet", [1, 2, 3], [3.0, np.nan, 4.0])], "x", "y"),
        figures.points(
            "points", "Size", [Point("a", 1e5, 40.0, 0.2), Point("b", 2e5, 41.0)], "n", "y"
        ),
        images.panels("panels", "Slice", pair, zoom=(10, 20, 16, 24), arrows=[(15, 30)]),
        images.profiles(
            "profile", "HU", pair["normal dose"], pair["low dose"], pair, column=32, pixel_mm=0.7
        ),
        images.noise_analysis("noise", "Noise", low, (low + full) / 2, analysis, mask),
    ]


def test_every_figure_is_a_png_of_the_same_bytes_each_time():
    for first, second in zip(every_figure(), every_figure(), strict=True):
        assert first.png.startswith(b"\x89PNG") and first == second, first.name
        assert b"Software" not in first.png and b"matplotlib" not in first.png
        image = pixels(first)
        assert min(image.shape[:2]) > 300 and image.std() > 5, first.name


def test_the_users_matplotlibrc_changes_nothing():
    import matplotlib

    args = ("conv", "Test PSNR", [Curve("a", [1, 2], [3.0, 4.0])], "step", "PSNR [dB]")
    plain = figures.lines(*args)
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "font.size": 20}):
        assert figures.lines(*args) == plain


def test_panels_show_hu_at_their_window():
    flat = {"a": np.full((64, 64), 40.0), "b": np.full((64, 64), 240.0)}
    image = pixels(images.panels("p", "t", flat))
    height, width, _ = image.shape
    middle = image[int(0.6 * height)]
    assert tuple(middle[width // 4]) == tuple(middle[width // 4, :1]) * 3
    assert middle[width // 4, 0] == pytest.approx(127, abs=1), "40 HU is the window's centre"
    assert middle[3 * width // 4, 0] == 255
    wide = pixels(images.panels("p", "t", flat, window=hu.Window(-1000, 1000)))
    assert wide[int(0.6 * height), width // 4, 0] == pytest.approx(132, abs=1)
    assert "[-160, 240] HU" in images.panels("p", "t", flat).title


def test_a_window_or_a_number_changes_the_picture():
    one = figures.lines("c", "t", [Curve("a", [1, 2], [1.0, 2.0])], "x", "y")
    other = figures.lines("c", "t", [Curve("a", [1, 2], [1.0, 2.5])], "x", "y")
    assert one.png != other.png


def test_what_figures_refuse():
    pair = slices()
    with pytest.raises(UsageError, match="no curves"):
        figures.lines("n", "t", [], "x", "y")
    with pytest.raises(UsageError, match="no points"):
        figures.points("n", "t", [], "x", "y")
    with pytest.raises(UsageError, match="as many x as y"):
        Curve("c", [1, 2], [1.0])
    with pytest.raises(UsageError, match="doesn't lie in the 64x64"):
        images.panels("n", "t", pair, zoom=(60, 0, 16, 16))
    with pytest.raises(UsageError, match="give zoom"):
        images.panels("n", "t", pair, arrows=[(1, 1)])
    with pytest.raises(UsageError, match="one shape"):
        images.panels("n", "t", {"a": np.zeros((4, 4)), "b": np.zeros((5, 4))})
    with pytest.raises(UsageError, match="lies outside"):
        images.profiles("n", "t", *pair.values(), pair, column=64, pixel_mm=1.0)
    with pytest.raises(UsageError, match="a bar of every row in each of 2"):
        figures.bars("n", "t", ["5%", "10%"], {"a": [Bar(1.0)]}, "dose", "SSIM")
