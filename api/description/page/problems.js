// The files and events that are not rows, or only in part, with what can be done about them.

import { request, requestRead } from "./api.js";
import {
  ago, attempt, button, el, find, formatLine, formatNumber, replaceEntries, setText,
} from "./dom.js";
import { fileButtons, fileLink } from "./files.js";

const PAGE = 10;
const KINDS = {
  rejected: ["bad", "rejected"],
  held: ["warn", "old version stays"],
  ignored: ["", "ignored"],
  suspicious: ["warn", "suspicious"],
  dead_letter: ["", "lost event"],
};

export class Problems {
  constructor(uploads) {
    this.uploads = uploads;
    this.offset = 0;
    this.turn = 0; // the newest request counts
    this.list = el("ul", { class: "list" });
    this.empty = el("p", { class: "quiet", hidden: true },
      "None: no file is rejected, ignored or suspicious.");
    this.previous = button("Previous", () => this.move(-PAGE));
    this.next = button("Next", () => this.move(PAGE));
    this.range = el("span", { class: "quiet", role: "status" });
    this.pager = el("p", { class: "pager", hidden: true }, this.previous, this.next, this.range);
    find("problem-list").replaceChildren(this.list, this.empty, this.pager);
  }

  async show() {
    this.turn += 1;
    const { turn } = this;
    const response = await request(`/errors?limit=${PAGE}&offset=${this.offset}`);
    const entries = await response.json();
    if (turn !== this.turn) return;
    const total = Number(response.headers.get("X-Total-Count"));
    if (!entries.length && this.offset) {
      this.offset = 0;
      await this.show();
      return;
    }
    setText(find("problem-count"), total ? formatNumber(total) : "");
    // A row may be suspicious in several columns; a lost event has no name.
    const identify = ({ key, reason, kind, file }, index) =>
      (file && kind !== "suspicious" ? key : `${key} ${reason} ${index}`);
    replaceEntries(this.list, entries, identify, (entry, status) => this.build(entry, status));
    this.empty.hidden = total > 0;
    this.pager.hidden = total <= PAGE;
    this.previous.disabled = this.offset === 0;
    this.next.disabled = this.offset + PAGE >= total;
    this.range.classList.remove("error");
    const last = Math.min(total, this.offset + PAGE);
    setText(this.range, `${this.offset + 1} to ${last} of ${formatNumber(total)}`);
  }

  build(entry, status) {
    const [className, kind] = KINDS[entry.kind] ?? ["", entry.kind];
    return el("li", { class: "problem" },
      entry.file
        ? fileLink(entry.key, status) : el("span", { class: "name" }, entry.key ?? "an event"),
      el("span", { class: `tag ${className}` }, kind),
      el("span", { class: "text" }, `${formatLine(entry.line)}${entry.reason}`,
        ...(entry.since ? [" · ", ago(entry.since)] : [])),
      entry.quote ? el("code", { class: "quote" }, entry.quote) : null,
      el("span", { class: "actions" }, ...this.buildActions(entry, status)),
      status);
  }

  buildActions(entry, status) {
    const actions = [];
    if (entry.file) {
      // A name that is ignored is refused, too: such a file can only be deleted.
      const buttons = fileButtons(entry.key, status, this.uploads);
      actions.push(...(entry.kind === "ignored" ? buttons.slice(-1) : buttons));
    } else if (entry.user_id && entry.key) {
      // A member of a bundle is replaced by a file of its own, which has precedence.
      const name = entry.user_id + entry.key.slice(entry.key.lastIndexOf("."));
      actions.push(button("Replace", () => this.uploads.replace(name, status)));
    }
    if (entry.user_id) {
      actions.push(button("Read again", () => attempt(status, async () => {
        const isRead = await requestRead(entry.user_id);
        return isRead ? "Read again: it is still the same." : "It will be read again.";
      }, "Reading …")));
    }
    return actions;
  }

  move(step) {
    this.offset = Math.max(0, this.offset + step);
    attempt(this.range, async () => {
      await this.show();
      return this.range.textContent;
    });
  }
}
