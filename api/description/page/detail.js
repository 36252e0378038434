// The card of one row: its image, its values, and the files that it comes from.

import { getJson, imageSource, request, rowPath } from "./api.js";
import { button, el, find, formatValue, setText } from "./dom.js";
import { buildFile } from "./files.js";

export class Detail {
  constructor(api, uploads) {
    this.api = api;
    this.uploads = uploads;
    this.dialog = find("detail");
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.dialog.addEventListener("close", () => (this.key = null));
  }

  async show(row) {
    this.key = row[this.api.key.name];
    const { key } = this;
    const picture = el("img", { alt: `Image of ${key}`, hidden: true });
    const fields = this.api.columns.map((column) => [
      el("dt", { title: column.description }, column.title),
      el("dd", { title: column.display === "date" ? String(row[column.name]) : null }, formatValue(row[column.name], column.display) || "–"),
    ]).flat();
    const files = el("ul", { class: "list" }, el("li", { class: "quiet" }, "Loading …"));
    const status = el("span", { class: "quiet", role: "status" });
    const readAgain = button("Read again", async () => {
      setText(status, "Reading …");
      try {
        await request(`${rowPath(key)}?wait=5`, { method: "POST" });
        setText(status, "Read again.");
      } catch (error) {
        setText(status, error.message);
      }
    });
    this.dialog.replaceChildren(
      el("div", { class: "heading" }, el("h2", { id: "detail-title" }, key), button("Close", () => this.dialog.close())),
      el("div", { class: "card-body" }, picture, el("dl", { class: "fields" }, ...fields)),
      el("h3", {}, "Files"), files,
      el("p", { class: "buttons" }, readAgain, el("a", { class: "button small", href: rowPath(key) }, "As JSON"), status));
    if (!this.dialog.open) this.dialog.showModal();
    await Promise.all([this.showImage(row, picture), this.showFiles(key, files)]);
  }

  async showImage(row, picture) {
    const column = this.api.columns.find((each) => each.display === "image" && row[each.name]);
    if (!column) return;
    picture.addEventListener("load", () => (picture.hidden = false));
    const source = await imageSource(row[this.api.key.name], row[column.name]);
    if (source) picture.src = source;
  }

  async showFiles(key, list) {
    try {
      const found = await getJson(`/files?limit=100&prefix=${encodeURIComponent(key)}`);
      const own = found.filter((file) => file.user_id === key);
      list.replaceChildren(...(own.length ? own.map((file) => buildFile(file, this.uploads))
        : [el("li", { class: "quiet" }, "None of its own: it comes from a bundle.")]));
    } catch (error) {
      list.replaceChildren(el("li", { class: "error" }, error.message));
    }
  }
}
