// The table: it has elements only for the rows that are visible.

import { isOutage, request, rowPath, send } from "./api.js";
import { el, find, formatNumber, formatValue, setText } from "./dom.js";
import { pageOf, RowPages } from "./row_pages.js";

const OVERSCAN = 8;
const MAX_HEIGHT = 12e6; // browsers limit the height of an element
const FRESH_MS = 4000;
const REST_DELAY_MS = 120;
const WIDTHS = { image: "32px", date: "minmax(7.5rem, 1fr)", text: "minmax(5rem, 1.4fr)" };
const NUMBER_WIDTH = "minmax(4rem, .7fr)";
const THUMBNAIL_PX = 72; // twice its size on the page, for screens with small pixels
const MAX_THUMBNAIL_BYTES = 4e6;

export class Table {
  // `filters` has the query, `onOpen` gets the row to show in detail, `onTotal` the number of rows,
  // or null if a filter is invalid.
  constructor(api, filters, { onOpen, onTotal }) {
    this.key = api.key.name;
    this.filters = filters;
    this.onOpen = onOpen;
    this.onTotal = onTotal;
    this.pages = new RowPages(this.key, filters, {
      getRange: () => this.range,
      onPage: (changed) => this.showPage(changed),
      onError: showError,
    });
    this.fresh = new Map(); // key -> time until which it is highlighted
    this.pool = [];
    this.active = 0;
    this.visible = new Map(); // key -> index of the rows that were visible last
    // Images first: they are small, and help to recognise a row.
    this.columns = [...api.columns.filter((each) => each.display === "image"),
      ...api.columns.filter((each) => each.display !== "image")];
    this.build();
  }

  build() {
    this.headers = this.columns.map((column) => buildHeader(column, this.filters));
    this.headRow = el("div", { class: "row head", role: "row", "aria-rowindex": 1 },
      ...this.headers);
    this.body = el("div", { class: "body", role: "rowgroup" });
    this.scroller = el("div", {
      class: "scroller", role: "grid", tabindex: 0,
      "aria-labelledby": "rows-title", "aria-colcount": this.columns.length,
    }, el("div", { role: "rowgroup", class: "head-group" }, this.headRow), this.body);
    const widths = this.columns.map(({ isNumber, display }) =>
      (isNumber && display === "text" ? NUMBER_WIDTH : WIDTHS[display]));
    this.scroller.style.setProperty("--columns", widths.join(" "));
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
    const style = getComputedStyle(document.documentElement);
    this.rowHeight = parseFloat(style.getPropertyValue("--row")) || 44;
    this.headHeight = this.headRow.offsetHeight;
    this.viewHeight = this.scroller.clientHeight - this.headHeight;
    this.visibleCount = Math.ceil(this.viewHeight / this.rowHeight);
    this.layOut();
  }

  layOut() {
    const height = this.pages.total * this.rowHeight;
    this.bodyHeight = Math.min(height, MAX_HEIGHT);
    this.body.style.height = `${this.bodyHeight}px`;
    this.scroller.style.height = `min(70vh, 46rem, ${this.bodyHeight + this.headHeight}px)`;
    // Positions are scaled if the body cannot be as high as all rows.
    const scrollable = Math.max(1, this.bodyHeight - this.viewHeight);
    this.scale = height > MAX_HEIGHT ? (height - this.viewHeight) / scrollable : 1;
    this.scroller.setAttribute("aria-rowcount", this.pages.total + 1);
  }

  get version() {
    return this.pages.version;
  }

  get firstVisible() {
    return Math.floor((this.scroller.scrollTop * this.scale) / this.rowHeight);
  }

  // The indexes of the first and the last row that should be loaded.
  get range() {
    const end = Math.min(this.pages.total, this.firstVisible + this.visibleCount + OVERSCAN);
    return [Math.max(0, this.firstVisible - OVERSCAN), end - 1];
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
    this.pages.clear();
    this.visible.clear();
    this.active = 0;
    this.activeKey = undefined;
    this.scroller.scrollTop = 0;
    showOrder(this.headers, this.columns, this.filters.values.sort ?? this.key);
    await this.pages.load(0, false);
  }

  // There is another version of the table, which is `version` if it is known.
  async refresh(version = null) {
    await this.pages.refresh(version);
  }

  // Rows that another client has changed are highlighted, too.
  showPage(changed) {
    const top = this.scroller.scrollTop * this.scale;
    for (const key of changed) this.markFresh(key);
    this.layOut();
    this.followRows(top);
    this.onTotal(this.pages.total);
    this.render();
    this.showRevealed();
  }

  // Rows that appear or disappear above the view do not move it, but at the top new rows are shown.
  // The active row stays the same one. `top` is where the view was.
  followRows(top) {
    const active = this.pages.findLoaded(this.activeKey) ?? this.active;
    this.active = Math.max(0, Math.min(active, this.pages.total - 1));
    if (top < 1 || !this.pages.isCurrent()) return;
    for (const [key, before] of this.visible) {
      const index = this.pages.findLoaded(key);
      if (index === null) continue;
      const position = (top + (index - before) * this.rowHeight) / this.scale;
      // Setting it stops a scrolling that is in progress.
      if (Math.abs(position - this.scroller.scrollTop) >= 1) this.scroller.scrollTop = position;
      return;
    }
  }

  markFresh(key) {
    this.fresh.set(key, performance.now() + FRESH_MS);
    for (const each of this.pool) if (each.row?.[this.key] === key) each.reset();
    setTimeout(() => {
      this.fresh.delete(key);
      this.schedule();
    }, FRESH_MS);
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
    this.pages.markStale();
    revealed.page = pageOf(offset);
    await this.pages.load(revealed.page);
  }

  showRevealed() {
    if (!this.revealed) return;
    const { key, until } = this.revealed;
    const index = this.pages.findLoaded(key);
    if (index === null && performance.now() < until) return;
    this.revealed = null;
    if (index !== null) this.scrollTo(index);
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

  // -- rendering -------------------------------------------------------------------------------
  render() {
    const first = Math.max(0, this.firstVisible - OVERSCAN);
    const count = this.visibleCount + 2 * OVERSCAN;
    const end = Math.min(this.pages.total, first + count);
    while (this.pool.length < count) this.addElement();
    // With scaled positions rows are placed relative to the view.
    const shift = this.scroller.scrollTop - this.scroller.scrollTop * this.scale;
    // A row keeps its element, and so its image, wherever it is placed.
    const known = new Map(this.pool.map((each) => [each.row?.[this.key], each]));
    const free = new Set(this.pool);
    const chosen = [];
    for (let index = first; index < end; index += 1) {
      const row = this.pages.getRow(index);
      const element = row && known.get(row[this.key]);
      chosen.push(free.delete(element) ? element : null);
    }
    const others = [...free];
    chosen.forEach((element, offset) => {
      const index = first + offset;
      const row = this.pages.getRow(index) ?? null;
      (element ?? others.pop()).show(index, row, {
        top: index * this.rowHeight + shift,
        isActive: index === this.active,
        isFresh: row !== null && this.fresh.has(row[this.key]),
      });
    });
    for (const each of others) if (!each.element.hidden) each.hide();
    const active = this.pool.find((each) => each.index === this.active);
    if (active) this.scroller.setAttribute("aria-activedescendant", active.element.id);
    else this.scroller.removeAttribute("aria-activedescendant");
    this.rememberVisible();
    this.pages.loadVisible(this.revealed?.page);
    this.scheduleRest();
  }

  addElement() {
    const added = new TableRow(this.columns, this.key, `row-${this.pool.length}`, () => {
      this.active = added.index;
      this.schedule();
      if (added.row) this.onOpen(added.row);
    });
    this.pool.push(added);
    this.body.append(added.element);
  }

  // For followRows().
  rememberVisible() {
    this.activeKey = this.pages.getRow(this.active)?.[this.key];
    if (!this.pages.isCurrent()) return;
    this.visible.clear();
    const end = Math.min(this.pages.total, this.firstVisible + this.visibleCount);
    for (let index = this.firstVisible; index < end; index += 1) {
      const row = this.pages.getRow(index);
      if (row) this.visible.set(row[this.key], index);
    }
  }

  // What can wait until the rows have stopped moving.
  scheduleRest() {
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(() => {
      orderElements(this.body, this.pool);
      for (const each of this.pool) each.loadImage();
    }, REST_DELAY_MS);
  }

  handleKey(event) {
    const { total } = this.pages;
    if (event.target !== this.scroller || !total) return;
    const page = Math.max(1, Math.floor(this.viewHeight / this.rowHeight) - 1);
    const steps = {
      ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -total, End: total,
    };
    if (event.key in steps) {
      event.preventDefault();
      this.scrollTo(Math.max(0, Math.min(total - 1, this.active + steps[event.key])));
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      const row = this.pages.getRow(this.active);
      if (row) this.onOpen(row);
    }
  }
}

// One element of the table, which shows one row after another.
class TableRow {
  // `columns` begins with the image, if there is one. `key` is the name of the column of the keys.
  constructor(columns, key, id, onClick) {
    this.columns = columns;
    this.key = key;
    this.index = -1;
    this.row = null;
    this.image = null;
    this.isFilled = false;
    this.hasImage = columns[0].display === "image";
    this.cells = columns.map((column) =>
      el("div", { class: cellClass(column), role: "gridcell" }));
    this.element = el("div", { class: "row", role: "row", id, hidden: true }, ...this.cells);
    this.element.addEventListener("click", onClick);
    this.setImage(null);
  }

  // Show a row; it is null if it is not loaded yet. `top` is its position in pixels.
  show(index, row, { top, isActive, isFresh }) {
    this.element.hidden = false;
    this.element.style.transform = `translateY(${top}px)`;
    if (this.index !== index) {
      this.index = index;
      this.element.setAttribute("aria-rowindex", index + 2);
    }
    this.element.classList.toggle("active", isActive);
    this.element.classList.toggle("fresh", isFresh);
    if (this.row === row && this.isFilled) return;
    this.row = row;
    this.isFilled = true;
    this.element.classList.toggle("loading", row === null);
    this.columns.forEach(({ name, display }, number) => {
      if (display === "image") return;
      setText(this.cells[number], row ? formatValue(row[name], display) : "…");
    });
    const value = row && this.hasImage ? row[this.columns[0].name] : null;
    const image = value ? `${row[this.key]} ${value}` : null;
    if ((this.image?.name ?? null) !== image) this.setImage(image);
  }

  hide() {
    this.element.hidden = true;
    this.index = -1;
    this.row = null;
    this.reset();
  }

  // Show everything again next time, because another image may have the same name.
  reset() {
    this.isFilled = false;
    this.setImage(null);
  }

  // Begin with another image: `name` is that of the wanted one, or null.
  setImage(name) {
    this.image?.controller?.abort();
    this.image = name === null ? null : { name, controller: null };
    if (this.hasImage) this.cells[0].replaceChildren(el("span", { class: "thumb" }));
  }

  async loadImage() {
    const { image } = this;
    if (!image || image.controller) return;
    image.controller = new AbortController();
    try {
      const picture = await loadThumbnail(this.row[this.key], image.controller.signal);
      if (picture && this.image === image) this.cells[0].replaceChildren(picture);
    } catch (error) {
      // Otherwise it is no image, or the row has left the view.
      if (isOutage(error) || error.status === 401) image.controller = null;
    }
  }
}

function buildHeader(column, filters) {
  const name = `Sort by ${column.title}`;
  const onclick = () => filters.toggleSort(column.name);
  const sort = el("button", { type: "button", title: name, "aria-label": name, onclick },
    column.display === "image" ? "" : column.title);
  return el("div", { class: cellClass(column), role: "columnheader" }, sort);
}

function cellClass({ display, isKey, isNumber }) {
  const classes = ["cell", display];
  if (isKey) classes.push("key");
  if (isNumber && display === "text") classes.push("number");
  return classes.join(" ");
}

function showOrder(headers, columns, sort) {
  columns.forEach(({ name }, index) => {
    const direction = { [name]: "ascending", [`-${name}`]: "descending" }[sort] ?? "none";
    headers[index].setAttribute("aria-sort", direction); // the style sheet shows it as an arrow
  });
}

// A screen reader reads the elements in this order.
function orderElements(body, pool) {
  const visible = pool.filter((each) => !each.element.hidden)
    .sort((one, other) => one.index - other.index);
  visible.forEach(({ element }, index) => {
    const current = body.children[index];
    if (current !== element) body.insertBefore(element, current);
  });
}

// Return a small picture; null if the image is too large to be loaded only for that. It is fetched,
// because an address must not contain a token.
async function loadThumbnail(key, signal) {
  const options = { signal, priority: "low", isBackground: true };
  const response = await request(`${rowPath(key)}/image`, options);
  if (Number(response.headers.get("Content-Length")) > MAX_THUMBNAIL_BYTES) {
    await response.body.cancel();
    return null;
  }
  const image = await createImageBitmap(
    await response.blob(), { resizeWidth: 2 * THUMBNAIL_PX, resizeQuality: "medium" });
  const picture = el("canvas", { class: "thumb", width: THUMBNAIL_PX, height: THUMBNAIL_PX });
  // Cover the square, as `object-fit: cover` does.
  const scale = THUMBNAIL_PX / Math.min(image.width, image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  const [left, top] = [(THUMBNAIL_PX - width) / 2, (THUMBNAIL_PX - height) / 2];
  picture.getContext("2d").drawImage(image, left, top, width, height);
  image.close();
  return picture;
}

function showError(error) {
  const element = find("filter-error");
  element.hidden = !error;
  setText(element, error?.message ?? "");
}

// Where a row is among all rows; null without such a row.
async function findOffset(key) {
  const response = await send(rowPath(key), { method: "HEAD" });
  return response.ok ? Number(response.headers.get("X-Row-Offset")) : null;
}

export const countText = (total, isFiltered) =>
  (total === null ? "" : `${formatNumber(total)}${isFiltered ? " match" : ""}`);
