// What the overview shows: header, partitions, gateways, matching.
//
// Owns the last pictures and what follows from two of them. The hub sends totals; rates are worked out here.

import { ask } from "./api.js";
import { Table, ago, bytes, byId, count, el, figure, percent, setBadge, setClass, setText, spark, span, sparkline } from "./dom.js";
import { confirmed, say } from "./forms.js";

/** How much of the past a sparkline shows. */
const SPARK_SECONDS = 180;
/** From here on a partition is marked as behind, and its oplog as short. An idle deployment tells its time every 10 s. */
const LAG_SECONDS = 15;
const OPLOG_SECONDS = 600;
/** Gateways that the overview shows of those listed. */
const BEHIND = 5;

const state = { picture: null, previous: null, rates: new Map(), history: new Map() };

const STATES = {
  reading: ["good", "reading"], catching_up: ["warn", "catching up"], paused: ["warn", "paused"],
  backoff: ["bad", "backoff"], history_lost: ["bad", "history lost"],
  live: ["good", "live"], offline: ["warn", "offline"], parked: ["", "parked"],
};
const levelOf = (name) => STATES[name] ?? ["bad", name ?? "no owner"];
const atOf = (picture) => Date.parse(picture.at);
const sum = (items, pick) => items.reduce((total, item) => total + (pick(item) ?? 0), 0);

/** What a partition did a second since the picture before; null where its owner changed or counts anew. */
function ratesOf(partition, before, seconds) {
  const [now, then] = [partition.totals, before?.totals];
  if (!now || !then || before.owner !== partition.owner || !(seconds > 0)) return null;
  const names = ["changes", "matches", "delivered", "candidates"];
  const rates = Object.fromEntries(names.map((name) => [name, (now[name] - then[name]) / seconds]));
  return names.some((name) => rates[name] < 0) ? null : rates;
}

/** Takes a new picture. */
export function take(picture) {
  const previous = state.picture;
  // The same picture again, after a reconnect, says nothing about rates.
  if (previous && atOf(previous) === atOf(picture) && previous.node === picture.node) return;
  Object.assign(state, { previous, picture });
  const now = atOf(picture);
  const seconds = previous ? (now - atOf(previous)) / 1000 : 0;
  const before = new Map((previous?.partitions ?? []).map((partition) => [partition.partition, partition]));
  state.rates = new Map();
  const names = new Set();
  for (const partition of picture.partitions) {
    const name = partition.partition;
    names.add(name);
    const rates = ratesOf(partition, before.get(name), seconds);
    state.rates.set(name, rates);
    const points = state.history.get(name) ?? [];
    points.push({ t: now, value: rates?.changes ?? null });
    while (points.length > 0 && now - points[0].t > SPARK_SECONDS * 1000) points.shift();
    state.history.set(name, points);
  }
  for (const name of state.history.keys()) if (!names.has(name)) state.history.delete(name);
}

const total = (name) => {
  const known = [...state.rates.values()].filter(Boolean);
  return known.length > 0 ? sum(known, (rates) => rates[name]) : null;
};

// ---- Header

/** Draws the header and what is wrong. */
export function drawHeader() {
  const { picture } = state;
  if (!picture) return;
  setText(byId("node"), picture.node);
  setText(byId("version"), picture.version);
  setText(byId("uptime"), span(picture.uptimeSeconds));
  const { status } = picture.health;
  setBadge(byId("health"), { ok: "good", degraded: "warn" }[status] ?? "bad", picture.health.ready ? status : `${status}, not ready`);
  drawTrouble(picture);
}

function drawTrouble(picture) {
  const boxes = [];
  const differences = sum(picture.partitions, (partition) => partition.totals?.shadowDifferences);
  if (differences > 0) {
    boxes.push({
      level: "bad", title: `✖ The matcher and its reference disagreed ${count(differences)} times: what is delivered may be wrong.`,
      lines: ["Each is a bug to report. The hub's log has the filters and the documents' shapes."],
    });
  }
  if (!picture.health.live) boxes.push({ level: "bad", title: "✖ Only a restart of this node helps.", lines: [] });
  const parts = Object.entries(picture.health.components).filter(([, part]) => part.status !== "ok");
  if (parts.length > 0) {
    const isBad = parts.some(([, part]) => part.status === "failing");
    const lines = parts.map(([name, part]) =>
      `${name}: ${part.status}${part.reason ? `, ${part.reason}` : ""}, since ${part.since}`);
    boxes.push({ level: isBad ? "bad" : "warn", title: `${isBad ? "✖" : "▲"} ${parts.length === 1 ? "A part is" : `${parts.length} parts are`} not well:`, lines });
  }
  // Drawn anew only if it says something else: it is read aloud.
  const place = byId("trouble");
  const text = JSON.stringify(boxes);
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.replaceChildren(...boxes.map(({ level, title, lines }) =>
    el("div", { class: `note ${level}` }, el("strong", {}, title), lines.length > 0 ? el("ul", {}, ...lines.map((line) => el("li", {}, line))) : "")));
}

// ---- Overview

const PARTITION_COLUMNS = [
  { name: "Partition", class: "name" }, { name: "Owner" }, { name: "State" },
  { name: "Lag, changes", class: "number" }, { name: "Lag, s", class: "number" }, { name: "Oplog left, min", class: "number" },
  { name: "Changes/s", class: "number" }, { name: "Last 3 min" }, { name: "Matches/s", class: "number" }, { name: "Delivered/s", class: "number" },
  { name: "Subscriptions", class: "number" }, { name: "Sessions", class: "number" }, { name: "Catch-ups", class: "number" }, { name: "" },
];

let partitions;
let behind;
let matching;
let costliest;
let gateways;

function setCell(cell, text, level = "") {
  setText(cell, level ? `▲ ${text}` : text);
  for (const name of ["warn", "bad"]) cell.classList.toggle(name, level === name);
}

function drawPartition(cells, partition, row) {
  const rates = state.rates.get(partition.partition);
  const { owner, lag, subscriptions } = partition;
  const [level, word] = owner === null ? ["bad", "no owner"] : levelOf(partition.state);
  const isBehind = (lag?.seconds ?? 0) >= LAG_SECONDS;
  const isShort = typeof partition.oplogHeadroomSeconds === "number" && partition.oplogHeadroomSeconds < OPLOG_SECONDS && isBehind;
  setClass(row, level === "bad" || isShort ? "bad" : level === "warn" || isBehind ? "warn" : "");
  setText(cells[0], partition.partition);
  setText(cells[1], owner ?? "nobody");
  setBadge(cells[2], level, word);
  setCell(cells[3], count(lag?.changes));
  setCell(cells[4], figure(lag?.seconds), isBehind ? "warn" : "");
  setCell(cells[5], figure(partition.oplogHeadroomSeconds == null ? null : partition.oplogHeadroomSeconds / 60), isShort ? "bad" : "");
  setText(cells[6], figure(rates?.changes));
  sparkline(cells[7].firstChild, state.history.get(partition.partition) ?? [], atOf(state.picture), SPARK_SECONDS, "Changes a second");
  setText(cells[8], figure(rates?.matches));
  setText(cells[9], figure(rates?.delivered));
  const { live, catching_up: late, parked } = subscriptions ?? {};
  setText(cells[10], subscriptions ? [count(live), late > 0 && `${count(late)} late`, parked > 0 && `${count(parked)} parked`].filter(Boolean).join(", ") : "–");
  setText(cells[11], count(partition.sessions));
  setText(cells[12], count(partition.catchups));
  const button = cells[13].firstChild;
  const isPaused = partition.state === "paused";
  setText(button, isPaused ? "Resume" : "Pause");
  const label = `${isPaused ? "Resume" : "Pause"} ${partition.partition}`;
  if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
  button.disabled = owner === null;
}

function makePartition(cells, { partition }) {
  cells[7].append(spark());
  const click = async () => {
    const isPaused = state.picture.partitions.find((item) => item.partition === partition)?.state === "paused";
    const verb = isPaused ? "resume" : "pause";
    const isDone = await confirmed({
      title: isPaused ? `Resume ${partition}?` : `Pause ${partition}?`,
      text: isPaused
        ? "Reading goes on from where it stopped. What was written meanwhile is delivered."
        : "Nothing is read from this partition until it is resumed: gateways hear of no change. Nothing is lost while the oplog reaches back.",
      action: isPaused ? "Resume" : "Pause",
      run: () => ask("POST", `v1/partitions/${partition.split("/").map(encodeURIComponent).join("/")}/${verb}`),
    });
    if (isDone) say(`${partition} is ${isPaused ? "reading again" : "paused"}.`);
  };
  cells[13].append(el("button", { type: "button", click }));
}

function drawSums(picture) {
  const { partitions: all } = picture;
  const lags = all.map((partition) => partition.lag?.seconds).filter((value) => typeof value === "number");
  const away = all.filter((partition) => partition.owner === null).length;
  const lag = lags.length > 0 ? Math.max(...lags) : null;
  const figures = [
    ["Changes/s", figure(total("changes"))], ["Matches/s", figure(total("matches"))], ["Delivered/s", figure(total("delivered"))],
    ["Subscriptions", count(sum(all, (partition) => partition.subscriptions?.live))],
    ["Sessions", count(sum(all, (partition) => partition.sessions))],
    ["Gateways", count(picture.gateways.total)],
    ["Greatest lag", lag === null ? "–" : `${figure(lag)} s`, lag >= LAG_SECONDS ? "warn" : ""],
    ["Windows", bytes(sum(all, (partition) => partition.windowBytes))], ["Outboxes", bytes(sum(all, (partition) => partition.outboxBytes))],
    ["Resyncs", count(sum(all, (partition) => partition.totals?.resyncs))], ["Overflows", count(sum(all, (partition) => partition.totals?.overflows))],
    ["Without owner", count(away), away > 0 ? "bad" : ""],
  ];
  const place = byId("sums");
  if (place.children.length !== figures.length) {
    place.replaceChildren(...figures.map(() => el("div", {}, el("dt"), el("dd"))));
  }
  figures.forEach(([name, value, level = ""], index) => {
    const [term, text] = place.children[index].children;
    setText(term, name);
    setText(text, level ? `▲ ${value}` : value);
    setClass(text, level);
  });
}

const MATCHING_COLUMNS = [
  { name: "Partition", class: "name" }, { name: "Matches/s", class: "number" }, { name: "Candidates/s", class: "number" },
  { name: "Candidates a match", class: "number" }, { name: "Bloom checks", class: "number" },
  { name: "Bloom false positives", class: "number" }, { name: "Shadow checks", class: "number" }, { name: "Shadow differences" },
];

function drawMatching(cells, { partition, totals }, row) {
  const rates = state.rates.get(partition);
  const differences = totals?.shadowDifferences;
  setClass(row, differences > 0 ? "bad" : "");
  setText(cells[0], partition);
  setText(cells[1], figure(rates?.matches));
  setText(cells[2], figure(rates?.candidates));
  setText(cells[3], totals?.matches > 0 ? (totals.candidates / totals.matches).toFixed(2) : "–");
  setText(cells[4], count(totals?.bloomChecks));
  setText(cells[5], totals?.bloomChecks > 0 ? percent(totals.bloomFalsePositives / totals.bloomChecks) : "–");
  setText(cells[6], count(totals?.shadowChecks));
  if (!totals) setBadge(cells[7], "", "not known");
  else setBadge(cells[7], differences > 0 ? "bad" : "good", differences > 0 ? `${count(differences)}: a bug` : "0");
}

const COSTLIEST_COLUMNS = [
  { name: "Subscription", class: "name" }, { name: "Gateway or group" }, { name: "Partition" },
  { name: "Mean, µs", class: "number" }, { name: "Evaluations", class: "number" },
];
const holder = (item) => (item.group !== undefined ? [item.group, item.member].filter(Boolean).join(" / ") : item.gatewayId ?? "–");

function drawCostliest(picture) {
  const items = picture.partitions.flatMap((partition) =>
    (partition.costliest ?? []).map((item) => ({ ...item, partition: partition.partition })));
  items.sort((a, b) => b.averageMicros - a.averageMicros);
  for (const id of ["costliest", "costliest-title"]) byId(id).hidden = items.length === 0;
  costliest.update(items.slice(0, 12), (item) => JSON.stringify([item.partition, holder(item), item.subscriptionId]), (cells, item) => {
    setText(cells[0], item.subscriptionId);
    setText(cells[1], holder(item));
    setText(cells[2], item.partition);
    setText(cells[3], figure(item.averageMicros));
    setText(cells[4], count(item.evaluations));
  });
}

/** Draws the view of partitions and matching. */
export function drawOverview() {
  const { picture } = state;
  if (!picture) return;
  drawSums(picture);
  partitions.update(picture.partitions, (item) => item.partition, drawPartition, makePartition);
  const { listed } = picture.gateways;
  for (const id of ["behind", "behind-title"]) byId(id).hidden = listed.length === 0;
  behind.update(listed.slice(0, BEHIND), gatewayKey, drawGateway, makeGateway);
  matching.update(picture.partitions, (item) => item.partition, drawMatching);
  drawCostliest(picture);
}

// ---- Gateways

const GATEWAY_COLUMNS = [
  { name: "Gateway", class: "name" }, { name: "State" }, { name: "Lag, changes", class: "number" }, { name: "Lag, s", class: "number" },
  { name: "Outbox", class: "number" }, { name: "Last ack" }, { name: "Subscriptions", class: "number" },
  { name: "Session" }, { name: "Node" }, { name: "Since" }, { name: "" },
];

const gatewayKey = (item) => JSON.stringify([item.gatewayId, item.group, item.member]);

function drawGateway(cells, gateway, row) {
  const now = atOf(state.picture);
  const [level, word] = levelOf(gateway.state);
  const isBehind = gateway.state !== "parked" && (gateway.lag?.seconds ?? 0) >= LAG_SECONDS;
  setClass(row, isBehind || gateway.state === "catching_up" ? "warn" : "");
  setText(cells[0], holder(gateway));
  setBadge(cells[1], level, word);
  setCell(cells[2], count(gateway.lag?.changes));
  setCell(cells[3], figure(gateway.lag?.seconds), isBehind ? "warn" : "");
  setText(cells[4], bytes(gateway.outboxBytes));
  setText(cells[5], ago(gateway.lastAckAt, now));
  setText(cells[6], count(gateway.subscriptions));
  const { session } = gateway;
  setText(cells[7], session ? session.transport : gateway.delivery === "nats" ? "none (by NATS)" : "none");
  setText(cells[8], session?.node ?? "–");
  setText(cells[9], session ? ago(session.since, now) : "–");
  const button = cells[10].firstChild;
  if (button) button.disabled = gateway.state === "parked";
}

function makeGateway(cells, gateway) {
  const name = gateway.gatewayId;
  // A member's subscriptions are its group's, and go to another when it leaves.
  if (gateway.group !== undefined || name === undefined) return;
  const click = async () => {
    const isDone = await confirmed({
      title: `Park ${name}?`,
      text: "Its subscriptions match nothing and hold no checkpoint back until one of them is registered again or its heartbeat comes; then they catch up from here.",
      action: "Park",
      run: () => ask("POST", `v1/gateways/${encodeURIComponent(name)}/park`),
    });
    if (isDone) say(`${name} is parked.`);
  };
  cells[10].append(el("button", { type: "button", "aria-label": `Park ${name}`, click }, "Park"));
}

/** Draws the view of gateways. */
export function drawGateways() {
  const { picture } = state;
  if (!picture) return;
  const { states, listed, total: all } = picture.gateways;
  const parts = [["", all], ...Object.entries(states ?? {})];
  const place = byId("gateway-counts");
  if (place.children.length !== parts.length) place.replaceChildren(...parts.map(() => el("span")));
  parts.forEach(([name, value], index) => setText(place.children[index], `${count(value)} ${name === "" ? "in all" : levelOf(name)[1]}`));
  const wanted = byId("gateway-filter").value.trim().toLowerCase();
  const shown = listed.filter((gateway) =>
    [holder(gateway), levelOf(gateway.state)[1], gateway.session?.node ?? "", gateway.session?.transport ?? ""].some((text) => text.toLowerCase().includes(wanted)));
  const notes = [];
  if (listed.length < all) notes.push(`The ${count(listed.length)} furthest behind are listed.`);
  if (wanted !== "") notes.push(`${count(shown.length)} of them pass the filter.`);
  if (all === 0) notes.push("No gateway has registered anything yet.");
  setText(byId("gateway-note"), notes.join(" "));
  gateways.update(shown, gatewayKey, drawGateway, makeGateway);
}

/** Makes the tables. */
export function start() {
  partitions = new Table(byId("partitions"), PARTITION_COLUMNS, { label: "Partitions", live: true });
  behind = new Table(byId("behind"), GATEWAY_COLUMNS, { label: "Gateways furthest behind", live: true });
  matching = new Table(byId("matching"), MATCHING_COLUMNS, { label: "Matching", live: true });
  costliest = new Table(byId("costliest"), COSTLIEST_COLUMNS, { label: "Costliest filters", live: true });
  gateways = new Table(byId("gateway-table"), GATEWAY_COLUMNS, { label: "Gateways", live: true });
  byId("gateway-filter").addEventListener("input", drawGateways);
}

/** What the title of the page says beside the view. */
export const nodeName = () => state.picture?.node ?? "";
