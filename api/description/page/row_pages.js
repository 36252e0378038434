// The rows of a query. They are loaded by pages, when they are needed, and kept.

import { isOutage, request } from "./api.js";

const PAGE_ROWS = 200;
const MAX_PAGES = 60;
const LOAD_DELAY_MS = 40;
const RETRY_MS = 100;
const OUTAGE_RETRY_MS = 3000;
const MAX_RETRIES = 30;
const MAX_CHANGED = 50;

export class RowPages {
  // `key` is the name of the column of the keys, `filters` has the query. `getRange` returns the
  // indexes of the first and the last row that are needed. `onPage` gets the keys of the rows of a
  // page that have changed since it was loaded before, `onError` an error or null.
  constructor(key, filters, { getRange, onPage, onError }) {
    this.key = key;
    this.filters = filters;
    this.getRange = getRange;
    this.onPage = onPage;
    this.onError = onError;
    this.total = 0; // null if a filter is invalid
    this.pages = new Map(); // page number -> {rows, isStale}
    this.loading = new Map(); // page number -> AbortController
  }

  // Forget all pages, because the query has changed.
  clear() {
    clearTimeout(this.outageTimer);
    for (const controller of this.loading.values()) controller.abort();
    this.loading.clear();
    this.pages.clear();
  }

  // Load the visible pages again, and the others when they are needed. `version` is the version of
  // the table that is expected, if it is known.
  async refresh(version = null) {
    this.wanted = version;
    this.retries = 0;
    this.markStale();
    const visible = this.visiblePages();
    await Promise.all((visible.length ? visible : [0]).map((number) => this.load(number)));
  }

  markStale() {
    for (const page of this.pages.values()) page.isStale = true;
  }

  visiblePages() {
    const [first, last] = this.getRange();
    const numbers = [];
    for (let number = pageOf(first); number <= pageOf(Math.max(0, last)); number += 1) {
      numbers.push(number);
    }
    return numbers;
  }

  async load(number, isBackground = true) {
    this.loading.get(number)?.abort();
    const controller = new AbortController();
    const { signal } = controller;
    this.loading.set(number, controller);
    try {
      const query = this.filters.query({ limit: PAGE_ROWS, offset: number * PAGE_ROWS });
      const headers = { Accept: "application/json" };
      const response = await request(`/data?${query}`, { signal, headers, isBackground });
      const rows = await response.json();
      if (signal.aborted) return;
      this.store(number, rows, Number(response.headers.get("X-Total-Count")));
      this.version = response.headers.get("X-Table-Version");
      this.retryIfOlder(number);
    } catch (error) {
      // The body of a problem may be aborted as well: then `error` is that of another query.
      if (!signal.aborted) this.handleError(error);
    } finally {
      if (this.loading.get(number) === controller) this.loading.delete(number);
    }
  }

  handleError(error) {
    this.onError(error);
    if (error.status === 400) {
      this.clear();
      this.total = null;
      this.onPage([]);
    }
    if (!isOutage(error)) return;
    clearTimeout(this.outageTimer);
    this.outageTimer = setTimeout(() => this.refresh(this.wanted), OUTAGE_RETRY_MS);
  }

  store(number, rows, total) {
    const changed = this.listChanged(this.pages.get(number)?.rows, rows);
    this.pages.delete(number);
    this.pages.set(number, { rows, isStale: false });
    if (this.pages.size > MAX_PAGES) this.pages.delete(this.pages.keys().next().value);
    this.total = total;
    this.onError(null);
    this.onPage(changed);
  }

  // Return the keys of the rows that are new or changed: none if it is a page of other rows.
  listChanged(before, after) {
    if (!before) return [];
    const known = new Map(before.map((row) => [row[this.key], JSON.stringify(row)]));
    const changed = after.filter((row) => known.get(row[this.key]) !== JSON.stringify(row));
    return changed.length > MAX_CHANGED ? [] : changed.map((row) => row[this.key]);
  }

  // Another process of the API may serve the version before for a moment.
  retryIfOlder(number) {
    if (!this.wanted || this.version === this.wanted || this.retries >= MAX_RETRIES) return;
    this.retries += 1;
    setTimeout(() => {
      if (this.version !== this.wanted) this.load(number);
    }, RETRY_MS);
  }

  // Load the visible pages that are missing or stale, and stop loading others, except for `kept`.
  loadVisible(kept) {
    clearTimeout(this.timer);
    const visible = this.visiblePages();
    for (const [number, controller] of this.loading) {
      if (!visible.includes(number) && number !== kept) {
        controller.abort();
        this.loading.delete(number);
      }
    }
    const isMissing = (number) =>
      (this.pages.get(number)?.isStale ?? true) && !this.loading.has(number);
    const missing = visible.filter(isMissing);
    if (!missing.length || !this.total) return;
    // While the thumb of the scroll bar is dragged, most pages are left before they arrive.
    this.timer = setTimeout(() => missing.forEach((number) => this.load(number)), LOAD_DELAY_MS);
  }

  getRow(index) {
    return this.pages.get(pageOf(index))?.rows[index % PAGE_ROWS];
  }

  // Return the index of the row with this key, or null.
  findLoaded(key) {
    for (const [number, { rows, isStale }] of this.pages) {
      const index = isStale ? -1 : rows.findIndex((row) => row[this.key] === key);
      if (index >= 0) return number * PAGE_ROWS + index;
    }
    return null;
  }

  // Whether all visible rows are of the latest version that is known.
  isCurrent() {
    return this.visiblePages().every((number) => this.pages.get(number)?.isStale === false);
  }
}

export const pageOf = (index) => Math.floor(index / PAGE_ROWS);
