// The headline numbers, and how fresh the rows are.

import { getJson, send } from "./api.js";
import { el, find, formatAgo, formatCount, formatDuration, formatNumber, formatTime, formatValue, pluralize, setText } from "./dom.js";

export async function showNumbers(api, filters, health) {
  const numbers = await getJson(`/stats?${filters.statsQuery()}`);
  const words = filters.statsQuery() ? ["row matches", "rows match"] : ["row"];
  const tiles = [tile(formatNumber(numbers.count), pluralize(numbers.count, ...words))];
  for (const statistic of api.statistics) {
    const value = numbers[statistic.name];
    const text = value === null ? "–" : formatValue(value, statistic.display === "text" ? "number" : statistic.display);
    tiles.push(tile(text, statistic.title));
  }
  const count = health ? health.rejected + health.held : null;
  tiles.push(el("a", { href: "#problems", class: count ? "bad" : "" },
    el("b", {}, count === null ? "–" : formatNumber(count)), el("span", {}, pluralize(count, "invalid file"))));
  find("numbers").replaceChildren(...tiles);
  return numbers;
}

const tile = (text, title) => el("div", {}, el("b", {}, text), el("span", {}, title));

// Return the body of /health/ready, which also comes with a 503; null if there is none.
export async function loadHealth() {
  try {
    const response = await send("/health/ready");
    const body = await response.json();
    return "ready" in body ? body : null;
  } catch {
    return null;
  }
}

export function showHealth(health, isConnected) {
  const pill = find("health");
  const [kind, text] = judge(health, isConnected);
  pill.className = `pill ${kind}`;
  setText(pill, text);
  const place = find("freshness");
  if (!health) {
    place.replaceChildren();
    return;
  }
  const dirty = Object.values(health.dirty_users ?? {}).reduce((sum, count) => sum + count, 0);
  const sweep = health.last_sweep;
  const lost = health.lost_and_healed;
  place.replaceChildren(
    fact("Last change", health.last_publish_at ? formatAgo(health.last_publish_at) : "none yet", health.last_publish_at),
    fact("Waiting", dirty + (health.events_waiting ?? 0) ? `${formatNumber(dirty + (health.events_waiting ?? 0))} to read` : "nothing"),
    fact("Lag", health.oldest_dirty_age_s ? formatDuration(health.oldest_dirty_age_s) : "none"),
    fact("Lost and repaired", lost ? formatNumber(lost.count) : "not known", lost?.since),
    fact("Last sweep", sweep ? `${formatAgo(sweep.at)}, ${formatCount(sweep.objects, "file")}` : "none yet", sweep?.at),
    fact("Complete up to", health.consistent_as_of ? formatAgo(health.consistent_as_of) : "not known now", health.consistent_as_of),
    ...health.reasons.map((reason) => el("p", { class: "reason" }, reason)),
    ...health.warnings.map((warning) => el("p", { class: "warning" }, warning)));
}

function judge(health, isConnected) {
  if (!isConnected && !health) return ["bad", "The API does not answer"];
  if (!health) return ["", "Connecting …"];
  if (!health.ready) return ["bad", health.reasons.length === 1 ? "One thing needs attention" : "Some things need attention"];
  if (health.warnings.length) return ["warn", "Up to date, with a warning"];
  if (!isConnected) return ["warn", "Not connected; retrying"];
  return ["good", "Live and up to date"];
}

const fact = (name, text, time) =>
  el("span", { title: time ? formatTime(time) : null }, `${name}: `, el("b", {}, text));
