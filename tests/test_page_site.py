"""The page of an exported folder as a site: offline, replaced by another export or site, damaged, installed."""

import json
import os
import re
import shutil

import pytest
from browser import NEEDS_CHROMIUM, Host, ask, console, hosted, made_patient, open_page, text_of, wait_for
from waiting import wait_until

import export
import flower_classifier as fc

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


@pytest.mark.slow
def test_without_a_network_it_works_after_the_first_visit(visitor, exported, some, tmp_path):
    """And what it needs was fetched once."""
    folder = made_patient(shutil.copytree(exported, tmp_path / "app"))
    Host.asked.clear()
    with hosted(tmp_path) as address:
        open_page(visitor, f"{address}{folder.name}/")
        expected = ask(visitor, some[0])["predictions"]
        heavy = [path for path in Host.asked if path.endswith((".onnx", ".gz"))]
        assert len(heavy) == len(set(heavy)) == 2
    visitor.get(f"{address}{folder.name}/")  # the host is gone
    wait_for(visitor, "document.body.dataset.state == 'no-camera'")
    assert ask(visitor, some[0])["predictions"] == expected


@pytest.mark.slow
@pytest.mark.usefixtures("networks_at_hand")
def test_another_export_in_its_place_is_taken_and_costs_what_has_changed(visitor, exported, trained, some, tmp_path):
    """The service worker of the first one must not keep it for ever. An update that breaks off changes nothing."""
    folder, names = made_patient(shutil.copytree(exported, tmp_path / "app")), tmp_path / "names.json"
    names.write_text(json.dumps({name: f"new {name}" for name in fc.load(folder).classes}))
    with hosted(tmp_path) as address:
        open_page(visitor, f"{address}app/")
        expected = ask(visitor, some[0])["predictions"]
        (earlier,) = caches_of(visitor)
        export.main([str(trained / "checkpoint.pth"), str(folder), "--category_names", str(names)])
        spec = (made_patient(folder) / "classifier.json").read_bytes()
        (folder / "classifier.json").write_text("<title>We will be back soon</title>")
        change_times(folder)
        Host.asked.clear()
        visitor.get(f"{address}app/")  # which lets Chromium look for another service worker
        wait_until(lambda: "/app/classifier.json" in Host.asked and not is_installing(visitor), "the update broke off")
    address = f"{address}app/"
    visitor.get(address)  # the host is gone
    wait_for(visitor, "document.body.dataset.state == 'no-camera'")
    assert ask(visitor, some[0])["predictions"] == expected
    port = int(address.split(":")[2].split("/")[0])
    (folder / "classifier.json").write_bytes(spec)
    change_times(folder, 10)
    with hosted(tmp_path, port):
        visitor.get(address)
        wait_until(lambda: is_replaced(visitor, earlier), "the new export's service worker took over")
    assert [path for path in Host.asked if path.endswith((".onnx", ".gz"))] == []
    assert "/app/style.css" not in Host.asked
    open_page(visitor, address)  # the host is gone again
    assert ask(visitor, some[0])["predictions"][0]["name"].startswith("new ")
    assert len(caches_of(visitor)) == 1


def change_times(folder, seconds=5):
    """Make the files of a folder younger: by their times a host tells what has changed."""
    later = max(path.stat().st_mtime for path in folder.rglob("*")) + seconds
    for path in folder.rglob("*"):
        os.utime(path, (later, later))


def is_installing(driver):
    """Say whether a new service worker is still fetching its files."""
    ask_registration = "navigator.serviceWorker.getRegistration().then((it) => arguments[0](Boolean(it.installing)))"
    return driver.execute_async_script(ask_registration)


def caches_of(driver):
    """Return the names of what service workers keep."""
    return driver.execute_async_script("caches.keys().then(arguments[0])")


def is_replaced(driver, earlier):
    """Say whether another service worker keeps the page, and the earlier one's cache is gone."""
    from selenium.common.exceptions import WebDriverException

    try:
        caches = caches_of(driver)
    except WebDriverException:  # the page was loading again
        return False
    return len(caches) == 1 and earlier not in caches


@pytest.mark.slow
def test_another_site_at_its_address_is_shown_and_other_files_of_the_host_are_fresh(visitor, exported, tmp_path):
    """A page that was once served at http://localhost:8000, say, must not stay there for ever."""
    folder = made_patient(shutil.copytree(exported, tmp_path / "site"))
    (folder / "news.txt").write_text("old")
    with hosted(folder) as address:
        open_page(visitor, address)
        news = "fetch('news.txt', { cache: 'reload' }).then((it) => it.text()).then(arguments[0])"
        assert visitor.execute_async_script(news) == "old"
        (folder / "news.txt").write_text("new")
        assert visitor.execute_async_script(news) == "new"
        (folder / "index.html").write_text("<title>another site</title>")
        (folder / "service_worker.js").unlink()
        for _ in range(2):
            visitor.get(address)
            assert visitor.title == "another site"
        assert caches_of(visitor) == []


@pytest.mark.slow
def test_a_word_about_maintenance_in_its_place_changes_nothing_for_a_day(visitor, exported, some, tmp_path):
    """Whatever is asked for, the host answers with that, and with status 200."""
    folder = made_patient(shutil.copytree(exported, tmp_path / "app"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with hosted(tmp_path) as host:
        address = f"{host}app/"
        open_page(visitor, address)
        expected, kept = ask(visitor, some[0])["predictions"], caches_of(visitor)
        for path in before:
            path.write_text("<title>We will be back soon</title>")
        change_times(folder)
        open_page(visitor, address)
        assert ask(visitor, some[0])["predictions"] == expected
        for path, data in before.items():
            path.write_bytes(data)
        change_times(folder, 10)
        open_page(visitor, address)
        assert ask(visitor, some[0])["predictions"] == expected
        assert caches_of(visitor) == kept
        for path in before:
            path.write_text("<title>another site</title>")
        change_times(folder, 20)
        open_page(visitor, address)
        since = "caches.open(arguments[0]).then(async (it) => it.put('something-else', new Response('0')))"
        visitor.execute_async_script(f"{since}.then(arguments[1])", *kept)
        visitor.get(address)
        assert visitor.title == "another site"
        assert caches_of(visitor) == []


def test_nothing_is_asked_of_elsewhere_and_nothing_can_be(page, page_site):
    """All that the page has fetched came from its own host; its policy refuses the rest, even to a script in it."""
    fetched = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert fetched
    assert all(name.startswith((page_site, "blob:")) for name in fetched)
    policy = page.find_element("css selector", "meta[http-equiv='Content-Security-Policy']").get_attribute("content")
    assert "default-src 'none'" in policy
    assert not re.search(
        r"https?:|\*|unsafe-(inline|eval)(?<!wasm-unsafe-eval)", policy.replace("'wasm-unsafe-eval'", "")
    )
    tried = "fetch('http://127.0.0.2:9/').then(() => arguments[0]('reached'), (error) => arguments[0](String(error)))"
    assert "Failed to fetch" in page.execute_async_script(tried)
    wait_until(lambda: any("Content Security Policy" in line for line in console(page)), "the console told the reason")


@pytest.mark.slow
def test_a_damaged_network_is_said_in_a_line(visitor, exported, tmp_path):
    for name in ("model.onnx", "classifier.json"):
        folder = shutil.copytree(exported, tmp_path / name)
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with hosted(folder) as address:
            assert open_page(visitor, address) == "failed"
            assert text_of(visitor, "notice-text") == f"{name} is damaged, or from another export: export it again"


def test_it_can_be_installed(page, page_site):
    """What Chromium itself finds wrong with the manifest: nothing."""
    assert page.execute_cdp_cmd("Page.getAppManifest", {})["errors"] == []
    problems = page.execute_cdp_cmd("Page.getInstallabilityErrors", {})["installabilityErrors"]
    assert [one for one in problems if one["errorId"] != "in-incognito"] == []
