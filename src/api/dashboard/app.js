// The page: views, keys, theme, and the stream that feeds the overview.

import { BackOff, Problem, SILENT_MS, askToken, call, events, hasToken, onToken, sleep } from "./api.js";
import { byId, clock, setBadge } from "./dom.js";
import { drawGateways, drawHeader, drawOverview, nodeName, start as startOverview, take } from "./overview.js";
import { start as startTail } from "./tail.js";
import { openDrills, start as startTools } from "./tools.js";

/** A picture comes once a second; after so long without one, what is shown is old. */
const STALE_MS = 4_000;

const VIEWS = ["overview", "gateways", "tail", "explain", "backtest", "drills"];
const DRAWN = { overview: drawOverview, gateways: drawGateways };
const OPENED = { drills: openDrills };

// ---- Views

let view = "overview";

function title() {
  const name = document.querySelector(`nav a[href="#${view}"]`).textContent;
  document.title = [name, nodeName(), "Streamer"].filter(Boolean).join(" · ");
}

function show(wanted, isAsked) {
  view = VIEWS.includes(wanted) ? wanted : "overview";
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.id !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  title();
  DRAWN[view]?.();
  OPENED[view]?.();
  if (isAsked) byId(view).querySelector("h2").focus({ preventScroll: true });
}

function startViews() {
  addEventListener("hashchange", () => {
    show(location.hash.slice(1), true);
    scrollTo(0, 0);
  });
  // The hash says which view is open, so this one link must not touch it.
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  show(location.hash.slice(1), false);
}

// ---- What is remembered: theme and keys

const remembered = {
  get: (name) => { try { return localStorage.getItem(`streamer.${name}`); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(`streamer.${name}`, value); } catch { /* forgotten with the page */ } },
};

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  const name = THEMES.includes(theme) ? theme : "system";
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
  remembered.set("theme", name);
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "system";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
}

function startKeys() {
  const box = byId("keys-on");
  box.checked = remembered.get("keys") !== "off";
  box.addEventListener("change", () => remembered.set("keys", box.checked ? "on" : "off"));
  byId("keys").addEventListener("click", () => byId("keys-dialog").showModal());
  addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, select, textarea, dialog, [contenteditable]");
    if (!box.checked || isTyping || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key >= "1" && event.key <= String(VIEWS.length)) location.hash = VIEWS[Number(event.key) - 1];
    else if (event.key === "/") {
      if (view !== "gateways") {
        history.pushState(null, "", "#gateways");
        show("gateways", false);
      }
      byId("gateway-filter").focus();
    } else if (event.key === "t") nextTheme();
    else if (event.key === "?") byId("keys-dialog").showModal();
    else return;
    event.preventDefault();
  });
}

// ---- The stream of overviews

const line = { heardAt: 0, lostAt: null, why: "" };

// The text changes only with the state, as it is read aloud: no seconds that count up.
function drawLine() {
  const isStale = line.lostAt !== null;
  const place = byId("connection");
  if (!isStale) setBadge(place, "good", "live");
  else setBadge(place, "warn", `reconnecting since ${clock(line.lostAt)} UTC${line.why ? `: ${line.why}` : ""}`);
  document.documentElement.classList.toggle("stale", isStale);
}

function lost(why) {
  if (line.lostAt !== null && line.why === why) return;
  // What is shown is as old as the last picture, not as the discovery.
  line.lostAt ??= line.heardAt > 0 ? new Date(line.heardAt) : new Date();
  line.why = why;
  drawLine();
}

function heard(data) {
  take(JSON.parse(data));
  Object.assign(line, { heardAt: Date.now(), lostAt: null, why: "" });
  drawLine();
  drawHeader();
  DRAWN[view]?.();
  title();
}

function whyOf(error) {
  if (!(error instanceof Problem)) {
    console.error(error);
    return "the page failed";
  }
  if (error.status === 401) return "a token is needed";
  if (error.status === 403) return "the token's role is not operator";
  return error.status === 0 ? error.title.toLowerCase() : `${error.status} ${error.code || error.title}`;
}

/** Opens the stream and draws what comes, until it ends. */
async function listen(backOff) {
  const watch = setInterval(() => {
    if (line.lostAt === null && line.heardAt > 0 && Date.now() - line.heardAt > STALE_MS) lost("nothing heard");
  }, 1000);
  try {
    const response = await call("GET", "v1/overview/stream", { patience: SILENT_MS, background: true });
    for await (const { event, data } of events(response)) {
      if (event !== "overview") continue;
      heard(data);
      backOff.reset();
    }
  } finally {
    clearInterval(watch);
  }
}

async function follow() {
  const backOff = new BackOff();
  for (;;) {
    let wait;
    try {
      await listen(backOff);
      lost("the stream ended");
    } catch (error) {
      lost(whyOf(error));
      // Without a token there is no use in trying: each attempt counts as a refused caller.
      if (error.status === 401) wait = 2 ** 31 - 1;
    }
    wake = new AbortController();
    await sleep(wait ?? backOff.next(), wake.signal);
  }
}

// A new token, or the network coming back, ends the wait.
let wake = new AbortController();

startOverview();
startTail();
startTools();
setTheme(remembered.get("theme"));
byId("theme").addEventListener("click", nextTheme);
byId("token").addEventListener("click", () =>
  askToken(hasToken() ? "A token is known. Another one replaces it." : "No token is known. A hub without [auth] needs none."));
onToken(() => wake.abort());
addEventListener("online", () => wake.abort());
startKeys();
startViews();
follow();
