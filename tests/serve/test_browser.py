"""The page in a real browser, against a running server."""

import base64
import csv
import hashlib
import io
import re
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

import vertebra

pytest.importorskip("fastapi")

from page_waiting import wait_until

from vertebra.serve.server import Server

WEB = Path(__file__).parents[2] / "web"
STATIC = resources.files("vertebra.serve") / "static"
# A comma, quotes and what a spreadsheet would run: tables must survive them.
CLASSES = ("cat", 'dog, "wet"', "=1+1")
KEY = "a-key-of-the-tests"

# Counts what is still held of pictures that the page made addresses for.
COUNT_ADDRESSES = """
window.addresses = new Set();
const make = URL.createObjectURL, drop = URL.revokeObjectURL;
URL.createObjectURL = (what) => { const url = make.call(URL, what); window.addresses.add(url); return url; };
URL.revokeObjectURL = (url) => { window.addresses.delete(url); drop.call(URL, url); };
"""
HAND_OVER = """([kind, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    data.items.add(new File([bytes], name, { type: name.endsWith('.png') ? 'image/png' : '' }));
  }
  if (kind === 'paste') {
    document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
  } else {
    for (const step of ['dragenter', 'dragover', 'drop']) {
      const options = { dataTransfer: data, bubbles: true, cancelable: true };
      document.querySelector('footer').dispatchEvent(new DragEvent(step, options));
    }
  }
}"""


# --- without a browser ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["explore", "serve"])
def test_the_pages_were_built_from_their_sources(room):
    if not WEB.is_dir():
        pytest.skip("the page's sources are not here")
    single = ("index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts")
    paths = [*single, *(path.relative_to(WEB).as_posix() for path in (WEB / "src").rglob("*") if path.is_file())]
    digest = hashlib.sha256()
    for path in sorted(paths):
        text = (WEB / path).read_text("utf-8")  # with \n, whatever the checkout has
        digest.update(f"{path}\0{text}\0".encode())
    built = resources.files("vertebra") / room / "static" / ".sources"
    assert built.read_text("utf-8").strip() == digest.hexdigest(), "run: make web"


def test_the_page_brings_all_it_needs_and_nothing_else():
    index = (STATIC / "index.html").read_text("utf-8")
    named = set(re.findall(r'(?:src|href)="\./(assets/[^"]+)"', index))
    assert named == {f"assets/{entry.name}" for entry in (STATIC / "assets").iterdir()}
    assert not re.search(r"<style|style=|<script(?! type=\"module\" crossorigin src=)|https?://", index)
    for name in named:
        text = (STATIC / name).read_text("utf-8")
        links = set(re.findall(r"https?://[\w./-]+", text))
        assert links <= {f"http://www.w3.org/{path}" for path in ("2000/svg", "1999/xhtml", "1998/Math/MathML")}, name
    scripts = [(STATIC / name).read_bytes() for name in named if name.endswith(".js")]
    assert len(scripts) == 1 and len(scripts[0]) < 120_000, "kept small: it is about 25 kB once compressed"
    assert "preact" in (STATIC / "third-party.txt").read_text("utf-8")


# --- with one -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(write_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    plain = write_model(folder / "plain.onnx", classes=CLASSES, seed=2)
    # No photo reaches this threshold.
    doubtful = write_model(folder / "doubtful.onnx", classes=CLASSES, threshold=1.0, seed=4)
    return f"plain={plain}", f"doubtful={doubtful}"


@pytest.fixture(scope="module")
def service(settings, models):
    with Server(replace(settings, models=models, queue=64)) as running:
        yield running


@pytest.fixture
def server(service, call):
    """A server with both models, for all tests."""
    return call(service)


@pytest.fixture
def visit(browser):
    """`visit(server, …)`: the page of a server; nothing else may be asked for, and nothing complained about."""
    wrong, contexts = [], []

    def complain(message):
        # An answer other than success is told by the browser too; the page shows those.
        if "Failed to load resource" not in message.text:
            wrong.append(message.text)

    def open_page(client, ready=".dropzone b", **options):
        url = client.service.url
        context = browser.new_context(base_url=url, **options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        context.add_init_script(COUNT_ADDRESSES)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith((url, "blob:", "data:")) else wrong.append(request.url),
        )
        page.goto("/")
        if ready:
            page.wait_for_selector(ready)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def sound():
    """`sound(page)`: axe finds nothing, in the state that the page is in, whether light or dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def run(page, **options):
        # Half-way through a transition, colours are none of the design's.
        page.evaluate("Promise.all(document.getAnimations().map((a) => a.finished.catch(() => 0)))")
        found = axe.run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
        assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == []

    def check(page):
        run(page)
        other = "theme => { document.documentElement.dataset.theme = theme }"
        theme = page.evaluate("document.documentElement.dataset.theme")
        page.evaluate(other, "light" if theme == "dark" else "dark")
        run(page, runOnly=["color-contrast"])
        page.evaluate(other, theme)
        # Not innerWidth: a phone's grows with what is too wide.
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= page.viewport_size["width"], "it scrolls sideways"

    return check


@pytest.fixture
def photos(pngs, tmp_path):
    """Paths of a few photos."""
    paths = []
    for number, data in enumerate(pngs):
        paths.append(tmp_path / f"photo {number}.png")
        # One colour each, and dark: so this network sees each of its classes, and is not sure of all alike.
        table = [0] * 768
        table[256 * (number % 3) : 256 * (number % 3 + 1)] = [value * (number + 1) // 16 for value in range(256)]
        with Image.open(io.BytesIO(data)) as image:
            image.point(table).save(paths[-1])
    return paths


def hand_over(page, kind, *files):
    """Drop or paste (name, bytes) …"""
    page.evaluate(HAND_OVER, [kind, [[name, base64.b64encode(data).decode()] for name, data in files]])


def choose(page, *paths, source="files"):
    page.set_input_files(f"[data-source={source}]", list(paths))


def settled(page):
    wait_until(page, "() => !document.querySelector('.progress, .card.waiting, .card.sending, .looking')")


def percent(value):
    return "> 99.9 %" if 0.999 < value < 1 else "< 0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def test_the_invitation(visit, server, sound):
    page = visit(server)
    assert "plain gives probabilities of 3 classes" in page.inner_text(".dropzone")
    sound(page)


def test_a_dropped_photo_gets_its_classes(visit, server, sound, models, photos):
    page = visit(server)
    hand_over(page, "drop", (photos[0].name, photos[0].read_bytes()))
    page.wait_for_selector(".bars")
    expected = vertebra.load(models[0].partition("=")[2]).predict(photos[0]).predictions
    bars = page.locator(".bar")
    for number, each in enumerate(expected):
        assert bars.nth(number).locator(".bar-name").inner_text() == each["class"]
        assert bars.nth(number).locator(".number").inner_text() == percent(each["probability"])
    first = expected[0]
    widths = "bar => bar.querySelector('.fill').style.width"
    assert float(bars.first.evaluate(widths).removesuffix("%")) == pytest.approx(100 * first["probability"], abs=0.01)
    heard = page.inner_text("[aria-live=polite]")
    assert heard == f"photo 0.png: {first['class']}, {percent(first['probability'])}."
    assert page.locator(".callout").count() == 0
    page.wait_for_selector(".heat")
    sound(page)


def test_a_pasted_picture(visit, server, pngs):
    page = visit(server)
    hand_over(page, "paste", ("image.png", pngs[0]))
    page.wait_for_selector(".bars")
    assert re.fullmatch(r"pasted-\d\d-\d\d-\d\d\.png", page.inner_text(".findings .file"))
    hand_over(page, "paste", ("notes.txt", b"no picture"))
    assert page.inner_text(".banner.error p") == "There is no image in the clipboard."
    page.get_by_label("Close this message").click()
    assert page.locator(".banner").count() == 0


def test_many_with_errors_in_their_places(visit, server, sound, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(photos[0].read_bytes()[:400])
    (tmp_path / "notes.txt").write_text("no picture " * 20)
    (tmp_path / "large.bmp").write_bytes(b"BM" + bytes(300_000))
    page = visit(server)
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    choose(page, *photos[:4], tmp_path / "broken.png", *photos[4:], tmp_path / "notes.txt", tmp_path / "large.bmp")
    settled(page)
    cards = page.locator(".card")
    assert cards.count() == 11
    assert all("predict" in url for url in posts) and len(posts) <= 4, "in batches"
    texts = cards.all_inner_texts()
    assert "damaged" in texts[4] and "broken.png" in texts[4]
    assert "It is a text file, not an image" in texts[9]
    assert "It has 301 kB; this server takes at most 200 kB" in texts[10]
    assert all("%" in text for text in texts[:4] + texts[5:9])
    assert page.inner_text("[aria-live=polite]") == "11 photos done, 3 errors."
    wait_until(page, "() => document.querySelectorAll('.card .thumb img').length === 8")
    sound(page)
    page.get_by_role("button", name="Errors 3").click()
    assert cards.count() == 3
    assert "3 of 11 shown." in page.inner_text(".filters")
    cards.first.click()
    assert "could not be classified" in page.inner_text("dialog .callout")
    sound(page)


def test_sorting_and_filtering(visit, server, photos):
    page = visit(server)
    choose(page, *reversed(photos))
    settled(page)
    names, best = page.locator(".card .file"), page.locator(".card .verdict-line:first-of-type b")
    shares = page.locator(".card .verdict-line:not(.second) .number")
    assert names.first.inner_text() == "photo 7.png"
    page.get_by_role("combobox", name="Sort", exact=True).select_option("name")
    assert names.all_inner_texts() == [path.name for path in photos]
    page.get_by_role("combobox", name="Sort", exact=True).select_option("most")
    values = [float(re.sub("[^0-9.]", "", text)) for text in shares.all_inner_texts()]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    page.get_by_role("combobox", name="Sort", exact=True).select_option("class")
    assert best.all_inner_texts() == sorted(best.all_inner_texts())
    one = best.first.inner_text()
    page.get_by_role("combobox", name="Class", exact=True).select_option(one)
    assert set(best.all_inner_texts()) == {one} and names.count() < 8
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Search by name or class").fill("photo 3")
    assert names.all_inner_texts() == ["photo 3.png"]
    page.get_by_label("Search by name or class").fill("nothing like it")
    assert page.inner_text(".nothing") == "No photo matches the filter."


def test_the_table(visit, server, models, photos, tmp_path):
    (tmp_path / "=cmd.png").write_bytes(b"no picture")
    page = visit(server)
    choose(page, *photos[:3], tmp_path / "=cmd.png")
    settled(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert download.value.suggested_filename == "vertebra-plain.csv"
    content = Path(download.value.path()).read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == 5
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    ranks = [name for rank in range(1, 6) for name in (f"class_{rank}", f"probability_{rank}")]
    assert list(rows[0]) == ["path", *ranks, "error"], "as `vertebra predict --out` has them"
    network = vertebra.load(models[0].partition("=")[2])
    for row, path in zip(rows[:3], photos[:3], strict=True):
        assert row["path"] == path.name and row["error"] == "" and row["class_4"] == ""
        for rank, each in enumerate(network.predict(path).predictions[:3], 1):
            assert row[f"class_{rank}"] == each["class"].replace("=", "'="), "no formula"
            assert float(row[f"probability_{rank}"]) == pytest.approx(each["probability"], rel=1e-4)
    assert rows[3]["path"] == "'=cmd.png" and "not an image" in rows[3]["error"] and rows[3]["class_1"] == ""


def test_the_heat_map(visit, server, photos):
    page = visit(server)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "explain" in request.url else None)
    choose(page, photos[0])
    heat = page.locator(".photo .heat")
    heat.wait_for()
    assert len(asked) == 1 and "layer=heat" in asked[0]
    size = "img => [img.naturalWidth, img.naturalHeight, getComputedStyle(img).opacity]"
    wait_until(page, "() => document.querySelector('.heat').naturalWidth > 0")
    assert heat.evaluate(size) == [60, 48, "0.65"]
    pressed = page.locator(".bar[aria-pressed=true] .bar-name")
    first = pressed.inner_text()
    before = heat.get_attribute("src")
    page.locator(".bar").nth(1).click()
    wait_until(page, "before => document.querySelector('.heat').src !== before", arg=before)
    assert pressed.inner_text() != first and len(asked) == 2
    assert pressed.inner_text() in page.inner_text(".legend")
    page.locator(".bar").nth(0).click()
    wait_until(page, "before => document.querySelector('.heat').src === before", arg=before)
    assert len(asked) == 2, "what is known is not asked for again"
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert heat.evaluate(size)[2] == "0.7"
    page.keyboard.press("Home")
    assert heat.evaluate(size)[2] == "0"
    page.get_by_role("switch").press("Space")
    assert heat.count() == 0 and slider.is_disabled() and pressed.count() == 0
    # 40 of the 60 × 48 pixels, once the shorter side has 40: the middle 32.
    page.get_by_role("switch").press("Space")
    seen = page.locator(".seen")
    seen.wait_for()
    whole, box = page.locator(".photo .base").bounding_box(), seen.bounding_box()
    assert box["width"] / whole["width"] == pytest.approx(32 / 50, abs=0.01)
    assert box["height"] / whole["height"] == pytest.approx(32 / 40, abs=0.01)


def test_a_file_that_only_the_server_can_read(visit, server, photos, tmp_path):
    Image.open(photos[0]).save(tmp_path / "scan.tiff")
    page = visit(server)
    choose(page, tmp_path / "scan.tiff")
    page.wait_for_selector(".bars")
    wait_until(page, "() => document.querySelector('.photo .base')?.naturalWidth === 60")
    assert page.get_by_role("slider").is_disabled(), "the server has laid the heat-map over it"
    choose(page, photos[0])
    page.wait_for_selector(".grid .no-picture")
    assert page.locator(".no-picture").inner_text() == "TIFF"


def test_a_photo_that_lies_on_its_side(visit, server, photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned
    Image.open(photos[0]).save(tmp_path / "turned.jpg", exif=exif)
    page = visit(server)
    choose(page, tmp_path / "turned.jpg")
    page.locator(".photo .heat").wait_for()
    sizes = "img => [img.naturalWidth, img.naturalHeight]"
    wait_until(page, "() => document.querySelector('.heat').naturalWidth > 0")
    assert page.locator(".photo .base").evaluate(sizes) == page.locator(".photo .heat").evaluate(sizes) == [48, 60]
    assert "48 × 60 pixels" in page.inner_text(".facts")


def test_unsure_is_shown_as_such(visit, server, sound, photos):
    page = visit(server)
    choose(page, *photos[:2])
    settled(page)
    assert page.locator(".badge").count() == 0
    page.locator(".picker select").select_option("doubtful")
    page.wait_for_selector(".badge")
    settled(page)
    assert page.locator(".badge").all_inner_texts() == ["unsure", "unsure"]
    page.get_by_role("button", name="Unsure 2").click()
    page.locator(".card").first.click()
    assert "Unsure" in page.inner_text("dialog .callout") and "threshold of 100 %" in page.inner_text("dialog .callout")
    page.wait_for_selector("dialog .heat")
    sound(page)
    page.keyboard.press("Escape")
    page.locator(".picker select").select_option("plain")
    assert page.locator(".badge").count() == 0 and page.locator(".card.done").count() == 2, "results are kept"
    with page.expect_download() as download:
        page.locator(".picker select").select_option("doubtful")
        page.get_by_role("button", name="Save CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert [row["unsure"] for row in rows] == ["true", "true"]


def test_by_keyboard_alone(visit, server, photos):
    page = visit(server)
    press, focused = page.keyboard.press, "document.activeElement"
    page.on("filechooser", lambda _: None)  # from now on none may open in earnest
    press("Tab")
    assert page.evaluate(f"{focused}.textContent.trim()") == "Skip to the content"
    assert page.evaluate(f"{focused}.getBoundingClientRect().top") >= 0, "it is seen while it has the focus"
    press("Enter")
    press("Tab")
    with page.expect_file_chooser() as chooser:
        press("Enter")
    chooser.value.set_files(photos)
    settled(page)
    assert page.locator(".card").count() == 8
    page.evaluate("document.activeElement.blur()")
    for _ in range(30):
        press("Tab")
        if page.evaluate(f"{focused}.matches('.card')"):
            break
    number = f"[...document.querySelectorAll('.card')].indexOf({focused})"
    assert page.evaluate(number) == 0
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    for key, place in [("ArrowRight", 1), ("ArrowDown", 6), ("ArrowUp", 1), ("End", 7), ("Home", 0), ("ArrowRight", 1)]:
        press(key)
        assert page.evaluate(number) == place, key
    press("Enter")
    page.wait_for_selector("dialog .bars")
    assert page.inner_text("dialog h2") == "photo 1.png"
    press("ArrowRight")
    assert page.inner_text("dialog h2") == "photo 2.png"
    assert page.evaluate(f"{focused}.closest('dialog') !== null"), "the focus stays within"
    press("Escape")
    assert page.locator("dialog").count() == 0
    assert page.evaluate(number) == 2, "at the photo that was looked at last"
    press("Delete")
    assert page.locator(".card").count() == 7
    assert page.evaluate(number) == 2
    page.locator("#tab-photos").focus()
    press("ArrowRight")
    page.wait_for_selector(".diagram")
    assert page.evaluate(f"{focused}.id") == "tab-model"
    press("ArrowLeft")
    assert page.locator(".card").count() == 7
    page.get_by_role("button", name="Clear").press("Enter")
    page.wait_for_selector(".dropzone")
    wait_until(page, "() => document.activeElement.id === 'content'")


def test_the_model(visit, server, sound):
    page = visit(server)
    page.get_by_role("tab", name="Model").click()
    page.wait_for_selector(".diagram")
    anatomy = server.get("/v1/models/plain/anatomy").json
    assert page.locator(".diagram .stage").count() == len(anatomy["stages"]) == 2
    rows = page.locator("table.stages tbody tr")
    for number, stage in enumerate(anatomy["stages"]):
        cells = [text.strip() for text in rows.nth(number).locator("th, td").all_inner_texts()]
        assert cells[:2] == [stage["name"], stage["kind"]]
        assert cells[4].split()[0] == str(stage["parameters"])
        assert f"{100 * stage['parameters'] / anatomy['parameters']:.0f} %" in cells[4]
    assert "2 stages turn 32 × 32 pixels into 3 classes" in page.locator(".diagram").get_attribute("aria-label")
    text = page.inner_text("main")
    assert "The shorter side becomes 40 pixels (bicubic)." in text and "not stated" in text
    assert page.locator(".classes li").all_text_contents() == ["0 cat", '1 dog, "wet"', "2 =1+1"]
    page.get_by_label("Search the classes").fill("WET")
    assert page.locator(".classes li").all_text_contents() == ['1 dog, "wet"']
    sound(page)
    assert page.url.endswith("#model")
    page.reload()
    page.wait_for_selector(".diagram")
    page.locator(".picker select").select_option("doubtful")
    wait_until(page, "() => document.querySelector('.model-head h2')?.textContent === 'doubtful'")
    assert "100 %" in page.inner_text(".tiles")


def test_the_key_is_asked_for_once(visit, serving, sound, photos):
    server = serving(api_key=KEY)
    page = visit(server, ready="dialog")
    sound(page)
    field = page.get_by_label("API key")
    assert field.evaluate("field => field === document.activeElement && field.type === 'password'")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 1, "nothing can be done without"
    field.fill("another-key")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lock-wrong")
    assert page.get_by_label("API key").get_attribute("aria-invalid") == "true"
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector(".dropzone b")
    choose(page, photos[0])
    page.wait_for_selector(".heat")
    page.reload()
    page.wait_for_selector(".dropzone b")
    assert page.locator("dialog").count() == 0
    assert page.evaluate("localStorage.length") == 0 and KEY not in page.content()


def test_colours_can_be_chosen(visit, server):
    page = visit(server, color_scheme="dark", reduced_motion="reduce")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_label("Colours: as the system").click()
    page.get_by_label("Colours: light").wait_for()
    light = page.evaluate(background)
    assert light != dark
    page.reload()
    page.wait_for_selector(".dropzone")
    assert page.evaluate(background) == light, "it is remembered"
    page.get_by_label("Colours: light").click()
    page.get_by_label("Colours: dark").click()
    page.get_by_label("Colours: as the system").wait_for()
    assert page.evaluate(background) == dark
    page.emulate_media(color_scheme="light")
    wait_until(page, "light => getComputedStyle(document.body).backgroundColor === light", arg=light)
    still = "getComputedStyle(document.querySelector('.switch input, .button')).transitionDuration"
    assert page.evaluate(still) == "0s"


def test_on_a_phone(visit, server, sound, photos):
    page = visit(server, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    sound(page)
    assert page.get_by_role("button", name="folder").count() == 0, "phones have none to choose"
    choose(page, photos[0])
    page.wait_for_selector(".heat")
    sound(page)
    choose(page, *photos[1:4])
    settled(page)
    sound(page)
    page.locator(".card").first.click()
    page.wait_for_selector("dialog .heat")
    sound(page)
    assert page.locator("dialog").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    page.get_by_label("Close", exact=True).click()
    page.get_by_role("tab", name="Model").click()
    page.wait_for_selector(".diagram")
    sound(page)


def test_photos_that_come_before_the_models(visit, server, photos):
    page = visit(server)
    held = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.reload()
    page.wait_for_selector(".dropzone")
    choose(page, *(4 * photos))
    assert page.locator(".card.new").count() == 32
    while not held:
        page.wait_for_timeout(10)
    held[0].continue_()
    wait_until(page, "() => document.querySelectorAll('.card.done').length === 32")


def test_a_busy_server_is_waited_for(visit, server, sound, photos):
    page = visit(server)
    answers = []

    def busy(route):
        answers.append(route.request.url)
        if len(answers) > 1:
            route.continue_()
            return
        body = '{"error": {"message": "256 images wait already."}}'
        route.fulfill(status=503, body=body, headers={"Retry-After": "2", "Content-Type": "application/json"})

    page.route("**/v1/predict**", busy)
    choose(page, photos[0])
    page.wait_for_selector(".banner")
    text = page.inner_text(".banner")
    assert "The server is busy. 256 images wait already. The page tries again in 2 s." in text
    sound(page)
    page.wait_for_selector(".bars")
    assert len(answers) == 2 and page.locator(".banner").count() == 0


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(visit, serving, models, sound, photos):
    server = serving(models=models)
    page = visit(server)
    server.service.__exit__(None, None, None)
    choose(page, *photos[:3])
    page.wait_for_selector(".banner.error")
    assert "The server does not answer. Trying again every few seconds; 3 photos will then go on." in page.inner_text(
        ".banner.error"
    )
    sound(page)
    serving(models=models, port=server.port)
    settled(page)
    assert page.locator(".card.done").count() == 3
    assert page.locator(".banner").count() == 0


def test_a_file_that_has_gone(visit, server, photos):
    page = visit(server)
    page.route("**/v1/predict**", lambda route: (photos[0].unlink(missing_ok=True), route.abort())[1], times=1)
    choose(page, *photos[:2])
    settled(page)
    texts = page.locator(".card").all_inner_texts()
    assert "It cannot be read any more" in texts[0] and "%" in texts[1]


def test_pausing(visit, server, photos):
    page = visit(server)
    held, open_ = [], []
    page.route("**/v1/predict**", lambda route: route.continue_() if open_ else held.append(route))
    choose(page, *(4 * photos))
    page.get_by_role("button", name="Pause").click()
    assert page.locator(".card.sending").count() == 24, "three requests of as many as this server takes"
    open_.append(True)
    for route in held:
        route.continue_()
    wait_until(page, "() => document.querySelectorAll('.card.done').length === 24")
    assert page.locator(".card.waiting").count() == 8
    assert page.inner_text(".progress-text") == "24 of 32 · paused"
    page.get_by_role("button", name="Go on").click()
    settled(page)
    assert page.locator(".card.done").count() == 32


def test_a_folder(visit, server, photos, tmp_path):
    folder = tmp_path / "holiday"
    (folder / "sea").mkdir(parents=True)
    shutil.copy(photos[0], folder / "a.png")
    shutil.copy(photos[1], folder / "sea/b.png")
    (folder / "notes.txt").write_text("not a picture")
    page = visit(server)
    choose(page, folder, source="folder")
    settled(page)
    assert sorted(page.locator(".card .file").all_inner_texts()) == ["a.png", "b.png"]
    assert page.locator(".card .file[title='holiday/sea/b.png']").count() == 1
    assert page.inner_text(".banner.tell p") == "1 file that is no image was left out."


@pytest.mark.slow
def test_the_camera(visit, serving, models, sound):
    page = visit(serving(models=models, max_bytes=5_000_000, max_pixels=10_000_000))
    page.context.grant_permissions(["camera"])
    page.get_by_role("button", name="Take a photo").click()
    page.wait_for_selector(".viewfinder-text", state="detached")
    sound(page)
    page.get_by_role("button", name="Front camera").click()
    page.get_by_role("button", name="Back camera").wait_for()
    page.wait_for_selector(".mirrored .viewfinder-text", state="detached")
    page.get_by_role("button", name="Take photo").click()
    page.get_by_role("button", name="Show it").click()
    page.wait_for_selector(".bars")
    assert re.fullmatch(r"camera-\d\d-\d\d-\d\d\.jpg", page.inner_text(".findings .file"))


@pytest.mark.parametrize(
    ("error", "text"), [("NotAllowedError", "not allowed to use the camera"), ("NotFoundError", "There is no camera")]
)
def test_no_camera(visit, server, error, text):
    page = visit(server)
    refuse = "error => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', error); }; }"
    page.evaluate(refuse, error)
    page.get_by_role("button", name="Take a photo").click()
    assert text in page.locator("dialog [role=alert]").inner_text()
    assert page.get_by_role("button", name="Try again").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog").count() == 0


def test_nothing_is_kept_of_what_was_removed(visit, server, photos):
    page = visit(server)
    choose(page, *photos)
    settled(page)
    wait_until(page, "() => document.querySelectorAll('.card .thumb img').length === 8")
    page.locator(".card").first.click()
    page.wait_for_selector("dialog .heat")
    assert page.evaluate("addresses.size") == 10, "8 small pictures, a photo, a heat-map"
    page.get_by_role("button", name="Remove").click()
    wait_until(page, "() => addresses.size === 9")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear").click()
    wait_until(page, "() => addresses.size === 0")


@pytest.mark.slow
def test_hundreds(visit, serving, models, pngs):
    server = serving(models=models[:1], queue=256)
    page = visit(server)
    drop = """([text, count]) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const data = new DataTransfer();
      for (let i = 0; i < count; i += 1) data.items.add(new File([bytes], `${i}.png`, { type: 'image/png' }));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [base64.b64encode(pngs[0]).decode(), 400])
    page.wait_for_selector("progress")
    assert re.search(r"\d+ of 400", page.inner_text(".progress-text"))
    page.wait_for_selector("progress", state="detached")
    assert page.inner_text("[aria-live=polite]") == "400 photos done."
    page.wait_for_timeout(1000)
    cards, pictures = page.locator(".card").count(), page.locator(".card img").count()
    assert 0 < pictures < cards < 400, "only what is near the screen"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    wait_until(page, "before => document.querySelectorAll('.card').length > before", arg=cards)
