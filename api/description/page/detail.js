// The card of one row: its image, its values, and the files that it comes from.

import { filePath, getJson, request, rowPath } from "./api.js";
import { button, el, find, formatDuration, formatTime, formatValue, setText } from "./dom.js";
import { buildFile } from "./files.js";
import { showImage } from "./images.js";

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
    const story = el("div", {});
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
      el("h3", {}, "Files"), files, story,
      el("p", { class: "buttons" }, readAgain, el("a", { class: "button small", href: rowPath(key) }, "As JSON"), status));
    if (!this.dialog.open) this.dialog.showModal();
    await Promise.all([this.showImage(row, picture), this.showFiles(key, files), this.showStory(key, story)]);
  }

  // From which files the row was made, and when; then earlier versions of its CSV.
  async showStory(key, place) {
    try {
      const { explain } = await getJson(`${rowPath(key)}?explain=1`);
      const facts = listTimes(explain);
      const sources = [explain.csv, explain.image].filter(Boolean).join(", ");
      if (sources) facts.unshift(["Made from", sources]);
      if (explain.reason) facts.push(["Newer file rejected", explain.reason]);
      if (explain.is_changing) facts.push(["Now", "a newer result is on the way"]);
      if (facts.length) place.append(el("h3", {}, "How it came here"), buildFacts(facts));
      if (explain.csv !== `${key}.csv`) return; // members of bundles have none
      const { history } = await getJson(`${filePath(explain.csv)}/receipt`);
      // The same version may have been read and published several times.
      const isSame = (one, other) => one.etag === other.etag && one.image === other.image;
      const earlier = history.filter((entry, place) => place > 0 && history.findIndex((each) => isSame(each, entry)) === place);
      if (!earlier.length) return;
      place.append(el("h3", {}, "Earlier versions"), el("ul", { class: "examples" }, ...earlier.map((entry) =>
        el("li", {}, `${entry.published_at ? formatTime(entry.published_at) : "At an unknown time"}: ${entry.reason ?? "a valid row"}`))));
    } catch (error) {
      place.append(el("p", { class: "quiet" }, error.message));
    }
  }

  async showImage(row, picture) {
    if (!this.api.columns.some((each) => each.display === "image" && row[each.name])) return;
    await showImage(picture, row[this.api.key.name]).catch(() => {}); // it may be no image
  }

  async showFiles(key, list) {
    try {
      const found = await getJson(`/files?limit=100&prefix=${encodeURIComponent(`${key}.`)}`);
      const own = found.filter((file) => file.user_id === key);
      // What becomes of a file that replaces one is shown on the page, not on the card.
      const replace = (name) => {
        this.dialog.close();
        this.uploads.replace(name);
      };
      list.replaceChildren(...(own.length ? own.map((file) => buildFile(file, replace))
        : [el("li", { class: "quiet" }, "None of its own: it comes from a bundle.")]));
    } catch (error) {
      list.replaceChildren(el("li", { class: "error" }, error.message));
    }
  }
}

// The times of a result; each but the first as the time since the one before.
function listTimes(result) {
  const names = { event_at: "Event", read_at: "Read", published_at: "Published", visible_at: "Visible" };
  const facts = [];
  let before = null;
  for (const [name, title] of Object.entries(names)) {
    if (!result[name]) continue;
    const time = new Date(result[name]);
    facts.push([title, before ? `${formatDuration((time - before) / 1000)} later` : formatTime(result[name])]);
    before = time;
  }
  return facts;
}

const buildFacts = (facts) => el("dl", { class: "fields" },
  ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
