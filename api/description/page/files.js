// The files of the bucket, page by page.

import { download, filePath, request } from "./api.js";
import {
  ago, attempt, button, debounce, el, find, formatBytes, replaceEntries, setText,
} from "./dom.js";

const PAGE = 20;

export class Files {
  constructor(uploads) {
    this.uploads = uploads;
    this.prefix = "";
    this.turn = 0; // the newest request counts
    this.starts = [""]; // the names after which the pages begin
    this.list = el("ul", { class: "list" });
    this.empty = el("p", { class: "quiet", hidden: true });
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.previous = button("Previous", () => this.move(-1));
    this.next = button("Next", () => this.move(1));
    this.range = el("span", { class: "quiet" });
    const input = el("input", {
      type: "search", placeholder: "Name begins with …", "aria-label": "Name begins with",
    });
    input.addEventListener("input", debounce(() => {
      this.prefix = input.value.trim();
      this.starts = [""];
      this.show();
    }));
    find("file-list").replaceChildren(
      el("p", { class: "filters" }, input), this.error, this.list, this.empty,
      el("p", { class: "pager" }, this.previous, this.next, this.range));
  }

  move(step) {
    if (step < 0) this.starts.pop();
    else if (this.nextStart !== this.starts.at(-1)) this.starts.push(this.nextStart);
    this.show();
  }

  async show() {
    this.turn += 1;
    const { turn } = this;
    const parameters = new URLSearchParams({ limit: PAGE });
    if (this.prefix) parameters.set("prefix", this.prefix);
    const start = this.starts.at(-1);
    if (start) parameters.set("after", start);
    try {
      const response = await request(`/files?${parameters}`);
      const files = await response.json();
      if (turn !== this.turn) return;
      if (!files.length && this.starts.length > 1) {
        this.move(-1); // the files of this page are deleted
        return;
      }
      this.error.hidden = true;
      setText(this.range, files.length ? `${files[0].name} to ${files.at(-1).name}` : "");
      this.nextStart = response.headers.get("Link") ? files.at(-1)?.name : null;
      showFiles(this.list, files, this.uploads);
      this.empty.hidden = files.length > 0;
      setText(this.empty, this.prefix ? "No file begins with this." : "None yet.");
    } catch (error) {
      if (turn !== this.turn) return;
      this.error.hidden = false;
      setText(this.error, error.message);
    }
    this.previous.disabled = this.starts.length < 2;
    this.next.disabled = !this.nextStart;
  }
}

export function showFiles(list, files, uploads) {
  replaceEntries(list, files, (file) => file.name, (file, status) => el("li", { class: "file" },
    fileLink(file.name, status),
    el("span", { class: "quiet" }, `${formatBytes(file.size)} · `, ago(file.last_modified)),
    el("span", { class: "actions" }, ...fileButtons(file.name, status, uploads)),
    file.ignored ? el("span", { class: "text" }, `Ignored: ${file.ignored}`) : null,
    status));
}

export const fileButtons = (name, status, uploads) => [
  button("Replace", () => uploads.replace(name, status)),
  button("Delete", () => attempt(status, async () => {
    const isDeleted = await uploads.remove(name);
    return isDeleted ? "Deleted." : "";
  }), "small danger"),
];

// A failed download is shown in `status`.
export const fileLink = (name, status) => el("a", {
  class: "name", href: filePath(name), download: name,
  onclick: (event) => attempt(status, () => download(event, filePath(name), name)),
}, name);
