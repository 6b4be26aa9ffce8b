// Put into the page before its own scripts: one overview in which everything is wrong that a healthy hub does not
// show, hostile names that a hub would refuse, a tail that is told everything but changes, a refusal for want of a
// role. `seen` is on the window for the test; all other calls go through.
(() => {
  const evil = "<img src=x onerror=window.struck=1>";
  const day = Date.parse("2026-11-22T10:00:00Z");
  const totals = (n) => ({
    changes: 1000 * n, changeBytes: 500000, matches: 300 * n, delivered: 280 * n, deliveredBytes: 140000, acks: 12, resyncs: 2, overflows: 1,
    candidates: 320 * n, bloomChecks: 1000, bloomFalsePositives: 12, shadowChecks: 50, shadowDifferences: 0,
  });
  const partition = (name, more) => ({
    partition: name, owner: "hub-1", epoch: 1, state: "reading", position: "0".repeat(32), checkpoint: "0".repeat(32),
    lag: { seconds: 0.2, changes: 0 }, oplogHeadroomSeconds: 86400, subscriptions: { live: 10, catching_up: 0, parked: 1 }, sessions: 2, catchups: 0,
    windowBytes: 1048576, outboxBytes: 0, costliest: [], ...more,
  });
  const gateway = (id, more) => ({
    gatewayId: id, state: "live", subscriptions: 5, cursor: "c", lag: { seconds: 0.2, changes: 0 }, outboxBytes: 0, delivery: "stream",
    lastAckAt: new Date(day - 3000).toISOString(), session: { transport: "sse", since: new Date(day - 60000).toISOString(), node: "hub-1" }, ...more,
  });
  const overview = (n) => ({
    at: new Date(day + 1000 * n).toISOString(), node: evil, version: "0.1.0", startedAt: new Date(day).toISOString(), uptimeSeconds: 90000,
    health: {
      status: "degraded", live: true, ready: true,
      components: { "partition a/0": { status: "degraded", reason: `paused ${evil}`, since: new Date(day).toISOString() }, store: { status: "ok", reason: null, since: "" } },
    },
    partitions: [
      partition("a/0", { state: "paused", totals: totals(n) }),
      partition("a/1", { lag: { seconds: 90, changes: 4500 }, oplogHeadroomSeconds: 240, totals: { ...totals(n), shadowDifferences: 3 } }),
      { partition: "a/2", owner: null, epoch: 0, state: "backoff", position: null, lag: { seconds: null, changes: null }, oplogHeadroomSeconds: null, checkpoint: null },
      // It counts anew, as after a change of hands: there is no rate.
      partition("a/3", { totals: totals(10 - n), costliest: [{ gatewayId: evil, subscriptionId: evil, averageMicros: 12.5, evaluations: 1000 }] }),
    ],
    gateways: {
      total: 4321, states: { live: 4000, catching_up: 21, offline: 200, parked: 100 },
      listed: [
        gateway(evil, { lag: { seconds: 120, changes: 9000 } }),
        gateway("off", { state: "offline", session: null, lastAckAt: null }),
        { ...gateway(undefined), gatewayId: undefined, group: "team", member: "m-1" },
        ...Array.from({ length: 197 }, (_, i) => gateway(`edge-${i}`)),
      ],
    },
  });
  const drills = { reports: [
    { name: "restart", at: "2026-11-22T09:00:00Z", passed: true, summary: "20 kills, 40,000 writes, nothing lost" },
    { name: evil, at: "2026-11-22T09:30:00Z", passed: false, summary: evil },
  ] };
  const answer = (body, type, status = 200) => new Response(body, { status, headers: { "content-type": type } });
  const forbidden = { type: "about:blank", title: "Forbidden", status: 403, detail: "this token is a gateway's", code: "FORBIDDEN" };
  const told = [
    ["welcome", { session: 1, node: "hub-1", cursor: "c", positions: {}, heartbeatSeconds: 20 }],
    ["resync", { cursor: "c", partition: "a/0", from: null, to: "1".repeat(32), reason: "history_lost", scopes: "all", subscriptionIds: ["tail"] }],
    ["expired", { subscriptionIds: ["tail"], reason: "too_costly" }],
    ["closed", { reason: "superseded", retryAfterMs: 0 }],
  ];
  const stream = told.map(([event, data]) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`).join("");
  const through = window.fetch;
  window.seen = { opened: 0, pictures: 0 };
  window.fetch = (input, init) => {
    const { pathname } = new URL(input, location);
    if (pathname.endsWith("/resume")) return Promise.resolve(answer(JSON.stringify(forbidden), "application/problem+json", 403));
    if (pathname.endsWith("/v1/subscriptions")) return Promise.resolve(answer("{}", "application/json", 201));
    if (/gateways\/dashboard-[^/]+\/stream$/.test(pathname)) return Promise.resolve(answer(stream, "text/event-stream"));
    if (pathname.endsWith("/v1/drills")) return Promise.resolve(answer(JSON.stringify(drills), "application/json"));
    if (!pathname.endsWith("/v1/overview/stream")) return through(input, init);
    window.seen.opened += 1;
    if (window.seen.opened > 1) return Promise.reject(new TypeError("no such hub"));
    const encoder = new TextEncoder();
    // Three pictures, cut in the middle of a character's bytes and of a line, and then the end.
    return Promise.resolve(answer(new ReadableStream({
      async start(controller) {
        for (let n = 1; n <= 3; n += 1) {
          const sent = encoder.encode(`event: overview\r\ndata: ${JSON.stringify({ ...overview(n), ä: "ä" })}\r\n\r\n`);
          const cut = sent.length - 8;
          controller.enqueue(sent.slice(0, cut));
          await new Promise((done) => setTimeout(done, 50));
          controller.enqueue(sent.slice(cut));
          window.seen.pictures = n;
          await new Promise((done) => setTimeout(done, 150));
        }
        // A stream that says nothing for long is taken for dead, and this test may take longer than that.
        const breath = setInterval(() => controller.enqueue(encoder.encode(": still here\n\n")), 1000);
        window.closeStream = () => {
          clearInterval(breath);
          controller.close();
        };
      },
    }), "text/event-stream"));
  };
})();
