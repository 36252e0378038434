// The table: it has elements only for the rows that are visible, and loads rows by pages.

import { ApiError, readProblem, rowPath, send } from "./api.js";
import { el, find, formatNumber, formatValue, setText } from "./dom.js";
import { loadThumbnail } from "./images.js";

const PAGE_ROWS = 200;
const MAX_PAGES = 60;
const OVERSCAN = 8;
const MAX_HEIGHT = 12e6; // browsers limit the height of an element
const FRESH_MS = 4000;
const REST_DELAY_MS = 120;
const RETRY_MS = 100;
const MAX_RETRIES = 30;

export class Table {
  // `filters` has the query, `onOpen` gets the row to show in detail, `onTotal` the number of rows.
  constructor(api, filters, { onOpen, onTotal }) {
    this.api = api;
    this.filters = filters;
    this.onOpen = onOpen;
    this.onTotal = onTotal;
    this.total = 0;
    this.pages = new Map(); // page number -> {rows, isStale}
    this.loading = new Map(); // page number -> AbortController
    this.fresh = new Map(); // key -> time until which it is highlighted
    this.pool = [];
    this.active = 0;
    this.places = new Map(); // key -> index of the rows that were visible last
    // Images first: they are small, and help to recognise a row.
    this.columns = [...api.columns.filter((each) => each.display === "image"),
      ...api.columns.filter((each) => each.display !== "image")];
    this.hasImages = this.columns[0].display === "image";
    this.build();
  }

  build() {
    this.headers = this.columns.map((column) => {
      const name = `Sort by ${column.title}`;
      const sort = el("button", { type: "button", title: name, "aria-label": name, onclick: () => this.filters.toggleSort(column.name) },
        column.display === "image" ? "" : column.title);
      return el("div", { class: cellClass(column), role: "columnheader" }, sort);
    });
    this.headRow = el("div", { class: "row head", role: "row", "aria-rowindex": 1 }, ...this.headers);
    this.body = el("div", { class: "body", role: "rowgroup" });
    this.scroller = el("div", {
      class: "scroller", role: "grid", tabindex: 0, "aria-labelledby": "rows-title", "aria-colcount": this.columns.length,
    }, el("div", { role: "rowgroup", class: "head-group" }, this.headRow), this.body);
    const widths = { image: "32px", date: "minmax(7.5rem, 1fr)", text: "minmax(5rem, 1.4fr)" };
    this.scroller.style.setProperty("--columns",
      this.columns.map((column) => (column.isNumber && column.display === "text" ? "minmax(4rem, .7fr)" : widths[column.display])).join(" "));
    find("table").replaceChildren(this.scroller);
    this.scroller.addEventListener("scroll", () => this.schedule(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.handleKey(event));
    new ResizeObserver(() => {
      this.measure();
      this.schedule();
    }).observe(this.scroller);
    this.measure();
  }

  measure() {
    this.rowHeight = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row")) || 44;
    this.headHeight = this.headRow.offsetHeight;
    this.viewHeight = this.scroller.clientHeight - this.headHeight;
    this.layOut();
  }

  layOut() {
    const height = this.total * this.rowHeight;
    this.bodyHeight = Math.min(height, MAX_HEIGHT);
    this.body.style.height = `${this.bodyHeight}px`;
    this.scroller.style.height = `min(70vh, 46rem, ${this.bodyHeight + this.headHeight}px)`;
    // Positions are scaled if the body cannot be as high as all rows.
    const scrollable = Math.max(1, this.bodyHeight - this.viewHeight);
    this.scale = height > MAX_HEIGHT ? (height - this.viewHeight) / scrollable : 1;
    this.scroller.setAttribute("aria-rowcount", this.total + 1);
  }

  get firstVisible() {
    return Math.floor((this.scroller.scrollTop * this.scale) / this.rowHeight);
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  // -- rows ------------------------------------------------------------------------------------
  // The filters have changed: show the first page. Return when it is loaded.
  async restart() {
    for (const controller of this.loading.values()) controller.abort();
    this.loading.clear();
    this.pages.clear();
    this.places.clear();
    this.active = 0;
    this.activeKey = undefined;
    this.scroller.scrollTop = 0;
    this.showOrder();
    await this.load(0);
  }

  // There is another version of the table: load what is visible again, the rest when it is needed.
  // `version` is the one that is expected, if it is known.
  async refresh(version = null) {
    this.wanted = version;
    this.retries = 0;
    for (const page of this.pages.values()) page.isStale = true;
    const visible = this.visiblePages();
    await Promise.all((visible.length ? visible : [0]).map((number) => this.load(number)));
  }

  visiblePages() {
    const first = Math.floor(Math.max(0, this.firstVisible - OVERSCAN) / PAGE_ROWS);
    const lastRow = Math.min(this.total, this.firstVisible + Math.ceil(this.viewHeight / this.rowHeight) + OVERSCAN) - 1;
    const numbers = [];
    for (let number = first; number <= Math.floor(Math.max(0, lastRow) / PAGE_ROWS); number += 1) numbers.push(number);
    return numbers;
  }

  async load(number) {
    this.loading.get(number)?.abort();
    const controller = new AbortController();
    this.loading.set(number, controller);
    try {
      const query = this.filters.query({ limit: PAGE_ROWS, offset: number * PAGE_ROWS });
      const response = await send(`/data?${query}`, { signal: controller.signal, headers: { Accept: "application/json" } });
      if (!response.ok) throw new ApiError(response.status, await readProblem(response));
      const rows = await response.json();
      if (controller.signal.aborted) return;
      this.store(number, rows, Number(response.headers.get("X-Total-Count")));
      this.version = response.headers.get("X-Table-Version");
      this.retryIfOlder(number);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.showError(error);
    } finally {
      if (this.loading.get(number) === controller) this.loading.delete(number);
    }
  }

  // Another process of the API may serve the version before for a moment.
  retryIfOlder(number) {
    if (!this.wanted || this.version === this.wanted || this.retries >= MAX_RETRIES) return;
    this.retries += 1;
    setTimeout(() => {
      if (this.version !== this.wanted) this.load(number);
    }, RETRY_MS);
  }

  store(number, rows, total) {
    this.showError(null);
    const top = this.scroller.scrollTop * this.scale;
    this.highlightChanges(this.pages.get(number)?.rows, rows);
    this.pages.delete(number);
    this.pages.set(number, { rows, isStale: false });
    if (this.pages.size > MAX_PAGES) this.pages.delete(this.pages.keys().next().value);
    if (total !== this.total) {
      this.total = total;
      this.layOut();
    }
    this.followRows(top);
    this.onTotal(total);
    this.render();
    this.showRevealed();
  }

  // Rows that appear or disappear above the view do not move it, but at the top new rows are shown.
  // The active row stays the same one. `top` is where the view was.
  followRows(top) {
    const active = this.findLoaded(this.activeKey) ?? this.active;
    this.active = Math.max(0, Math.min(active, this.total - 1));
    if (top < 1 || !this.isCurrent()) return;
    for (const [key, before] of this.places) {
      const index = this.findLoaded(key);
      if (index === null) continue;
      const position = (top + (index - before) * this.rowHeight) / this.scale;
      // Setting it stops a scrolling that is going on.
      if (Math.abs(position - this.scroller.scrollTop) >= 1) this.scroller.scrollTop = position;
      return;
    }
  }

  // Whether all visible rows are of the latest version that is known.
  isCurrent() {
    return this.visiblePages().every((number) => this.pages.get(number)?.isStale === false);
  }

  // Rows that another client has changed are highlighted, too.
  highlightChanges(before, after) {
    if (!before) return;
    const key = this.api.key.name;
    const known = new Map(before.map((row) => [row[key], JSON.stringify(row)]));
    const changed = after.filter((row) => known.get(row[key]) !== JSON.stringify(row));
    if (changed.length > 50) return;
    for (const row of changed) this.markFresh(row[key]);
  }

  markFresh(key) {
    this.fresh.set(key, performance.now() + FRESH_MS);
    // Another image may have the same name.
    for (const slot of this.pool.filter((each) => each.row?.[this.api.key.name] === key)) {
      this.setImage(slot, null);
      slot.isFilled = false;
    }
    setTimeout(() => {
      this.fresh.delete(key);
      this.schedule();
    }, FRESH_MS);
  }

  showError(error) {
    const place = find("filter-error");
    place.hidden = !error;
    setText(place, error?.message ?? "");
  }

  // Highlight a row of a new version, and scroll to it as soon as it is loaded. Among filtered or
  // sorted rows only a row near the view is found.
  async reveal(key) {
    this.markFresh(key);
    const revealed = { key, until: performance.now() + FRESH_MS };
    this.revealed = revealed;
    const offset = Object.keys(this.filters.values).length ? null : await findOffset(key);
    if (offset === null) {
      await this.refresh();
      return;
    }
    for (const page of this.pages.values()) page.isStale = true;
    revealed.page = Math.floor(offset / PAGE_ROWS);
    await this.load(revealed.page);
  }

  showRevealed() {
    if (!this.revealed) return;
    const { key, until } = this.revealed;
    const index = this.findLoaded(key);
    if (index === null && performance.now() < until) return;
    this.revealed = null;
    if (index !== null) this.scrollTo(index);
  }

  findLoaded(key) {
    for (const [number, { rows, isStale }] of this.pages) {
      const place = isStale ? -1 : rows.findIndex((row) => row[this.api.key.name] === key);
      if (place >= 0) return number * PAGE_ROWS + place;
    }
    return null;
  }

  scrollTo(index) {
    this.active = index;
    const first = this.firstVisible;
    const count = Math.floor(this.viewHeight / this.rowHeight);
    if (index < first || index >= first + count - 1) {
      const row = Math.max(0, index - Math.floor(count / 3));
      this.scroller.scrollTop = (row * this.rowHeight) / this.scale;
    }
    this.render();
  }

  getRow(index) {
    return this.pages.get(Math.floor(index / PAGE_ROWS))?.rows[index % PAGE_ROWS];
  }

  // -- rendering -------------------------------------------------------------------------------
  render() {
    const first = Math.max(0, this.firstVisible - OVERSCAN);
    const count = Math.ceil(this.viewHeight / this.rowHeight) + 2 * OVERSCAN;
    const last = Math.min(this.total, first + count);
    while (this.pool.length < count) this.pool.push(this.buildRow());
    // With scaled positions rows are placed relative to the view.
    const shift = this.scroller.scrollTop - this.scroller.scrollTop * this.scale;
    // A row keeps its element, and so its image, wherever it is placed.
    const key = this.api.key.name;
    const slots = new Map(this.pool.filter((slot) => slot.row).map((slot) => [slot.row[key], slot]));
    const free = new Set(this.pool);
    const chosen = [];
    for (let index = first; index < last; index += 1) {
      const slot = slots.get(this.getRow(index)?.[key]);
      chosen.push(free.delete(slot) ? slot : null);
    }
    const others = [...free];
    chosen.forEach((slot, place) => this.fill(slot ?? others.pop(), first + place, shift));
    for (const slot of others.filter((each) => !each.element.hidden)) {
      slot.element.hidden = true;
      slot.index = -1;
      slot.row = null;
      slot.isFilled = false;
      this.setImage(slot, null);
    }
    const active = this.pool.find((slot) => slot.index === this.active);
    if (active) this.scroller.setAttribute("aria-activedescendant", active.element.id);
    else this.scroller.removeAttribute("aria-activedescendant");
    this.notePlaces();
    this.loadVisible();
    this.scheduleRest();
  }

  // Remember which rows are visible, for followRows().
  notePlaces() {
    this.activeKey = this.getRow(this.active)?.[this.api.key.name];
    if (!this.isCurrent()) return;
    this.places.clear();
    const end = Math.min(this.total, this.firstVisible + Math.ceil(this.viewHeight / this.rowHeight));
    for (let index = this.firstVisible; index < end; index += 1) {
      const row = this.getRow(index);
      if (row) this.places.set(row[this.api.key.name], index);
    }
  }

  loadVisible() {
    clearTimeout(this.loadTimer);
    const wanted = this.visiblePages();
    for (const [number, controller] of this.loading) {
      if (!wanted.includes(number) && number !== this.revealed?.page) {
        controller.abort();
        this.loading.delete(number);
      }
    }
    const missing = wanted.filter((number) => (this.pages.get(number)?.isStale ?? true) && !this.loading.has(number));
    // While the thumb of the scroll bar is dragged, most pages are left before they arrive.
    if (missing.length && this.total) this.loadTimer = setTimeout(() => missing.forEach((number) => this.load(number)), 40);
  }

  buildRow() {
    const cells = this.columns.map((column) => {
      const cell = el("div", { class: cellClass(column), role: "gridcell" });
      if (column.display === "image") cell.append(el("span", { class: "thumb none" }));
      return cell;
    });
    const element = el("div", { class: "row", role: "row", id: `row-${this.pool.length}`, hidden: true }, ...cells);
    const slot = { element, cells, index: -1, row: null, image: null };
    element.addEventListener("click", () => {
      this.active = slot.index;
      this.schedule();
      if (slot.row) this.onOpen(slot.row);
    });
    this.body.append(element);
    return slot;
  }

  fill(slot, index, shift) {
    const row = this.getRow(index) ?? null;
    const { element } = slot;
    element.hidden = false;
    element.style.transform = `translateY(${index * this.rowHeight + shift}px)`;
    if (slot.index !== index) {
      slot.index = index;
      element.setAttribute("aria-rowindex", index + 2);
    }
    element.classList.toggle("active", index === this.active);
    element.classList.toggle("fresh", row !== null && this.fresh.has(row[this.api.key.name]));
    if (slot.row === row && slot.isFilled) return;
    slot.row = row;
    slot.isFilled = true;
    element.classList.toggle("loading", row === null);
    this.columns.forEach((column, place) => {
      if (column.display !== "image") setText(slot.cells[place], row ? formatValue(row[column.name], column.display) : "…");
    });
    const value = row && this.hasImages ? row[this.columns[0].name] : null;
    const image = value ? `${row[this.api.key.name]} ${value}` : null;
    if ((slot.image?.name ?? null) !== image) this.setImage(slot, image);
  }

  // Begin with another image: `name` is that of the wanted one, or null.
  setImage(slot, name) {
    slot.image?.controller?.abort();
    slot.image = name === null ? null : { name, controller: null };
    if (this.hasImages) slot.cells[0].replaceChildren(el("span", { class: "thumb none" }));
  }

  // What is left for when the rows have stopped moving.
  scheduleRest() {
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(() => {
      this.orderElements();
      this.showImages();
    }, REST_DELAY_MS);
  }

  // A screen reader reads the elements in this order.
  orderElements() {
    const visible = this.pool.filter((slot) => !slot.element.hidden).sort((one, other) => one.index - other.index);
    visible.forEach(({ element }, place) => {
      const current = this.body.children[place];
      if (current !== element) this.body.insertBefore(element, current);
    });
  }

  showImages() {
    for (const slot of this.pool) {
      if (slot.image && !slot.image.controller) this.loadImage(slot, slot.image);
    }
  }

  async loadImage(slot, image) {
    image.controller = new AbortController();
    try {
      const picture = await loadThumbnail(slot.row[this.api.key.name], image.controller.signal);
      if (picture && slot.image === image) slot.cells[0].replaceChildren(picture);
    } catch { /* it may be no image, or the row has left the view */ }
  }

  showOrder() {
    const sort = this.filters.values.sort ?? this.api.key.name;
    this.columns.forEach((column, place) => {
      const direction = sort === column.name ? "ascending" : sort === `-${column.name}` ? "descending" : "none";
      this.headers[place].setAttribute("aria-sort", direction); // the style sheet shows it as an arrow
    });
  }

  handleKey(event) {
    if (event.target !== this.scroller || !this.total) return;
    const page = Math.max(1, Math.floor(this.viewHeight / this.rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.total, End: this.total };
    if (event.key in steps) {
      event.preventDefault();
      this.scrollTo(Math.max(0, Math.min(this.total - 1, this.active + steps[event.key])));
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      const row = this.getRow(this.active);
      if (row) this.onOpen(row);
    }
  }
}

function cellClass(column) {
  const kinds = [column.display, column.isKey ? "key" : "", column.isNumber && column.display === "text" ? "number" : ""];
  return ["cell", ...kinds.filter(Boolean)].join(" ");
}

// Where a row is among all rows; null without such a row.
async function findOffset(key) {
  const response = await send(rowPath(key), { method: "HEAD" });
  return response.ok ? Number(response.headers.get("X-Row-Offset")) : null;
}

export const countText = (total, isFiltered) => `${formatNumber(total)}${isFiltered ? " match" : ""}`;
