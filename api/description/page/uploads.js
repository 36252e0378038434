// Drop files, bundles and folders: upload them, and show what became of each.

import {
  askForToken, authorization, filePath, getJson, getToken, needsToken, request,
} from "./api.js";
import { button, confirmButton, el, find, formatBytes, formatCount, formatNumber, formatValue, setText } from "./dom.js";
import { formatUsers } from "./tasks.js";

const PARALLEL = 4; // a browser has six connections to one server
const WAIT_S = 5;
const MAX_RETRIES = 5;
const MAX_SHOWN = 200;
const MAX_LOOKS = 60;
const JUNK_START = /^[.~#@$]/;
const JUNK_FOLDERS = new Set(["__MACOSX", "__pycache__", "node_modules", "lost+found", "System Volume Information"]);

export class Uploads {
  // `onRow` gets each row that an upload led to, and whether it was dropped on its own.
  constructor(api, { onRow, onOpen }) {
    this.api = api;
    this.onRow = onRow;
    this.onOpen = onOpen;
    this.queue = [];
    this.running = 0;
    this.counts = { total: 0, done: 0, rejected: 0, failed: 0, skipped: 0 };
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
      this.add(await listDropped(event.dataTransfer));
    });
  }

  // Ask for a file, and upload it under this name.
  replace(name) {
    const input = el("input", { type: "file" });
    input.addEventListener("change", () => {
      if (input.files[0]) this.enqueue([{ file: input.files[0], name }]);
    });
    input.click();
  }

  // Upload these files. In folders the one nearest to the top counts if a name occurs twice.
  add(files) {
    const items = [];
    const names = new Set();
    const depth = ({ path }) => path.split("/").length;
    for (const { file, path } of [...files].sort((one, other) => depth(one) - depth(other) || (one.path < other.path ? -1 : 1))) {
      const parts = path.split("/").filter(Boolean);
      const name = parts.at(-1);
      // A dropped file may begin with a dot if it was meant; in folders such files are junk.
      if (parts.length > 1 && parts.some((part) => JUNK_START.test(part) || JUNK_FOLDERS.has(part))) {
        this.counts.skipped += 1;
        continue;
      }
      let problem = null;
      if (!this.api.fileName.test(name)) problem = "not a CSV, an image or a bundle: not uploaded";
      else if (names.has(name)) problem = `${path}: there is another ${name} nearer to the top; not uploaded`;
      else if (file.size === 0) problem = "the file is empty: not uploaded";
      names.add(name);
      items.push({ file, name, problem });
    }
    this.enqueue(items);
  }

  enqueue(items) {
    find("uploads").hidden = false;
    this.counts.total += items.length;
    this.isSingle = this.counts.total - this.counts.done <= 2;
    this.queue.push(...items);
    this.showSummary();
    for (let number = this.running; number < PARALLEL; number += 1) this.work();
    find("uploads").scrollIntoView({ block: "nearest" });
  }

  async work() {
    this.running += 1;
    for (let item = this.queue.shift(); item; item = this.queue.shift()) {
      const entry = new Entry(item);
      try {
        if (item.problem) this.finish(entry, "failed", "", "skipped", item.problem);
        else await this.upload(item, entry);
      } catch (error) {
        this.finish(entry, "failed", "bad", "failed", error.message);
        entry.offer(button("Try again", () => this.enqueue([item])));
      }
      this.counts.done += 1;
      this.showSummary();
    }
    this.running -= 1;
  }

  finish(entry, count, className, tag, text) {
    this.counts[count] += 1;
    entry.finish(className, tag, text);
  }

  async upload(item, entry) {
    const answer = await put(`${filePath(item.name)}?wait=${WAIT_S}`, item.file, (share) => entry.showProgress(share));
    entry.showProgress(null);
    const result = await this.waitForResult(item.name, answer);
    if (result.reason) {
      this.showReject(item, entry, result);
    } else if (result.row) {
      if (result.warning) entry.finish("warn", "suspicious", result.warning);
      else entry.finish("good", "row", "");
      entry.showValues(this.api, result.row, () => this.onOpen(result.row));
      this.onRow(result.row, this.isSingle);
    } else {
      entry.finish(result.className ?? "good", result.tag, result.text);
    }
  }

  showReject(item, entry, { reason, line, held }) {
    const place = line ? `line ${line}: ` : "";
    this.finish(entry, "rejected", "bad", "rejected", `${place}${reason}${held ? ". The last valid row stays." : ""}`);
    entry.offer(button("Replace the file", () => this.replace(item.name)),
      confirmButton("Delete", "Really delete?", async () => {
        await request(filePath(item.name), { method: "DELETE" });
        entry.finish("", "deleted", "");
      }));
  }

  // Return what became of an upload: `row` and perhaps a `warning`, or `reason`, `line` and `held`,
  // or `tag` and `text`.
  async waitForResult(name, { status, body }) {
    if (status === 422) return body;
    if (status >= 400) throw new Error(body.detail ?? `The upload failed (${status}).`);
    if (body.look_at === "/tasks") return waitForBundle(name, body);
    return status === 200 ? describeResult(body) : waitForReceipt(name, body);
  }

  showSummary() {
    const { total, done, rejected, failed, skipped } = this.counts;
    const parts = [total === 0 ? "Nothing to upload" : `${formatNumber(done)} of ${formatCount(total, "file")}`];
    if (rejected) parts.push(`${formatNumber(rejected)} rejected`);
    if (failed) parts.push(`${formatNumber(failed)} not uploaded`);
    if (skipped) parts.push(`${formatCount(skipped, "hidden file")} skipped`);
    setText(find("upload-summary"), parts.join(", "));
  }

  clear() {
    for (const item of [...find("upload-list").children]) if (item.dataset.ended) item.remove();
    if (this.queue.length || this.running) return;
    this.counts = { total: 0, done: 0, rejected: 0, failed: 0, skipped: 0 };
    find("uploads").hidden = true;
  }
}

const STORED = { className: "", tag: "stored", text: "It is in the bucket; its row follows." };

// What an answer or a receipt says about a version that is published.
function describeResult({ result, reason, row }) {
  if (!row || !["row", "suspicious", "part"].includes(result)) return { className: "", tag: result, text: reason ?? "" };
  return { row, warning: result === "suspicious" ? reason : null };
}

class Entry {
  constructor({ name, file }) {
    this.tag = el("span", { class: "tag" }, "uploading");
    this.bar = el("progress", { max: 1, value: 0, "aria-label": `Upload of ${name}` });
    this.text = el("span", { class: "text", hidden: true });
    this.actions = el("span", { class: "actions", hidden: true });
    this.element = el("li", {}, el("span", { class: "name", title: formatBytes(file.size) }, name), this.tag, this.bar, this.text, this.actions);
    const list = find("upload-list");
    list.prepend(this.element);
    // The oldest entry that has become a row is removed.
    if (list.children.length > MAX_SHOWN) [...list.children].reverse().find((each) => each.dataset.ended === "good")?.remove();
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
    this.element.dataset.ended = className || "other";
    this.tag.className = `tag ${className}`;
    setText(this.tag, tag);
    this.bar.remove();
    this.actions.replaceChildren();
    setText(this.text, text);
    this.text.hidden = !text;
  }

  offer(...buttons) {
    this.actions.replaceChildren(...buttons);
    this.actions.hidden = false;
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
async function waitForReceipt(name, { etag }) {
  for (let number = 0; number < MAX_LOOKS; number += 1) {
    const receipt = await getJson(`${filePath(name)}/receipt?etag=${encodeURIComponent(etag)}`);
    if (receipt.result === "rejected") return receipt;
    if (receipt.result !== "pending") return describeResult(receipt);
    await new Promise((resolve) => setTimeout(resolve, number < 10 ? 300 : 2000));
  }
  return STORED;
}

async function waitForBundle(name, { etag }) {
  const isOf = (task) => task.bundle === name;
  for (let number = 0; number < 600; number += 1) {
    await new Promise((resolve) => setTimeout(resolve, number < 10 ? 200 : 1000));
    const tasks = (await getJson("/tasks")).filter(isOf);
    const isWaiting = tasks.some((task) => task.state === "waiting");
    const [task] = tasks.filter((each) => each.task_id);
    // An earlier version of the bundle may be listed while this one waits.
    if (isWaiting || !task || !task.finished_at || number < 5) continue;
    if (task.state === "rejected" || task.state === "failed") return { reason: task.error ?? task.state, line: null, held: false };
    const className = task.rejected || !task.users ? "warn" : "good";
    return { className, tag: task.state, text: formatUsers(task), etag };
  }
  return STORED;
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
