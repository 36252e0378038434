// The files and events that are not rows, or only in part, with what can be done about them.

import { request, rowPath } from "./api.js";
import { ago, button, confirmButton, el, find, formatNumber, replaceEntries, setText } from "./dom.js";

const PAGE = 10;
const KINDS = {
  rejected: ["bad", "rejected"],
  held: ["warn", "old row stays"],
  ignored: ["", "ignored"],
  suspicious: ["warn", "suspicious"],
  dead_letter: ["", "lost event"],
};

export class Problems {
  constructor(uploads) {
    this.uploads = uploads;
    this.offset = 0;
  }

  async show() {
    const response = await request(`/errors?limit=${PAGE}&offset=${this.offset}`);
    const entries = await response.json();
    const total = Number(response.headers.get("X-Total-Count"));
    if (!entries.length && this.offset) {
      this.offset = 0;
      await this.show();
      return;
    }
    setText(find("problem-count"), total ? formatNumber(total) : "");
    const list = find("problem-list");
    // The outcome of an action stays visible while the entries are the same.
    const version = JSON.stringify([entries, total, this.offset]);
    if (this.shown === version) return;
    const isReplaced = replaceEntries(list,
      entries.length
        ? el("ul", { class: "list" }, ...entries.map((entry) => this.build(entry)))
        : el("p", { class: "quiet" }, "None. Every file became a row, or a part of one."),
      ...(total > PAGE ? [this.buildPager(total)] : []));
    if (isReplaced) this.shown = version;
  }

  build(entry) {
    const [className, kind] = KINDS[entry.kind] ?? ["", entry.kind];
    const place = entry.line ? `line ${entry.line}: ` : "";
    const { since } = entry; // a suspicious row has none
    const status = el("span", { class: "text", role: "status" });
    return el("li", { class: "problem" },
      el("span", { class: "name" }, entry.key ?? "an event"),
      el("span", { class: `tag ${className}` }, kind),
      el("span", { class: "text" }, `${place}${entry.reason}`, ...(since ? [" · ", ago(since)] : [])),
      entry.quote ? el("code", { class: "quote" }, entry.quote) : null,
      el("span", { class: "actions" }, ...this.buildActions(entry, status)),
      status);
  }

  buildActions(entry, status) {
    if (!entry.key) return [];
    const attempt = async (action, done) => {
      try {
        await action();
        setText(status, done);
      } catch (error) {
        setText(status, error.message);
      }
    };
    const actions = [];
    // An ignored key needs another name.
    if (entry.user_id || (entry.file && entry.kind !== "ignored")) {
      actions.push(button("Replace the file", () => this.uploads.replace(nameToReplace(entry))));
    }
    if (entry.file) {
      actions.push(confirmButton("Delete", "Really delete?",
        () => attempt(() => request(entry.file, { method: "DELETE" }), "Deleted.")));
    }
    if (entry.user_id) {
      actions.push(button("Read again", () => {
        setText(status, "Reading …");
        attempt(() => request(`${rowPath(entry.user_id)}?wait=5`, { method: "POST" }), "Read again: it is still the same.");
      }));
    }
    return actions;
  }

  buildPager(total) {
    const move = (step) => {
      this.offset = Math.max(0, this.offset + step);
      this.show();
    };
    const previous = button("Previous", () => move(-PAGE));
    const next = button("Next", () => move(PAGE));
    previous.disabled = this.offset === 0;
    next.disabled = this.offset + PAGE >= total;
    const last = Math.min(total, this.offset + PAGE);
    return el("p", { class: "pager" }, previous, next, el("span", { class: "quiet" }, `${this.offset + 1} to ${last} of ${formatNumber(total)}`));
  }
}

// A member of a bundle is replaced by a file of its own, which has precedence.
function nameToReplace(entry) {
  if (entry.file) return entry.key;
  return entry.user_id + entry.key.slice(entry.key.lastIndexOf("."));
}
