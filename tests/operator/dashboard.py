#!/usr/bin/env python3
"""The dashboard in a real browser, used as an operator would.

Needs a running hub on the embedded log (`streamer dev`), Chromium with its driver, and the Python package selenium.
Publishes to the tenant `browser-test`, and pauses and resumes the hub's first partition. Prints a line for each
check; ends with status 1 at the first that fails, and says where it left a picture of the page.

    python tests/operator/dashboard.py --base http://127.0.0.1:7700 [--token T] [--screenshots docs/img]
"""

import argparse
import pathlib
import sys
import tempfile
import threading
import time

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from page import Hub, Page, browser

HERE = pathlib.Path(__file__).resolve().parent
TENANT = "browser-test"
COLLECTION = "messages"
# No picture in the page is a stronger statement than that the handler did not run: the policy alone would stop it.
EVIL = "<img src=x onerror=window.struck=1>"
VIEWS = ["overview", "gateways", "tail", "explain", "backtest", "drills"]
EDGES = ["edge-1", "edge-2", "edge-3"]
RUN = f"{int(time.time()) % 1_000_000:06d}"


def loads(page, hub):
    page.complaints()
    page.open()
    page.live()
    assert page.text("#node") not in ("", "–"), "no node"
    name = hub.partition()["partition"]
    page.until(lambda: page.row("#partitions", name), "the partition's row")
    row = page.row("#partitions", name)
    assert "reading" in row["State"], row
    assert page.one("#partitions svg").get_attribute("aria-label"), "a sparkline says nothing"
    assert page.driver.title.startswith("Overview"), page.driver.title
    bad = page.complaints()
    assert not bad, f"the console complains: {bad}"


def rates(page, hub):
    stop = threading.Event()

    def write():
        while not stop.wait(0.05):
            hub.publish("rate", {"stars": 1})

    thread = threading.Thread(target=write)
    thread.start()
    name = hub.partition()["partition"]
    try:
        page.until(lambda: float(page.row("#partitions", name)["Changes/s"].replace(",", "")) > 2, "changes a second are counted")
    finally:
        stop.set()
        thread.join()


def pauses_by_keyboard(page, hub):
    page.open()
    page.live()
    name = hub.partition()["partition"]
    page.tab_to(f"Pause {name}")
    page.press(Keys.ENTER)
    page.until(lambda: page.one("#confirm-dialog").get_attribute("open"), "the question opens")
    assert page.focused().get_attribute("id") == "confirm-cancel", "the harmless answer has the focus"
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.one("#confirm-dialog").get_attribute("open"), "Escape closes it")
    assert hub.partition()["state"] != "paused", "Escape did something"
    for verb, state, shown in (("Pause", "paused", "paused"), ("Resume", "reading", "reading")):
        page.until(lambda: page.focused().get_attribute("aria-label") == f"{verb} {name}", "the button has the focus again")
        page.press(Keys.ENTER)
        page.until(lambda: page.one("#confirm-dialog").get_attribute("open"), "the question opens")
        page.press(Keys.TAB)
        assert page.focused().text == verb, page.focused().text
        page.press(Keys.ENTER)
        page.until(lambda: hub.partition()["state"] == state, f"the hub says {state}")
        page.until(lambda: shown in page.row("#partitions", name)["State"], f"the row says {shown}")
        assert page.all("#partitions tr.warn, #partitions tr.bad") or state == "reading", "a paused partition stands out"


def sees_gateways(page, hub):
    gateway = f"ui-gw-{RUN}"
    hub.register(gateway, "inbox", [{"field": "stars", "op": ">=", "value": 3}])
    hub.consume(gateway)
    page.press("/")
    page.until(lambda: page.focused().get_attribute("id") == "gateway-filter", "/ goes to the filter")
    page.focused().send_keys(gateway)
    page.until(lambda: page.row("#gateway-table", gateway), "the gateway's row")
    page.until(lambda: "live" in page.row("#gateway-table", gateway)["State"], "it is live")
    row = page.row("#gateway-table", gateway)
    assert row["Session"].lower() == "sse" and row["Subscriptions"] == "1", row
    assert len(page.all("#gateway-table tbody tr")) == 1, "the filter lets others through"
    page.tab_to(f"Park {gateway}")
    page.press(Keys.ENTER, Keys.TAB, Keys.ENTER)
    page.until(lambda: hub.call("GET", f"/v1/gateways/{gateway}")["state"] == "parked", "the hub has parked it")
    page.until(lambda: "parked" in page.row("#gateway-table", gateway)["State"], "the row says so")
    page.one("#gateway-filter").clear()


def tails(page, hub):
    page.go("tail")
    page.fill("tail-form", tenant=TENANT, collection=COLLECTION)
    page.filter("tail-form", "stars", ">=", "3x")
    page.one("#tail-start").click()
    page.until(lambda: "not JSON" in page.text("#tail-form .fault"), "a value that is no JSON is refused")
    assert page.focused().get_attribute("aria-invalid") == "true", "and has the focus"
    page.filter("tail-form", "stars", "<", "[1]")
    page.one("#tail-start").click()
    page.until(lambda: "INVALID_FILTER" in page.text("#tail-form .fault"), "the hub's refusal is shown")
    assert page.focused().get_attribute("data-part"), "at the filter"
    page.filter("tail-form", "stars", ">=", "3")
    page.one("#tail-start").click()
    page.until(lambda: "Receiving" in page.text("#tail-status"), "the stream is open")
    gateway = page.text("#tail-status").rstrip(".").split()[-1]
    assert gateway.startswith("dashboard-"), gateway
    first = hub.publish(f"{EVIL}-1", {"stars": 4, "text": EVIL, EVIL: 1, "big": 9007199254740993})
    hub.publish("unwanted", {"stars": 2})
    hub.publish("last", {"stars": 5})
    page.until(lambda: page.row("#tail-table", "last"), "a change that matches is shown")
    keys = [cell.text for cell in page.all("#tail-table tbody th")]
    assert keys == ["last", f"{EVIL}-1"], keys
    assert page.row("#tail-table", f"{EVIL}-1")["Position"] == first, "the position is another"
    page.all("#tail-table summary")[1].click()
    page.until(lambda: '"big": 9007199254740993' in page.all("#tail-table pre")[1].text, "the document opens, to the digit")
    page.unstruck()
    page.one("#tail-stop").click()
    page.until(lambda: "Stopped" in page.text("#tail-status"), "it stops")
    page.until(lambda: hub.status("GET", f"/v1/gateways/{gateway}") == 404, "its gateway is dropped")


def tail_ends_with_the_page(page, hub):
    page.one("#tail-start").click()
    page.until(lambda: "Receiving" in page.text("#tail-status"), "the stream is open again")
    gateway = page.text("#tail-status").rstrip(".").split()[-1]
    assert hub.status("GET", f"/v1/gateways/{gateway}") == 200
    page.driver.get("about:blank")
    page.until(lambda: hub.status("GET", f"/v1/gateways/{gateway}") == 404, "leaving the page drops the gateway")
    page.open()
    page.live()


def tail_is_bounded(page, hub):
    page.go("tail")
    page.fill("tail-form", tenant=TENANT, collection=COLLECTION)
    page.filter("tail-form", "many", "==", "true")
    page.one("#tail-start").click()
    page.until(lambda: "Receiving" in page.text("#tail-status"), "the stream is open")
    event = {"tenant": TENANT, "collection": COLLECTION, "key": "m", "operation": "insert", "document": {"many": True}}
    hub.call("POST", "/v1/events/batch", {"events": [event] * 450})
    page.until(lambda: page.text("#tail-count").startswith("450 "), "all are counted")
    assert len(page.all("#tail-table tbody tr")) == 200, "more rows are kept than 200"
    page.one("#tail-stop").click()


def explains(page, hub):
    gateway = f"ui-explain-{RUN}"
    hub.register(gateway, "inbox", [{"field": "stars", "op": ">=", "value": 3}])
    page.go("explain")
    page.fill("explain-form", tenant=TENANT, collection=COLLECTION, document='{"stars": "4"}', gatewayId=gateway, subscriptionId="inbox")
    page.one("#explain-form [type=submit]").click()
    page.until(lambda: page.row("#explain-result", "doc.stars >= 3"), "the steps are shown")
    step = page.row("#explain-result", "doc.stars >= 3")
    assert "error" in step["Result"] and "string" in step["Why"], step
    assert "does not fire" in page.text("#explain-result")
    page.fill("explain-form", document='{"stars": 4}')
    page.one("#explain-form [type=submit]").click()
    page.until(lambda: "it fires" in page.text("#explain-result"), "another document fires it")
    page.fill("explain-form", gatewayId=EVIL)
    page.one("#explain-form [type=submit]").click()
    page.until(lambda: "gatewayId" in page.text("#explain-form .fault"), "a bad name is refused at its field")
    assert page.focused().get_attribute("name") == "gatewayId"
    page.unstruck()


def backtests(page, hub):
    hub.publish(f"{EVIL}-2", {"stars": 4, "text": EVIL})
    page.go("backtest")
    page.fill("backtest-form", tenant=TENANT, collection=COLLECTION, seconds="600")
    page.filter("backtest-form", "stars", ">=", "3")
    page.one("#backtest-form [type=submit]").click()
    page.until(lambda: page.text("#backtest-status").startswith("Done"), "it answers", 60)
    facts = {fact.find_element(By.CSS_SELECTOR, "dt").text: fact.find_element(By.CSS_SELECTOR, "dd").text for fact in page.all("#backtest-result .sums div")}
    assert int(facts["Matches"].replace(",", "")) >= 1, facts
    assert int(facts["Changes"].replace(",", "")) >= int(facts["Matches"].replace(",", "")), facts
    drawing = page.one("#backtest-result svg.histogram")
    assert "most matches" in drawing.get_attribute("aria-label")
    assert EVIL in page.text("#backtest-result"), "the samples are shown as they are"
    page.unstruck()


def drills(page, _hub):
    page.go("drills")
    page.until(lambda: page.text("#drills-table") != "", "the drills, or how to run one")


def is_named(page, _hub):
    """Every control of every view has a name that can be read aloud."""
    for view in VIEWS:
        page.go(view)
        nameless = page.js("""
          return [...document.querySelectorAll('button, input, select, textarea')]
            .filter((node) => node.checkVisibility() && !(node.labels?.length || node.getAttribute('aria-label') || (node.tagName === 'BUTTON' && node.textContent.trim())))
            .map((node) => node.outerHTML)""")
        assert not nameless, nameless
    page.js("document.activeElement.blur()")
    page.press("2")
    page.until(lambda: page.one("#gateways").is_displayed(), "a number opens a view")
    page.press("1")


def has_themes(page, _hub):
    def ground():
        return page.js("return getComputedStyle(document.body).backgroundColor")

    def prefer(scheme):
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    page.go("overview")
    prefer("light")
    light = ground()
    prefer("dark")
    dark = ground()
    assert light != dark, "the system's theme is not taken"
    page.one("#theme").click()
    assert ground() == light, "the button does not overrule the system"
    page.open()
    page.live()
    assert ground() == light, "the choice is forgotten"
    page.one("#theme").click()
    page.one("#theme").click()
    prefer("light")
    assert ground() == light, "system follows the system again"


def fits_a_phone(page, _hub):
    page.width(390, 844, is_mobile=True)
    for view in VIEWS:
        page.go(view)
        wide = page.js("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= 390 and wide[1] == 390, f"{view} is {wide[0]} wide"
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def shows_what_is_wrong(page, _hub):
    script = {"source": (HERE / "canned.js").read_text()}
    added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        page.open()
        page.until(lambda: page.js("return window.seen?.pictures") == 3 and page.row("#partitions", "a/0"), "the pictures are taken")
        page.until(lambda: page.row("#partitions", "a/1")["Changes/s"] == "1,000", "rates are taken from two pictures")
        assert "paused" in page.text("#trouble") and "disagreed 3 times" in page.text("#trouble"), page.text("#trouble")
        paused, late, away, anew = (page.row("#partitions", f"a/{n}") for n in range(4))
        assert paused["State"].startswith("▲") and page.focused() is not None, paused
        assert late["Lag, s"] == "▲ 90" and late["Oplog left, min"] == "▲ 4.0", late
        assert "no owner" in away["State"] and away["Changes/s"] == "–", away
        assert anew["Changes/s"] == "–", anew
        assert page.row("#matching", "a/1")["Shadow differences"].startswith("✖ 3")
        assert len(page.all("#behind tbody tr")) == 5 and page.row("#behind", EVIL), "the gateways furthest behind"
        assert page.row("#costliest", EVIL), "the costliest filters"
        page.unstruck()
        page.go("gateways")
        assert page.row("#gateway-table", EVIL)["Lag, s"] == "▲ 120"
        assert page.row("#gateway-table", "team / m-1"), "a group's member"
        assert "200 furthest behind" in page.text("#gateway-note"), page.text("#gateway-note")
        page.go("drills")
        page.until(lambda: page.row("#drills-table", EVIL), "the reports are shown")
        assert "failed" in page.row("#drills-table", EVIL)["Result"]
        page.go("overview")
        page.tab_to("Resume a/0")
        page.press(Keys.ENTER, Keys.TAB, Keys.ENTER)
        page.until(lambda: "role operator" in page.text("#confirm-dialog .fault"), "a refusal for want of a role says so")
        page.press(Keys.ESCAPE)
        page.go("tail")
        page.fill("tail-form", tenant=TENANT, collection=COLLECTION)
        page.one("#tail-form [data-remove]").click()
        page.one("#tail-start").click()
        page.until(lambda: "closed the stream for good" in page.text("#tail-status"), "a stream that was superseded is not opened again")
        messages = [row.text for row in page.all("#tail-table tr.message")]
        assert [name in text for name, text in zip(("closed (superseded)", "expired (too_costly)", "resync (history_lost)"), messages)] == [True] * 3, messages
        page.go("overview")
        page.js("window.closeStream()")
        page.until(lambda: "reconnecting since" in page.text("#connection"), "a stream that ends is said")
        assert page.js("return document.documentElement.classList.contains('stale')"), "and greys the figures"
        page.until(lambda: page.js("return window.seen.opened") >= 3, "it is opened again", 20)
        page.width(390, 844, is_mobile=True)
        for view in VIEWS:
            page.go(view)
            assert page.js("return document.documentElement.scrollWidth") <= 390, f"{view} does not fit a phone if much is wrong"
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.unstruck()
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def asks_for_a_token(page, hub):
    page.open()
    page.until(lambda: page.one("#token-dialog").get_attribute("open"), "the dialog asks for a token")
    page.press(Keys.ESCAPE)
    page.until(lambda: "token is needed" in page.text("#connection"), "the page says what it lacks")
    page.one("#token").click()
    page.one("#token-input").send_keys("not-a-token", Keys.ENTER)
    page.until(lambda: "does not take the token" in page.text("#token-why"), "a bad token is said to be one")
    page.one("#token-input").send_keys(hub.token, Keys.ENTER)
    page.live()
    kept = page.js("return [performance.getEntriesByType('resource').map((entry) => entry.name).join(), location.href].join()")
    assert hub.token not in kept, "the token is in a URL"
    page.complaints()


def tidy(hub):
    for gateway in (f"ui-gw-{RUN}", f"ui-explain-{RUN}", *EDGES):
        hub.status("DELETE", f"/v1/gateways/{gateway}")


def screenshots(page, hub, folder):
    """Of a hub that has something to do: what is shown is what it did."""
    folder.mkdir(parents=True, exist_ok=True)
    tidy(hub)
    for gateway, stars in zip(EDGES, (1, 3, 5)):
        for letter in "abcd":
            hub.register(gateway, f"inbox-{letter}", [{"field": "stars", "op": ">=", "value": stars}, {"field": "chat", "op": "==", "value": letter}])
        if gateway != EDGES[-1]:
            hub.consume(gateway)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    page.width(1280, 800)
    page.open()
    page.live()
    start = time.monotonic()
    number = 0
    while (elapsed := time.monotonic() - start) < 60:
        # A swell, so that the line has a shape.
        for _ in range(int(4 + 3 * (elapsed % 20) / 5)):
            number += 1
            hub.publish(f"m-{number}", {"stars": number % 6, "chat": "abcdefgh"[number % 8]})
        time.sleep(0.2)

    def shoot(name):
        for _ in range(4):
            hub.publish("m", {"stars": 5, "chat": "a"})
        page.driver.save_screenshot(str(folder / name))
        size = (folder / name).stat().st_size
        assert size < 200_000, f"{name} has {size} bytes"

    shoot("dashboard-light.png")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    shoot("dashboard-dark.png")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    page.width(390, 844, is_mobile=True)
    shoot("dashboard-phone.png")


CHECKS = [
    loads, rates, pauses_by_keyboard, sees_gateways, tails, tail_ends_with_the_page, tail_is_bounded, explains, backtests,
    drills, is_named, has_themes, fits_a_phone, shows_what_is_wrong,
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--base", default="http://127.0.0.1:7700", help="where the hub serves HTTP")
    arguments.add_argument("--token", help="an operator's token, if the hub asks for one")
    arguments.add_argument("--screenshots", type=pathlib.Path, help="take the pictures of the documentation into this folder as well")
    arguments.add_argument("--only", action="append", choices=[check.__name__ for check in CHECKS], help="only this check; may be given again")
    given = arguments.parse_args()
    hub = Hub(given.base.rstrip("/"), given.token, TENANT, COLLECTION)
    driver = browser()
    page = Page(hub.base, driver)
    checks = [check for check in CHECKS if not given.only or check.__name__ in given.only]
    if given.token:
        checks.insert(0, asks_for_a_token)
    if given.only:
        checks.insert(0 if not given.token else 1, lambda page, hub: (page.open(), page.live()))
    try:
        for check in checks:
            check(page, hub)
            page.unstruck()
            print(f"ok  {check.__name__.replace('_', ' ').replace('<lambda>', 'opens')}", flush=True)
        if given.screenshots:
            screenshots(page, hub, given.screenshots)
            print(f"ok  pictures in {given.screenshots}")
    except Exception as error:
        picture = pathlib.Path(tempfile.gettempdir()) / "dashboard-failed.png"
        driver.save_screenshot(str(picture))
        print(f"FAILED {check.__name__}: {type(error).__name__}: {error}\nthe page then: {picture}", file=sys.stderr)
        for entry in page.complaints():
            print(f"console: {entry}", file=sys.stderr)
        return 1
    finally:
        driver.quit()
        if hub.partition()["state"] == "paused":
            hub.call("POST", f"/v1/partitions/{hub.partition()['partition']}/resume")
        tidy(hub)
    return 0


if __name__ == "__main__":
    sys.exit(main())
