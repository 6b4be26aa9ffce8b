// Elements, tables, figures and small drawings.
//
// Everything that comes from a hub is hostile: documents, keys and names are their writers'. Text reaches the page
// as text nodes and attributes only. Nothing here, or in the other files, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id, which index.html has. */
export const byId = (id) => document.getElementById(id);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An element with attributes (a function is a listener) and children, of which strings become text. */
export const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

/** The same for drawings. */
export const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

/** Sets the text if it differs: what is selected, or read aloud, is left alone otherwise. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets the class if it differs. */
export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const isKnown = (value) => typeof value === "number" && Number.isFinite(value);

/** A count; a dash where it is not known. */
export const count = (value) => (isKnown(value) ? plain.format(value) : "–");

/** A rate or a time: one decimal while it is small. */
export const figure = (value) => (isKnown(value) ? (Math.abs(value) < 9.95 && value !== 0 ? fine : plain).format(value) : "–");

/** A share as a percentage. */
export function percent(share) {
  if (!isKnown(share)) return "–";
  const value = share * 100;
  return `${value === 0 ? "0" : value < 0.01 ? "< 0.01" : value.toFixed(value < 10 ? 2 : 1)} %`;
}

/** A number of bytes. */
export function bytes(value) {
  if (!isKnown(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? plain.format(value) : figure(value)} ${units[unit]}`;
}

/** A length of time, in its two greatest units. */
export function span(seconds) {
  if (!isKnown(seconds)) return "–";
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The time of day in UTC, as in the hub's log. */
export const clock = (time) => (Number.isNaN(time.getTime()) ? "–" : time.toISOString().slice(11, 19));

/** How long ago, by the hub's clock: the browser's may be wrong. */
export function ago(time, now) {
  const at = Date.parse(time ?? "");
  return Number.isNaN(at) ? "–" : `${span((now - at) / 1000)} ago`;
}

// Figures that JavaScript would round or rewrite (9007199254740993, 1.0) keep their digits where the browser can.
const isExact = typeof JSON.rawJSON === "function";

/** Parses JSON such that `JSON.stringify` writes every number as it stood. */
export function exact(text) {
  if (!isExact) return JSON.parse(text);
  return JSON.parse(text, (_name, value, context) =>
    typeof value === "number" && context?.source !== undefined && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value);
}

/** A document in one line that opens to all of it. The whole text is made only when it is asked for. */
export function json(value, shown = 140) {
  if (value === null || value === undefined) return el("span", { class: "quiet" }, "none");
  const line = JSON.stringify(value);
  const body = el("pre", { tabindex: "0" });
  const cut = line.length > shown ? `${line.slice(0, shown)}…` : line;
  const open = (event) => {
    if (event.target.open && !body.firstChild) body.append(JSON.stringify(value, null, 2));
  };
  return el("details", { toggle: open }, el("summary", {}, cut), body);
}

/** A state as a word with a sign in front, so that colour is not all that tells. */
export function badge(level, word) {
  const sign = { good: "●", warn: "▲", bad: "✖" }[level] ?? "○";
  return el("span", { class: `badge ${level}` }, `${sign} ${word}`);
}

/** Makes `cell` show a badge, unless it does. */
export function setBadge(cell, level, word) {
  const made = badge(level, word);
  const shown = cell.firstElementChild;
  if (!shown || shown.className !== made.className || shown.textContent !== made.textContent) cell.replaceChildren(made);
}

/**
 * A table whose rows have keys and stay the same elements while they are updated, so that neither the focus nor a
 * selection is lost once a second.
 *
 * `columns` are `{name, class}`; a column whose class holds "name" is the row's header. `live` tables go grey with
 * stale data.
 */
export class Table {
  #body = el("tbody", { role: "rowgroup" });
  #rows = new Map();
  #columns;

  constructor(place, columns, { label, live = false }) {
    this.#columns = columns;
    const heads = columns.map((column) => el("th", { scope: "col", role: "columnheader", class: column.class }, column.name));
    const table = el("table", { role: "table", "aria-label": label, class: live ? "live" : null },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), this.#body);
    place.replaceChildren(el("div", { class: "scroll cards", tabindex: "0", role: "region", "aria-label": label }, table));
  }

  get rows() {
    return this.#body.rows;
  }

  /** A row of empty cells, not in the table yet. */
  row() {
    const cells = this.#columns.map(({ name, class: kind }) => {
      const isHeader = kind?.includes("name");
      return isHeader
        ? el("th", { scope: "row", role: "rowheader", class: kind })
        : el("td", { role: "cell", class: kind, "data-label": name });
    });
    return el("tr", { role: "row" }, ...cells);
  }

  /** Brings the rows to `items`, in their order: `draw(cells, item, row)` fills one; `made` is called once for each new row. */
  update(items, key, draw, made) {
    const focused = this.#body.contains(document.activeElement) ? document.activeElement : null;
    const gone = new Set(this.#rows.keys());
    let before = this.#body.firstElementChild;
    for (const item of items) {
      const id = key(item);
      gone.delete(id);
      let row = this.#rows.get(id);
      if (!row) {
        row = this.row();
        this.#rows.set(id, row);
        made?.(row.cells, item, row);
      }
      draw(row.cells, item, row);
      if (row === before) before = before.nextElementSibling;
      else this.#body.insertBefore(row, before);
    }
    for (const id of gone) {
      this.#rows.get(id).remove();
      this.#rows.delete(id);
    }
    // A row that was moved lost the focus on the way.
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  /** Puts rows last. */
  append(rows) {
    this.#body.append(...rows);
  }

  /** Puts rows first and drops the last ones beyond `most`. */
  prepend(rows, most) {
    this.#body.prepend(...rows);
    while (this.#body.rows.length > most) this.#body.lastElementChild.remove();
  }

  clear() {
    this.#rows.clear();
    this.#body.replaceChildren();
  }
}

/** A plain table of what will not change. */
export function still(label, columns, rows) {
  const place = el("div");
  const table = new Table(place, columns, { label });
  table.append(rows.map((values) => {
    const row = table.row();
    values.forEach((value, index) => row.cells[index].append(value));
    return row;
  }));
  return place;
}

/** Draws `points` (`{t, value}`, null where unknown) over the last `seconds`; a gap stays a gap. */
export function sparkline(drawing, points, now, seconds, what) {
  const [width, height] = [120, 22];
  const known = points.filter((point) => point.value !== null);
  const most = Math.max(1, ...known.map((point) => point.value));
  const x = (t) => (width * (1 - (now - t) / (seconds * 1000))).toFixed(1);
  const y = (value) => (height - 1 - (height - 3) * (value / most)).toFixed(1);
  let line = "";
  let isDown = false;
  for (const { t, value } of points) {
    if (value !== null) line += `${isDown ? "L" : "M"}${x(t)} ${y(value)}`;
    isDown = value !== null;
  }
  if (!drawing.firstChild) drawing.append(svg("path", { class: "stroke" }));
  drawing.firstChild.setAttribute("d", line);
  const last = known.at(-1)?.value;
  const text = last === undefined ? `${what}: not known yet` : `${what}: now ${figure(last)}, at most ${figure(Math.max(...known.map((point) => point.value)))}`;
  if (drawing.getAttribute("aria-label") !== text) drawing.setAttribute("aria-label", text);
}

/** An empty drawing for `sparkline`. */
export const spark = () => svg("svg", { class: "spark", viewBox: "0 0 120 22", role: "img" });
