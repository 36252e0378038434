// The list of uploads: what became of each file, and how many there are of each kind.

import { splitName } from "./api.js";
import {
  button, el, find, focusHeading, formatBytes, formatCount, formatNumber, formatValue, setText,
} from "./dom.js";

const MAX_SHOWN = 200;

// The tag of an image that was uploaded before its CSV.
export const ALONE = "no row yet";

export class UploadList {
  constructor() {
    this.entries = new Map(); // ID of an upload -> its entry
    this.text = el("span", {});
    this.toRejected = button("", () => this.focusRejected(), "plain");
    find("upload-summary").append(this.text, this.toRejected);
  }

  get(id) {
    return this.entries.get(id);
  }

  // Return the entry of an upload, which begins now. The oldest entry without a problem is removed
  // if there are too many.
  open({ id, name, file }) {
    const known = this.entries.get(id);
    if (known) {
      known.restart();
      known.setFile(file);
      return known;
    }
    const entry = new Entry(name, file);
    this.entries.set(id, entry);
    if (this.entries.size > MAX_SHOWN) {
      const oldest = [...this.entries].find(([, each]) => each.isEnded && !each.isBad);
      if (oldest) this.remove(oldest[0]);
    }
    return entry;
  }

  remove(id) {
    this.entries.get(id)?.element.remove();
    this.entries.delete(id);
  }

  // Images that were uploaded before their CSV are visible now.
  finishImagesOf(key) {
    for (const [name, entry] of this.entries) {
      if (entry.endTag === ALONE && splitName(name)[0] === key) entry.finish("good", "image", "");
    }
  }

  // `counts` are the numbers of uploads by state; files that were skipped are no uploads.
  showSummary({ waiting, rejected, failed, unconfirmed, deleted }, total, skipped) {
    const uploaded = formatNumber(total - waiting - failed - unconfirmed);
    const text = `${uploaded} of ${formatCount(total, "file")} uploaded`;
    const parts = [total ? text : "Nothing to upload"];
    if (failed) parts.push(`${formatNumber(failed)} not uploaded`);
    if (unconfirmed) parts.push(`${formatNumber(unconfirmed)} not confirmed`);
    if (deleted) parts.push(`${formatNumber(deleted)} deleted`);
    if (skipped) parts.push(`${formatCount(skipped, "hidden file")} skipped`);
    setText(this.text, parts.join(", ") + (rejected ? ", " : ""));
    if (!rejected && document.activeElement === this.toRejected) focusHeading(this.toRejected);
    this.toRejected.hidden = !rejected;
    setText(this.toRejected, rejected ? `${formatNumber(rejected)} rejected` : "");
  }

  showError(error) {
    find("uploads").hidden = false;
    setText(this.text, `What was dropped cannot be read: ${error.message}`);
  }

  focusRejected() {
    const first = find("upload-list").querySelector("[data-tag=rejected]");
    first?.scrollIntoView({ block: "nearest" });
    first?.focus();
  }
}

// What the list shows of a file. The entries that need attention are the first ones.
class Entry {
  constructor(name, file) {
    this.tag = el("span", { class: "tag" });
    this.bar = el("progress", { max: 1, "aria-label": `Upload of ${name}` });
    this.text = el("span", { class: "text" });
    this.actions = el("span", { class: "actions" });
    this.status = el("span", { class: "text", role: "status" });
    this.name = el("span", { class: "name" }, name);
    this.setFile(file);
    this.element = el("li", { tabindex: -1 },
      this.name, this.tag, this.bar, this.text, this.actions, this.status);
    this.restart();
  }

  setFile({ size }) {
    this.name.title = formatBytes(size);
  }

  // The tag with which the upload has ended, or undefined.
  get endTag() {
    return this.element.dataset.tag;
  }

  get isEnded() {
    return this.endTag !== undefined;
  }

  get isBad() {
    return this.element.classList.contains("bad");
  }

  restart() {
    delete this.element.dataset.tag;
    this.show("", "uploading", "");
    this.bar.value = 0;
  }

  showProgress(share) {
    if (share === null) {
      setText(this.tag, "reading");
      this.bar.removeAttribute("value");
    } else {
      this.bar.value = share;
    }
  }

  finish(className, tag, text) {
    this.element.dataset.tag = tag;
    this.show(className, tag, text);
  }

  show(className, tag, text) {
    const hadFocus = this.element.contains(document.activeElement);
    this.element.className = className === "bad" ? "bad" : "";
    this.tag.className = `tag ${className}`;
    setText(this.tag, tag);
    this.bar.hidden = this.isEnded;
    setText(this.text, text);
    setText(this.status, "");
    this.offer();
    this.moveToPosition();
    if (hadFocus) this.element.focus();
  }

  moveToPosition() {
    const list = find("upload-list");
    const { parentNode, previousElementSibling, nextElementSibling } = this.element;
    const isRight = this.isBad
      ? !previousElementSibling?.matches(":not(.bad)") : !nextElementSibling?.matches(".bad");
    if (parentNode && isRight) return;
    this.element.remove();
    const next = this.isBad ? list.firstChild : list.querySelector("li:not(.bad)");
    list.insertBefore(this.element, next);
  }

  offer(...buttons) {
    this.actions.replaceChildren(...buttons);
  }

  showValues(api, row, onOpen) {
    const values = api.columns.filter((column) => column.display !== "image")
      .map(({ name, display }) => formatValue(row[name], display));
    this.element.classList.add("fresh");
    const text = values.filter(Boolean).join(" · ");
    this.offer(el("span", { class: "values" }, text), button("Open", onOpen));
  }
}
