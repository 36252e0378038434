// Elements, and values as people read them.

export const find = (id) => document.getElementById(id);

// el("p", {class: "quiet", onclick: f}, "text", otherElement)
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function button(text, onclick, className = "small") {
  return el("button", { type: "button", class: className, onclick }, text);
}

// A button that asks again before it acts.
export function confirmButton(text, question, action) {
  let timer = 0;
  const reset = () => {
    clearTimeout(timer);
    timer = 0;
    setText(it, text);
    delete it.dataset.asks;
  };
  const it = button(text, () => {
    if (timer) {
      reset();
      action();
      return;
    }
    setText(it, question);
    it.dataset.asks = "";
    timer = setTimeout(reset, 5000);
  }, "small danger");
  it.addEventListener("blur", reset);
  return it;
}

// Replace the elements of a list; the keyboard stays at its place. Return false, and replace
// nothing, while a button of the list asks for confirmation.
export function replaceEntries(list, ...entries) {
  if (list.querySelector("[data-asks]")) return false;
  const place = [...list.querySelectorAll("a, button")].indexOf(document.activeElement);
  list.replaceChildren(...entries);
  if (place >= 0) [...list.querySelectorAll("a, button")].slice(0, place + 1).at(-1)?.focus();
  return true;
}

const numbers = new Intl.NumberFormat();
const dates = new Intl.DateTimeFormat(undefined, { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" });
const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const formatNumber = (value) => numbers.format(value);
export const formatTime = (text) => times.format(new Date(text));

// A value of a column or a statistic, by the `x-display` of the description.
export function formatValue(value, display) {
  if (value === null || value === undefined) return "";
  if (display === "date") {
    const date = new Date(value);
    return Number.isNaN(date.getTime()) ? String(value) : dates.format(date);
  }
  return display === "number" ? formatNumber(value) : String(value);
}

export const pluralize = (count, singular, plural = `${singular}s`) => (count === 1 ? singular : plural);
export const formatCount = (count, singular) => `${formatNumber(count)} ${pluralize(count, singular)}`;

export function formatBytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1000)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export function formatDuration(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

export function formatAgo(text) {
  const seconds = (Date.now() - new Date(text).getTime()) / 1000;
  return seconds < 2 ? "just now" : `${formatDuration(seconds)} ago`;
}

// An element that says how long ago a time is; refreshTimes() updates all of them.
export const ago = (text) => el("time", { class: "ago", datetime: text, title: formatTime(text) }, formatAgo(text));

export function refreshTimes() {
  for (const time of document.querySelectorAll("time.ago")) setText(time, formatAgo(time.dateTime));
}

// Call `action` immediately, and at most once per interval; calls in between are one call at its
// end. `action` must not throw.
export function throttle(action, intervalMs) {
  let isWaiting = false;
  let isWanted = false;
  return function run() {
    if (isWaiting) {
      isWanted = true;
      return Promise.resolve();
    }
    isWaiting = true;
    const pause = new Promise((resolve) => setTimeout(resolve, intervalMs));
    const done = action();
    Promise.allSettled([done, pause]).then(() => {
      isWaiting = false;
      if (!isWanted) return;
      isWanted = false;
      run();
    });
    return done;
  };
}
