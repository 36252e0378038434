// A histogram for each pair of filters that are the limits of a range, with bars that filter.

import { getJson } from "./api.js";
import { button, el, find, formatNumber } from "./dom.js";

const STEP = 10;
const END = 100;

export class Histogram {
  constructor(api, filters) {
    this.filters = filters;
    this.ranges = api.filters.filter((each) => each.bound === "min").flatMap((low) => {
      const high = api.filters.find((each) => each.bound === "max" && each.column === low.column && each.kind === low.kind);
      return high ? [{ low, high, kind: low.kind }] : [];
    });
    find("histogram").hidden = !this.ranges.length;
  }

  async show() {
    const parts = await Promise.all(this.ranges.map((range) => this.build(range)));
    const place = find("histogram");
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    place.replaceChildren(...parts);
    // The keyboard stays at its bar.
    if (focused !== null) (place.querySelector(`[data-key="${focused}"]`) ?? place.querySelector("button"))?.focus({ preventScroll: true });
  }

  async build({ low, high, kind }) {
    const bins = [{ max: -1 }];
    for (let start = 0; start < END; start += STEP) bins.push({ min: start, max: start + STEP - 1 });
    bins.push({ min: END });
    const counts = await Promise.all(bins.map((bin) => this.count(low, high, bin)));
    // The open ends are only shown if there is something in them.
    const shown = bins.map((bin, place) => ({ ...bin, count: counts[place] }))
      .filter((bin, place) => bin.count || (place > 0 && place < bins.length - 1));
    const highest = Math.max(1, ...shown.map((bin) => bin.count));
    const isFiltered = low.name in this.filters.values || high.name in this.filters.values;
    const bars = shown.map((bin) => {
      const range = describeRange(bin);
      const isInside = isFiltered && this.contains(low, high, bin);
      const bar = el("i");
      const share = bin.count / highest;
      bar.style.height = `calc(${100 * share}% - ${1.2 * share}rem)`; // the label is below it
      return el("button", {
        type: "button",
        "data-key": `${low.name} ${bin.min ?? ""}`,
        title: `${range}: ${formatNumber(bin.count)}`,
        "aria-label": `${kind} ${range}: ${formatNumber(bin.count)}`,
        "aria-pressed": String(isInside),
        onclick: () => this.filters.set({ [low.name]: bin.min ?? null, [high.name]: bin.max ?? null }),
      }, bar, el("small", { "aria-hidden": "true" }, String(bin.min ?? "<0")));
    });
    const everything = isFiltered
      ? button("All", () => this.filters.set({ [low.name]: null, [high.name]: null }), "plain") : null;
    const title = kind.charAt(0).toUpperCase() + kind.slice(1);
    return el("div", {}, el("div", { class: "heading" }, el("h2", {}, title), everything), el("div", { class: "bars" }, ...bars));
  }

  async count(low, high, bin) {
    const query = this.filters.statsQuery({ [low.name]: bin.min ?? null, [high.name]: bin.max ?? null });
    return (await getJson(`/stats?${query}`)).count;
  }

  contains(low, high, bin) {
    const from = Number(this.filters.values[low.name] ?? -Infinity);
    const to = Number(this.filters.values[high.name] ?? Infinity);
    return (bin.max ?? Infinity) >= from && (bin.min ?? -Infinity) <= to;
  }
}

function describeRange({ min, max }) {
  if (min === undefined) return `below ${max + 1}`;
  return max === undefined ? `${min} and more` : `${min} to ${max}`;
}
