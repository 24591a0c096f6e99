"""The viewer in a real browser: headless Chromium, driven by trusted key, mouse and touch events."""

import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time

import pytest
import torch

from fourreal_kernels.data.viewer import write_viewer

pytestmark = pytest.mark.optional

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe --window-size=1200,860"
).split()
KEY_CODES = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    " ": 32,
    "v": 86,
    "s": 83,
    "p": 80,
}
TIMEOUT = 30.0


class Browser:
    """Chromium's debugging protocol over its pipe: JSON ending in a zero byte, on descriptors 3 and 4."""

    def __init__(self, program: str, profile) -> None:
        to_browser_read, self.to_browser = os.pipe()
        self.from_browser, from_browser_write = os.pipe()
        # High descriptors, so that moving one to 3 in the child cannot overwrite the other.
        child = [fcntl.fcntl(fd, fcntl.F_DUPFD, 30) for fd in (to_browser_read, from_browser_write)]
        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=lambda: (os.dup2(child[0], 3), os.dup2(child[1], 4)),
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (to_browser_read, from_browser_write, *child):
            os.close(fd)
        self.ids = itertools.count(1)
        self.buffer = b""
        self.requests: list[str] = []
        self.session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attach = {"targetId": page["targetId"], "flatten": True}
        self.session = self.call("Target.attachToTarget", **attach)["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")

    def _message(self) -> dict:
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self.buffer:
            if not select.select([self.from_browser], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer from the browser in {TIMEOUT} s")
            chunk = os.read(self.from_browser, 1 << 20)
            if not chunk:
                raise RuntimeError(f"the browser ended with status {self.process.wait()}")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **params) -> dict:
        number = next(self.ids)
        request = {"id": number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(request).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                return message["result"]

    def evaluate(self, expression: str):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"still false after {TIMEOUT} s: {expression}"
            time.sleep(0.02)

    def open(self, path) -> None:
        self.requests.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("document.body && document.body.dataset.ready === 'true'")

    def key(self, key: str) -> None:
        common = {"key": key, "windowsVirtualKeyCode": KEY_CODES[key]}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def drag(self, points) -> None:
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *points[-1])

    def touch_drag(self, points) -> None:
        for kind, point in zip(["touchStart"] + ["touchMove"] * (len(points) - 1), points, strict=True):
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": point[0], "y": point[1]}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def cell(self) -> tuple[int, int]:
        return tuple(self.evaluate("[Number(document.body.dataset.view), Number(document.body.dataset.time)]"))

    def box(self, element_id: str) -> tuple[float, float, float, float]:
        rectangle = f"document.getElementById('{element_id}').getBoundingClientRect()"
        return tuple(self.evaluate(f"(r => [r.left, r.top, r.width, r.height])({rectangle})"))

    def centre_colour(self) -> list[int]:
        pixel = "canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1)"
        return self.evaluate(f"(canvas => [...{pixel}.data].slice(0, 3))(document.getElementById('frame'))")

    def close(self) -> None:
        try:
            self.call("Browser.close")
            self.process.wait(timeout=10)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.to_browser)
            os.close(self.from_browser)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser found (looked for {', '.join(BROWSERS)})")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


VIEWS, TIMES = 5, 4


def cell_colour(view: int, time: int) -> list[int]:
    return [40 * view + 20, 50 * time + 30, 128]


@pytest.fixture
def page(browser, tmp_path):
    """The browser with a fresh page of a 5 x 4 grid whose every frame has its own flat colour."""
    colours = torch.tensor([[cell_colour(view, time) for time in range(TIMES)] for view in range(VIEWS)])
    frames = colours.to(torch.uint8)[:, :, None, None].expand(VIEWS, TIMES, 20, 36, 3)
    given = torch.zeros(VIEWS, TIMES, dtype=torch.bool)
    given[0] = given[:, 0] = True
    path = tmp_path / "index.html"
    write_viewer(path, frames, title="Test <grid>", given=given, caption="a & b", fps=30)
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    browser.open(path)
    return browser


def test_page_loads_without_network_and_shows_its_text(page):
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert page.evaluate("document.querySelector('h1').textContent") == "Test <grid>"
    assert page.evaluate("document.getElementById('caption').textContent") == "a & b"
    assert page.cell() == (0, 0)


def test_arrow_keys_move_and_stop_at_the_border(page):
    page.key("ArrowRight")
    page.key("ArrowRight")
    page.key("ArrowDown")
    assert page.cell() == (2, 1)
    page.key("ArrowUp")
    page.key("ArrowUp")
    page.key("ArrowLeft")
    assert page.cell() == (1, 0)


def test_every_cell_shows_its_own_frame_and_origin(page):
    for view in range(VIEWS):
        for time_index in range(TIMES):
            assert page.cell() == (view, time_index)
            assert page.centre_colour() == cell_colour(view, time_index)
            origin = page.evaluate("document.getElementById('origin').textContent")
            assert origin == ("given" if view == 0 or time_index == 0 else "generated")
            page.key("ArrowDown")
        for _ in range(TIMES):
            page.key("ArrowUp")
        page.key("ArrowRight")


def test_drag_moves_view_sideways_and_time_down(page):
    left, top, width, height = page.box("frame")
    start = (left + 0.2 * width, top + 0.2 * height)
    page.drag([start, (start[0] + 0.1, start[1]), (start[0] + 2 * width / VIEWS, start[1])])
    assert page.cell() == (2, 0)
    page.drag([start, (start[0], start[1] + 2 * height / TIMES)])
    assert page.cell() == (2, 2)
    page.drag([start, (start[0] - width, start[1])])
    assert page.cell() == (0, 2)


def test_touch_drag_moves(page):
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    left, top, width, height = page.box("frame")
    start = (left + 0.1 * width, top + 0.1 * height)
    middle = (start[0] + 1.5 * width / VIEWS, start[1] + 0.5 * height / TIMES)
    page.touch_drag([start, middle, (start[0] + 3 * width / VIEWS, start[1] + height / TIMES)])
    page.wait_for("document.body.dataset.view !== '0'")
    assert page.cell() == (3, 1)


def test_click_on_a_small_frame_jumps_there(page):
    left, top, width, height = page.box("cells")
    point = (left + 3.5 * width / VIEWS, top + 2.5 * height / TIMES)
    page.drag([point])
    assert page.cell() == (3, 2)
    cursor = page.box("cursor")
    assert cursor == pytest.approx((left + 3 * width / 5, top + 2 * height / 4, width / 5, height / 4), abs=0.5)


def visited_while_playing(page, key: str, until: str) -> list[list[int]]:
    page.evaluate(
        "window.visited = []; new MutationObserver(() => window.visited.push("
        "[Number(document.body.dataset.view), Number(document.body.dataset.time)]))"
        ".observe(document.body, {attributeFilter: ['data-view', 'data-time']}); 0"
    )
    page.key(key)
    page.wait_for(until)
    page.key(key)
    assert page.evaluate("document.body.dataset.playing") == ""
    return page.evaluate("window.visited")


def test_space_plays_time_to_and_fro_and_pauses(page):
    visited = visited_while_playing(page, " ", "window.visited.length >= 2 * 4")
    assert [cell[1] for cell in visited[:8]] == [1, 2, 3, 2, 1, 0, 1, 2]
    assert {cell[0] for cell in visited} == {0}
    stopped = page.cell()
    time.sleep(0.15)
    assert page.cell() == stopped


def test_v_plays_view_and_an_arrow_along_time_does_not_stop_it(page):
    page.key("v")
    page.key("ArrowDown")
    page.wait_for("document.body.dataset.view === '2'")
    assert page.evaluate("document.body.dataset.playing") == "view"
    assert page.cell()[1] == 1
    page.key("ArrowRight")
    assert page.evaluate("document.body.dataset.playing") == ""


def test_sweep_visits_every_cell_by_steps_to_neighbours(page):
    visited = visited_while_playing(page, "s", f"window.visited.length >= {VIEWS * TIMES + 6}")
    cells = [[0, 0], *visited]
    assert len({tuple(cell) for cell in cells}) == VIEWS * TIMES
    steps = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in zip(cells, cells[1:], strict=False)]
    assert set(steps) == {1}


def test_buttons_and_sliders(page):
    page.evaluate("document.querySelector('[data-play=view]').click()")
    pressed = "document.querySelector('[data-play=view]').getAttribute('aria-pressed')"
    assert page.evaluate(pressed) == "true"
    page.evaluate("document.querySelector('[data-play=view]').click()")
    assert page.evaluate(pressed) == "false"
    page.evaluate("document.getElementById('time').focus()")
    page.key("ArrowRight")
    page.wait_for("document.body.dataset.time === '1'")


def test_scaling_switches_between_smooth_and_pixels(page):
    rendering = "getComputedStyle(document.getElementById('frame')).imageRendering"
    assert page.evaluate(rendering) == "auto"
    page.key("p")
    assert page.evaluate(rendering) == "pixelated"
    assert page.evaluate("document.body.dataset.scaling") == "pixels"


def test_narrow_screen_has_no_sideways_scrolling(page):
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=2, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    left, _, width, _ = page.box("frame")
    assert left >= 0 and left + width <= 360


def test_single_frame_grid_has_nothing_to_play(browser, tmp_path):
    path = tmp_path / "one.html"
    write_viewer(path, torch.full((1, 1, 3, 9, 7), 0.5), title="One")
    browser.open(path)
    assert browser.evaluate("[...document.querySelectorAll('[data-play]')].every(button => button.disabled)")
    for key in (" ", "v", "s", "ArrowRight", "ArrowDown"):
        browser.key(key)
    assert browser.cell() == (0, 0)
    assert browser.evaluate("document.getElementById('origin').hidden")
