#!/usr/bin/env python3
"""Writes the Grafana dashboards beside this file. Every panel is a line below; the JSON is not meant to be edited.

    deploy/grafana/build.py            write them
    deploy/grafana/build.py --check    fail if they are not what would be written
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 24, 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# What is chosen above a dashboard. Metrics of the process have no partition.
HUB = 'job="$job", instance=~"$instance"'
PARTITION = HUB + ', partition=~"$partition"'
# A partition's gauges are its owner's; the node that had it before may go on exporting its last values.
OWNED = " and on (job, instance, partition) streamer_partition_owned == 1"


def gauge(name, labels=""):
    return f"{name}{{{PARTITION}{labels}}}{OWNED}"


def rate(name, by="partition", labels="", scope=PARTITION):
    return f"sum by ({by}) (rate({name}{{{scope}{labels}}}[$__rate_interval]))"


def quantile(q, name, by="", scope=PARTITION):
    grouped = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({grouped}) (rate({name}_bucket{{{scope}}}[$__rate_interval])))"


def quantiles(name, scope=PARTITION):
    return [(quantile(q, name, scope=scope), label) for q, label in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))]


def graph(title, queries, unit="short", note="", width=12, stacked=False, threshold=None, log=False):
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if stacked else 5, "showPoints": "never"}
    custom["stacking"] = {"mode": "normal" if stacked else "none"}
    if log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    defaults = {"unit": unit, "custom": custom}
    if threshold is not None:
        # Where the alert begins.
        custom["thresholdsStyle"] = {"mode": "dashed"}
        defaults["thresholds"] = {"mode": "absolute", "steps": steps(threshold)}
    options = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    return panel("timeseries", title, queries, note, width, HEIGHT, defaults, options)


def number(title, query, unit="short", note="", bad=None, low=False, width=4):
    """`bad` is where it turns red: from there up, or with `low` from there down."""
    colours = steps(bad, low) if bad is not None else [{"color": "text", "value": None}]
    defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": colours}}
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return panel("stat", title, [(query, "")], note, width, 4, defaults, options)


def states(title, query, legend, values, note="", width=24):
    """What was when: one line for each series, coloured by its value."""
    mapped = {str(value): {"text": text, "color": colour, "index": n} for n, (value, text, colour) in enumerate(values)}
    defaults = {"mappings": [{"type": "value", "options": mapped}], "custom": {"fillOpacity": 80, "lineWidth": 0}}
    options = {"showValue": "never", "mergeValues": True, "legend": {"displayMode": "list", "placement": "bottom"}}
    return panel("state-timeline", title, [(query, legend)], note, width, HEIGHT, defaults, options)


def steps(value, low=False):
    first, second = ("red", "green") if low else ("green", "red")
    return [{"color": first, "value": None}, {"color": second, "value": value}]


def panel(kind, title, queries, note, width, height, defaults, options):
    targets = [{"datasource": DATASOURCE, "expr": expr, "legendFormat": legend, "refId": chr(ord("A") + n)}
               for n, (expr, legend) in enumerate(queries)]
    return {"type": kind, "title": title, "description": note, "datasource": DATASOURCE, "targets": targets,
            "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
            "gridPos": {"w": width, "h": height}}


P = "{{partition}}"
OK, DEGRADED, FAILING = (0, "ok", "green"), (1, "degraded", "yellow"), (2, "failing", "red")

DASHBOARDS = {
    "overview": ("Overview", "Is everything well, and how much is going through.", [
        number("Hubs that answer", 'sum(up{job="$job"})', bad=1, low=True),
        number("Partitions without an owner",
               'count(sum by (partition) (streamer_partition_owned{job="$job"}) == 0) or vector(0)', bad=1),
        number("Greatest lag", f"max({gauge('streamer_partition_lag_seconds')})", "s", bad=60),
        number("Least headroom in the oplog", f"min({gauge('streamer_oplog_headroom_seconds')})", "s", bad=7200, low=True),
        number("Connected gateways", f"sum({gauge('streamer_sessions')})",
               note="A gateway has a session in each partition; they are counted by partition."),
        number("Live subscriptions", f"""sum({gauge('streamer_subscriptions', ', state="live"')})""",
               note="Each partition has a copy of each subscription of its backend."),
        states("Components", f"streamer_component_status{{{HUB}}}", "{{instance}} {{component}}", [OK, DEGRADED, FAILING],
               "What /health says, by hub."),
        graph("Changes read", [(rate("streamer_source_changes_total"), P)], "cps"),
        graph("Changes delivered", [(rate("streamer_delivered_changes_total"), P)], "cps",
              "One for each change and gateway that it concerns."),
        graph("Lag", [(gauge("streamer_partition_lag_seconds"), P)], "s", threshold=60),
        graph("Gateways", [(f"sum by (state) ({gauge('streamer_gateways')})", "{{state}}")], stacked=True),
        graph("Calls refused", [(rate("streamer_refused_callers_total", "listener, reason", scope=HUB), "{{listener}} {{reason}}")], "reqps"),
        graph("HTTP requests", [(rate("streamer_http_requests_total", "status", scope=HUB), "{{status}}")], "reqps"),
        graph("HTTP: p99 of each route", [(quantile(0.99, "streamer_http_request_seconds", "route", HUB), "{{route}}")], "s"),
        graph("Configuration, tokens and certificates read again",
              [(f"sum by (what, outcome) (streamer_config_reloads_total{{{HUB}}})", "{{what}} {{outcome}}")],
              note="A count since each hub's start."),
        graph("Versions", [('count by (version) (streamer_build_info{job="$job"})', "{{version}}")], stacked=True),
        graph("Registrations", [(rate("streamer_registrations_total", "code", scope=HUB), "{{code}}")], "reqps"),
    ]),
    "partitions": ("Partitions", "Who reads what, how far behind, and how much longer it could.", [
        states("Owners", f"streamer_partition_owned{{{PARTITION}}}", "{{partition}} {{instance}}",
               [(0, "another's", "super-light-blue"), (1, "owner", "dark-blue")], "Each partition has exactly one."),
        states("States", f"streamer_partition_state{{{PARTITION}, state!=\"reading\"}}{OWNED}", P + " {{state}}",
               [(0, "no", "transparent"), (1, "yes", "orange")], "All but `reading`."),
        graph("Lag", [(gauge("streamer_partition_lag_seconds"), P)], "s",
              "On an idle deployment up to 13 s are nothing, unless heartbeat_writes is on.", threshold=60),
        graph("Headroom in the oplog", [(gauge("streamer_oplog_headroom_seconds"), P)], "s",
              "How much oplog lies before the checkpoint. At 0 history is lost."),
        graph("Changes read", [(rate("streamer_source_changes_total"), P)], "cps"),
        graph("Bytes read", [(rate("streamer_source_bytes_total"), P)], "Bps"),
        graph("Change streams opened anew", [(rate("streamer_source_reconnects_total"), P)], "cps"),
        graph("Resyncs", [(rate("streamer_resyncs_total"), P)], "cps", "Gateways that are told to read documents anew."),
        graph("Window", [(gauge("streamer_window_bytes"), P)], "bytes", "Recent changes in memory: reconnects within it cost MongoDB nothing."),
        graph("Catch-ups in progress", [(gauge("streamer_catchups"), P)], note="Each reads from the window or, further back, from the oplog."),
    ]),
    "delivery": ("Delivery", "Where the time goes between a commit and its ack, and who is slow.", [
        graph("Commit to read", quantiles("streamer_latency_commit_to_read_seconds"), "s",
              "By MongoDB's clock and the hub's: they must agree. The newest change of each batch.", threshold=2, log=True),
        graph("Read to matched", quantiles("streamer_latency_read_to_matched_seconds"), "s", threshold=0.5, log=True),
        graph("Matched to sent", quantiles("streamer_latency_matched_to_sent_seconds"), "s",
              "Live deliveries only; catch-ups have no such time.", threshold=1, log=True),
        graph("Sent to acked", quantiles("streamer_latency_sent_to_acked_seconds"), "s",
              "One message of a session at a time is followed.", threshold=5, log=True),
        graph("p99 of each stage", [(quantile(0.99, f"streamer_latency_{stage}_seconds"), stage.replace("_", " ")) for stage in
                                    ("commit_to_read", "read_to_matched", "matched_to_sent", "sent_to_acked")], "s", width=24,
              note="Quantiles do not add up: the sum of these is above the p99 of the whole."),
        graph("Changes delivered", [(rate("streamer_delivered_changes_total"), P)], "cps"),
        graph("Bytes delivered", [(rate("streamer_delivered_bytes_total"), P)], "Bps"),
        graph("What waits for gateways", [(gauge("streamer_outbox_bytes"), P)], "bytes", "One budget (memory.bytes) for all.", stacked=True),
        graph("Overflows", [(rate("streamer_overflows_total"), P)], "cps", "Sessions that were too slow and are turned to a catch-up."),
        graph("Slowest connected gateway", [(gauge("streamer_gateway_lag_max_seconds"), P)], "s",
              "How far its durable cursor is behind. `streamer top` names it.", threshold=300),
        graph("Acks", [(rate("streamer_acks_total"), P)], "cps"),
        graph("Sessions", [(gauge("streamer_sessions"), P)], stacked=True),
        graph("Gateways", [(f"sum by (state) ({gauge('streamer_gateways')})", "{{state}}")], stacked=True),
    ]),
    "matching": ("Matching", "What subscriptions cost, and whether the index is right.", [
        number("Differences from the reference", f"sum(streamer_shadow_differences_total{{{PARTITION}}}) or vector(0)", bad=1, width=6,
               note="Each is a bug."),
        number("Parked because they were too dear", f"sum(streamer_parked_too_costly_total{{{PARTITION}}}) or vector(0)", bad=1, width=6),
        number("Evaluations for a match", f"sum({rate('streamer_match_candidates_total')}) / sum({rate('streamer_matches_total')})", width=6,
               note="Near 1 the index leads to nothing in vain."),
        number("Matches for a change", f"sum({rate('streamer_matches_total')}) / sum({rate('streamer_source_changes_total')})", width=6),
        graph("Matches", [(rate("streamer_matches_total"), P)], "cps", "Pairs of a change and a subscription."),
        graph("Filters evaluated", [(rate("streamer_match_candidates_total"), P)], "cps"),
        graph("Read to matched", quantiles("streamer_latency_read_to_matched_seconds"), "s", threshold=0.5, log=True),
        graph("Subscriptions", [(f"sum by (state) ({gauge('streamer_subscriptions')})", "{{state}}")], stacked=True),
        graph("Registrations", [(rate("streamer_registrations_total", "code", scope=HUB), "{{code}}")], "reqps"),
        graph("Evaluations repeated by the reference", [(rate("streamer_shadow_checks_total"), P)], "cps"),
        graph("Bloom filter: keys asked for and passed in vain",
              [(rate("streamer_bloom_checks_total"), P + " asked"), (rate("streamer_bloom_false_positives_total"), P + " in vain")], "cps",
              "Only with matching.bloom."),
        graph("Bloom filter: share of absent keys let through", [(gauge("streamer_bloom_false_positive_ratio"), P)], "percentunit"),
    ]),
    "store": ("Store and NATS", "What must be written before anybody is answered, and what goes by JetStream.", [
        graph("Store transactions", [(rate("streamer_store_commits_total", "outcome", scope=HUB), "{{outcome}}")], "ops",
              "`conflict` is tried again; `fenced` comes with a change of owner; `unknown` is asked for until it is known."),
        graph("Time of a store transaction", quantiles("streamer_store_commit_seconds", HUB), "s", threshold=0.5, log=True),
        graph("Store transactions: p99 of each hub", [(quantile(0.99, "streamer_store_commit_seconds", "instance", HUB), "{{instance}}")], "s", width=24),
        graph("NATS: messages", [(rate("streamer_nats_publishes_total", "instance", scope=HUB), "{{instance}} handed over"),
                                 (rate("streamer_nats_retries_total", "instance", scope=HUB), "{{instance}} again"),
                                 (rate("streamer_nats_duplicates_total", "instance", scope=HUB), "{{instance}} known already")], "cps"),
        graph("NATS: time to the server's ack", quantiles("streamer_nats_ack_seconds", HUB), "s", threshold=1, log=True),
        graph("NATS: no room", [(rate("streamer_nats_full_total", "instance", scope=HUB), "{{instance}}")], "cps",
              "A gateway has not taken what lies there for it."),
        graph("NATS: losses of the stream, gateways rewound",
              [(f"sum by (instance) (streamer_nats_stream_losses_total{{{HUB}}})", "{{instance}} losses"),
               (f"sum by (instance) (streamer_nats_rewinds_total{{{HUB}}})", "{{instance}} rewinds")], note="Counts since each hub's start."),
        graph("Embedded log: changes written", [(rate("streamer_log_published_total", "instance", scope=HUB), "{{instance}}")], "cps",
              "Only of `streamer dev`."),
        graph("Embedded log: time of a commit", quantiles("streamer_log_commit_seconds", HUB), "s"),
    ]),
}


def variable(name, label, query, multiple):
    return {"type": "query", "name": name, "label": label, "datasource": DATASOURCE, "refresh": 2, "sort": 3,
            "query": {"query": query, "refId": name}, "definition": query, "multi": multiple, "includeAll": multiple,
            **({"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if multiple else {})}


def placed(panels):
    """From left to right, a new row where the last one is full."""
    x = y = row = 0
    for number_, one in enumerate(panels):
        place = one["gridPos"]
        if x + place["w"] > WIDTH:
            x, y, row = 0, y + row, 0
        place.update(x=x, y=y)
        x, row = x + place["w"], max(row, place["h"])
        yield {"id": number_ + 1, **one}


def dashboard(name, title, description, panels):
    datasource = {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"}
    links = [{"type": "dashboards", "title": "Streamer", "tags": ["streamer"], "asDropdown": True, "keepTime": True, "includeVars": True}]
    return {
        "uid": f"streamer-{name}", "title": f"Streamer: {title}", "description": description, "tags": ["streamer"],
        "schemaVersion": 39, "version": 1, "editable": False, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"}, "links": links,
        "templating": {"list": [
            datasource,
            variable("job", "Job", "label_values(streamer_build_info, job)", False),
            variable("instance", "Hub", 'label_values(streamer_build_info{job="$job"}, instance)', True),
            variable("partition", "Partition", 'label_values(streamer_partition_owned{job="$job"}, partition)', True),
        ]},
        "panels": list(placed(panels)),
    }


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__.strip())
    wanted = {}
    for name, (title, description, panels) in DASHBOARDS.items():
        text = json.dumps(dashboard(name, title, description, panels), indent=1, ensure_ascii=False) + "\n"
        wanted[HERE / f"{name}.json"] = text
    if not arguments:
        for path, text in wanted.items():
            path.write_text(text)
        return
    stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stale += [path.name for path in HERE.glob("*.json") if path not in wanted]
    if stale:
        sys.exit(f"deploy/grafana: not up to date: {', '.join(sorted(stale))}: run deploy/grafana/build.py")


main(sys.argv[1:])
