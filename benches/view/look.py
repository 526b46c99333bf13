"""Opens a page of `iapo view` in headless Chromium, goes through its views, filters and keys, and
fails on an error in the console, a request to anywhere, or something that is not drawn.

    python3 benches/view/look.py view.html [--pictures DIR] [--link HASH]...

Needs Chromium (`chromium`, `chromium-browser`, `google-chrome` or $CHROMIUM) and nothing else: it is
spoken to over a pipe. With --pictures every view is written as PNG, light, dark and 400 pixels wide.
"""

import argparse
import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

VIEWS = ["verdict", "grid", "attribution", "groups", "time", "calls", "compare", "provenance"]
WIDE, NARROW = (1240, 860), (400, 780)


class Browser:
    """Chromium and one page of it."""

    def __init__(self, program):
        to_browser, from_us = os.pipe()
        to_us, from_browser = os.pipe()
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

        def descriptors():
            # The browser reads commands from 3 and answers on 4; copies first, lest one hides the other.
            reads, writes = os.dup(to_browser), os.dup(from_browser)
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--force-color-profile=srgb", "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=descriptors, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.out, self.back = from_us, os.fdopen(to_us, "rb", buffering=0)
        self.rest, self.number, self.errors, self.requests = b"", 0, [], []
        self.session = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data):]
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def read(self):
        while b"\0" not in self.rest:
            more = self.back.read(1 << 20)
            if not more:
                raise RuntimeError("the browser has gone away")
            self.rest += more
        one, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(one)
        event, about = message.get("method"), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            detail = about["exceptionDetails"]
            self.errors.append(detail.get("exception", {}).get("description", detail["text"]))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        return message

    def evaluate(self, script):
        found = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script, what, seconds=30):
        end = time.time() + seconds
        while not self.evaluate(script):
            if time.time() > end:
                raise AssertionError(f"{what}: not within {seconds} s; console: {self.errors}")
            time.sleep(0.03)

    def size(self, width, height):
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on):
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self("Emulation.setEmulatedMedia", features=features)

    def key(self, key, code=None):
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, text=text if kind == "keyDown" else "",
                 windowsVirtualKeyCode={"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13}.get(key, 0))

    def go(self, fragment):
        """A view by its address; waits until it is drawn."""
        view = fragment.split("/")[0].split("?")[0]
        self.evaluate(f"document.documentElement.dataset.shown = ''; location.hash = {json.dumps('#/' + fragment)}; if (readRoute()) redraw();")
        self.wait(f"document.documentElement.dataset.shown === {json.dumps(view)}", fragment)
        # Canvases and observers draw after the view stands.
        self.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 120))")

    def picture(self, path):
        data = self("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        try:
            self.session = None
            self("Browser.close")
        except (RuntimeError, OSError):
            pass
        self.process.wait(20)
        self.profile.cleanup()


def check(browser, page):
    """Goes through the page as a person would."""
    began = time.time()
    browser("Page.navigate", url=page.as_uri())
    browser.wait("document.documentElement?.dataset.shown", "the first view", 120)
    # Where nothing is answered yet there are no arms: curves come first, and the grid is empty.
    answered = browser.evaluate("meta.arms.length > 0")
    first = browser.evaluate("document.documentElement.dataset.shown")
    assert first == ("verdict" if answered else "time"), first
    told = {"seconds_to_first_view": round(time.time() - began, 2), "bytes": page.stat().st_size}
    told["answers"] = browser.evaluate("letters.reduce((sum, one) => sum + one.verdict.replaceAll('-', '').length, 0)")
    for view in VIEWS:
        browser.go(view)
        empty = browser.evaluate("document.getElementById('main').textContent.trim().length < 20")
        assert not empty, f"{view} is empty"
        assert not browser.evaluate("document.getElementById('main').textContent.includes('could not be drawn')"), view
    for width in (WIDE[0], NARROW[0]):
        browser.size(width, 800)
        for view in VIEWS:
            browser.go(view)
            over = browser.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{view} is {over} pixels too wide at {width}"
    browser.size(*WIDE)
    if not answered:
        return told

    # The grid: a filter, a cell, keys from episode to episode.
    browser.go("grid")
    began = time.time()
    browser.key("/")
    for letter in "0":
        browser.key(letter)
    browser.wait("new URLSearchParams(location.hash.split('?')[1]).get('q') === '0'", "typing into the filter")
    told["milliseconds_to_filter"] = round(1000 * (time.time() - began))
    left = browser.evaluate("document.querySelector('[role=status]').textContent")
    assert "of" in left, left
    browser.go("grid?show=wrong&sort=hard")
    cells = browser.evaluate("document.querySelectorAll('.grid a.cell').length")
    assert cells > 0, "no cell is left"
    assert cells < 20000, f"{cells} cells are in the page at once"
    browser.evaluate("document.querySelector('.grid').scrollTop = 1e9")
    browser.evaluate("new Promise((done) => setTimeout(done, 100))")
    browser.evaluate("document.querySelector('.grid').scrollTop = 0")
    browser.evaluate("new Promise((done) => setTimeout(done, 100))")
    browser.evaluate("document.querySelector('.grid a.cell').focus()")
    browser.key("ArrowDown")
    browser.wait("document.activeElement.dataset.row === '1'", "a step down in the grid")
    browser.evaluate("document.activeElement.click()")
    browser.wait("document.documentElement.dataset.shown === 'episode'", "an episode from the grid")
    here = browser.evaluate("location.hash")
    browser.key("ArrowRight")
    browser.wait(f"location.hash !== {json.dumps(here)}", "the next question by key")
    browser.key("ArrowLeft")
    browser.wait(f"location.hash === {json.dumps(here)}", "and back")
    browser.wait("[...document.querySelectorAll('.figure canvas')].every((canvas) => canvas.width > 1)", "the figures")
    browser.evaluate("document.querySelector('main a[href^=\"#/question\"]').click()")
    browser.wait("document.documentElement.dataset.shown === 'question'", "the same question by all arms")
    browser.key("?")
    browser.wait("document.getElementById('keys').open", "the list of keys")
    browser.key("?")
    before = browser.evaluate("document.documentElement.dataset.theme")
    browser.key("t")
    browser.key("t")
    after = browser.evaluate("document.documentElement.dataset.theme")
    assert (before, after) == ("light", "dark"), (before, after)
    browser.key("t")
    # A link of another page is said to be one.
    browser.go("episode/vwtq/no-such-question/iapo/0")
    assert "nothing at this address" in browser.evaluate("document.getElementById('main').textContent")
    return told


def pictures(browser, folder, links):
    """Every view, light, dark and narrow."""
    folder.mkdir(parents=True, exist_ok=True)
    for look, size, dark in (("light", WIDE, False), ("dark", WIDE, True), ("narrow", NARROW, False)):
        browser.size(*size)
        browser.dark(dark)
        for name, fragment in links:
            browser.go(fragment)
            browser.picture(folder / f"{name}-{look}.png")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("page", type=pathlib.Path)
    arguments.add_argument("--pictures", type=pathlib.Path, metavar="DIR")
    arguments.add_argument("--link", action="append", default=[], metavar="NAME=HASH", help="another picture, for example episode=episode/vwtq/vwtq-test-1/iapo/0")
    given = arguments.parse_args()
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    program = next((found for found in map(lambda name: name and shutil.which(name), names) if found), None)
    if program is None:
        sys.exit("no Chromium: install the package `chromium`, or name one in $CHROMIUM")
    browser = Browser(program)
    try:
        browser.size(*WIDE)
        browser.dark(False)
        told = check(browser, given.page.resolve())
        if given.pictures:
            links = [(view, view) for view in VIEWS] + [tuple(link.split("=", 1)) for link in given.link]
            pictures(browser, given.pictures, links)
    finally:
        browser.close()
    elsewhere = [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert not elsewhere, f"requests to {elsewhere}"
    assert not browser.errors, "in the console: " + "\n".join(browser.errors)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
