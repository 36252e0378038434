// Drop files, bundles and folders: upload them, and show what became of each.

import { ApiError, askForToken, authorization, filePath, getJson, getToken, needsToken, request } from "./api.js";
import { ask, attempt, button, el, find, focusHeading, formatBytes, formatCount, formatNumber, formatValue, setText } from "./dom.js";
import { fileButtons } from "./files.js";
import { formatUsers } from "./tasks.js";

const PARALLEL = 4; // a browser has six connections to one server
const WAIT_S = 5;
const BUNDLE_WAIT_S = 30;
const BUNDLE = /\.(zip|tar|tgz|tar\.gz)$/;
const MAX_RETRIES = 5;
const MAX_SHOWN = 200;
const MAX_LOOKS = 60;
const MAX_BUNDLE_LOOKS = 300; // ten minutes
const REFUSALS = new Set([400, 413, 415]); // the same file would be refused again
const JUNK_START = /^[.~#@$]/;
const JUNK_FOLDERS = new Set(["__MACOSX", "__pycache__", "node_modules", "lost+found", "System Volume Information"]);

export class Uploads {
  // `onRow` gets each row that an upload led to, and whether it was dropped on its own; `onChange`
  // is called after a file was uploaded or deleted.
  constructor(api, { onRow, onOpen, onChange }) {
    this.api = api;
    this.onRow = onRow;
    this.onOpen = onOpen;
    this.onChange = onChange;
    this.items = new Map(); // name -> the newest item of this name
    this.entries = new Map(); // name -> what the list shows of it
    this.counts = { waiting: 0, stored: 0, rejected: 0, failed: 0, deleted: 0 }; // items by state
    this.skipped = 0;
    this.queue = [];
    this.active = new Set(); // names that are being uploaded
    this.running = 0;
    this.text = el("span", {});
    this.toRejected = button("", () => this.showRejected(), "plain");
    find("upload-summary").append(this.text, this.toRejected);
    this.listen();
  }

  listen() {
    for (const [name, input] of [["choose-files", "files-input"], ["choose-folder", "folder-input"]]) {
      find(name).addEventListener("click", () => find(input).click());
      find(input).addEventListener("change", (event) => {
        this.add([...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
        event.target.value = "";
      });
    }
    find("clear-uploads").addEventListener("click", () => this.clear());
    const overlay = find("drop-overlay");
    const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      overlay.hidden = false;
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) overlay.hidden = true;
    });
    addEventListener("drop", async (event) => {
      overlay.hidden = true;
      if (!hasFiles(event)) return;
      event.preventDefault();
      try {
        this.add(await listDropped(event.dataTransfer));
      } catch (error) {
        find("uploads").hidden = false;
        setText(this.text, `What was dropped cannot be read: ${error.message}`);
      }
    });
  }

  // Ask for a file, and upload it under this name. `status` shows how it goes.
  async replace(name, status) {
    const file = await chooseFile();
    if (!file) return;
    const question = `The content of ${name} is replaced.`;
    if (file.name !== name && !(await ask(`Upload ${file.name} as ${name}?`, question, "Upload", "primary"))) return;
    await attempt(status, async () => `Uploaded: ${await this.send(file, name)}`, "Uploading …");
  }

  // Upload a file. Return what became of it, or throw the reason.
  send(file, name) {
    return new Promise((resolve, reject) => {
      const onEnd = (isValid, text) => (isValid ? resolve(text) : reject(new Error(text)));
      this.enqueue([{ file, name, id: name, onEnd }]);
    });
  }

  // Ask, and delete a file. Return whether it was deleted.
  async remove(name) {
    if (!(await ask(`Delete ${name}?`, "It is deleted from the bucket. This cannot be undone.", "Delete", "danger"))) return false;
    await this.deleteFile(name);
    this.onChange();
    return true;
  }

  async deleteFile(name) {
    await request(filePath(name), { method: "DELETE" });
    const item = this.items.get(name);
    if (!item || item.state === "waiting") return;
    this.setState(item, "deleted");
    this.entries.get(name)?.finish("", "deleted", "");
    this.showSummary();
  }

  // Upload these files. In folders the one nearest to the top counts if a name occurs twice.
  add(files) {
    const items = [];
    const names = new Set();
    const depth = ({ path }) => path.split("/").length;
    for (const { file, path } of [...files].sort((one, other) => depth(one) - depth(other) || (one.path < other.path ? -1 : 1))) {
      const parts = path.split("/").filter(Boolean);
      const name = lowerExtension(parts.at(-1), this.api.fileName);
      // A dropped file may begin with a dot if it was meant; in folders such files are junk.
      if (parts.length > 1 && parts.some((part) => JUNK_START.test(part) || JUNK_FOLDERS.has(part))) {
        this.skipped += 1;
        continue;
      }
      let problem = null;
      if (!this.api.fileName.test(name)) problem = "not a CSV, an image or a bundle: not uploaded";
      else if (names.has(name)) problem = `there is another ${name} nearer to the top: not uploaded`;
      else if (file.size === 0) problem = "the file is empty: not uploaded";
      items.push({ file, name, problem, id: names.has(name) ? path : name });
      names.add(name);
    }
    this.enqueue(items);
  }

  // The newest item of a name replaces the one before, in the list and in the counts.
  enqueue(items) {
    find("uploads").hidden = false;
    for (const item of items) {
      const before = this.items.get(item.id);
      if (before) this.counts[before.state] -= 1;
      this.items.set(item.id, item);
      item.state = "waiting";
      this.counts.waiting += 1;
      this.entries.get(item.id)?.restart();
    }
    this.isSingle = this.counts.waiting <= 2;
    this.queue.push(...items);
    this.showSummary();
    for (let number = this.running; number < PARALLEL; number += 1) this.work();
    find("uploads").scrollIntoView({ block: "nearest" });
  }

  setState(item, state) {
    this.counts[item.state] -= 1;
    item.state = state;
    this.counts[state] += 1;
  }

  isNewest(item) {
    return this.items.get(item.id) === item;
  }

  async work() {
    this.running += 1;
    // Of two files with the same name the second one waits, so that it is the one that counts.
    const findNext = () => this.queue.findIndex((item) => !this.active.has(item.id));
    for (let place = findNext(); place >= 0; place = findNext()) {
      const [item] = this.queue.splice(place, 1);
      this.active.add(item.id);
      if (this.isNewest(item)) await this.process(item);
      else item.onEnd?.(true, "a newer file counts");
      this.active.delete(item.id);
    }
    this.running -= 1;
  }

  async process(item) {
    const entry = this.openEntry(item);
    try {
      item.problem ??= await findImageProblem(item.file);
      if (item.problem) this.finish(item, "failed", "", "skipped", item.problem);
      else await this.upload(item, entry);
    } catch (error) {
      this.finish(item, "failed", "bad", "failed", error.message);
      if (this.isNewest(item) && !REFUSALS.has(error.status)) entry.offer(button("Try again", () => this.enqueue([item])));
    }
    this.showSummary();
  }

  openEntry(item) {
    let entry = this.entries.get(item.id);
    if (entry) {
      entry.restart();
      return entry;
    }
    entry = new Entry(item);
    this.entries.set(item.id, entry);
    if (this.entries.size > MAX_SHOWN) {
      const oldest = [...this.entries].find(([, each]) => each.isEnded && !each.isBad);
      oldest?.[1].element.remove();
      if (oldest) this.entries.delete(oldest[0]);
    }
    return entry;
  }

  finish(item, state, className, tag, text) {
    item.onEnd?.(state === "stored", text ? `${tag}: ${text}` : tag);
    if (!this.isNewest(item)) return;
    this.setState(item, state);
    this.entries.get(item.id)?.finish(className, tag, text);
  }

  async upload(item, entry) {
    const show = (share) => this.isNewest(item) && entry.showProgress(share);
    const waitS = BUNDLE.test(item.name) ? BUNDLE_WAIT_S : WAIT_S;
    const answer = await put(`${filePath(item.name)}?wait=${waitS}`, item.file, show);
    show(null);
    const [key, extension] = splitName(item.name);
    const result = await this.waitForResult(item.name, answer);
    if (result.reason) {
      const place = result.line ? `line ${result.line}: ` : "";
      this.finish(item, "rejected", "bad", "rejected", `${place}${result.reason}${result.held && result.user_id ? ". The last valid row stays." : ""}`);
      if (this.isNewest(item)) entry.offer(...fileButtons(item.name, entry.status, this));
    } else if (result.row) {
      if (result.warning) this.finish(item, "stored", "warn", "suspicious", result.warning);
      else this.finish(item, "stored", "good", extension === "csv" ? "row" : "image", "");
      if (!this.isNewest(item)) return;
      entry.showValues(this.api, result.row, () => this.onOpen(result.row));
      this.showImagesOf(key);
      this.onRow(result.row, this.isSingle);
    } else {
      this.finish(item, "stored", result.className ?? "good", result.tag, result.text);
    }
    this.onChange();
  }

  // Images that were uploaded before their CSV are visible now.
  showImagesOf(key) {
    for (const [name, entry] of this.entries) {
      if (entry.element.dataset.tag === ALONE && splitName(name)[0] === key) entry.finish("good", "image", "");
    }
  }

  // Return what became of an upload: `row` and perhaps a `warning`, or `reason`, `line` and `held`,
  // or `tag` and `text`.
  async waitForResult(name, { status, body }) {
    if (status === 422) return body;
    if (status >= 400) throw new ApiError(status, body);
    if (body.result === "unpacked") return describeBundle(body);
    if (body.look_at === "/tasks" && status !== 200) return waitForBundle(name, body);
    return status === 200 ? describeResult(body) : waitForReceipt(name, body);
  }

  showSummary() {
    const { waiting, rejected, failed, deleted } = this.counts;
    const total = this.items.size;
    const uploaded = total - waiting - failed;
    const parts = [total ? `${formatNumber(uploaded)} of ${formatCount(total, "file")} uploaded` : "Nothing to upload"];
    if (failed) parts.push(`${formatNumber(failed)} not uploaded`);
    if (deleted) parts.push(`${formatNumber(deleted)} deleted`);
    if (this.skipped) parts.push(`${formatCount(this.skipped, "hidden file")} skipped`);
    setText(this.text, parts.join(", ") + (rejected ? ", " : ""));
    if (!rejected && document.activeElement === this.toRejected) focusHeading(this.toRejected);
    this.toRejected.hidden = !rejected;
    setText(this.toRejected, rejected ? `${formatNumber(rejected)} rejected` : "");
  }

  showRejected() {
    const first = find("upload-list").querySelector("[data-tag=rejected]");
    first?.scrollIntoView({ block: "nearest" });
    first?.focus();
  }

  clear() {
    for (const [id, item] of this.items) {
      if (item.state === "waiting") continue;
      this.counts[item.state] -= 1;
      this.items.delete(id);
      this.entries.get(id)?.element.remove();
      this.entries.delete(id);
    }
    this.skipped = 0;
    this.showSummary();
    if (this.items.size) return;
    find("uploads").hidden = true;
    focusHeading(find("uploads"));
  }
}

const ALONE = "no row yet";
const STORED = { className: "", tag: "stored", text: "It is in the bucket; its row follows." };
const describeAlone = (name) => ({
  className: "warn", tag: ALONE, text: `It becomes visible with ${splitName(name)[0]}.csv: an image is named like its user's CSV.`,
});

// What an answer or a receipt says about a version that is published.
function describeResult({ name, result, reason, row }) {
  if (result === "part" && !row) return describeAlone(name);
  if (!row || !["row", "suspicious", "part"].includes(result)) return { className: "", tag: result, text: reason ?? "" };
  return { row, warning: result === "suspicious" ? reason : null };
}

// "ada.png" is the image of "ada".
export function splitName(name) {
  const place = name.lastIndexOf(".");
  return [name.slice(0, place), name.slice(place + 1)];
}

// Only names with an extension in lower case are read, and some programs write "ada.CSV".
function lowerExtension(name, pattern) {
  const lower = name.replace(/(\.tar)?\.[^.]+$/i, (extension) => extension.toLowerCase());
  return !pattern.test(name) && pattern.test(lower) ? lower : name;
}

// The pipeline does not look into images, so a damaged one would replace a valid one.
async function findImageProblem(file) {
  if (!file.type.startsWith("image/")) return null;
  try {
    (await createImageBitmap(file)).close();
    return null;
  } catch {
    return "it is no image, or a damaged one: not uploaded";
  }
}

// Return the file that a person chooses, or null.
export function chooseFile(accept) {
  const input = el("input", { type: "file", accept });
  return new Promise((resolve) => {
    input.addEventListener("change", () => resolve(input.files[0] ?? null));
    input.addEventListener("cancel", () => resolve(null));
    input.click();
  });
}

// What the list shows of a file. The entries that need attention are the first ones.
class Entry {
  constructor({ name, file }) {
    this.tag = el("span", { class: "tag" });
    this.bar = el("progress", { max: 1, "aria-label": `Upload of ${name}` });
    this.text = el("span", { class: "text" });
    this.actions = el("span", { class: "actions" });
    this.status = el("span", { class: "text", role: "status" });
    this.element = el("li", { tabindex: -1 },
      el("span", { class: "name", title: formatBytes(file.size) }, name), this.tag, this.bar, this.text, this.actions, this.status);
    this.restart();
  }

  get isEnded() {
    return "tag" in this.element.dataset;
  }

  get isBad() {
    return this.element.classList.contains("bad");
  }

  restart() {
    this.show(null, "", "uploading", "");
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
    this.show(tag, className, tag, text);
  }

  show(ended, className, tag, text) {
    const hadFocus = this.element.contains(document.activeElement);
    if (ended) this.element.dataset.tag = ended;
    else delete this.element.dataset.tag;
    this.element.className = className === "bad" ? "bad" : "";
    this.tag.className = `tag ${className}`;
    setText(this.tag, tag);
    this.bar.hidden = Boolean(ended);
    setText(this.text, text);
    setText(this.status, "");
    this.offer();
    this.place();
    if (hadFocus) this.element.focus();
  }

  place() {
    const list = find("upload-list");
    const { parentNode, previousElementSibling: previous, nextElementSibling: next } = this.element;
    const isRight = this.isBad ? !previous?.matches(":not(.bad)") : !next?.matches(".bad");
    if (parentNode && isRight) return;
    this.element.remove();
    list.insertBefore(this.element, this.isBad ? list.firstChild : list.querySelector("li:not(.bad)"));
  }

  offer(...buttons) {
    this.actions.replaceChildren(...buttons);
  }

  showValues(api, row, onOpen) {
    const values = api.columns.filter((column) => column.display !== "image").map((column) => formatValue(row[column.name], column.display));
    this.element.classList.add("fresh");
    this.offer(el("span", { class: "values" }, values.filter(Boolean).join(" · ")), button("Open", onOpen));
  }
}

// PUT with progress, which fetch does not have.
async function put(path, file, onProgress) {
  for (let attempt = 0; ; attempt += 1) {
    const used = getToken();
    const answer = await putOnce(path, file, onProgress);
    const isDenied = needsToken(answer.status, answer.body);
    if (isDenied && (await askForToken(answer.body.detail, used))) continue;
    if (answer.status !== 503 || attempt >= MAX_RETRIES) return answer;
    await new Promise((resolve) => setTimeout(resolve, 1000 * (answer.retryAfter || 1)));
  }
}

function putOnce(path, file, onProgress) {
  return new Promise((resolve, reject) => {
    const upload = new XMLHttpRequest();
    upload.open("PUT", path);
    upload.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(authorization())) upload.setRequestHeader(name, value);
    upload.upload.addEventListener("progress", (event) => onProgress(event.total ? event.loaded / event.total : 0));
    upload.upload.addEventListener("load", () => onProgress(null));
    upload.addEventListener("load", () => {
      let body = {};
      try {
        body = JSON.parse(upload.responseText);
      } catch { /* not a document of this API */ }
      resolve({ status: upload.status, body, retryAfter: Number(upload.getResponseHeader("Retry-After")) });
    });
    upload.addEventListener("error", () => reject(new Error("The connection was closed, or the file cannot be read.")));
    upload.send(file);
  });
}

// Ask for the receipt of this version until it is no longer pending.
async function waitForReceipt(name, { etag }, maxLooks = MAX_LOOKS) {
  for (let number = 0; number < maxLooks; number += 1) {
    const receipt = await getJson(`${filePath(name)}/receipt?etag=${encodeURIComponent(etag)}`);
    if (receipt.result === "rejected") return receipt;
    if (receipt.result !== "pending") return describeResult(receipt);
    await new Promise((resolve) => setTimeout(resolve, number < 10 ? 300 : 2000));
  }
  return STORED;
}

// The task of an earlier version may be listed: only the receipt is that of this version.
async function waitForBundle(name, body) {
  const receipt = await waitForReceipt(name, body, MAX_BUNDLE_LOOKS);
  if (receipt.tag !== "unpacked") return receipt;
  const task = (await getJson("/tasks")).find((each) => each.bundle === name && each.state === "done");
  return task ? describeBundle(task) : receipt;
}

function describeBundle(task) {
  const className = task.rejected || !task.users ? "warn" : "good";
  const hint = task.rejected ? ": see Problems for the reason" : "";
  return { className, tag: task.state, text: `${formatUsers(task)}${hint}` };
}

// -- what was dropped --------------------------------------------------------------------------
async function listDropped(transfer) {
  // Both lists must be read before the first await: they are emptied when the event is over.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...transfer.files].map((file) => ({ file, path: file.name }));
  if (!entries.some((entry) => entry.isDirectory)) return plain;
  const found = [];
  for (const entry of entries) await collect(entry, found);
  return found;
}

async function collect(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, path: entry.fullPath.slice(1) });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return; // it returns at most 100 at once
    for (const each of part) await collect(each, found);
  }
}
