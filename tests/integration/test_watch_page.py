"""The page about a run in a real browser, while the run goes on."""

import json
import threading

import pytest

from potstill.progress import published, track
from potstill.rundir import RunDirectory
from potstill.watch import server_of
from tests.fixtures.browser import chromium


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_follows_the_run(tmp_path, width, scheme):
    run_directory = RunDirectory(tmp_path)
    row = {"stage": "student", "time": 1.0, "loss": 2.0}
    lines = [json.dumps(row | {"step": step}) + "\n" for step in (1, 2, 3)]
    run_directory.metrics_path.write_text("".join(lines[:1]))
    with server_of(run_directory, 0, "secret") as server, chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/?token=secret")
        assert page.get_by_text("No process is working on this run").is_visible()
        with published(run_directory.step_path), track("training", 8, "steps") as progress:
            progress.advance(2)
            run_directory.metrics_path.write_text("".join(lines))
            page.get_by_text("training: 0 of 8 steps").wait_for(timeout=15_000)
            page.get_by_role("img", name="loss: from 2 to 2 at step 3").wait_for(timeout=15_000)
            assert page.get_by_role("progressbar").get_attribute("value") == "0.0"
        page.get_by_text("No process is working on this run").wait_for(timeout=15_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not wrong
        server.shutdown()
        server.server_close()
        page.get_by_text("does not answer").wait_for(timeout=15_000)
