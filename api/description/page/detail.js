// The card of one row: its image, its values, and the files that it comes from.

import {
  ApiError, WITHOUT_ADDRESS, filePath, getJson, isOutage, readProblem, requestRead, rowPath, send,
  splitName,
} from "./api.js";
import {
  ask, attempt, button, el, find, focusHeading, formatDuration, formatLine, formatTime, formatValue,
  setText,
} from "./dom.js";
import { chooseFile } from "./dropped_files.js";
import { showFiles } from "./files.js";

export class Detail {
  constructor(api, uploads) {
    this.api = api;
    this.uploads = uploads;
    this.key = null;
    this.turn = 0; // the newest refresh counts
    this.imageColumn = api.columns.find((each) => each.display === "image");
    this.dialog = find("detail");
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.dialog.addEventListener("close", () => {
      this.key = null;
      // The row was the last one, so the focus cannot return to the table.
      const { activeElement } = document;
      const isLost = activeElement === document.body || this.dialog.contains(activeElement);
      if (isLost && find("table").hidden) focusHeading(find("rows"));
    });
    this.build();
  }

  build() {
    this.title = el("h2", { id: "detail-title" });
    this.gone = el("p", { class: "notice", role: "status" });
    this.picture = el("img", { hidden: true });
    for (const end of ["load", "error"]) {
      this.picture.addEventListener(end, () => {
        this.picture.hidden = end === "error";
        URL.revokeObjectURL(this.picture.src);
      });
    }
    this.fields = el("dl", { class: "fields" });
    this.body = el("div", { class: "card-body" }, this.picture, this.fields);
    this.list = el("ul", { class: "list" });
    this.noFiles = el("p", { class: "quiet" });
    this.provenance = el("div", {});
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.status = el("span", {});
    this.changePicture = button("", () => this.uploadPicture());
    const act = (action, busy) => attempt(this.status, action, busy);
    this.deleteRow = button("Delete this row", () => act(() => this.removeRow()), "small danger");
    this.asJson = el("a", { class: "button small" }, "As JSON");
    this.actions = el("span", { class: "buttons" }, this.changePicture,
      button("Read again", () => act(() => this.readAgain(), "Reading …")), this.asJson,
      this.deleteRow);
    this.dialog.replaceChildren(
      el("div", { class: "heading" }, this.title, button("Close", () => this.dialog.close())),
      this.error, this.gone, this.body,
      el("h3", {}, "Files"), this.list, this.noFiles, this.provenance,
      el("p", { class: "buttons" }, this.actions, this.status));
  }

  async show(row) {
    this.key = row[this.api.key.name];
    setText(this.title, this.key);
    // Work that was started for another row must not report here.
    const status = el("span", { class: "quiet", role: "status" });
    this.status.replaceWith(status);
    this.status = status;
    setText(this.noFiles, "Loading …");
    this.noFiles.hidden = false;
    this.list.replaceChildren();
    this.deleteRow.hidden = true; // until its files are known
    this.provenance.replaceChildren();
    this.error.hidden = true;
    this.picture.hidden = true;
    this.picture.alt = `Image of ${this.key}`;
    this.pictureVersion = null;
    this.asJson.href = rowPath(this.key);
    this.showRow(row);
    if (!this.dialog.open) this.dialog.showModal();
    if (WITHOUT_ADDRESS.has(this.key)) this.showWithoutAddress();
    else await this.refresh();
  }

  showWithoutAddress() {
    this.actions.hidden = true;
    setText(this.noFiles, `A browser cannot ask for the row "${this.key}", because its key is a `
      + `part of a path. If ${this.key}.csv is in the list of files, it can be deleted there.`);
  }

  // Show what the row is now: after each change of the table.
  async refresh() {
    const { key } = this;
    if (key === null || WITHOUT_ADDRESS.has(key)) return;
    this.turn += 1;
    const { turn } = this;
    const isCurrent = () => this.key === key && this.turn === turn;
    try {
      const isStillGone = !this.gone.hidden && !(await this.mayExist(key));
      const found = isStillGone ? null : await loadRow(key);
      const { explain, ...row } = found ?? {};
      const files = await listFiles(key);
      const csv = explain?.csv ?? `${key}.csv`;
      const isKnown = !found || files.some((file) => file.name === csv);
      const receipt = isKnown ? await loadReceipt(csv) : null;
      if (!isCurrent()) return;
      this.error.hidden = true;
      if (found) this.showRow(row);
      else this.showGone(receipt);
      this.showFiles(files, Boolean(found), explain);
      this.showProvenance(explain, receipt);
      if (found) await this.showImage(row, files);
    } catch (error) {
      if (!isCurrent()) return;
      this.error.hidden = false;
      setText(this.error, error.message);
    }
  }

  // A browser reports each 404 in its console, so a row that is gone is searched for.
  async mayExist(key) {
    if (!this.api.hasSearch) return true;
    const response = await send(`/data?limit=1&q=${encodeURIComponent(key)}`);
    return response.headers.get("X-Total-Count") !== "0";
  }

  showRow(row) {
    this.gone.hidden = true;
    this.body.hidden = false;
    this.actions.hidden = false;
    const fields = this.api.columns.flatMap(({ name, title, display, description }) => [
      el("dt", { title: description }, title),
      el("dd", { title: display === "date" ? String(row[name]) : null },
        formatValue(row[name], display) || "–"),
    ]);
    this.fields.replaceChildren(...fields);
    this.changePicture.hidden = !this.imageColumn;
    if (!this.imageColumn) return;
    const hasImage = Boolean(row[this.imageColumn.name]);
    setText(this.changePicture, hasImage ? "Replace picture" : "Add picture");
    if (hasImage) return;
    this.picture.hidden = true;
    this.pictureVersion = null;
  }

  showGone(receipt) {
    if (this.actions.contains(document.activeElement)) focusHeading(this.title);
    this.body.hidden = true;
    this.actions.hidden = true;
    this.gone.hidden = false;
    const parts = ["This row is gone."];
    if (receipt?.result === "rejected") {
      const { name, line, reason } = receipt;
      parts.push(`${name} is rejected: ${formatLine(line)}${reason}`);
    }
    setText(this.gone, parts.join(" "));
  }

  showFiles(files, isRow, explain) {
    showFiles(this.list, files, this.uploads);
    const isOwn = files.some((file) => splitName(file.name)[1] === "csv");
    this.noFiles.hidden = isOwn || (!isRow && files.length > 0);
    setText(this.noFiles, isRow ? describeSource(explain) : "None.");
    if (!isOwn && document.activeElement === this.deleteRow) focusHeading(this.title);
    this.deleteRow.hidden = !isOwn;
  }

  // From which files the row was made, and when; then earlier versions of its CSV.
  showProvenance(explain, receipt) {
    const facts = explain ? listFacts(explain) : [];
    // The newest entry is the row itself, if there is one.
    const earlier = (receipt?.history ?? []).slice(explain ? 1 : 0);
    this.provenance.replaceChildren();
    if (facts.length) {
      this.provenance.append(el("h3", {}, "Where it came from"), buildFacts(facts));
    }
    if (!earlier.length) return;
    const items = earlier.map(({ published_at: time, reason }) => el("li", {},
      `${time ? formatTime(time) : "At an unknown time"}: ${reason ?? "a valid row"}`));
    this.provenance.append(
      el("h3", {}, "Earlier versions"), el("ul", { class: "examples" }, ...items));
  }

  async showImage(row, files) {
    const value = this.imageColumn && row[this.imageColumn.name];
    const file = files.find((each) => value?.endsWith(`/${each.name}`));
    const version = `${value} ${file?.etag}`;
    if (!value || this.pictureVersion === version) return;
    this.pictureVersion = version;
    // Fetched, because the browser does not ask again for an image with an address that it shows.
    const response = await send(`${rowPath(this.key)}/image`).catch((error) => error);
    if (isOutage(response) && this.pictureVersion === version) this.pictureVersion = null;
    const content = response.ok ? await response.blob() : null;
    if (content && this.pictureVersion === version) this.picture.src = URL.createObjectURL(content);
  }

  // -- actions ---------------------------------------------------------------------------------
  async readAgain() {
    const isRead = await requestRead(this.key);
    await this.refresh();
    return isRead ? "Read just now." : "It will be read soon.";
  }

  async uploadPicture() {
    const { key } = this;
    const file = await chooseFile("image/*");
    if (!file) return;
    await attempt(this.status, async () => {
      const extension = splitName(file.name)[1].toLowerCase();
      const name = `${key}.${extension}`;
      if (!file.type.startsWith("image/") || !this.api.fileName.test(name)) {
        throw new Error(`An image of the type ${extension} is not read.`);
      }
      const own = await listFiles(key);
      const result = await this.uploads.send(file, name);
      // A picture of another type is another file. It would be shown again after the deletion of
      // this one.
      const replaced = own.map((each) => each.name)
        .filter((each) => each !== name && splitName(each)[1] !== "csv");
      for (const each of replaced) await this.uploads.deleteFile(each);
      await this.refresh();
      return `Uploaded: ${result}`;
    }, "Uploading …");
  }

  async removeRow() {
    const { key } = this;
    const names = (await listFiles(key)).map((file) => file.name);
    const question = `Its files are deleted: ${names.join(", ")}. This cannot be undone. `
      + "If a bundle has files of the same name, they count from then on.";
    if (!(await ask(`Delete the row ${key}?`, question, "Delete", "danger"))) return "";
    // The CSV last: after a failure the row is still there, and so is this button.
    names.sort((one, other) => (splitName(one)[1] === "csv") - (splitName(other)[1] === "csv"));
    for (const name of names) await this.uploads.deleteFile(name);
    this.uploads.onChange();
    return "Deleted.";
  }
}

// Return the row and how it was made; null if it is gone.
async function loadRow(key) {
  const response = await send(`${rowPath(key)}?explain=1`);
  if (response.ok) return response.json();
  if (response.status === 404) return null;
  throw new ApiError(response.status, await readProblem(response));
}

async function listFiles(key) {
  const files = await getJson(`/files?limit=1000&prefix=${encodeURIComponent(`${key}.`)}`);
  return files.filter((file) => file.user_id === key);
}

async function loadReceipt(name) {
  const response = await send(`${filePath(name)}/receipt`);
  return response.ok ? response.json() : null;
}

// Where the values of a row without a CSV of its own are from. A member of a bundle has a name like
// "users.zip#ada.csv".
function describeSource(explain) {
  const bundle = explain?.csv?.match(/^.*?\.(zip|tar|tgz|tar\.gz)(?=#)/)?.[0];
  if (bundle) return `Its values are from the bundle ${bundle}.`;
  if (explain?.csv) return "Its CSV is deleted, and the row is about to go.";
  return "Its values are from a bundle.";
}

function listFacts(explain) {
  const sources = [explain.csv, explain.image].filter(Boolean).join(", ");
  const facts = sources && !explain.reason ? [["Made from", sources]] : [];
  if (explain.reason) {
    const cause = `${explain.csv} is rejected: ${explain.reason}`;
    facts.push(["Held", `its last valid values stay, because ${cause}`]);
  }
  facts.push(...listTimes(explain));
  if (explain.is_changing) facts.push(["Now", "a newer result is on the way"]);
  return facts;
}

// The times of a result; each but the first as the time since the one before.
function listTimes(result) {
  const names = {
    event_at: "Event", read_at: "Read", published_at: "Published", visible_at: "Visible",
  };
  const facts = [];
  let before = null;
  for (const [name, title] of Object.entries(names)) {
    if (!result[name]) continue;
    const time = new Date(result[name]);
    const later = before ? `${formatDuration((time - before) / 1000)} later` : null;
    facts.push([title, later ?? formatTime(result[name])]);
    before = time;
  }
  return facts;
}

const buildFacts = (facts) => el("dl", { class: "fields" },
  ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
