// What the forms share: the filter form, refusals shown where they belong, the question before an action.

import { Problem } from "./api.js";
import { byId, el, exact } from "./dom.js";

/** Which role a call needs (decision 0008): said with a 403. */
const OPERATOR = "This needs a token with the role operator.";
const GATEWAY = "This needs a token with the role operator, or one with the role gateway that is bound to this gateway and tenant.";

function faultText(error, isGateways) {
  if (!(error instanceof Problem)) return { title: "This page failed", rest: [String(error?.message ?? error)] };
  const rest = [error.detail];
  if (error.status === 403) rest.push(isGateways ? GATEWAY : OPERATOR);
  const place = [error.code, error.field && `field ${error.field}`].filter(Boolean).join(", ");
  if (place) rest.push(place);
  return { title: error.status ? `${error.title} (${error.status})` : error.title, rest: rest.filter(Boolean) };
}

/** An error as a box. */
export function faultBox(error, { isGateways = false } = {}) {
  const { title, rest } = faultText(error, isGateways);
  return el("div", { class: "fault", role: "alert" }, el("strong", {}, title), ...rest.map((text) => el("div", {}, text)));
}

let boxes = 0;

/** Shows an error at a form, and at the input that is at fault if `find` knows it by the problem's field. */
export function showFault(form, error, { find = () => null, isGateways = false } = {}) {
  clearFault(form);
  const box = faultBox(error, { isGateways });
  box.id = `fault-${++boxes}`;
  (form.querySelector(":scope .actions") ?? form.lastElementChild).before(box);
  const input = error instanceof Problem && error.field ? find(error.field) : null;
  if (input) {
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", box.id);
    input.focus();
  }
}

/** Takes away what `showFault` showed. */
export function clearFault(form) {
  form.querySelectorAll(".fault[id^=fault]").forEach((box) => box.remove());
  for (const input of form.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
}

/** The JSON in an input, exactly; a `Problem` of that field if it is none. */
export function jsonOf(text, field) {
  try {
    return exact(text);
  } catch {
    const hint = field.endsWith("value") ? 'this is not JSON; texts stand in quotes, as in "c1"' : "this is not JSON";
    throw new Problem({ title: "Not sent", detail: hint, field });
  }
}

/** Tenant, collection, filters and CEL, made from the template of index.html. */
export class FilterForm {
  #form;
  #rows;

  constructor(form) {
    this.#form = form;
    const place = form.querySelector("[data-filter-form]");
    place.replaceWith(byId("filter-form").content.cloneNode(true));
    this.#rows = form.querySelector("[data-rows]");
    form.querySelector("[data-add]").addEventListener("click", () => this.#add().querySelector("input").focus());
    this.#add();
  }

  #add() {
    const row = byId("filter-row").content.cloneNode(true).firstElementChild;
    const part = (name) => row.querySelector(`[data-part="${name}"]`);
    row.querySelector("[data-remove]").addEventListener("click", () => {
      row.remove();
      this.#number();
      this.#form.querySelector("[data-add]").focus();
    });
    part("op").addEventListener("change", () => {
      if (part("op").value === "exists" && part("value").value === "") part("value").value = "true";
    });
    this.#rows.append(row);
    this.#number();
    return row;
  }

  #number() {
    [...this.#rows.children].forEach((row, index) => row.setAttribute("aria-label", `Filter ${index + 1}`));
  }

  /** The subscription's part of the body. */
  read() {
    const text = (name) => this.#form.elements[name].value;
    const filters = [...this.#rows.children].map((row, index) => {
      const part = (name) => row.querySelector(`[data-part="${name}"]`).value;
      return { field: part("field"), op: part("op"), value: jsonOf(part("value"), `filters[${index}].value`) };
    });
    const read = { tenant: text("tenant"), collection: text("collection"), filters };
    if (text("cel").trim() !== "") read.cel = text("cel");
    return read;
  }

  /** The input of a problem's field: `tenant`, `filters[2].op`, `subscription.cel`. */
  find(field) {
    const name = field.replace(/^subscription\./, "");
    const [, index, part] = /^filters\[(\d+)\](?:\.(\w+))?/.exec(name) ?? [];
    if (index === undefined) return this.#form.elements.namedItem(name);
    return this.#rows.children[Number(index)]?.querySelector(`[data-part="${part ?? "field"}"]`) ?? null;
  }
}

/** Asks before an action, and shows there why it failed. Resolves to whether it was done. */
export function confirmed({ title, text, action, run }) {
  return new Promise((resolve) => {
    const dialog = byId("confirm-dialog");
    const form = dialog.querySelector("form");
    const go = byId("confirm-go");
    byId("confirm-title").textContent = title;
    byId("confirm-text").textContent = text;
    go.textContent = action;
    go.disabled = false;
    clearFault(form);
    let isDone = false;
    const submit = async (event) => {
      event.preventDefault();
      go.disabled = true;
      try {
        await run();
        isDone = true;
        dialog.close();
      } catch (error) {
        go.disabled = false;
        showFault(form, error);
      }
    };
    const cancel = () => dialog.close();
    form.addEventListener("submit", submit);
    byId("confirm-cancel").addEventListener("click", cancel);
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", submit);
      byId("confirm-cancel").removeEventListener("click", cancel);
      resolve(isDone);
    }, { once: true });
    dialog.showModal();
  });
}

/** Says something to those who listen to the page, and to nobody else. */
export function say(text) {
  byId("said").textContent = text;
}
