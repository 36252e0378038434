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

// Run the action of a button. `status` shows `busy` while it runs, then what `action` returns, or
// why it failed.
export async function attempt(status, action, busy = "") {
  status.classList.remove("error");
  setText(status, busy);
  try {
    setText(status, (await action()) ?? "");
  } catch (error) {
    status.classList.add("error");
    setText(status, error.message);
  }
}

// Ask before something is done. Return whether it may be done.
export function ask(title, text, action, className) {
  const giveFocusBack = rememberFocus(document.activeElement.closest("ul, ol"));
  const dialog = el("dialog", {
    class: "ask", role: "alertdialog",
    "aria-labelledby": "ask-title", "aria-describedby": "ask-text",
  }, el("form", { method: "dialog" },
      el("h2", { id: "ask-title" }, title),
      el("p", { id: "ask-text" }, text),
      el("p", { class: "buttons" },
        el("button", { class: className, value: "yes" }, action),
        el("button", { value: "", autofocus: true }, "Cancel"))));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      giveFocusBack();
      resolve(dialog.returnValue === "yes");
    }, { once: true });
  });
}

const listControls = (list) => [...list.querySelectorAll("a, button")];

// Remember where the focus is in a list. The returned function puts it to what took the place of an
// element that is gone, or to the heading: otherwise the next Tab starts at the top of the page.
function rememberFocus(list) {
  const focused = document.activeElement;
  const index = list ? listControls(list).indexOf(focused) : -1;
  return () => {
    if (index < 0 || focused.isConnected) return;
    const controls = listControls(list);
    if (controls.length) controls[Math.min(index, controls.length - 1)].focus();
    else focusHeading(list);
  };
}

export function focusHeading(element) {
  const heading = element.closest("section, dialog").querySelector("h2");
  heading.tabIndex = -1;
  heading.focus();
}

// Show these entries. Elements of unchanged entries stay, with the focus. `build` gets an entry and
// its status element, which stays while an entry has the same `identify(entry, index)`.
export function replaceEntries(list, entries, identify, build) {
  const giveFocusBack = rememberFocus(list);
  const known = new Map([...list.children].map((element) => [element.entryId, element]));
  const wanted = entries.map((entry, index) => {
    const id = identify(entry, index);
    const version = JSON.stringify(entry);
    const old = known.get(id);
    if (old?.entryVersion === version) return old;
    const entryStatus = old?.entryStatus ?? el("span", { class: "text", role: "status" });
    const element = build(entry, entryStatus);
    return Object.assign(element, { entryId: id, entryVersion: version, entryStatus });
  });
  const kept = new Set(wanted);
  for (const element of [...list.children]) if (!kept.has(element)) element.remove();
  wanted.forEach((element, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
  giveFocusBack();
}

const numbers = new Intl.NumberFormat();
const dates = new Intl.DateTimeFormat(undefined, {
  timeZone: "UTC", day: "numeric", month: "short", year: "numeric",
});
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

export const pluralize = (count, singular, plural = `${singular}s`) =>
  (count === 1 ? singular : plural);
export const formatCount = (count, singular) =>
  `${formatNumber(count)} ${pluralize(count, singular)}`;
// The beginning of a reason, if it concerns one line of the file.
export const formatLine = (line) => (line ? `line ${line}: ` : "");

export function formatBytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1000)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export function formatDuration(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function formatAgo(text) {
  const seconds = (Date.now() - new Date(text).getTime()) / 1000;
  return seconds < 2 ? "just now" : `${formatDuration(seconds)} ago`;
}

// An element that says how long ago a time is; refreshTimes() updates all of them.
export const ago = (text) =>
  el("time", { class: "ago", datetime: text, title: formatTime(text) }, formatAgo(text));

export function refreshTimes() {
  for (const time of document.querySelectorAll("time.ago")) setText(time, formatAgo(time.dateTime));
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Return a function that calls `action` once, when it was not called for a quarter of a second.
export function debounce(action) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, 250);
  };
}

// Call `use` with an address of `blob`, which is valid for a minute.
export function withObjectUrl(blob, use) {
  const address = URL.createObjectURL(blob);
  use(address);
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

export function saveBlob(blob, name) {
  withObjectUrl(blob, (address) => el("a", { href: address, download: name }).click());
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
    const done = action();
    Promise.allSettled([done, sleep(intervalMs)]).then(() => {
      isWaiting = false;
      if (!isWanted) return;
      isWanted = false;
      run();
    });
    return done;
  };
}
