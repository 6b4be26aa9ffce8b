#!/usr/bin/env python3
"""An operator's night, on one hub: what is wrong is found wherever one looks, and mended as docs/operations.md says.

Starts a MongoDB replica set, etcd, a hub with two partitions and tokens, and a Prometheus with the rules of
deploy/alerts.yaml; looks at them through the dashboard in Chromium, `streamer top` in a terminal, `/metrics` and
Prometheus's alerts. Nothing is made up but the clock: alerts fire without their `for`, and MongoDB's cluster time is put
forward where somebody would otherwise have to be late for minutes.

    scripts/python tests/operator/walk.py --streamer target/debug/streamer [--write docs]

Prints a line for each step; ends with status 1 at the first that fails, and says what was to be seen. With --write the
pictures of the documentation that it shows are written anew.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.parse
import urllib.request
from importlib.machinery import SourceFileLoader

import pyte
from bson import Timestamp
from pymongo import MongoClient
from selenium.webdriver.common.keys import Keys

from page import Hub, Page, browser

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SERVICES = ROOT / "scripts" / "services"
find = SourceFileLoader("services", str(SERVICES)).load_module().find
RUNBOOK = ROOT / "docs" / "operations.md"
TENANT, COLLECTION = "acme", "messages"
PATIENCE = 60
# A text that has the relay hold a connection from the answer on that contains it.
HOLD = b"the network holds this"
# Commands of the runbook for which there is no counterpart here.
NOT_HERE = {
    "systemctl": "no service manager", "openssl": "no TLS in this walk (tests/it/hub/access.rs has it)",
    "etcdutl": "comes with etcd 3.5", "kubectl": "no cluster", "nats": "no gateway by NATS in this walk",
}


def until(condition, what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        # Not there yet, too busy to answer, not drawn.
        except (AssertionError, OSError, TypeError, KeyError, IndexError) as failure:
            last = failure
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}" + (f" ({last})" if last else ""))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Relay:
    """TCP to MongoDB, which holds a connection once the server has said `HOLD` on it, until it is let go."""

    def __init__(self, port):
        self.to = ("127.0.0.1", port)
        self.free = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(self.to)
            for name, (one, other) in {"ask": (near, far), "answer": (far, near)}.items():
                threading.Thread(target=self.carry, args=(name, one, other), daemon=True).start()

    def carry(self, name, one, other):
        try:
            while data := one.recv(65536):
                if name == "answer" and HOLD in data:
                    self.free.wait()
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Terminal:
    """`streamer top` in a terminal, and what is to be seen there."""

    def __init__(self, command, env, columns=120, lines=40):
        self.screen = pyte.Screen(columns, lines)
        stream = pyte.ByteStream(self.screen)
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.execvpe(command[0], command, {**env, "TERM": "xterm-256color", "NO_COLOR": "1"})
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        os.kill(pid, signal.SIGWINCH)
        self.pid, self.lock = pid, threading.Lock()

        def read():
            try:
                while data := os.read(self.terminal, 65536):
                    with self.lock:
                        stream.feed(data)
            except OSError:
                pass

        threading.Thread(target=read, daemon=True).start()

    def lines(self):
        with self.lock:
            return [line.rstrip() for line in self.screen.display]

    def line(self, *parts):
        return next((line for line in self.lines() if all(part in line for part in parts)), None)

    def sees(self, *parts):
        try:
            return until(lambda: self.line(*parts), f"top shows {parts} in one line")
        except AssertionError as failure:
            raise AssertionError(f"{failure}; top shows\n" + "\n".join(self.lines())) from None

    def press(self, keys):
        os.write(self.terminal, keys.encode())

    def leaves(self):
        self.press("q")
        _, status = os.waitpid(self.pid, 0)
        assert status == 0, f"top ends with {status}"


class Prometheus:
    """The server, with the rules of deploy/alerts.yaml without the time that each waits."""

    def __init__(self, program, folder, target, token_file):
        rules = (ROOT / "deploy" / "alerts.yaml").read_text()
        (folder / "alerts.yaml").write_text(re.sub(r"^( +)for: .*$", r"\1for: 0s", rules, flags=re.M))
        # Valid JSON is valid YAML.
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["alerts.yaml"],
            "scrape_configs": [{"job_name": "streamer", "authorization": {"credentials_file": str(token_file)}, "static_configs": [{"targets": [target]}]}],
        }))
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}",
                   "--enable-feature=exemplar-storage"]
        self.process = subprocess.Popen(command, stdout=open(folder / "prometheus.log", "wb"), stderr=subprocess.STDOUT)

    def ask(self, path):
        with urllib.request.urlopen(self.base + path, timeout=10) as answer:
            return json.load(answer)["data"]

    def alerts(self):
        """The names that fire, with the partition where they name one."""
        firing = [alert["labels"] for alert in self.ask("/api/v1/alerts")["alerts"] if alert["state"] == "firing"]
        return {(labels["alertname"], labels.get("partition")) for labels in firing}

    def value(self, query):
        found = self.ask("/api/v1/query?" + urllib.parse.urlencode({"query": query}))["result"]
        return float(found[0]["value"][1]) if found else None

    def fires(self, name, partition):
        until(lambda: (name, partition) in self.alerts(), f"{name} fires for {partition}; what fires: {self.alerts()}")

    def is_silent(self, name):
        until(lambda: not any(alert == name for alert, _ in self.alerts()), f"{name} ends")


class Gateway:
    """Takes what it is sent by SSE; acks it, or does not."""

    def __init__(self, hub, name, acks=True):
        self.keys, self.messages = [], []
        path = f"/v1/gateways/{name}/stream" + ("?ack=auto" if acks else "")
        self.stream = urllib.request.urlopen(hub.request("GET", path), timeout=120)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        event = None
        try:
            for line in self.stream:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    message = json.loads(value)
                    self.messages.append((event, message))
                    if event == "change":
                        self.keys.append(message["key"])
        except OSError:
            pass

    def has(self, keys):
        until(lambda: set(keys) <= set(self.keys), f"{keys} arrive")
        assert len(self.keys) == len(set(self.keys)), f"doubled: {self.keys}"


class Night:
    """All of it, and the steps through it."""

    def __init__(self, streamer, folder, write, stops):
        self.folder, self.write = folder, write
        self.env = {**os.environ, "PATH": f"{streamer.parent}:{os.environ['PATH']}"}
        self.env.pop("STREAMER_TOKEN", None)
        run = folder / "services"
        env = {**os.environ, "STREAMER_SERVICES_RUN": str(run)}
        stops.callback(subprocess.run, [SERVICES, "down"], env=env, stdout=subprocess.DEVNULL)
        subprocess.run([SERVICES, "up"], env=env, stdout=subprocess.DEVNULL, check=True)
        self.servers = dict(re.findall(r"^export (\w+)=(.*)$", (run / "env").read_text(), flags=re.M))
        self.servers = {name: shlex.split(value)[0] for name, value in self.servers.items()}
        uri = self.servers["STREAMER_TEST_MONGODB"]
        self.mongo = MongoClient(uri)
        self.documents = self.mongo["app"]["documents"]
        self.relay = Relay(int(re.search(r":(\d+)/", uri).group(1)))

        # As the runbook sets it up.
        self.mongo["app"].create_collection("documents", changeStreamPreAndPostImages={"enabled": True})
        token = self.shell("streamer token --file tokens.toml --name ops --role operator").strip()
        (folder / "operator.token").write_text(token)
        node = self.shell("streamer token --file tokens.toml --name nodes --role node").strip()
        ports = {name: free_port() for name in ("http", "grpc")}
        (folder / "streamer.toml").write_text(f"""
http.listen = "127.0.0.1:{ports['http']}"
grpc.listen = "127.0.0.1:{ports['grpc']}"
node.id = "hub-1"
auth.tokens = "{folder}/tokens.toml"

[store]
kind = "etcd"
endpoints = ["{self.servers['STREAMER_TEST_ETCD']}"]

[[backends]]
name = "default"
uri = "mongodb://127.0.0.1:{self.relay.port}/?directConnection=true"
database = "app"
collections = ["documents"]
layout = "syntrix"
partitions = 2
# What is held is to stay held for as long as the walk looks at it.
answer_seconds = 600

[metrics]
tenants_max = 1

# Nobody listens there: exemplars do not need it.
[tracing]
endpoint = "http://127.0.0.1:{free_port()}"
ratio = 1.0
""")
        self.env |= {"STREAMER__AUTH__NODE_TOKEN": node, "HUB": f"http://127.0.0.1:{ports['http']}", "AUTH": f"authorization: Bearer {token}"}
        self.hub = Hub(self.env["HUB"], token, TENANT, COLLECTION)
        self.log = folder / "hub.log"
        serve = ["streamer", "serve", "--config", str(folder / "streamer.toml")]
        self.serving = subprocess.Popen(serve, env=self.env, stdout=open(self.log, "wb"), stderr=subprocess.STDOUT)
        stops.callback(self.end_hub)
        until(lambda: self.serving.poll() is None and self.is_ready(), "the hub is ready")
        # `up` has fetched it.
        self.prometheus = Prometheus(find("prometheus"), folder, f"127.0.0.1:{ports['http']}", folder / "operator.token")
        stops.callback(self.prometheus.process.kill)
        until(lambda: urllib.request.urlopen(self.prometheus.base + "/-/ready", timeout=5).status == 200, "Prometheus is ready")
        driver = browser()
        stops.callback(driver.quit)
        self.page = Page(self.hub.base, driver)
        self.top = Terminal([str(streamer), "top", "--url", self.hub.base, "--token-file", str(folder / "operator.token"), "--interval", "0.5"], self.env)
        self.written = 0

    def is_ready(self):
        try:
            self.hub.call("GET", "/health/ready")
            return True
        except OSError:
            return False

    def end_hub(self):
        self.serving.terminate()
        try:
            self.serving.wait(30)
        except subprocess.TimeoutExpired:
            self.serving.kill()
            raise

    def shell(self, command, folder=None):
        done = subprocess.run(["bash", "-c", command], cwd=folder or self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stderr}"
        return done.stdout

    def partition_of(self, key):
        hashed = [{"$documents": [{"key": f"{TENANT}:{key}"}]}, {"$project": {"hash": {"$toHashedIndexKey": "$key"}}}]
        return next(self.mongo["app"].aggregate(hashed))["hash"] % 2

    def insert(self, partition=0, **body):
        """A document whose changes are in that partition; its key."""
        while True:
            self.written += 1
            key = f"m-{self.written}"
            if self.partition_of(key) == partition:
                break
        self.documents.insert_one({"_id": f"{TENANT}:{key}", "tenant_id": TENANT, "collection": COLLECTION, "data": body})
        return key

    def time_passes(self, seconds):
        """For MongoDB: its next write has an operation time that much later."""
        now = self.mongo.admin.command("hello")["operationTime"]
        later = {"clusterTime": Timestamp(now.time + seconds, 1), "signature": {"hash": bytes(20), "keyId": 0}}
        with self.mongo.start_session() as session:
            session.advance_cluster_time(later)
            self.mongo.admin.command("ping", session=session)

    def partition(self, number):
        return next(one for one in self.hub.call("GET", "/v1/partitions")["partitions"] if one["partition"] == f"default/{number}")

    def metric(self, name, **labels):
        """The values of a metric in `/metrics`, by partition."""
        with urllib.request.urlopen(self.hub.request("GET", "/metrics"), timeout=10) as answer:
            text = answer.read().decode()
        found = {}
        for line in text.splitlines():
            if match := re.fullmatch(name + r"\{(.*)\} (\S+)", line):
                have = dict(re.findall(r'(\w+)="([^"]*)"', match.group(1)))
                if labels.items() <= have.items():
                    found[have["partition"]] = float(match.group(2))
        return found

    # --- the steps ---

    def all_is_well(self):
        """Before anything happens: everything says so, and no alert is about what follows."""
        for name in ("chat-1", "chat-2", "report-1"):
            # For longer than the night: nobody's lease is to run out in it.
            self.hub.register(name, "inbox", [{"field": "chatId", "op": "==", "value": "c1"}], ttl=3600)
        self.chats = [Gateway(self.hub, name) for name in ("chat-1", "chat-2")]
        keys = [self.insert(partition, chatId="c1") for partition in (0, 1)]
        for chat in self.chats:
            chat.has(keys)
        until(lambda: all(self.partition(n)["state"] == "reading" for n in (0, 1)), "both partitions are read")
        table = self.shell("streamer check-config --config streamer.toml")
        assert "MongoDB" in table, table
        self.page.open()
        self.page.until(lambda: self.page.one("#token-dialog").get_attribute("open"), "the dashboard asks for a token")
        self.page.one("#token-input").send_keys(self.hub.token, Keys.ENTER)
        self.page.live()
        for partition in ("default/0", "default/1"):
            self.page.until(lambda: "reading" in self.page.row("#partitions", partition)["State"], f"{partition} is shown as read")
            self.top.sees(partition, "hub-1 reading")
        until(lambda: self.prometheus.value("sum(streamer_partition_owned)") == 2, "Prometheus knows both partitions")
        about = {"StreamerPartitionLagging", "StreamerPartitionPaused", "StreamerGatewayStalled", "StreamerPartitionBackoff"}
        assert not about & {name for name, _ in self.prometheus.alerts()}, self.prometheus.alerts()

    def a_partition_lags(self):
        """The network holds what one partition reads: found in four places, and by none of them in the other partition."""
        held = [self.insert(0, chatId="c1", text=HOLD.decode())]
        self.time_passes(120)
        held.append(self.insert(0, chatId="c1"))
        free = self.insert(1, chatId="c1")
        for chat in self.chats:
            chat.has([free])
        self.page.until(lambda: seconds(self.page.row("#partitions", "default/0")) >= 100, "the dashboard shows the lag", PATIENCE)
        row = self.page.row("#partitions", "default/0")
        assert row["Lag, s"].startswith("▲") and "catching up" in row["State"], row
        assert not self.page.row("#partitions", "default/1")["Lag, s"].startswith("▲"), "the other one stands out"
        self.top.sees("!! default/0", "catching_up", "late")
        assert self.top.line("   default/1"), self.top.lines()
        self.picture_of_top()
        lags = self.metric("streamer_partition_lag_seconds")
        assert lags["default/0"] > 100 > 60 > lags["default/1"], lags
        self.prometheus.fires("StreamerPartitionLagging", "default/0")
        assert ("StreamerPartitionLagging", "default/1") not in self.prometheus.alerts(), self.prometheus.alerts()
        assert not set(held) & set(self.chats[0].keys)
        self.shoot("dashboard-lagging.png")

        self.relay.free.set()
        for chat in self.chats:
            chat.has(held)
        self.prometheus.is_silent("StreamerPartitionLagging")
        self.page.until(lambda: "reading" in self.page.row("#partitions", "default/0")["State"], "the dashboard shows that it is over", PATIENCE)
        self.top.sees("   default/0", "reading")

    def a_partition_was_paused(self):
        """By somebody, who forgot: found in four places, resumed from the dashboard, and nothing is lost."""
        self.shell('curl -sS --fail -H "$AUTH" -X POST $HUB/v1/partitions/default/1/pause')
        self.page.until(lambda: "paused" in self.page.row("#partitions", "default/1")["State"], "the dashboard shows the pause")
        self.top.sees("!", "default/1", "paused")
        missed = [self.insert(1, chatId="c1") for _ in range(3)]
        passed = self.insert(0, chatId="c1")
        for chat in self.chats:
            chat.has([passed])
        states = self.metric("streamer_partition_state", state="paused")
        assert states == {"default/0": 0, "default/1": 1}, states
        self.prometheus.fires("StreamerPartitionPaused", "default/1")
        assert not set(missed) & set(self.chats[0].keys), "a paused partition delivers"

        self.page.tab_to("Resume default/1")
        self.page.press(Keys.ENTER, Keys.TAB, Keys.ENTER)
        for chat in self.chats:
            chat.has(missed)
        self.prometheus.is_silent("StreamerPartitionPaused")
        self.top.sees("   default/1", "reading")

    def a_gateway_is_stalled(self):
        """It reads and does not ack: found in four places, parked from `top`, and it comes back and has lost nothing."""
        stalled = Gateway(self.hub, "report-1", acks=False)
        owed = [self.insert(partition, chatId="c1") for partition in (0, 1)]
        stalled.has(owed)
        self.time_passes(600)
        later = [self.insert(partition, chatId="c1") for partition in (0, 1)]
        stalled.has(later)
        for chat in self.chats:
            chat.has(owed + later)
        self.page.go("gateways")
        self.page.until(lambda: seconds(self.page.row("#gateway-table", "report-1")) >= 500, "the dashboard shows its lag", PATIENCE)
        first = self.page.all("#gateway-table tbody th")[0].text
        assert first == "report-1", f"{first} comes first"
        self.page.until(lambda: not self.page.row("#gateway-table", "chat-1")["Lag, s"].startswith("▲"), "those that ack are not marked", PATIENCE)
        self.shoot("dashboard-stalled.png")
        self.top.sees("!! report-1", "late")
        lags = self.metric("streamer_gateway_lag_max_seconds")
        assert min(lags.values()) > 300, lags
        self.prometheus.fires("StreamerGatewayStalled", "default/0")
        found = json.loads(self.shell('curl -sS --fail -H "$AUTH" $HUB/v1/gateways'))["gateways"]
        worst = max(found, key=lambda gateway: gateway["lag"]["seconds"] or 0)
        assert worst["gatewayId"] == "report-1", found

        self.top.press("2")
        self.top.press("\x1b[H")
        self.top.press("k")
        self.top.sees("Park report-1? (y/n)")
        self.top.press("y")
        until(lambda: self.hub.call("GET", "/v1/gateways/report-1")["state"] == "parked", "it is parked")
        until(lambda: any(event == "expired" for event, _ in stalled.messages), "it is told")
        self.prometheus.is_silent("StreamerGatewayStalled")
        missed = self.insert(0, chatId="c1")
        for chat in self.chats:
            chat.has([missed])
        self.hub.call("PUT", "/v1/gateways/report-1/heartbeat")
        Gateway(self.hub, "report-1").has([*owed, *later, missed])

    def a_filter_matches_nothing(self):
        """A path from the document instead of its body: explained on the dashboard and in the terminal, tried, replaced."""
        self.hub.register("chat-1", "silent", [{"field": "data.chatId", "op": "==", "value": "c9"}])
        chat = self.chats[0]
        unseen = self.insert(0, chatId="c9")
        seen = self.insert(0, chatId="c1")
        chat.has([seen])
        assert unseen not in chat.keys
        said = self.shell("streamer explain --url $HUB --token-file operator.token --tenant acme --collection messages "
                          """--document '{"chatId": "c9"}' --gateway chat-1 --subscription silent""")
        assert "no match" in said and "leads nowhere" in said, said
        self.page.go("explain")
        self.page.fill("explain-form", tenant=TENANT, collection=COLLECTION, document='{"chatId": "c9"}', gatewayId="chat-1", subscriptionId="silent")
        self.page.one("#explain-form [type=submit]").click()
        self.page.until(lambda: "does not fire" in self.page.text("#explain-result"), "the dashboard explains it")
        assert "leads nowhere" in self.page.text("#explain-result"), self.page.text("#explain-result")
        self.shoot("dashboard-explain.png")

        # What would the right one have fired on?
        self.page.go("backtest")
        self.page.fill("backtest-form", tenant=TENANT, collection=COLLECTION, seconds="3600")
        self.page.filter("backtest-form", "chatId", "==", '"c9"')
        self.page.one("#backtest-form [type=submit]").click()
        self.page.until(lambda: self.page.text("#backtest-status").startswith("Done"), "the dashboard tries another", PATIENCE)
        assert unseen in self.page.text("#backtest-result"), self.page.text("#backtest-result")
        right = {"tenant": TENANT, "collection": COLLECTION, "filters": [{"field": "chatId", "op": "==", "value": "c9"}], "ttlSeconds": 300}
        self.hub.call("PUT", "/v1/gateways/chat-1/subscriptions/silent", right)
        chat.has([self.insert(0, chatId="c9")])

    def the_runbook_runs(self):
        """Every command of docs/operations.md that can be run here, as it stands there."""
        bench = self.folder / "bench"
        bench.mkdir()
        for name in ("operator.token", "streamer.toml"):
            shutil.copy(self.folder / name, bench)
        ran, left = 0, {}
        for command in commands(RUNBOOK.read_text()):
            tools = tools_of(command)
            if "/var/lib/" in command:
                left["bump-revision"] = "the store is etcd (tests/it/hub/store_restored.rs has it)"
                continue
            if absent := {tool for tool in tools if tool in NOT_HERE or not shutil.which(tool, path=self.env["PATH"])}:
                left |= {name: NOT_HERE.get(name, "not installed") for name in absent}
                continue
            self.hub.register("gw-1", "inbox-42", [{"field": "chatId", "op": "==", "value": "c1"}])
            here = command.replace("http://etcd-0:2379", self.servers["STREAMER_TEST_ETCD"]).replace("http://127.0.0.1:7700", self.hub.base)
            if tools == {"streamer"} and " top " in here:
                here += " --once"
            if tools == {"streamer"} and " explain " in here:
                here = here.replace("explain", "explain --url $HUB --token-file operator.token")
            # There is no second node to move to, which the hub says.
            refusal = "hub-2" in command
            here = here.replace("curl -sS", "curl -sS" if refusal else "curl -sS --fail-with-body")
            if "etcdctl" in here:
                here = f"export ETCDCTL_API=3; {here}"
            said = self.shell(here, bench)
            assert not refusal or "hub-2" in said, said
            ran += 1
        assert ran >= 15, f"only {ran} commands"
        print(f"    {ran} commands; not here: " + ", ".join(f"{name} ({why})" for name, why in sorted(left.items())))

    def the_night_is_over(self):
        """Nothing was doubled, nothing panicked, and what is left on the screen is well."""
        assert all(len(chat.keys) == len(set(chat.keys)) for chat in self.chats)
        self.top.sees("   default/0", "reading")
        self.top.leaves()
        # A bucket of a histogram leads to the changes that are in it, and a tenant that may be named has its own counters.
        until(lambda: self.prometheus.value('streamer_tenant_matches_total{partition="default/0",tenant="acme"}'), "the tenant's matches")
        span = urllib.parse.urlencode({"query": "streamer_latency_commit_to_read_seconds_bucket", "start": time.time() - 600, "end": time.time()})
        exemplars = {one["labels"]["trace_id"] for series in self.prometheus.ask(f"/api/v1/query_exemplars?{span}") for one in series["exemplars"]}
        positions = {message["position"] for event, message in self.chats[0].messages if event == "change"}
        assert exemplars & positions, f"{exemplars} lead nowhere"
        log = self.log.read_text()
        assert "panicked" not in log
        # What happened is there to be read, each line with the partition and the position, and nobody's document.
        for said in (
            "an operator's call caller=\"ops\"", "an operator's word on this partition", "a session begins gateway=report-1",
            "subscriptions are parked gateway=report-1 reason=\"operator\"", "serving",
        ):
            assert said in log, f"the log does not say {said}"
        for line in log.splitlines():
            if re.search(r" streamer::(pipeline|delivery)::", line):
                assert re.search(r"in\{partition=\"default/[01]\"\}", line), f"no partition: {line}"
                assert re.search(r" position=[0-9a-f]{32}", line) or "splitting" in line or "cannot begin" in line, f"no position: {line}"
        assert HOLD.decode() not in log and "chatId" not in log, "a document's value is in the log"

    # --- pictures ---

    def shoot(self, name):
        if self.write:
            self.page.width(1280, 800)
            self.page.driver.save_screenshot(str(self.write / "img" / name))

    def picture_of_top(self):
        """With something going on, so that there are rates."""
        written = threading.Event()

        def write():
            while not written.wait(0.02):
                self.insert(1, chatId="c1")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            shown = self.shell("streamer top --url $HUB --token-file operator.token --once --interval 2")
        finally:
            written.set()
            writer.join()
        assert re.search(r"!! default/0 +hub-1 catching_up", shown), shown
        if self.write:
            page = self.write / "top.md"
            text, count = re.subn(r"```text\n.*?```", lambda _: f"```text\n{shown.rstrip()}\n```", page.read_text(), count=1, flags=re.S)
            assert count == 1, "docs/top.md has no picture"
            page.write_text(text)


def commands(text):
    """The commands in the sh blocks of a page, continued lines joined."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, flags=re.M | re.S):
        for line in re.sub(r" *\\\n *", " ", block).splitlines():
            line = line.strip()
            if line and not re.match(r"#|\w+=", line):
                yield line


def seconds(row):
    """The lag that a row of the dashboard shows."""
    return float(row["Lag, s"].replace("▲", "").replace(",", ""))


def tools_of(command):
    """The programs that a command line runs."""
    words = list(shlex.shlex(command, posix=True, punctuation_chars=True))
    firsts = [words[0], *(after for before, after in zip(words, words[1:]) if before in ("|", "&&", ";"))]
    return set(firsts)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--streamer", type=pathlib.Path, required=True, help="the program")
    arguments.add_argument("--write", type=pathlib.Path, metavar="DOCS", help="write what the documentation shows into this folder")
    given = arguments.parse_args()
    # What was started is stopped again, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="operator-", ignore_cleanup_errors=True) as folder:
        folder = pathlib.Path(folder)
        name = "before the first step"
        try:
            # Whatever does not stop, the others do.
            with contextlib.ExitStack() as stops:
                night = Night(given.streamer.resolve(), folder, given.write, stops)
                for step in (
                    night.all_is_well, night.a_partition_lags, night.a_partition_was_paused, night.a_gateway_is_stalled,
                    night.a_filter_matches_nothing, night.the_runbook_runs, night.the_night_is_over,
                ):
                    name = step.__name__
                    step()
                    print(f"ok  {name.replace('_', ' ')}", flush=True)
                name = "stopping"
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {error}", file=sys.stderr)
            if (log := folder / "hub.log").exists():
                print("the hub's last lines:\n" + "\n".join(log.read_text().splitlines()[-15:]), file=sys.stderr)
            if os.environ.get("STREAMER_TRACE"):
                raise
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
