// The headline numbers, and how fresh the rows are.

import { askForToken, getJson, getToken, isTokenMissing, send } from "./api.js";
import {
  ago, button, el, find, focusHeading, formatCount, formatDuration, formatNumber, formatValue,
  pluralize, setText,
} from "./dom.js";

const giveToken = button("Enter a token", () => askForToken("", getToken()), "");

// The tiles keep their elements, and so the focus.
export async function showNumbers(api, filters) {
  const numbers = await loadNumbers(filters);
  const words = filters.statsQuery() ? ["row matches", "rows match"] : ["row"];
  const { count } = numbers;
  const texts = [[count === null ? "–" : formatNumber(count), pluralize(count, ...words)]];
  for (const statistic of api.statistics) {
    const value = numbers[statistic.name] ?? null;
    const display = statistic.display === "text" ? "number" : statistic.display;
    texts.push([value === null ? "–" : formatValue(value, display), statistic.title]);
  }
  const invalid = find("invalid");
  const tiles = find("numbers").children; // this list grows with them
  while (tiles.length <= texts.length) invalid.before(el("div", {}, el("b"), el("span")));
  texts.forEach((each, index) => showTile(tiles[index], ...each));
  invalid.hidden = false;
}

// With an invalid filter there are no numbers.
async function loadNumbers(filters) {
  try {
    return await getJson(`/stats?${filters.statsQuery()}`);
  } catch (error) {
    if (error.status === 400) return { count: null };
    throw error;
  }
}

function showTile(tile, text, title) {
  setText(tile.firstElementChild, text);
  setText(tile.lastElementChild, title);
}

// Return the body of /health/ready, which also comes with a 503; null without one.
export async function loadHealth() {
  try {
    const response = await send("/health/ready", { isBackground: true });
    const body = await response.json();
    return "ready" in body ? body : null;
  } catch {
    return null;
  }
}

export function showHealth(health, isConnected) {
  const pill = find("health");
  const [kind, text] = describeState(health, isConnected);
  pill.className = `pill ${kind}`;
  setText(pill, text);
  if (!isTokenMissing() && document.activeElement === giveToken) focusHeading(find("rows"));
  giveToken.hidden = !isTokenMissing();
  if (!giveToken.isConnected) pill.after(giveToken);
  find("freshness").hidden = !health;
  if (!health) return;
  const invalid = health.rejected + health.held;
  showTile(find("invalid"), formatNumber(invalid), pluralize(invalid, "invalid file"));
  find("invalid").classList.toggle("bad", invalid > 0);
  const waiting = Object.values(health.dirty_users ?? {})
    .reduce((sum, count) => sum + count, health.events_waiting ?? 0);
  const { last_sweep: sweep, lost_and_healed: lost, consistent_as_of: complete } = health;
  find("facts").replaceChildren(
    fact("Last change", health.last_publish_at ? [ago(health.last_publish_at)] : ["none yet"]),
    fact("Waiting", [waiting ? `${formatNumber(waiting)} to read` : "nothing"]),
    fact("Lag", [health.oldest_dirty_age_s ? formatDuration(health.oldest_dirty_age_s) : "none"]),
    fact("Lost and repaired", [lost ? formatNumber(lost.count) : "not known"]),
    fact("Last sweep",
      sweep ? [ago(sweep.at), `, ${formatCount(sweep.objects, "file")}`] : ["none yet"]),
    fact("Complete up to", complete ? [ago(complete)] : ["not known now"]),
    ...health.reasons.map((reason) => el("p", { class: "reason" }, reason)),
    ...health.warnings.map((warning) => el("p", { class: "warning" }, warning)));
}

function describeState(health, isConnected) {
  if (isTokenMissing()) return ["bad", "A token is needed"];
  if (!isConnected && !health) return ["bad", "The API does not answer"];
  if (!health) return ["", "Connecting …"];
  if (!health.ready) {
    const isOne = health.reasons.length === 1;
    return ["bad", isOne ? "One thing needs attention" : "Some things need attention"];
  }
  if (!isConnected) return ["warn", "Not connected; retrying"];
  if (health.warnings.length) return ["warn", "Up to date, with a warning"];
  return ["good", "Live and up to date"];
}

const fact = (name, parts) => el("span", {}, `${name}: `, el("b", {}, ...parts));
