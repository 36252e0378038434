// The filters, the search and the order: a form, and the query string of the page's address.

import { getToken } from "./api.js";
import { button, debounce, el, find, setText } from "./dom.js";

export class Filters {
  // `onChange` is called after each change.
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
    this.filters = new Map(api.filters.map((each) => [each.name, each]));
    this.names = [...(api.hasSearch ? ["q"] : []), ...this.filters.keys(), "sort"];
    this.ranges = api.columns.flatMap((column) => column.histogram ?? []);
    this.inputs = new Map();
    this.edited = new Set(); // names of inputs with an edit that is not applied yet
    this.recorded = null; // name of the input with the edit that is the newest history entry
    this.values = {};
    this.readAddress();
    this.buildForm();
    addEventListener("popstate", () => {
      if (location.search === this.search) return; // a link to a part of the page
      this.readAddress();
      this.edited.clear();
      this.recorded = null;
      this.showValues();
      this.onChange();
    });
  }

  readAddress() {
    this.search = location.search;
    const parameters = new URLSearchParams(this.search);
    this.values = {};
    for (const name of this.names) {
      const value = parameters.get(name);
      if (value) this.values[name] = isBoolean(this.filters.get(name)) ? toChoice(value) : value;
    }
  }

  // The query string of the current filters; null leaves a parameter out.
  query(changes = {}) {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries({ ...this.values, ...changes })) {
      if (value !== null && value !== "") parameters.set(name, value);
    }
    return parameters.toString();
  }

  // The filters that /stats takes: all but the order.
  statsQuery(changes = {}) {
    return this.query({ sort: null, ...changes });
  }

  get isActive() {
    return Object.keys(this.values).some((name) => name !== "sort");
  }

  set(changes) {
    this.apply({ ...this.takeEdits(), ...changes });
    this.recorded = null;
    this.showValues();
    this.onChange();
  }

  // Change the values and the address. `method` is that of the history.
  apply(changes, method = "pushState") {
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "") delete this.values[name];
      else this.values[name] = String(value);
    }
    const query = this.query();
    history[method](null, "", query ? `?${query}` : location.pathname);
    this.search = location.search;
  }

  clear() {
    this.set(Object.fromEntries(this.names.map((name) => [name, null])));
  }

  // Sort by a column; a second call reverses the order, a third one ends it: then by key.
  toggleSort(name) {
    const next = { [name]: `-${name}`, [`-${name}`]: null };
    const current = this.values.sort ?? this.api.key.name;
    this.set({ sort: current in next ? next[current] : name });
  }

  curl() {
    const query = this.query().replaceAll("'", "%27");
    const token = getToken() ? ' -H "Authorization: Bearer $TOKEN"' : "";
    return `curl${token} '${location.origin}/data${query ? `?${query}` : ""}'`;
  }

  buildForm() {
    const form = find("filters");
    const readLater = debounce(() => this.readForm());
    const labels = this.names.filter((name) => name !== "sort").map((name) => {
      const input = this.buildInput(name);
      this.inputs.set(name, input);
      input.addEventListener("input", () => {
        this.edited.add(name);
        readLater();
      });
      if (name === "q") return field(name, "Search", input, "wide");
      return field(name, this.filters.get(name).title, input, "");
    });
    const sort = el("select", { onchange: () => this.set({ sort: sort.value }) },
      el("option", { value: "" }, this.api.key.title),
      ...this.api.columns.flatMap((column) => [
        el("option", { value: column.name }, `${column.title} ↑`),
        el("option", { value: `-${column.name}` }, `${column.title} ↓`),
      ]));
    this.inputs.set("sort", sort);
    const copy = button("Copy as curl", async () => {
      await copyText(this.curl());
      copy.style.minWidth = `${copy.offsetWidth}px`; // the fields beside it stay in place
      setText(copy, "Copied");
      setTimeout(() => setText(copy, "Copy as curl"), 2000);
    }, "");
    this.clearButton = button("Clear", () => this.clear(), "");
    this.conflict = el("p", { class: "error", role: "status" });
    form.replaceChildren(...labels, field("sort", "Order", sort, "only-narrow"),
      el("span", { class: "end" }, this.clearButton, copy), this.conflict);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.readForm();
    });
    form.addEventListener("focusin", () => (this.recorded = null));
    this.showValues();
  }

  buildInput(name) {
    if (name === "q") {
      return el("input", { type: "search", title: this.api.searchHint, maxlength: 200 });
    }
    const filter = this.filters.get(name);
    if (isBoolean(filter)) {
      const options = { "": "any", ...filter.choices };
      return el("select", {},
        ...Object.entries(options).map(([value, text]) => el("option", { value }, text)));
    }
    const { type } = filter.schema;
    const isNumber = type === "integer" || type === "number";
    return el("input", {
      type: isNumber ? "number" : "text",
      step: type === "number" ? "any" : null,
      title: filter.description,
    });
  }

  // Return the edits that are not applied yet, as changes. The other inputs do not count: they may
  // not be able to show what the address has.
  takeEdits() {
    const names = [...this.edited];
    this.edited.clear();
    return Object.fromEntries(names.map((name) => [name, this.inputs.get(name).value.trim()]));
  }

  // Successive edits of one input are one entry of the history.
  readForm() {
    const changes = this.takeEdits();
    if (this.query(changes) === this.query()) return;
    const name = Object.keys(changes).join();
    this.apply(changes, name === this.recorded ? "replaceState" : "pushState");
    this.recorded = name;
    this.showState();
    this.onChange();
  }

  showValues() {
    for (const [name, input] of this.inputs) {
      const value = this.values[name] ?? "";
      input.value = value;
      if (input.value !== value && input.matches("select")) {
        input.append(el("option", { value }, value)); // it is not among the choices
        input.value = value;
      }
    }
    this.showState();
  }

  showState() {
    this.clearButton.hidden = !Object.keys(this.values).length;
    const conflicts = this.ranges.filter(({ min_filter: low, max_filter: high }) =>
      Number(this.values[low]) > Number(this.values[high]));
    const texts = conflicts.map(({ min_filter: low, max_filter: high }) =>
      `${this.filters.get(low).title} is above ${this.filters.get(high).title}.`);
    this.conflict.hidden = !texts.length;
    setText(this.conflict, texts.join(" "));
  }
}

const isBoolean = (filter) => filter?.kind === "boolean";

// The API allows "true" and "false" in any case, "1" and "0".
const toChoice = (value) => ({ 1: "true", 0: "false" }[value] ?? value.toLowerCase());

function field(name, title, input, className) {
  input.id = `filter-${name}`;
  return el("div", { class: `field ${className}` }, el("label", { for: input.id }, title), input);
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure origin there is no clipboard: select the text in a field instead.
    const active = document.activeElement;
    const field = el("textarea", {}, text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    active?.focus();
  }
}
