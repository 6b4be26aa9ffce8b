// Calls to the hub: the token, problem documents, Server-Sent Events.
//
// The token is in sessionStorage and in a header, never in a URL: those end up in logs and histories.

import { byId } from "./dom.js";

const KEY = "streamer.token";
// Relative to the page, so that a proxy may serve it under a prefix.
const BASE = new URL(".", document.baseURI);

let token = stored(() => sessionStorage.getItem(KEY));
// Whether the dialog was closed without a token: what runs by itself does not open it again.
let isDeclined = false;
let asking = null;
const listeners = [];

// A browser may forbid storage: then it is remembered as long as the page lives.
function stored(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

/** Calls `listener` whenever the token changes. */
export const onToken = (listener) => listeners.push(listener);

/** Whether a token is known. */
export const hasToken = () => token !== null;

function setToken(text) {
  token = text;
  isDeclined = false;
  stored(() => (text === null ? sessionStorage.removeItem(KEY) : sessionStorage.setItem(KEY, text)));
  listeners.forEach((listener) => listener());
}

/** Asks for the token; resolves to whether there is one now. Whoever asks meanwhile waits for the same answer. */
export function askToken(why) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("token-dialog");
    const input = byId("token-input");
    const fault = byId("token-fault");
    byId("token-why").textContent = why;
    byId("token-forget").hidden = token === null;
    input.value = "";
    fault.hidden = true;
    let isGiven = false;
    const use = (event) => {
      event.preventDefault();
      const text = input.value.trim();
      // Anything else cannot be in a header.
      if (!/^[\x21-\x7e]+$/.test(text)) {
        fault.textContent = "A token is letters, digits and signs without blanks.";
        fault.hidden = false;
        input.focus();
        return;
      }
      isGiven = true;
      setToken(text);
      dialog.close();
    };
    const forget = () => {
      setToken(null);
      dialog.close();
    };
    const cancel = () => dialog.close();
    const form = dialog.querySelector("form");
    form.addEventListener("submit", use);
    byId("token-forget").addEventListener("click", forget);
    byId("token-cancel").addEventListener("click", cancel);
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", use);
      byId("token-forget").removeEventListener("click", forget);
      byId("token-cancel").removeEventListener("click", cancel);
      input.value = "";
      if (!isGiven) isDeclined = true;
      asking = null;
      resolve(isGiven);
    }, { once: true });
    dialog.showModal();
    input.focus();
  });
  return asking;
}

/** A refusal (RFC 9457), or that no hub answered (`status` 0). */
export class Problem extends Error {
  constructor({ title, status = 0, detail, code, field }) {
    super(detail ?? title);
    Object.assign(this, { title: title ?? `Status ${status}`, status, detail: detail ?? "", code: code ?? "", field: field ?? "" });
  }
}

async function problemOf(response) {
  const text = await response.text().catch(() => "");
  let body = {};
  try {
    body = JSON.parse(text) ?? {};
  } catch {
    body = { detail: text.slice(0, 300) };
  }
  const said = (name) => (typeof body[name] === "string" ? body[name] : undefined);
  return new Problem({
    title: said("title") ?? response.statusText, status: response.status,
    detail: said("detail"), code: said("code"), field: said("field"),
  });
}

/** Fetches; whoever sets `patience` hears after so many milliseconds that nothing was answered. */
async function fetched(url, { patience, signal, ...rest }) {
  const late = new AbortController();
  const timer = patience === undefined ? undefined : setTimeout(() => late.abort(), patience);
  try {
    return await fetch(url, { ...rest, signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal });
  } catch (error) {
    if (error.name === "AbortError" && !late.signal.aborted) throw error;
    throw new Problem({ title: "The hub does not answer", detail: late.signal.aborted ? "" : String(error.message ?? error) });
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Calls the hub and returns the response, or throws a `Problem`. A 401 asks for the token and tries again; what is
 * `background` does not ask once the dialog was declined.
 */
export async function call(method, path, { body, headers = {}, background = false, ...rest } = {}) {
  for (;;) {
    const used = token;
    const sent = { accept: "application/json, text/event-stream, application/problem+json", ...headers };
    if (used !== null) sent.authorization = `Bearer ${used}`;
    if (body !== undefined) sent["content-type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    const response = await fetched(new URL(path, BASE), { method, headers: sent, body: text, cache: "no-store", ...rest });
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401) throw problem;
    if (token !== used) continue;
    if (background && isDeclined) throw problem;
    const why = used === null ? "This hub asks who is calling." : "This hub does not take the token that was given (any more).";
    if (!(await askToken(problem.detail ? `${why} It says: ${problem.detail}` : why))) throw problem;
  }
}

/** Calls the hub and parses its answer; `undefined` where there is none. */
export async function ask(method, path, options) {
  const text = await (await call(method, path, options)).text();
  return text === "" ? undefined : JSON.parse(text);
}

/** Every stream says something each second. One that says nothing for so long is dead, whatever the connection claims. */
export const SILENT_MS = 10_000;

/** The next part of a stream; a `Problem` if the connection breaks off or is silent. */
async function part(reader) {
  let isSilent = false;
  const timer = setTimeout(() => {
    isSilent = true;
    reader.cancel().catch(() => {});
  }, SILENT_MS);
  try {
    const read = await reader.read();
    if (isSilent) throw new Problem({ title: "Nothing heard" });
    return read;
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem({ title: "The connection broke off", detail: String(error.message ?? error) });
  } finally {
    clearTimeout(timer);
  }
}

/** The events of a stream: `{event, id, data}`. The hub ends lines with a line feed; a carriage return before it is tolerated. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let [event, id, data] = ["message", null, []];
  try {
    for (;;) {
      const { value, done } = await part(reader);
      if (done) return;
      let from = rest.length;
      rest += value;
      let start = 0;
      for (let end; (end = rest.indexOf("\n", from)) !== -1; from = start = end + 1) {
        const line = rest.slice(start, end).replace(/\r$/, "");
        if (line === "") {
          if (data.length > 0) yield { event, id, data: data.join("\n") };
          [event, data] = ["message", []];
        } else {
          const [, name, text] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
          if (name === "event") event = text;
          else if (name === "data") data.push(text);
          else if (name === "id") id = text;
        }
      }
      rest = rest.slice(start);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Waits; a signal that is aborted ends it at once. */
export const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

/** How long to wait before trying again: doubles up to 15 s, with chance in it, so that pages do not come all at once. */
export class BackOff {
  #ms = 500;

  next() {
    const ms = this.#ms * (0.7 + 0.6 * Math.random());
    this.#ms = Math.min(this.#ms * 2, 15_000);
    return ms;
  }

  reset() {
    this.#ms = 500;
  }
}
