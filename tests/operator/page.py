"""A hub, its page in a headless Chromium, and what a person does with them."""

import json
import shutil
import sys
import threading
import urllib.error
import urllib.request

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait


class Hub:
    """Calls past the page, to set things up and to see what became of them."""

    def __init__(self, base, token, tenant, collection):
        self.base, self.token, self.tenant, self.collection = base, token, tenant, collection

    def request(self, method, path, body=None):
        headers = {"content-type": "application/json"} if body is not None else {}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(self.base + path, data=data, method=method, headers=headers)

    def call(self, method, path, body=None):
        with urllib.request.urlopen(self.request(method, path, body), timeout=15) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def status(self, method, path):
        try:
            self.call(method, path)
            return 200
        except urllib.error.HTTPError as error:
            return error.code

    def publish(self, key, document):
        event = {"tenant": self.tenant, "collection": self.collection, "key": key, "operation": "insert", "document": document}
        return self.call("POST", "/v1/events", event)["position"]

    def register(self, gateway, subscription, filters, ttl=300):
        body = {"subscriptionId": subscription, "gatewayId": gateway, "tenant": self.tenant, "collection": self.collection, "filters": filters, "ttlSeconds": ttl}
        return self.call("POST", "/v1/subscriptions", body)

    def partition(self):
        return self.call("GET", "/v1/partitions")["partitions"][0]

    def consume(self, gateway):
        """A gateway that is connected and takes what it is sent, until the test ends."""

        def read():
            try:
                with urllib.request.urlopen(self.request("GET", f"/v1/gateways/{gateway}/stream?ack=auto"), timeout=60) as stream:
                    while stream.readline():
                        pass
            except OSError:
                pass

        threading.Thread(target=read, daemon=True).start()


class Page:
    """The page, and what a person does with it."""

    def __init__(self, base, driver):
        self.base, self.driver = base, driver

    def open(self, view="overview"):
        self.driver.get("about:blank")
        self.driver.get(f"{self.base}/#{view}")

    def go(self, view):
        self.one(f"nav a[href='#{view}']").click()
        self.until(lambda: self.one(f"#{view}").is_displayed(), f"the view {view} opens")

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.one(selector).text

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, what, seconds=10):
        def tried(_driver):
            try:
                return condition()
            except (StaleElementReferenceException, IndexError, ValueError, TypeError, OSError):
                return False

        try:
            return WebDriverWait(self.driver, seconds, poll_frequency=0.1).until(tried)
        except TimeoutException:
            raise AssertionError(f"not within {seconds} s: {what}") from None

    def live(self):
        self.until(lambda: "live" in self.text("#connection"), "the page is live")

    def press(self, *keys):
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def focused(self):
        return self.driver.switch_to.active_element

    def tab_to(self, label, most=80):
        for _ in range(most):
            self.press(Keys.TAB)
            if (self.focused().get_attribute("aria-label") or self.focused().text) == label:
                return
        raise AssertionError(f"{label!r} is not reached by the tabulator")

    def fill(self, form, **values):
        for name, value in values.items():
            field = self.one(f"#{form} [name='{name}']")
            if field.tag_name == "select":
                Select(field).select_by_value(value)
            else:
                field.clear()
                field.send_keys(value)

    def filter(self, form, field, op, value):
        row = self.all(f"#{form} .row")[-1]
        row.find_element(By.CSS_SELECTOR, "[data-part=field]").clear()
        row.find_element(By.CSS_SELECTOR, "[data-part=field]").send_keys(field)
        Select(row.find_element(By.CSS_SELECTOR, "[data-part=op]")).select_by_visible_text(op)
        row.find_element(By.CSS_SELECTOR, "[data-part=value]").clear()
        row.find_element(By.CSS_SELECTOR, "[data-part=value]").send_keys(value)

    def row(self, table, key):
        """The texts of the row that begins with `key`, by their columns' names."""
        for row in self.all(f"{table} tbody tr"):
            cells = row.find_elements(By.CSS_SELECTOR, "th, td")
            header = row.find_elements(By.CSS_SELECTOR, "th")
            if header and header[0].text == key:
                return {cell.get_attribute("data-label") or "name": cell.text for cell in cells}
        return None

    def complaints(self):
        """What the console has said since the last call, beside refusals that a check asked for."""
        said = self.driver.get_log("browser")
        return [entry["message"] for entry in said if entry["level"] == "SEVERE"]

    def width(self, pixels, height=900, is_mobile=False):
        metrics = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": is_mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def unstruck(self):
        assert not self.js("return window.struck"), "a hostile text was executed"
        found = self.js("return document.querySelectorAll('img, iframe, object, script:not([src])').length")
        assert found == 0, "a hostile text became an element"


def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Named, so that selenium does not look for them, which it does on the Internet.
    driver = shutil.which("chromedriver")
    binary = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if driver is None or binary is None:
        sys.exit("Chromium and its driver are needed on the PATH: in Debian the packages chromium and chromium-driver")
    options.binary_location = binary
    return webdriver.Chrome(options=options, service=Service(driver))
