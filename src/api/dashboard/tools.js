// Explain, backtest, drills.

import { Problem, ask, call } from "./api.js";
import { badge, byId, clock, count, el, exact, figure, json, percent, still, svg } from "./dom.js";
import { FilterForm, clearFault, faultBox, jsonOf, showFault } from "./forms.js";

// ---- Explain

function explainBody(form) {
  const text = (name) => form.elements[name].value.trim();
  const body = { tenant: form.elements.tenant.value, collection: form.elements.collection.value };
  for (const name of ["document", "before"]) if (text(name) !== "") body[name] = jsonOf(text(name), name);
  for (const name of ["operation", "key", "subscriptionId"]) if (text(name) !== "") body[name] = text(name);
  if (text("gatewayId") !== "") body[text("owner")] = text("gatewayId");
  return body;
}

const RESULTS = { passed: "good", rejected: "bad", error: "bad", skipped: "" };

function explained(answer) {
  const parts = [];
  const { subscription, matches, cost } = answer;
  if (subscription) {
    parts.push(
      el("h3", {}, "This subscription"),
      el("p", {}, badge(subscription.matched ? "good" : "bad", subscription.matched ? "it fires" : "it does not fire")),
      still("Steps", [{ name: "Step", class: "name mono" }, { name: "Result" }, { name: "Why", class: "wide" }],
        subscription.steps.map(({ step, result, detail }) => [step, badge(RESULTS[result] ?? "", result), detail])));
  }
  parts.push(el("h3", {}, "Who would be told"));
  if (matches.length === 0) parts.push(el("p", {}, "Nobody."));
  else {
    parts.push(still("Who would be told", [{ name: "Subscription", class: "name" }, { name: "Gateway or group" }, { name: "Transition" }],
      matches.map((match) => [match.subscriptionId, match.group !== undefined ? `group ${match.group}` : match.gatewayId,
        [match.transition, match.certainty].filter(Boolean).join(", ") || "–"])));
  }
  if (answer.unlistedMatches > 0) parts.push(el("p", {}, `And ${count(answer.unlistedMatches)} more.`));
  if (cost) {
    parts.push(el("p", { class: "quiet" },
      `${count(cost.evaluated)} filters evaluated for ${count(cost.subscriptions)} subscriptions in ${count(cost.micros)} µs.`));
  }
  return parts;
}

function startExplain() {
  const form = byId("explain-form");
  const place = byId("explain-result");
  const find = (field) => form.elements.namedItem(field === "group" ? "gatewayId" : field.split(/[.[]/)[0]);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearFault(form);
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      place.replaceChildren(...explained(await ask("POST", "v1/explain", { body: explainBody(form) })));
    } catch (error) {
      place.replaceChildren();
      showFault(form, error, { find });
    }
    button.disabled = false;
  });
}

// ---- Backtest

/** Bars for changes and for matches, each with a scale of its own: matches are often few among many. */
function histogram(steps) {
  const [width, height, left, gap] = [720, 64, 60, 26];
  const inner = width - left - 4;
  const each = inner / steps.length;
  const drawing = svg("svg", { class: "histogram", viewBox: `0 0 ${width} ${2 * (height + gap) + 6}`, role: "img" });
  const rows = [["changes", "bar-changes"], ["matches", "bar-matches"]];
  rows.forEach(([name, kind], index) => {
    const floor = index * (height + gap) + height + 8;
    const most = Math.max(...steps.map((step) => step[name]));
    drawing.append(
      svg("text", { x: left - 6, y: floor - height + 8, "text-anchor": "end" }, count(most)),
      svg("text", { x: left - 6, y: floor, "text-anchor": "end" }, name),
      svg("line", { class: "axis", x1: left, x2: width - 4, y1: floor + 0.5, y2: floor + 0.5 }));
    steps.forEach((step, place) => {
      const high = most > 0 ? (step[name] / most) * height : 0;
      // A bar that is there is seen.
      const tall = step[name] > 0 ? Math.max(high, 1.5) : 0;
      const bar = svg("rect", {
        class: kind, x: (left + place * each).toFixed(2), width: Math.max(each - Math.min(1, each / 4), 0.4).toFixed(2),
        y: (floor - tall).toFixed(2), height: tall.toFixed(2),
      }, svg("title", {}, `${clock(new Date(step.from))} UTC, ${figure(step.seconds)} s: ${count(step[name])} ${name}`));
      drawing.append(bar);
    });
  });
  const end = 2 * (height + gap);
  const last = steps.at(-1);
  const until = new Date(Date.parse(last.from) + last.seconds * 1000);
  drawing.append(
    svg("text", { x: left, y: end }, `${clock(new Date(steps[0].from))} UTC`),
    svg("text", { x: width - 4, y: end, "text-anchor": "end" }, `${clock(until)} UTC`));
  const peak = steps.reduce((best, step) => (step.matches > best.matches ? step : best), steps[0]);
  drawing.setAttribute("aria-label",
    `Changes and matches in ${steps.length} steps of ${figure(steps[0].seconds)} s; most matches, ${count(peak.matches)}, from ${clock(new Date(peak.from))} UTC. The table below has the figures.`);
  return drawing;
}

function backtested(answer, samples, asked) {
  const { changes, matches, costMicros, histogram: steps = [] } = answer;
  // A position begins with its epoch, and goes on with its second.
  const second = (position) => parseInt(position.slice(8, 16), 16);
  const reached = answer.from && answer.to ? second(answer.to) - second(answer.from) : null;
  const facts = [
    ["Changes", count(changes)], ["Matches", count(matches)], ["Share", changes > 0 ? percent(matches / changes) : "–"],
    ["Matches/s", reached > 0 ? figure(matches / reached) : "–"],
    ["Cost, median", `${figure(costMicros?.p50)} µs`], ["Cost, 99th percentile", `${figure(costMicros?.p99)} µs`],
    ["Reached back", reached == null ? "–" : `${figure(reached)} s`],
  ];
  const parts = [el("dl", { class: "sums few" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))))];
  if (answer.complete === false) {
    parts.push(el("p", { class: "note warn" },
      `▲ Not all of the ${count(asked)} s was read: ${reached == null ? "nothing was there" : `it reached back ${figure(reached)} s`}. The counts are of that part only.`));
  }
  if (steps.length > 0) {
    const rows = steps.map((step) => [clock(new Date(step.from)), figure(step.seconds), count(step.changes), count(step.matches)]);
    const columns = [{ name: "From, UTC", class: "name" }, { name: "Seconds", class: "number" }, { name: "Changes", class: "number" }, { name: "Matches", class: "number" }];
    parts.push(histogram(steps), el("details", {}, el("summary", {}, "The same as a table"), still("Histogram", columns, rows)));
  }
  parts.push(el("h3", {}, "Samples"));
  if (samples.length === 0) parts.push(el("p", {}, "Nothing matched."));
  else {
    parts.push(still("Samples", [{ name: "Time, UTC" }, { name: "Operation" }, { name: "Key", class: "name" }, { name: "Document", class: "wide" }, { name: "Position", class: "mono" }],
      samples.map((sample) => [sample.clusterTime ? clock(new Date(sample.clusterTime.t * 1000)) : "–", sample.operation, sample.key ?? "–", json(sample.document), sample.position])));
  }
  if (answer.from || answer.to) parts.push(el("p", { class: "quiet mono" }, `From ${answer.from ?? "–"} to ${answer.to ?? "–"}.`));
  return parts;
}

function startBacktest() {
  const form = byId("backtest-form");
  const filters = new FilterForm(form);
  const status = byId("backtest-status");
  const place = byId("backtest-result");
  const cancel = byId("backtest-cancel");
  const button = form.querySelector("[type=submit]");
  let running = null;
  cancel.addEventListener("click", () => running?.abort());
  const run = async (signal) => {
    const seconds = Number(form.elements.seconds.value);
    const subscription = { subscriptionId: "candidate", gatewayId: "dashboard-backtest", ...filters.read() };
    const body = { subscription, seconds, source: form.elements.source.value };
    status.textContent = "Running…";
    const text = await (await call("POST", "v1/backtest", { body, signal })).text();
    const answer = JSON.parse(text);
    // Figures as numbers; samples with their digits as they are.
    place.replaceChildren(...backtested(answer, exact(text).samples ?? [], seconds));
    status.textContent = `Done: ${count(answer.matches)} of ${count(answer.changes)} changes match.`;
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    clearFault(form);
    place.replaceChildren();
    running = new AbortController();
    [button.disabled, cancel.disabled] = [true, false];
    try {
      await run(running.signal);
    } catch (error) {
      status.textContent = error.name === "AbortError" ? "Cancelled." : "";
      if (error.name !== "AbortError") showFault(form, error, { find: (field) => filters.find(field), isGateways: true });
    }
    running = null;
    [button.disabled, cancel.disabled] = [false, true];
  });
}

// ---- Drills

/** Reads the reports. */
export async function openDrills() {
  const status = byId("drills-status");
  const place = byId("drills-table");
  try {
    const { reports } = await ask("GET", "v1/drills");
    if (reports.length === 0) {
      status.textContent = "";
      place.replaceChildren(el("p", {}, "No drill has reported here yet. ", el("code", {}, "streamer drill restart"), " runs one: it kills a hub again and again while numbered writes go through it, and counts what was lost, doubled or out of order."));
      return;
    }
    const failed = reports.filter((report) => !report.passed).length;
    status.textContent = failed > 0 ? `${count(failed)} of ${count(reports.length)} failed.` : `${count(reports.length)} reports, all passed.`;
    place.replaceChildren(still("Drills", [{ name: "Drill", class: "name" }, { name: "Result" }, { name: "At" }, { name: "Summary", class: "wide" }],
      reports.map((report) => [report.name, badge(report.passed ? "good" : "bad", report.passed ? "passed" : "failed"), report.at, report.summary])));
  } catch (error) {
    status.textContent = "";
    const isMissing = error instanceof Problem && error.status === 404;
    place.replaceChildren(isMissing ? el("p", {}, "This hub keeps no reports of drills.") : faultBox(error));
  }
}

/** Makes the forms. */
export function start() {
  startExplain();
  startBacktest();
  byId("drills-again").addEventListener("click", openDrills);
}
