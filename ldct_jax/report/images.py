"""Figures that show CT images: panels with a magnified region, HU profiles, noise analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ldct_jax import hu
from ldct_jax.errors import UsageError
from ldct_jax.metrics.noise import NoiseAnalysis
from ldct_jax.report.figures import COLOURS, Figure, canvas, finish, style

BOX = "#FFD400"
ARROW = "#56B4E9"
NOISE_WINDOW = hu.Window(-50.0, 50.0)


def panels(
    name: str,
    title: str,
    images: Mapping[str, np.ndarray],
    *,
    window: hu.Window = hu.ABDOMEN,
    zoom: tuple[int, int, int, int] | None = None,
    arrows: Sequence[tuple[float, float]] = (),
    regions: np.ndarray | None = None,
    caption: str = "",
) -> Figure:
    """Images of one slice beside each other at one window, with a magnified region below each.

    images: label → (H, W) in HU, all of one shape. zoom: (top, left, height, width) in pixels.
    arrows: (row, column) of points in the image at which arrows in the magnified region point.
    regions: (H, W) integers; the borders of 1 and of 2 are drawn in the magnified region. The
    window is added to the title.
    """
    _check(name, images)
    if arrows and zoom is None:
        raise UsageError(f"figure {name!r}: arrows are drawn in the magnified region, give zoom")
    height, width = next(iter(images.values())).shape
    if zoom is not None and (
        min(zoom[:2]) < 0
        or min(zoom[2:]) < 4
        or zoom[0] + zoom[2] > height
        or zoom[1] + zoom[3] > width
    ):
        raise UsageError(f"zoom {zoom} doesn't lie in the {width}x{height} image")
    # Rows of three where that leaves fewer places empty.
    columns = min(3 if len(images) in (5, 6, 9) else 4, len(images))
    groups = math.ceil(len(images) / columns)
    side = 2.1
    ratios = [height / width] + ([zoom[2] / zoom[3]] if zoom else [])
    title = f"{title}, window [{window.low:g}, {window.high:g}] HU"
    with style():
        fig = canvas(side * columns, side * groups * sum(ratios) + 0.32 * groups + 0.3)
        fig.suptitle(title, fontsize=10)
        grid = fig.add_gridspec(groups * len(ratios), columns, height_ratios=ratios * groups)
        for i, (label, image) in enumerate(images.items()):
            group, column = divmod(i, columns)
            axes = fig.add_subplot(grid[group * len(ratios), column])
            _show(axes, image, window)
            axes.set_title(label, fontsize=8.5)
            if zoom:
                detail = fig.add_subplot(grid[group * len(ratios) + 1, column])
                _magnify(axes, detail, image, window, zoom, arrows)
                if regions is not None:
                    limits = {"xlim": detail.get_xlim(), "ylim": detail.get_ylim()}
                    for value, colour in ((1, BOX), (2, ARROW)):
                        detail.contour(regions == value, [0.5], colors=colour, linewidths=1.1)
                    detail.set(**limits)
        return finish(fig, name, title, caption)


def landmarks(
    reference_hu: np.ndarray,
    zoom: tuple[int, int, int, int],
    window: hu.Window = hu.ABDOMEN,
    count: int = 2,
) -> list[tuple[int, int]]:
    """Where arrows shall point: the small structures that stand out most, (row, column) each.

    The largest differences between a blur of 1.5 and one of 4 pixels of the (H, W) reference in
    ``window``, so that noise doesn't decide; none nearer to another, or to the edge of the region,
    than an eighth of it. Fewer than ``count`` where the region holds no structure.
    """
    from scipy.ndimage import gaussian_filter

    seen = np.clip(np.asarray(reference_hu, np.float32), window.low, window.high)
    contrast = np.abs(gaussian_filter(seen, 1.5) - gaussian_filter(seen, 4.0))
    top, left, height, width = zoom
    apart = max(2, min(height, width) // 8)
    inner = contrast[top : top + height, left : left + width].copy()
    inner[:apart], inner[-apart:], inner[:, :apart], inner[:, -apart:] = 0, 0, 0, 0
    found = []
    while len(found) < count and inner.max() > 0:
        row, column = (int(i) for i in np.unravel_index(inner.argmax(), inner.shape))
        found.append((top + row, left + column))
        inner[
            max(0, row - apart) : row + apart + 1, max(0, column - apart) : column + apart + 1
        ] = 0
    return found


def _magnify(axes, detail, image, window, zoom, arrows) -> None:
    from matplotlib.patches import Rectangle

    top, left, height, width = zoom
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=BOX, linewidth=1.1)
    )
    # The pixels keep their place in the whole image, so that arrows need no conversion.
    extent = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    _show(detail, image[top : top + height, left : left + width], window, extent)
    for spine in detail.spines.values():
        spine.set(visible=True, color=BOX, linewidth=1.1)
    for row, column in arrows:
        # From the middle of the region, so that no arrow begins in the next panel.
        across = math.copysign(0.16 * width, left + width / 2 - column)
        down = math.copysign(0.16 * height, top + height / 2 - row)
        detail.annotate(
            "",
            xy=(column, row),
            xytext=(column + across, row + down),
            arrowprops={"arrowstyle": "-|>", "color": ARROW, "linewidth": 1.5},
        )


def profiles(
    name: str,
    title: str,
    reference: np.ndarray,
    low: np.ndarray,
    images: Mapping[str, np.ndarray],
    *,
    column: int,
    pixel_mm: float,
    window: hu.Window = hu.ABDOMEN,
    caption: str = "",
) -> Figure:
    """HU along one column, one plot for each of ``images`` (dncnn_dose Fig 4), and the place.

    reference, low: the normal and the low dose, drawn in every plot; all images (H, W) HU.
    """
    _check(name, {"reference": reference, "low": low, **images})
    if not 0 <= column < reference.shape[1]:
        raise UsageError(
            f"figure {name!r}: column {column} lies outside the image of {reference.shape[1]}"
        )
    count = len(images) + 1
    # Rows of four where that leaves fewer places empty.
    columns = min(4 if count in (4, 7, 8) else 3, count)
    rows = math.ceil(count / columns)
    with style():
        fig = canvas(3.1 * columns, 2.4 * rows + 0.4)
        fig.suptitle(title, fontsize=10)
        place, *plots = fig.subplots(rows, columns, squeeze=False).flat
        _show(place, reference, window)
        place.axvline(column, color=BOX, linewidth=1.2)
        place.set_title(f"normal dose, column {column}", fontsize=8.5)
        for axes, (label, image) in zip(plots, images.items(), strict=False):
            position = pixel_mm * np.arange(len(reference))
            for what, values, colour, width in (
                ("low dose", low, COLOURS[4], 0.7),
                ("normal dose", reference, COLOURS[1], 1.1),
                ("result", image, "black", 0.9),
            ):
                axes.plot(position, values[:, column], label=what, color=colour, linewidth=width)
            axes.set_title(label, fontsize=8.5)
            # The low dose may swing far beyond what the comparison is about.
            axes.set_ylim(window.low - 100, window.high + 100)
        for axes in plots[len(images) :]:
            axes.set_axis_off()
        if images:
            plots[0].legend(fontsize=7)
        fig.supxlabel("position along the column [mm]", fontsize=8.5)
        fig.supylabel("CT number [HU]", fontsize=8.5)
        return finish(fig, name, title, caption)


def noise_analysis(
    name: str,
    title: str,
    low_hu: np.ndarray,
    denoised_hu: np.ndarray,
    analysis: NoiseAnalysis,
    mask: np.ndarray,
    *,
    caption: str = "",
) -> Figure:
    """The six parts of hrnet's Fig 8 for the first slice of the analysed stacks (N, H, W).

    mask: the band, from :func:`ldct_jax.metrics.noise.band_mask`.
    """
    low, removed = low_hu[0], (low_hu - denoised_hu)[0]
    spectrum = np.fft.fftshift(np.abs(np.fft.fft2(removed)))
    kept = np.where(np.fft.fftshift(mask), spectrum, 0)
    decades = np.log10(np.maximum(spectrum, 1e-12))
    scale = hu.Window(*np.quantile(decades, [0.02, 0.999]))
    correlations = {
        "added ·\ntarget": analysis.cos_added_target,
        "removed ·\nadded": analysis.cos_removed_added,
        "removed ·\ntarget": analysis.cos_removed_target,
    }
    with style():
        fig = canvas(8.0, 5.8)
        parts = fig.subplots(2, 3)
        fig.suptitle(title, fontsize=10)
        shown = (
            (parts[0, 0], low, hu.ABDOMEN, "(a) low dose"),
            (parts[0, 1], removed, NOISE_WINDOW, "(b) removed noise"),
            (parts[0, 2], decades, scale, "(c) its Fourier domain, log10 |F|"),
            (parts[1, 1], analysis.removed_band[0], NOISE_WINDOW, "(e) its part in the band"),
            (parts[1, 2], np.log10(np.maximum(kept, 1e-12)), scale, "(f) masked Fourier domain"),
        )
        for axes, image, at, label in shown:
            # Averaging to the figure's size would erase just the frequencies that are shown here.
            _show(axes, image, at, interpolation=None if image is low else "nearest")
            unit = "" if "Fourier" in label else f"\n[{at.low:g}, {at.high:g}] HU"
            axes.set_title(label + unit, fontsize=8.5)
        bars = parts[1, 0]
        drawn = bars.bar(list(correlations), list(correlations.values()), color=COLOURS[:3])
        bars.bar_label(drawn, fmt="%.2f", fontsize=8)
        bars.axhline(0, color="black", linewidth=0.8)
        bars.set_ylim(min(-0.2, *correlations.values()) - 0.1, 1.1)
        bars.set_title("(d) cosine correlations in the band", fontsize=8.5)
        bars.tick_params(axis="x", labelsize=7.5)
        return finish(fig, name, title, caption)


def _show(axes, image, window: hu.Window, extent=None, interpolation=None) -> None:
    axes.imshow(
        image, vmin=window.low, vmax=window.high, extent=extent, interpolation=interpolation
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _check(name: str, images: Mapping[str, np.ndarray]) -> None:
    shapes = {np.shape(i) for i in images.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise UsageError(
            f"figure {name!r} needs images (H, W) of one shape, not {shapes or 'none'}"
        )
