"""The report's page in a real browser: opened, sorted, filtered, at the width of a desk and of a phone, in the dark."""

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from promptvision.report.figures.draw import draw_all
from promptvision.report.page.html import write_page
from promptvision.report.report import load_report

SCRIPT = "</script><script>document.title = 'broken into'</script><img src=x onerror=\"document.title='broken into'\">"


@pytest.fixture(scope="module")
def address(write_run_in, tmp_path_factory):
    """The page of a few runs, one of them on a dataset with an attack for a name."""
    folder = tmp_path_factory.mktemp("page")
    for method, accuracy in (("coop", 55.0), ("cocoop", 75.0), ("linear_probe", 65.0)):
        for number, dataset in enumerate(("dtd", "eurosat", "food101", SCRIPT)):
            shared = {"method": method, "accuracy": accuracy, "classes": [SCRIPT]}
            write_run_in(folder / "out", f"{method}{number}", dataset=dataset, **shared)
    write_run_in(folder / "out", "lonely", method="tip_adapter", accuracy=9.0)
    report = load_report(folder / "out")
    write_page(report, draw_all(report, folder / "figures"), folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(window, address):
    """`opened(width)` shows the page."""
    return lambda width, **how: window(address, width, **how)


def first_table(browser):
    return browser.find_element(By.CSS_SELECTOR, "section table")


def column(table, name):
    heads = [
        head.text.partition(" ▲")[0].partition(" ▼")[0] for head in table.find_elements(By.CSS_SELECTOR, "thead th")
    ]
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[heads.index(name)].text for row in rows if row.is_displayed()]


def click(table, name):
    next(b for b in table.find_elements(By.TAG_NAME, "button") if b.text.startswith(name)).click()


def test_nothing_breaks_in_and_nothing_is_fetched(opened):
    browser = opened(1280)
    assert browser.title == "out: report"
    assert not browser.get_log("browser"), "no error, and nothing that the page's policy had to stop"
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests and not [each for each in requests if '"url":"http' in each]
    loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length"
    assert browser.execute_script(loaded) >= 2


def test_a_click_sorts_by_value_and_a_second_one_reverses_it(opened):
    table = first_table(opened(1280))
    click(table, "dtd")
    assert column(table, "dtd") == ["75.00", "65.00", "55.00", "9.00"], "as numbers, the highest first"
    click(table, "dtd")
    assert column(table, "dtd") == ["9.00", "55.00", "65.00", "75.00"]
    click(table, "eurosat")
    assert column(table, "eurosat") == ["75.00", "65.00", "55.00", ""], "empty cells stay at the end"
    click(table, "method")
    names = [name.partition(" [")[0] for name in column(table, "method")]
    assert names == ["CoCoOp", "CoOp", "linear probe", "Tip-Adapter"]


def test_the_filter_leaves_rows_and_runs_that_hold_every_word(opened):
    browser = opened(1280)
    box = browser.find_element(By.ID, "filter")
    box.send_keys("cocoop")
    assert len(column(first_table(browser), "method")) == 1
    runs = [run for run in browser.find_elements(By.CLASS_NAME, "run") if run.is_displayed()]
    assert len(runs) == 4 and "of" in browser.find_element(By.ID, "count").text
    box.clear()
    box.send_keys(" ")
    assert len(column(first_table(browser), "method")) == 4


def opened_run(browser, name):
    """The run of this folder, unpacked."""
    run = next(each for each in browser.find_elements(By.CLASS_NAME, "run") if f" {name} " in f" {each.text} ")
    run.find_element(By.TAG_NAME, "summary").click()
    WebDriverWait(browser, 10).until(lambda _: run.find_elements(By.TAG_NAME, "pre"))
    return run


def test_a_runs_config_and_log_are_one_click_away(opened):
    run = opened_run(opened(1280), "cocoop2")
    config, log, _ = run.find_elements(By.CSS_SELECTOR, "details")
    config.find_element(By.TAG_NAME, "summary").click()
    assert "NAME: food101" in config.find_element(By.TAG_NAME, "pre").text, "its own, whatever the order"
    log.find_element(By.TAG_NAME, "summary").click()
    assert "INFO training" in log.find_element(By.TAG_NAME, "pre").text


def test_what_is_unpacked_is_text(opened):
    browser = opened(1280)
    run = opened_run(browser, "coop3")
    folded = run.find_elements(By.CSS_SELECTOR, "details")[-1]
    folded.find_element(By.TAG_NAME, "summary").click()
    assert SCRIPT in folded.find_element(By.TAG_NAME, "dl").text, "a class with an attack for a name"
    assert browser.title == "out: report" and not browser.get_log("browser")


def test_figures_are_in_an_even_grid(opened):
    script = "return getComputedStyle(document.querySelector('.figures')).gridTemplateColumns"
    columns = opened(1280).execute_script(script).split()
    assert len(columns) == 2 and len(set(columns)) == 1
    assert len(opened(390).execute_script(script).split()) == 1


def test_a_tables_head_and_first_column_stay_in_sight(opened):
    browser = opened(390)
    box = browser.find_element(By.CSS_SELECTOR, ".scroll")
    browser.execute_script("arguments[0].style.maxHeight = '90px'; arguments[0].scrollTo(150, 40)", box)
    assert browser.execute_script("return [arguments[0].scrollLeft, arguments[0].scrollTop]", box) == [150, 40]
    corner, place = box.find_element(By.TAG_NAME, "th").rect, box.rect
    assert abs(corner["x"] - place["x"]) <= 2 and abs(corner["y"] - place["y"]) <= 2


def test_a_printed_page_is_light_and_has_no_controls(opened):
    browser = opened(1280, dark=True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert [browser.execute_script(shown, part) for part in (".bar", "#runs")] == ["none", "none"]
    assert colour == "rgb(255, 255, 255)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window(opened, width, tmp_path):
    browser = opened(width)
    beyond = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    assert browser.execute_script(beyond) == 0, "only tables scroll sideways"
    for inner in browser.find_elements(By.CSS_SELECTOR, "section, figure, .run"):
        assert inner.rect["x"] + inner.rect["width"] <= width
    browser.save_screenshot(str(tmp_path / "shot.png"))
    with Image.open(tmp_path / "shot.png") as shot:
        assert shot.width == width and len(shot.convert("RGB").getcolors(2**20)) > 50


def test_dark_when_the_system_is(opened):
    script = "return getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(390, dark=dark).execute_script(script) for dark in (False, True))
    assert light == "rgb(255, 255, 255)" and dark == "rgb(22, 24, 27)"
