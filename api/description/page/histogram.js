// A histogram for each pair of filters that are the limits of a range, with bars that filter.

import { getJson } from "./api.js";
import { button, el, find, formatNumber } from "./dom.js";

const STEP = 10;
const END = 100;

export class Histogram {
  constructor(api, filters) {
    this.filters = filters;
    this.ranges = api.filters.filter((each) => each.bound === "min").flatMap((low) => {
      const high = api.filters.find((each) =>
        each.bound === "max" && each.column === low.column && each.kind === low.kind);
      return high ? [{ low, high, kind: low.kind }] : [];
    });
    find("histogram").hidden = !this.ranges.length;
  }

  async show() {
    const parts = await Promise.all(this.ranges.map((range) => this.build(range)));
    const element = find("histogram");
    const active = document.activeElement;
    const focused = element.contains(active) ? active.dataset.key : null;
    element.replaceChildren(...parts);
    if (focused === null) return;
    // The keyboard stays at its bar.
    const bar = element.querySelector(`[data-key="${focused}"]`) ?? element.querySelector("button");
    bar?.focus({ preventScroll: true });
  }

  async build({ low, high, kind }) {
    const bins = [{ max: -1 }];
    for (let min = 0; min < END; min += STEP) bins.push({ min, max: min + STEP - 1 });
    bins.push({ min: END });
    const buildLimits = ({ min, max }) => ({ [low.name]: min ?? null, [high.name]: max ?? null });
    const counts = await Promise.all(bins.map((bin) => this.count(buildLimits(bin))));
    // The open ends are only shown if there is something in them.
    const shown = bins.map((bin, index) => ({ ...bin, count: counts[index] }))
      .filter((bin, index) => bin.count || (index > 0 && index < bins.length - 1));
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
        onclick: () => this.filters.set(buildLimits(bin)),
      }, bar, el("small", { "aria-hidden": "true" }, String(bin.min ?? "<0")));
    });
    const everything = isFiltered
      ? button("All", () => this.filters.set(buildLimits({})), "plain") : null;
    const title = kind.charAt(0).toUpperCase() + kind.slice(1);
    return el("div", {},
      el("div", { class: "heading" }, el("h2", {}, title), everything),
      el("div", { class: "bars" }, ...bars));
  }

  async count(changes) {
    return (await getJson(`/stats?${this.filters.statsQuery(changes)}`)).count;
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
