// A histogram for each column that the API describes one for, with bars that filter.

import { getJson } from "./api.js";
import { button, el, find, formatNumber } from "./dom.js";

export class Histogram {
  constructor(api, filters) {
    this.filters = filters;
    this.histograms = api.columns.flatMap((column) => column.histogram ?? []);
    find("histogram").hidden = !this.histograms.length;
  }

  async show() {
    const parts = await Promise.all(this.histograms.map((each) => this.build(each)));
    const element = find("histogram");
    const active = document.activeElement;
    const focused = element.contains(active) ? active.dataset.key : null;
    element.replaceChildren(...parts);
    if (focused === null) return;
    // The focus stays at the same bar.
    const bar = element.querySelector(`[data-key="${focused}"]`) ?? element.querySelector("button");
    bar?.focus({ preventScroll: true });
  }

  async build({ title, min_filter: low, max_filter: high, start, end, step }) {
    const bins = [{ max: start - 1 }];
    for (let min = start; min < end; min += step) {
      bins.push({ min, max: Math.min(min + step, end) - 1 });
    }
    bins.push({ min: end });
    const buildLimits = ({ min, max }) => ({ [low]: min ?? null, [high]: max ?? null });
    const counts = await Promise.all(bins.map((bin) => this.count(buildLimits(bin))));
    // The open ends are only shown if there is something in them.
    const shown = bins.map((bin, index) => ({ ...bin, count: counts[index] }))
      .filter((bin, index) => bin.count || (index > 0 && index < bins.length - 1));
    const highest = Math.max(1, ...shown.map((bin) => bin.count));
    const isFiltered = low in this.filters.values || high in this.filters.values;
    const bars = shown.map((bin) => {
      const range = describeRange(bin);
      const isInside = isFiltered && this.contains(low, high, bin);
      const bar = el("i");
      const share = bin.count / highest;
      bar.style.height = `calc(${100 * share}% - ${1.2 * share}rem)`; // the label is below it
      return el("button", {
        type: "button",
        "data-key": `${low} ${bin.min ?? ""}`,
        title: `${range}: ${formatNumber(bin.count)}`,
        "aria-label": `${title} ${range}: ${formatNumber(bin.count)}`,
        "aria-pressed": String(isInside),
        onclick: () => this.filters.set(buildLimits(bin)),
      }, bar, el("small", { "aria-hidden": "true" }, String(bin.min ?? `<${start}`)));
    });
    const everything = isFiltered
      ? button("All", () => this.filters.set(buildLimits({})), "plain") : null;
    return el("div", {},
      el("div", { class: "heading" }, el("h2", {}, title), everything),
      el("div", { class: "bars" }, ...bars));
  }

  async count(changes) {
    return (await getJson(`/stats?${this.filters.statsQuery(changes)}`)).count;
  }

  contains(low, high, bin) {
    const from = Number(this.filters.values[low] ?? -Infinity);
    const to = Number(this.filters.values[high] ?? Infinity);
    return (bin.max ?? Infinity) >= from && (bin.min ?? -Infinity) <= to;
  }
}

function describeRange({ min, max }) {
  if (min === undefined) return `below ${max + 1}`;
  return max === undefined ? `${min} and more` : `${min} to ${max}`;
}
