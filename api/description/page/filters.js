// The filters, the search and the order: a form, and the query string of the page's address.

import { getToken } from "./api.js";
import { button, debounce, el, find, setText } from "./dom.js";

export class Filters {
  // `onChange` is called after each change.
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
    this.names = [...(api.hasSearch ? ["q"] : []), ...api.filters.map((each) => each.name), "sort"];
    this.inputs = new Map();
    this.values = {};
    this.readAddress();
    this.buildForm();
    addEventListener("popstate", () => {
      this.readAddress();
      this.showValues();
      this.onChange();
    });
  }

  readAddress() {
    const parameters = new URLSearchParams(location.search);
    this.values = {};
    for (const name of this.names) {
      const value = parameters.get(name);
      if (value) this.values[name] = value;
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
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "") delete this.values[name];
      else this.values[name] = String(value);
    }
    const query = this.query();
    history.pushState(null, "", query ? `?${query}` : location.pathname);
    this.showValues();
    this.onChange();
  }

  clear() {
    const empty = Object.fromEntries(this.names.map((name) => [name, null]));
    this.set({ ...empty, sort: this.values.sort ?? null });
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
    const labels = this.names.filter((name) => name !== "sort").map((name) => {
      const input = this.buildInput(name);
      this.inputs.set(name, input);
      if (name === "q") return field(name, "Search", input, "wide");
      return field(name, this.findFilter(name).title, input, "");
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
    form.replaceChildren(...labels, field("sort", "Order", sort, "only-narrow"),
      el("span", { class: "end" }, this.clearButton, copy));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.readForm();
    });
    const readLater = debounce(() => this.readForm());
    form.addEventListener("input", (event) => {
      if (event.target !== sort) readLater();
    });
    this.showValues();
  }

  findFilter(name) {
    return this.api.filters.find((each) => each.name === name);
  }

  buildInput(name) {
    if (name === "q") {
      return el("input", { type: "search", title: this.api.searchHint, maxlength: 200 });
    }
    const filter = this.findFilter(name);
    if (filter.kind === "boolean") {
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

  readForm() {
    const changes = {};
    for (const [name, input] of this.inputs) {
      const value = input.value.trim();
      if (value !== (this.values[name] ?? "")) changes[name] = value;
    }
    if (Object.keys(changes).length) this.set(changes);
  }

  showValues() {
    for (const [name, input] of this.inputs) {
      const value = this.values[name] ?? "";
      if (input !== document.activeElement && input.value !== value) input.value = value;
    }
    this.clearButton.hidden = !this.isActive;
  }
}

function field(name, title, input, className) {
  input.id = `filter-${name}`;
  return el("div", { class: `field ${className}` }, el("label", { for: input.id }, title), input);
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure origin there is no clipboard: select the text in a field instead.
    const field = el("textarea", {}, text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}
