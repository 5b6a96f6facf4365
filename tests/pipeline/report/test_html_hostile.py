"""Texts of users on the page: shown letter by letter, never run, never fetched."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import releases
from html_pages import Page

from exporters.graph.cost import LayerCost
from pipeline.release.bundle import Judged, Release
from pipeline.release.terms import Terms
from pipeline.report.content import ReportContent
from pipeline.report.html import page
from pipeline.store.reports import (
    Baseline,
    CheckReport,
    ExportReport,
    GroupReport,
    PruneReport,
    RecoveryReport,
    RepairReport,
    Trial,
)
from pipeline.store.runner import StageRecord
from profiles.gate import Check, Verdict
from profiles.host import Host

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
TAGS = set(
    """html head meta title style body header main section footer div h1 h2 h3 h4 p ul ol li a
    span strong code table thead tbody tr th td figure figcaption dl dt dd
    svg desc line rect path circle text""".split()
)
"""What a page is made of: no script, no image, no frame, no form."""
OF_HTML = set(
    "lang charset http-equiv content name class href id scope data-label title role".split()
)
OF_SVG = set("""viewbox x y x1 x2 y1 y2 cx cy r d width height text-anchor""".split())


RUN = "document.title='owned'"


@dataclass
class Hostile:
    """Texts that break out of every place where one is put, each with a number of its own."""

    address: str = "http://evil.invalid"
    texts: list[str] = field(default_factory=list)

    def __call__(self) -> str:
        number = len(self.texts)
        self.texts.append(
            f"n{number}n\"'><script>{RUN};fetch('{self.address}/s')</script></title></style>"
            f"</text></svg><img src={self.address}/i onerror={RUN}><svg onload={RUN}>"
            '<a href="javascript:0">{{ 7*7 }}{% raw %}&lt;--'
        )
        return self.texts[-1]


def hostile_release(text: Hostile) -> Release:
    """A release whose every free text is hostile: on two targets, of which one says why not."""
    found = releases.measurement(text())
    start = found.shipped.starts[0].model_copy(update={"method": text()})
    looks = [replace(look, governor=text()) for look in found.latency[0].conditions]
    run = found.latency[0].model_copy(update={"conditions": tuple(looks)})
    engines = {
        name: engine.model_copy(
            update={
                "sha256": text(),
                "samples_sha256": text() if name == "shipped" else "",
                "unverified": text() if name == "shipped" else "",
                "starts": (start, *found.shipped.starts[1:]),
            }
        )
        for name, engine in (("dense", found.dense), ("shipped", found.shipped))
    }
    host = Host(
        machine=text(),
        model=text(),
        cpu=text(),
        cores=4,
        system=text(),
        versions={text(): text()},
    )
    measurement = found.model_copy(
        update={**engines, "host": host, "latency": (run, *found.latency[1:])}
    )
    device = releases.EDGE.model_copy(update={"description": text(), "engine": text()})
    terms = Terms(
        device_name=measurement.device,
        device=device,
        ssh=None,
        budget=releases.BUDGET,
        engine="engine.onnx",
        dense="dense.onnx",
        measurement="measurement.json",
    )
    checks = tuple(
        Check("latency_p50_ms", 8.0, 7.9, 8.1, 7.5, status, text())
        for status in ("waived", "fail", "inconclusive")
    )
    whole = releases.judged(releases.measurement())
    other = Judged(terms, whole.engine, measurement, Verdict(checks))
    return Release(hostile_pruning(text), (whole, other))


def hostile_pruning(text: Hostile) -> PruneReport:
    criterion, allocator = text(), text()
    return PruneReport(
        criterion=criterion,
        allocator=allocator,
        macs_ratio_asked=0.5,
        macs_ratio=0.5,
        macs_dense=1000,
        macs=500,
        groups={text(): GroupReport(units=9, kept=5, lowest_kept=0.2, highest_removed=0.1)},
        refused={text(): text()},
        trials=(
            Trial(criterion=criterion, allocator=allocator, distance=0.5, reason=text()),
            Trial(criterion=text(), allocator=text(), distance=0.7, reason=text()),
        ),
        remarks=(text(),),
    )


def hostile_page(text: Hostile) -> str:
    """The whole page of it."""
    found = hostile_release(text)
    repaired = RepairReport(
        recoveries=(
            RecoveryReport(
                name=text(), distance_before=1, distance_after=0.5, kept=True, remarks=(text(),)
            ),
        )
    )
    checked = CheckReport(
        baselines=(Baseline(name=text(), distance=0.5, score=0.5),), kendall_tau=0.5, plans=8
    )
    exported: ExportReport = releases.EXPORTED.model_copy(
        update={
            "method": text(),
            "refused": (text(),),
            "simplified_by": text(),
            "layers": (LayerCost(name=text(), op="Conv", macs=5, channels=17),),
        }
    )
    stages = (StageRecord(text(), text(), False, 1.0),)
    return page(ReportContent(found, repaired, checked, exported, stages))


def assert_harmless(found: Page) -> None:
    """Nothing on the page is anything but its own elements and attributes."""
    assert {node.tag for node in found.nodes} <= TAGS
    assert {name for node in found.nodes for name in node.attributes} <= OF_HTML | OF_SVG
    links = [node.attributes["href"] for node in found.nodes if "href" in node.attributes]
    assert links == ["#target-1", "#target-2"]


def test_hostile_texts_add_no_element_and_no_attribute() -> None:
    assert_harmless(Page(hostile_page(Hostile())))


def test_hostile_texts_are_shown_letter_by_letter() -> None:
    text = Hostile()
    found = Page(hostile_page(text))
    words = " ".join(node.text for node in found.all("body"))
    titles = [node.attributes.get("title", "") for node in found.nodes]
    assert len(text.texts) > 30
    missing = [t for t in text.texts if " ".join(t.split()) not in words and t not in titles]
    assert missing == []


def test_the_page_forbids_scripts_and_everything_from_elsewhere() -> None:
    (policy,) = [
        node.attributes["content"]
        for node in Page(hostile_page(Hostile())).all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_page_has_no_address_of_its_own() -> None:
    source = page(releases.report_content(releases.release()))
    assert "//" not in source
    assert "url(" not in source
    assert "@import" not in source


@dataclass
class Web:
    """A server that counts what is asked of it."""

    address: str
    asked: list[str]


@pytest.fixture
def web() -> Iterator[Web]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Web(f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()
        thread.join()


def opened(path: Path, *what: str) -> str:
    """The document that Chromium makes of a file, after it has run."""
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={path.parent / 'profile'}",
        *what,
        "--virtual-time-budget=2000",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium to open the page in")


@needs_chromium
def test_a_browser_runs_and_fetches_nothing(web: Web, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(hostile_page(Hostile(web.address)), encoding="utf-8")
    found = Page(opened(path, "--dump-dom"))
    assert_harmless(found)
    assert found.all("title")[0].text.startswith("FAIL: camera, n0n\"'><script>")
    picture = tmp_path / "report.png"
    opened(path, f"--screenshot={picture}", "--window-size=1200,2000")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert web.asked == []


@needs_chromium
def test_the_browser_would_have_run_and_fetched_what_is_not_escaped(
    web: Web, tmp_path: Path
) -> None:
    path = tmp_path / "naive.html"
    path.write_text(f"<!doctype html><title>naive</title><p>{Hostile(web.address)()}</p>")
    found = opened(path, "--dump-dom")
    assert "<title>owned</title>" in found
    assert "/i" in web.asked
