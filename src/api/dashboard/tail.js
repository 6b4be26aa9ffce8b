// The live tail: a subscription under a gateway of its own, and what it is told.

import { BackOff, Problem, SILENT_MS, ask, call, events, sleep } from "./api.js";
import { Table, byId, clock, count, el, exact, json } from "./dom.js";
import { FilterForm, clearFault, showFault } from "./forms.js";

/** Rows that are kept; older ones go. */
const ROWS = 200;
/** The subscription outlives this page by so long if nobody deletes it. The shortest that the hub takes. */
const TTL_SECONDS = 60;

const COLUMNS = [
  { name: "Time, UTC" }, { name: "Operation" }, { name: "Key", class: "name" }, { name: "Document", class: "wide" }, { name: "Position", class: "mono" },
];

const tail = { run: null, told: 0, waiting: [] };
let form;
let filters;
let table;

function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return `dashboard-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function status(text) {
  byId("tail-status").textContent = text;
}

// ---- Rows

function changeRow(change) {
  const row = table.row();
  const [time, operation, key, body, position] = row.cells;
  const at = change.wallTime ? new Date(change.wallTime) : new Date((change.clusterTime?.t ?? NaN) * 1000);
  time.append(clock(at));
  operation.append(change.operation);
  const tags = [...(change.flags ?? []), ...(change.matches ?? []).map((match) => match.transition).filter(Boolean)];
  for (const tag of tags) operation.append(el("span", { class: "tag" }, tag));
  key.append(change.key ?? "–");
  body.append(json(change.document ?? change.before));
  if (change.document === null && change.before) body.prepend(el("span", { class: "tag" }, "before"));
  position.append(change.position);
  return row;
}

function messageRow(text) {
  const cell = el("td", { colspan: String(COLUMNS.length), role: "cell" }, `▲ ${clock(new Date())} ${text}`);
  return el("tr", { role: "row", class: "message" }, cell);
}

// Rows are put in once a frame, however many changes come; more than are kept are not even made.
function put(make) {
  tail.waiting.push(make);
  if (tail.waiting.length > ROWS) tail.waiting.shift();
  if (tail.waiting.length > 1) return;
  // A hidden page has no frames.
  document.hidden ? setTimeout(flush, 100) : requestAnimationFrame(flush);
}

function flush() {
  const made = tail.waiting.splice(0).map((make) => make());
  table.prepend(made.reverse(), ROWS);
  const shown = table.rows.length;
  byId("tail-count").textContent = `${count(tail.told)} changes since the start, newest first${shown >= ROWS ? `; the last ${ROWS} rows are kept` : ""}.`;
}

// ---- The stream

const TOLD = {
  resync: (data) => `resync (${data.reason}): what lies between ${data.from ?? "an unknown position"} and ${data.to} of ${data.partition} cannot be delivered; read it anew`,
  expired: (data) => `expired (${data.reason}): ${data.reason === "too_costly" ? "the filter costs too much and was parked" : "the lease ran out"}`,
  closed: (data) => `closed (${data.reason}): ${data.retryAfterMs > 0 ? `trying again in ${data.retryAfterMs} ms` : "not tried again"}`,
};

/** Takes one message; answers how long to wait before reconnecting if it was the last one, `null` to stop. */
function takeMessage(run, { event, id, data }) {
  if (id) run.lastId = id;
  if (event === "change") {
    const change = exact(data);
    tail.told += 1;
    put(() => changeRow(change));
  } else if (event in TOLD) {
    const message = JSON.parse(data);
    put(() => messageRow(TOLD[event](message)));
    if (event === "closed") return message.retryAfterMs > 0 ? message.retryAfterMs : null;
  } else if (event === "welcome") {
    const { node } = JSON.parse(data);
    status(`Receiving from ${node} as ${run.gateway}.`);
  }
  return undefined;
}

const register = (run) => ask("POST", "v1/subscriptions", { body: run.subscription, signal: run.stop.signal });

async function follow(run) {
  const backOff = new BackOff();
  const { signal } = run.stop;
  let isAgain = false;
  while (!signal.aborted) {
    let wait;
    try {
      // The same once more renews the lease, and revives what was parked while this page could not reach the hub.
      if (isAgain) await register(run);
      isAgain = true;
      const headers = run.lastId ? { "last-event-id": run.lastId } : {};
      const response = await call("GET", `v1/gateways/${run.gateway}/stream?ack=auto`, { headers, signal, patience: SILENT_MS });
      for await (const message of events(response)) {
        backOff.reset();
        const retry = takeMessage(run, message);
        if (retry === null) return "The hub closed the stream for good.";
        if (retry !== undefined) wait = retry;
      }
    } catch (error) {
      if (signal.aborted) return "";
      if (!(error instanceof Problem) || (error.status >= 400 && error.status < 500 && error.status !== 429)) throw error;
    }
    if (signal.aborted) return "";
    status(`Reconnecting since ${clock(new Date())} UTC.`);
    await sleep(wait ?? backOff.next(), signal);
  }
  return "";
}

// ---- Start and stop

function setRunning(isRunning) {
  byId("tail-start").disabled = isRunning;
  byId("tail-stop").disabled = !isRunning;
}

/** Ends the run and drops its gateway; `keepalive` lets the call outlive the page. */
async function end(run, { keepalive = false } = {}) {
  if (tail.run !== run) return;
  tail.run = null;
  run.stop.abort();
  setRunning(false);
  try {
    await call("DELETE", `v1/gateways/${run.gateway}`, { keepalive, background: true });
  } catch (error) {
    // Its lease ends it anyway.
    if (!(error instanceof Problem)) throw error;
    if (error.status !== 404) status(`Stopped. The gateway ${run.gateway} could not be deleted; its subscription is parked within ${TTL_SECONDS} s.`);
  }
}

async function begin() {
  clearFault(form);
  const gateway = randomName();
  const run = { gateway, stop: new AbortController(), lastId: null };
  try {
    const read = filters.read();
    run.subscription = { subscriptionId: "tail", gatewayId: gateway, ttlSeconds: TTL_SECONDS, ...read };
    Object.assign(tail, { run, told: 0 });
    setRunning(true);
    status("Registering…");
    await register(run);
    if (run.stop.signal.aborted) return;
    status("Registered. Opening the stream…");
    const why = await follow(run);
    if (tail.run === run) {
      await end(run);
      status(`Stopped. ${why}`.trim());
    }
  } catch (error) {
    if (run.stop.signal.aborted) return;
    await end(run);
    status("Stopped.");
    showFault(form, error, { find: (field) => filters.find(field), isGateways: true });
  }
}

/** Makes the form and the table. */
export function start() {
  form = byId("tail-form");
  filters = new FilterForm(form);
  table = new Table(byId("tail-table"), COLUMNS, { label: "Changes, newest first" });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (tail.run === null) begin();
  });
  byId("tail-stop").addEventListener("click", () => {
    const { run } = tail;
    if (run === null) return;
    status("Stopped.");
    end(run);
    byId("tail-start").focus();
  });
  byId("tail-clear").addEventListener("click", () => {
    tail.waiting.length = 0;
    table.clear();
    byId("tail-count").textContent = "";
  });
  addEventListener("pagehide", () => {
    if (tail.run === null) return;
    status("Stopped, as the page was left.");
    end(tail.run, { keepalive: true });
  });
}
