"""The viewer: what a page holds, and what a browser does with it on wheel, keys and drags."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics.noise import power_spectrum
from ldct_jax.report import viewer
from tests.browser import CTRL, SHIFT

SLICES, HEIGHT, WIDTH = 12, 48, 64


def unpacked(text: str, shape: tuple[int, int]) -> np.ndarray:
    """What the page makes of a packed slice, in steps."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, *shape)
    zigzag = planes[0].astype(int) + 256 * planes[1].astype(int)
    values = np.zeros((shape[0] + 1, shape[1] + 1), int)
    for y, x in np.ndindex(shape):
        a, b, c = values[y + 1, x], values[y, x + 1], values[y, x]
        error = (zigzag[y, x] >> 1) ^ -(zigzag[y, x] & 1)
        new = int(np.median([a, b, a + b - c])) + error
        values[y + 1, x + 1] = (new + 32768) % 65536 - 32768
    return values[1:, 1:]


def test_the_pixels_are_the_images_rounded_to_steps():
    image = np.random.default_rng(0).normal(0, 400, (12, 9))
    image[3, 4], image[5, 5] = 1e6, -1e6
    for step in (1, 4):
        expected = np.clip(np.rint(image / step), -32768, 32767)
        assert (unpacked(viewer.pack(image, step), image.shape) == expected).all()


def test_it_keeps_to_its_size_and_says_so():
    noisy = {"a": np.random.default_rng(0).normal(0, 50, (20, 48, 64))}
    whole = sum(len(t) for _, t in viewer.Viewer(noisy, "c").embedded().packed) / 1e6
    coarser = viewer.Viewer(noisy, "c", max_megabytes=0.9 * whole, steps=(1, 2, 4)).embedded()
    assert coarser.data["step"] == 2 and coarser.data["shape"][0] == 20
    fewer = viewer.Viewer(noisy, "Noise.", max_megabytes=0.27 * whole)
    data = fewer.embedded().data
    assert data["step"] == 1 and data["slices"] == [1, 6, 11, 15, 20] and data["of"] == 20
    assert "Noise. 5 of 20 slices are shown" in fewer.page("t")
    with pytest.raises(UsageError, match="exceeds"):
        viewer.Viewer(noisy, "c", max_megabytes=0.001).embedded()


def test_what_it_refuses():
    with pytest.raises(UsageError, match="one shape"):
        viewer.Viewer({"a": np.zeros((2, 3, 4)), "b": np.zeros((1, 3, 4))}, "c")
    with pytest.raises(DataError, match="'b' holds NaN"):
        viewer.Viewer({"a": np.zeros((2, 3, 4)), "b": np.full((2, 3, 4), np.nan)}, "c")


class Shown:
    """A page with a viewer, in the browser."""

    def __init__(self, browser, path, stacks: dict[str, np.ndarray]):
        self.browser, self.stacks = browser, stacks
        browser.open(path)
        browser.js(
            "var root = document.getElementById('viewer');"
            "var part = (role) => root.querySelector(`[data-role='${role}']`);"
            "var canvas = part('canvas');"
        )

    def state(self) -> dict:
        """The viewer's state, once it is drawn; numbers are floats."""
        self.browser.wait("!!root.dataset.drawn")
        found = dict(self.browser.js("({...root.dataset})"))
        numbers = ("left", "right", "slice", "wipe", "low", "high", "spread", "zoom", "x", "y")
        found |= {key: float(found[key]) for key in numbers}
        return found | {"square": json.loads(found["square"])}

    def of(self, element: str, x: float, y: float) -> tuple[float, float]:
        """The place in the window of a fraction of an element's width and height."""
        self.browser.js(f"{element}.scrollIntoView({{block: 'nearest'}})")
        box = self.browser.js(f"{element}.getBoundingClientRect().toJSON()")
        return box["left"] + x * box["width"], box["top"] + y * box["height"]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The same of the image."""
        return self.of("canvas", x, y)

    def pixel(self, row: float, column: float) -> tuple[float, float]:
        """The place of a pixel's middle where the whole image is shown."""
        return self.at((column + 0.5) / WIDTH, (row + 0.5) / HEIGHT)

    def click(self, element: str) -> None:
        self.browser.click(*self.of(element, 0.5, 0.5))

    def text(self, role: str) -> str:
        return self.browser.js(f"part('{role}').textContent")

    def numbers(self) -> list[list[float]]:
        """Mean and SD of every row of the square's table."""
        return self.browser.js(
            "[...part('statistics').tBodies[0].rows].map((row) =>"
            " [...row.cells].slice(1, 3).map((cell) => Number(cell.dataset.value)))"
        )

    def is_drawn(self) -> dict:
        """Compare every pixel of the picture with the state, which is returned.

        The border, the square, and canvas pixels at the edge of an image's pixel are left out.
        """
        state = self.state()
        png = self.browser.js("canvas.toDataURL('image/png')").partition(",")[2]
        drawn = np.array(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
        scale = state["zoom"] * drawn.shape[1] / WIDTH
        where = []
        for n, middle in ((drawn.shape[0], state["y"]), (drawn.shape[1], state["x"])):
            place = middle + (np.arange(n) + 0.5 - n / 2) / scale
            where.append((np.floor(place).astype(int), np.abs(place - np.rint(place)) * scale > 1))
        (rows, row_inside), (columns, column_inside) = where
        compared = row_inside[:, None] & column_inside
        stacks = list(self.stacks.values())
        left, right = (stacks[int(state[s])][int(state["slice"])] for s in ("left", "right"))
        low, high = state["low"], state["high"]
        if state["mode"] == "difference":
            image = (right - left)[np.ix_(rows, columns)]
            low, high = -state["spread"] / 2, state["spread"] / 2
        else:
            border = round(state["wipe"] * drawn.shape[1])
            after = np.arange(drawn.shape[1]) >= border
            image = np.where(after, right[np.ix_(rows, columns)], left[np.ix_(rows, columns)])
            compared[:, max(0, border - 2) : border + 2] = False
        if square := state["square"]:
            top, first, side = (square[k] for k in ("row", "column", "side"))
            near = [
                (np.abs(index - start) <= 1) | (np.abs(index - start - side) <= 1)
                for index, start in ((rows, top), (columns, first))
            ]
            compared &= ~(near[0][:, None] | near[1])
        grey = np.rint(255 * np.clip((image - low) / (high - low), 0, 1))
        assert compared.mean() > 0.3
        assert np.abs(drawn - grey[..., None])[compared].max() <= 1
        return state


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two stacks whose every pixel is another, as a page; the labels are no HTML."""
    rng = np.random.default_rng(0)
    before = rng.integers(-200, 280, (SLICES, HEIGHT, WIDTH))
    stacks = {"low <dose>": before, "after": before + rng.integers(-60, 60, before.shape)}
    path = tmp_path_factory.mktemp("page") / "view.html"
    path.write_text(viewer.Viewer(stacks, "Noise.", pixel_mm=0.7).page("Noise"), "utf-8")
    return path, stacks


@pytest.fixture
def shown(browser, page):
    return Shown(browser, *page)


def test_the_page_opens_with_the_middle_slice_of_both(shown):
    state = shown.is_drawn()
    assert (state["slice"], state["wipe"], state["zoom"]) == (6, 0.5, 1)
    assert (state["low"], state["high"], state["mode"]) == (-160, 240, "split")
    assert [shown.text(r) for r in ("left-label", "right-label", "slice-label")] == [
        "low <dose>",
        "after",
        "7 of 12",
    ]


@pytest.mark.promise("view")
def test_the_wheel_scrolls_slices_and_with_ctrl_zooms(shown):
    middle = shown.at(0.5, 0.5)
    for notch, expected in ((120, 7), (100, 8), (-120, 7)):
        shown.browser.wheel(*middle, notch)
        assert shown.is_drawn()["slice"] == expected
    for _ in range(10):  # a touchpad's small turns, together two notches
        shown.browser.wheel(*middle, 20)
    assert 9 <= shown.state()["slice"] <= 10
    for turn, expected in ((100_000, SLICES - 1), (-100_000, 0)):
        shown.browser.wheel(*middle, turn)
        assert shown.is_drawn()["slice"] == expected
    assert shown.browser.js("scrollY") == 0
    place = shown.pixel(10, 50)
    shown.browser.move(*place)
    for turn, k in ((100, 1), (100, 2), (-100, 1), (-100, 0)):
        shown.browser.wheel(*place, turn)
        before, after = (stack[k, 10, 50] for stack in shown.stacks.values())
        told = f"row 10, column 50: low <dose> {before} HU · after {after} HU"
        assert shown.state()["slice"] == k and shown.text("readout") == told
    for turns, zoom in ((-120, 1.2), (-120, 1.44), (120, 1.2)):
        shown.browser.wheel(*place, turns, held=CTRL)
        assert shown.is_drawn()["zoom"] == pytest.approx(zoom)
        assert shown.text("readout").startswith("row 10, column 50: "), "it stays under the pointer"
    assert shown.state()["slice"] == 0
    assert shown.browser.js("visualViewport.scale") == 1, "the browser's own zoom"


def test_every_key(shown):
    shown.browser.click(*shown.at(0.9, 0.9))
    steps = [
        ("ArrowDown", {"slice": 7}),
        ("ArrowUp", {"slice": 6}),
        ("PageUp", {"slice": 0}),
        ("PageDown", {"slice": 10}),
        ("End", {"slice": 11}),
        ("Home", {"slice": 0}),
        ("ArrowRight", {"wipe": 0.52}),
        ("ArrowLeft", {"wipe": 0.5}),
        ("d", {"mode": "difference"}),
        ("D", {"mode": "split"}),
        ("w", {"tool": "window"}),
        ("s", {"tool": "square"}),
        ("m", {"tool": "move"}),
        *(
            (str(i + 1), {"low": low, "high": high})
            for i, (low, high) in enumerate(viewer.PRESETS.values())
        ),
        ("+", {"zoom": 1.5}),
        ("=", {"zoom": 2.25}),
        ("-", {"zoom": 1.5}),
        ("0", {"zoom": 1}),
    ]
    state = shown.state()
    for key, change in steps:
        shown.browser.keys(key)
        expected = {k: pytest.approx(v) if isinstance(v, float) else v for k, v in change.items()}
        before, state = state, shown.is_drawn()
        others = {"drawn", *change, *("xy" if key in "+=-0" else ())}
        assert {k: state[k] for k in change} == expected, key
        assert all(state[k] == before[k] for k in state if k not in others), key
    assert shown.browser.js("scrollY") == 0
    pressed = "[...root.querySelectorAll('[aria-pressed=true]')].map((b) => b.textContent)"
    assert shown.browser.js(pressed) == ["split", "full", "move"]


def test_a_key_in_a_field_is_text(shown):
    shown.click("part('centre')")
    shown.browser.js("part('centre').select()")
    shown.browser.keys("1", "4", "0")
    state = shown.is_drawn()
    assert (state["low"], state["high"]) == (140 - 200, 140 + 200)


@pytest.mark.promise("view")
def test_the_border_is_dragged_by_its_slider_and_on_the_image(shown):
    slider = "part('wipe')"
    shown.browser.drag(
        shown.of(slider, 0.5, 0.5), shown.of(slider, 0.4, 0.5), shown.of(slider, 0.25, 0.5)
    )
    assert shown.is_drawn()["wipe"] == pytest.approx(0.25, abs=0.02)
    shown.browser.drag(shown.at(0.8, 0.3), shown.at(0.7, 0.3), shown.at(0.7, 0.6))
    assert shown.is_drawn()["wipe"] == pytest.approx(0.7, abs=0.01)
    # Past the edge it stops, and once let go, outside, it stays.
    shown.browser.drag(shown.at(0.7, 0.3), shown.at(1.3, 0.3))
    shown.browser.move(*shown.at(0.4, 0.4))
    assert shown.is_drawn()["wipe"] == 1


def test_a_larger_image_is_dragged_but_near_the_border(shown):
    shown.click("part('zoom-in')")
    shown.browser.drag(shown.at(0.2, 0.5), shown.at(0.25, 0.55), shown.at(0.3, 0.6))
    state = shown.is_drawn()
    # A tenth of the canvas is 64 / 10 / 1.5 pixels.
    assert state["x"] == pytest.approx(WIDTH / 2 - WIDTH / 15, abs=0.1)
    assert state["y"] == pytest.approx(HEIGHT / 2 - HEIGHT / 15, abs=0.1)
    assert state["wipe"] == 0.5 and state["zoom"] == 1.5
    shown.browser.drag(shown.at(0.5, 0.5), shown.at(0.6, 0.5))
    moved = shown.is_drawn()
    assert moved["wipe"] == pytest.approx(0.6, abs=0.01) and moved["x"] == state["x"]
    shown.browser.drag(shown.at(0.2, 0.2), shown.at(0.2, 0.2), shown.at(9, 9))
    state = shown.is_drawn()
    assert (state["x"], state["y"]) == pytest.approx((WIDTH / 3, HEIGHT / 3)), "its corner"
    shown.click("part('fit')")
    assert shown.is_drawn()["x"] == WIDTH / 2


@pytest.mark.promise("view")
def test_a_square_is_drawn_moved_on_and_measured(shown):
    def measured(row, column, side):
        state = shown.is_drawn()
        assert state["square"] == {"row": row, "column": column, "side": side}
        cut = (int(state["slice"]), slice(row, row + side), slice(column, column + side))
        before, after = (stack[cut] for stack in shown.stacks.values())
        expected = [[x.mean(), x.std(ddof=1)] for x in (before, after, after - before)]
        np.testing.assert_allclose(shown.numbers(), expected, rtol=1e-9)

    shown.browser.click(*shown.at(0.9, 0.9))
    shown.browser.keys("s")
    corners = [
        shown.at(column / WIDTH, row / HEIGHT) for row, column in ((10, 20), (14, 21), (26, 30))
    ]
    shown.browser.drag(*corners)
    measured(10, 20, 16)
    shown.browser.drag(*corners[::-1])
    measured(10, 14, 16)  # from (26, 30), up to the left
    shown.browser.wheel(*shown.at(0.5, 0.5), 100)
    assert shown.state()["slice"] == 7
    measured(10, 14, 16)
    assert not shown.browser.js("part('spectra').hidden")
    shown.browser.keys("m")
    shown.browser.drag(corners[0], corners[2], held=SHIFT)
    measured(10, 20, 16)
    assert shown.state()["wipe"] == 0.5
    shown.browser.drag(shown.at(40.0 / WIDTH, 0.75), shown.at(2, 2), held=SHIFT)
    state = shown.is_drawn()["square"]
    assert state["side"] == HEIGHT and state["row"] == 0 and state["column"] == WIDTH - HEIGHT


def test_the_right_button_and_w_change_the_window(shown):
    shown.browser.drag(shown.at(0.4, 0.5), shown.at(0.5, 0.5), shown.at(0.65, 0.5), button="right")
    state = shown.is_drawn()
    assert (state["low"] + state["high"]) / 2 == pytest.approx(40, abs=2)
    assert state["high"] - state["low"] == pytest.approx(400 * 16**0.25, rel=0.02)
    shown.browser.keys("w")
    shown.browser.drag(shown.at(0.5, 0.6), shown.at(0.5, 0.4))
    lower = shown.is_drawn()
    centre = (lower["low"] + lower["high"]) / 2
    assert centre == pytest.approx(40 + 0.4 * 800, rel=0.03) and lower["wipe"] == 0.5
    shown.click("root.querySelector('[data-preset=lung]')")
    assert shown.is_drawn()["low"] == -1350


def test_the_difference_zooms_moves_and_has_its_own_window(shown):
    shown.click("root.querySelector('[data-mode=difference]')")
    assert shown.is_drawn()["spread"] == 100
    place = shown.pixel(40, 5)
    for _ in range(4):
        shown.browser.wheel(*place, -100, held=CTRL)
    state = shown.is_drawn()
    assert state["zoom"] == pytest.approx(1.2**4)
    shown.browser.move(*place)
    before, after = (stack[6, 40, 5] for stack in shown.stacks.values())
    assert shown.text("readout") == (
        f"row 40, column 5: low <dose> {before} HU · after {after} HU · "
        f"right − left {after - before} HU"
    )
    shown.browser.drag(shown.at(0.2, 0.8), shown.at(0.3, 0.7))
    moved = shown.is_drawn()
    assert moved["x"] < state["x"] and moved["y"] > state["y"] - 1e-6
    shown.browser.drag(shown.at(0.5, 0.5), shown.at(0.25, 0.5), button="right")
    assert shown.is_drawn()["spread"] == pytest.approx(50, abs=1)
    shown.browser.click(*shown.at(0.9, 0.9))
    shown.browser.keys("d")
    split = shown.is_drawn()
    assert (split["mode"], split["low"], split["high"]) == ("split", -160, 240)
    assert split["zoom"] == state["zoom"]


def test_an_image_is_chosen_for_each_side(shown):
    shown.browser.js("part('left').focus()")
    shown.browser.keys("ArrowDown")
    state = shown.is_drawn()
    assert (state["left"], state["right"]) == (1, 1)
    assert (shown.text("left-label"), shown.text("right-label")) == ("after", "")


def test_one_stack_has_nothing_to_compare(browser, page, tmp_path):
    stack = page[1]["after"]
    path = tmp_path / "one.html"
    path.write_text(viewer.Viewer({"image": stack}, "c").page("t"), "utf-8")
    shown = Shown(browser, path, {"image": stack})
    browser.drag(shown.at(0.5, 0.5), shown.at(0.8, 0.5))
    browser.keys("d", "ArrowUp")
    state = shown.is_drawn()
    assert (state["mode"], state["slice"], state["wipe"]) == ("split", 5, 0.5)
    hidden = "['left', 'right', 'modes', 'wipe'].every((r) => !part(r).checkVisibility())"
    assert browser.js(hidden)


def test_the_squares_spectrum_is_that_of_the_package(shown):
    corners = [shown.at(column / WIDTH, row / HEIGHT) for row, column in ((3, 5), (23, 25))]
    shown.browser.drag(*corners, held=SHIFT)
    shown.state()
    curves = json.loads(shown.browser.js("part('spectra').dataset.curves"))
    stacks = list(shown.stacks.values())
    for curve, stack in zip(curves, [*stacks, stacks[1] - stacks[0]], strict=True):
        expected = power_spectrum(stack[6:7, 3:23, 5:25].astype(float), 0.7)
        np.testing.assert_allclose(curve["nps"], expected.nps, rtol=1e-9)
        np.testing.assert_allclose(curve["frequency"], expected.frequency_per_mm, rtol=1e-12)
        assert curve["mean"] == pytest.approx(expected.mean_per_mm)


def test_a_browser_that_can_not_inflate_says_so(browser, page):
    with browser.before_each_page("delete window.DecompressionStream"):
        shown = Shown(browser, *page)
        browser.wait("!part('readout').textContent.startsWith('Point')")
    assert shown.text("readout").startswith("This browser can't show the slices: ")


@pytest.mark.long
def test_two_hundred_slices_keep_under_60_mb_and_scroll(browser, tmp_path):
    rng = np.random.default_rng(0)
    body = np.tile(np.linspace(-1000, 400, 512), (200, 512, 1))
    stacks = {"before": body + rng.normal(0, 30, body.shape), "after": body}
    path = tmp_path / "large.html"
    path.write_text(viewer.Viewer(stacks, "c", max_megabytes=59.9, steps=(1, 2, 4, 8)).page("t"))
    assert path.stat().st_size < 60e6
    shown = Shown(browser, path, stacks)
    assert shown.state()["slice"] == 100
    for k in range(101, 200):
        browser.wheel(*shown.at(0.5, 0.5), 100)
        assert shown.state()["slice"] == k
