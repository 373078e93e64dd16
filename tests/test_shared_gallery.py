"""The results page: what stands on it, and that it works in a real browser, on a phone, without its script and without a network."""

import json
from dataclasses import replace

import pytest

from shared import gallery, sprints
from shared.report import AIM
from tests.chromium import CHROMIUM, needs_chromium

ROOT = sprints.ROOT
SPRINTS = sprints.discover()
FOUND = {sprint.folder.name: sprint.reports() for sprint in SPRINTS}
PAGE = ROOT / "docs" / "gallery" / "index.html"


def report(experiment, *keys, figures=(), **more):
    metric = {
        "mean": 0.5,
        "ci95": [0.4, 0.6],
        "values": [0.5],
        "n": 7,
        "unit": "points",
        "meaning": "a <b>",
        "higher_is_better": True,
    }
    return {
        "sprint": "x", "experiment": experiment, "title": f"The {experiment}", "objective": "Why?", "setup": {"Model": "m"}, "command": "python -m x",
        "seeds": [0, 1], "device": {"kind": "cpu"}, "machine": {"cpu": "a | cpu", "logical_cores": 2}, "git": "abc", "smoke": False, "seconds": 3.2,
        "started": "2026-01-02T03:04:05+00:00", "metrics": dict.fromkeys(keys, metric), "claims": [], "observations": ["seen"], "conclusion": "So.",
        "figures": [{"file": f"{name}.png", "shows": f"A {name} <line>.", "matters": "It rises."} for name in figures],
        "comparisons": [{"key": "d", "a": "us", "b": "them", "unit": "", "difference": 0.1, "ci95": [0.05, 0.15], "p": 0.003, "n": 7}],
    } | more  # fmt: skip


@pytest.fixture
def sprint(tmp_path):
    """A sprint without published reports that answers with the numbers a, b and c."""
    return replace(
        SPRINTS[0], folder=tmp_path / "00_trial", answer="A {a}; b {b} of c {c:median}.", baseline="None {a}.", figure=""
    )


def page(sprint, reports, folder=None):
    return gallery.page([sprint], {sprint.folder.name: reports}, lambda name: name, folder)


def test_the_main_figure_is_the_named_one_or_the_first_of_the_report_that_answers_most(sprint):
    reports = {
        "one": report("one", "a", figures=["p"]),
        "two": report("two", "b", "c", figures=["q", "r"]),
        "three": report("three"),
    }
    assert gallery.main_figure(sprint, reports) == ("two", reports["two"]["figures"][0])
    assert gallery.main_figure(replace(sprint, figure="one/p.png"), reports) == ("one", reports["one"]["figures"][0])
    assert gallery.main_figure(replace(sprint, figure="gone/p.png"), reports) == ("two", reports["two"]["figures"][0])
    assert gallery.main_figure(sprint, {"three": reports["three"]}) is None


@pytest.mark.parametrize("sprint", [one for one in SPRINTS if one.figure and one.reports()], ids=lambda sprint: sprint.name)
def test_a_named_figure_is_there(sprint):
    assert (sprint.folder / "results" / sprint.figure).is_file()


def test_a_card_without_and_with_reports(sprint):
    empty = page(sprint, {})
    assert "No published run yet." in empty and "<figure" not in empty and "<details" not in empty
    verdicts = [{"claim": "99 %", "source": "s", "protocol": "p", "ours": "o", "honest": "h", "verdict": v}
                for v in ("reproduced", "not reproduced", "not reproduced")]  # fmt: skip
    verdicts.append(verdicts[0] | {"claim": "twice as fast", "source": AIM, "honest": "three times"})
    full = page(sprint, {"one": report("one", "a", "b", "c", figures=["p"], claims=verdicts)})
    assert "Aims of our own: met" in full and "<p>Measured: three times.</p>" in full
    assert '<li>A <b>0.50 points</b> <span class="interval">[0.40, 0.60]</span></li>' in full
    assert (
        "</span> 1 reproduced</span>" in full and "</span> 2 not</span>" in full and "partly" not in full.partition("</style>")[2]
    )
    assert full.count('src="00_trial/one/p.png" alt="A p &lt;line&gt;."') == 2  # on the card and in its experiment
    assert "<td>a &lt;b&gt;</td><td>0.50 points</td><td>0.40 to 0.60</td><td>7</td>" in full
    assert "<td>d: us - them</td><td>0.100</td><td>0.050 to 0.150</td><td>0.003</td>" in full
    assert (
        "make pocket-train DEVICE=cuda</code> <small>not run here" in full and "Apple silicon</dt><dd>computes on its CPU" in full
    )


def test_a_toy_run_says_so_and_judges_no_claim(sprint):
    claims = [{"claim": "99 %", "source": "s", "protocol": "p", "ours": "o", "honest": "h", "verdict": "reproduced"}]
    toy = page(sprint, {"one": report("one", "a", "b", "c", claims=claims, smoke=True)})
    assert "the numbers mean nothing" in toy and "99 %" not in toy


def test_a_demonstration_that_did_not_run_everything_gives_the_published_answer(sprint):
    folder = sprint.folder / "results" / "one"
    folder.mkdir(parents=True)
    published = report("one", "a", "b", "c")
    published["metrics"]["a"] = published["metrics"]["a"] | {"mean": 0.55}
    (folder / "report.json").write_text(json.dumps(published))
    partly = page(sprint, {"one": report("one", "a", "b")})
    assert (
        "Answer of the published runs" in partly
        and "<b>0.55 points</b>" in partly
        and "not run here<" not in partly.partition("Run it")[0]
    )
    assert "Answer of the published runs" not in page(sprint, {"one": report("one", "a", "b", "c")})


def test_samples_and_sizes_come_from_the_folder(sprint, tmp_path):
    results = tmp_path / "00_trial"
    (results / "samples").mkdir(parents=True)
    texts = "\n\n".join(f"## {n} <tea>\n\n> it is **{n}**  \n> `cold`" for n in range(1, 9))
    (results / "samples" / "sheet.md").write_text(f"# Sheet\n\nUnselected.\n\n{texts}\n\n- one\n- two\n")
    (results / "one").mkdir()
    (results / "one" / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + (640).to_bytes(4) + (480).to_bytes(4))
    text = page(sprint, {"one": report("one", "a", figures=["p"])}, tmp_path)
    assert "<h4>1 &lt;tea&gt;</h4><blockquote>it is <strong>1</strong><br><code>cold</code></blockquote>" in text
    assert text.count("<blockquote>") == gallery.SAMPLES and "<h4>7" not in text and 'href="00_trial/samples/sheet.md"' in text
    assert '<img width="640" height="480" src="00_trial/one/p.png"' in text


def test_a_demo_links_its_own_figures(tmp_path):
    path = gallery.write(tmp_path / "demo", {"06_logistic_regression": {"one": report("one", figures=["p"])}})
    assert 'src="06_logistic_regression/one/p.png"' in path.read_text()


# -- in a browser -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """tab(width, **options) opens the committed page; at the end it must have asked for nothing but files and logged no error."""
    contexts, asked, errors = [], [], []

    def open_tab(width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, reduced_motion="reduce", **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(PAGE.as_uri())
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith("file:")] == [] == errors


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_all_that_unfolds_fits_and_every_figure_shows(tab, width):
    page = tab(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("[...document.images].forEach((one) => (one.loading = 'eager'))")
    page.wait_for_function("[...document.images].every((one) => one.complete)")
    shown = page.evaluate("[...document.images].filter((one) => one.naturalWidth && one.alt.length > 10).map((one) => one.src)")
    assert len(shown) == page.locator("img").count()
    figures = {(ROOT / path).as_uri() for path in ROOT.glob("sprints/*/results/*/*.png")}
    assert set(shown) == figures
    assert page.locator(".card").count() == len(SPRINTS)
    assert page.locator(".experiment").count() == sum(map(len, FOUND.values()))


@needs_chromium
def test_the_search_keeps_what_holds_every_word(tab):
    page = tab()
    entries, field, count = page.locator("#log li:visible"), page.get_by_label("Find experiments"), page.locator("output")
    total = entries.count()
    assert total == sum(map(len, FOUND.values())) and count.inner_text() == f"{total} experiments"
    field.fill("  SPARSITY bundle ")
    kept = entries.count()
    assert 0 < kept < total and count.inner_text() == f"{kept} of {total} experiments"
    assert page.locator("#log li:visible", has_text="Accuracy on MNIST").count() == 1
    field.fill("sparsity xyzzy")
    assert entries.count() == 0
    field.fill("")
    assert entries.count() == total


@needs_chromium
def test_an_entry_of_the_log_opens_its_experiment_and_the_page_knows_where_it_is(tab):
    page = tab()
    page.locator("#log li a").first.click()
    target = page.evaluate("location.hash")
    page.locator(target).wait_for()
    assert page.locator(f".card:has({target}) > details[open]").count() == 1
    page.locator(f"nav a[href='#{SPRINTS[0].name}']").click()
    page.locator(f"nav a[href='#{SPRINTS[0].name}'][aria-current]").wait_for()


@needs_chromium
def test_the_way_back_leads_to_the_entry_that_was_followed(tab):
    """The card that opened above it has moved it."""
    page = tab()
    link = page.locator("#log li a").last
    name = link.text_content()
    link.click()
    page.locator(".card > details[open]").wait_for()
    page.go_back()
    entry = "document.getElementById(location.hash.slice(1))"
    page.wait_for_function(f"0 <= {entry}.getBoundingClientRect().top && {entry}.getBoundingClientRect().top < innerHeight")
    assert name in page.evaluate(f"{entry}.textContent")


@needs_chromium
def test_without_its_script_everything_is_there(tab):
    page = tab(java_script_enabled=False)
    assert not page.get_by_label("Find experiments").is_visible()
    assert page.locator("#log li:visible").count() == sum(map(len, FOUND.values()))


@needs_chromium
@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_barrier(tab, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = tab(width, color_scheme=theme)
    page.evaluate("""() => {  // one of each kind stands for all: axe takes a minute for thousands
      document.querySelectorAll(".experiment:not(#logreg-m1_original_protocol), #log li:nth-child(n+3)").forEach((one) => one.remove());
      document.querySelectorAll("details").forEach((one) => (one.open = true));
    }""")
    found = axe.Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in found] == []
