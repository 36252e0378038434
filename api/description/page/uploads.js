// Uploads: a queue of files, the requests, and waiting until it is known what became of each file.

import {
  ApiError, askForToken, authorization, filePath, getJson, getToken, isOutage, needsToken, request,
  splitName,
} from "./api.js";
import { ask, attempt, button, find, focusHeading, formatLine, sleep } from "./dom.js";
import { chooseFile, findImageProblem, listenForFiles, selectFiles } from "./dropped_files.js";
import { fileButtons } from "./files.js";
import { formatUsers } from "./tasks.js";
import { ALONE, UploadList } from "./upload_list.js";

const PARALLEL = 4; // a browser has six connections to one server
const WAIT_S = 5;
const BUNDLE_WAIT_S = 30;
const BUNDLE = /\.(zip|tar|tgz|tar\.gz)$/;
const MAX_RETRIES = 5;
const MAX_POLLS = 60;
const MAX_BUNDLE_POLLS = 300; // ten minutes
const STORED = { className: "", tag: "stored", text: "It is in the bucket; its row follows." };
const NOT_UNDERSTOOD = "The answer is not one of the API: the file may be stored. Try again.";
const REFUSALS = new Set([400, 413, 415]); // the same file would be refused again

export class Uploads {
  // `onRow` gets each row that an upload led to, and whether it was dropped on its own; `onChange`
  // is called after a file was uploaded or deleted.
  constructor(api, { onRow, onOpen, onChange }) {
    this.api = api;
    this.onRow = onRow;
    this.onOpen = onOpen;
    this.onChange = onChange;
    this.items = new Map(); // name -> the newest item of this name
    // The number of items by state.
    this.counts = { waiting: 0, stored: 0, rejected: 0, failed: 0, unconfirmed: 0, deleted: 0 };
    this.skipped = 0;
    this.queue = [];
    this.active = new Set(); // names that are being uploaded
    this.running = 0;
    this.list = new UploadList();
    listenForFiles({
      onFiles: (files) => this.add(files),
      onError: (error) => this.list.showError(error),
    });
    find("clear-uploads").addEventListener("click", () => this.clear());
  }

  // Ask for a file, and upload it under this name. `status` shows how it goes.
  async replace(name, status) {
    const file = await chooseFile();
    if (!file) return;
    const title = `Upload ${file.name} as ${name}?`;
    const question = `The content of ${name} is replaced.`;
    if (file.name !== name && !(await ask(title, question, "Upload", "primary"))) return;
    const send = async () => `Uploaded: ${await this.send(file, name)}`;
    await attempt(status, send, "Uploading …");
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
    const question = "It is deleted from the bucket. This cannot be undone.";
    if (!(await ask(`Delete ${name}?`, question, "Delete", "danger"))) return false;
    await this.deleteFile(name);
    this.onChange();
    return true;
  }

  async deleteFile(name) {
    await request(filePath(name), { method: "DELETE" });
    const item = this.items.get(name);
    if (!item || item.state === "waiting") return;
    this.setState(item, "deleted");
    this.list.get(name)?.finish("", "deleted", "");
    this.showSummary();
  }

  // Upload these files, except for hidden ones in folders.
  add(files) {
    const items = selectFiles(files, this.api.fileName);
    this.skipped += files.length - items.length;
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
      item.since = performance.now();
      this.counts.waiting += 1;
      this.list.get(item.id)?.restart();
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
    for (let index = findNext(); index >= 0; index = findNext()) {
      const [item] = this.queue.splice(index, 1);
      this.active.add(item.id);
      if (this.isNewest(item)) await this.process(item);
      else item.onEnd?.(true, "a newer file counts");
      this.active.delete(item.id);
    }
    this.running -= 1;
  }

  async process(item) {
    const entry = this.list.open(item);
    try {
      item.problem ??= await findImageProblem(item.file);
      if (item.problem) this.finish(item, "failed", "", "skipped", item.problem);
      else await this.upload(item, entry);
    } catch (error) {
      const isUnconfirmed = error instanceof UnconfirmedError;
      const [state, tag] = isUnconfirmed ? ["unconfirmed", "not confirmed"] : ["failed", "failed"];
      this.finish(item, state, "bad", tag, error.message);
      if (this.isNewest(item) && !REFUSALS.has(error.status)) {
        entry.offer(button("Try again", () => this.enqueue([item])));
      }
    }
    this.showSummary();
  }

  finish(item, state, className, tag, text) {
    item.onEnd?.(state === "stored", text ? `${tag}: ${text}` : tag);
    if (!this.isNewest(item)) return;
    this.setState(item, state);
    this.list.get(item.id)?.finish(className, tag, text);
  }

  async upload(item, entry) {
    const show = (share) => this.isNewest(item) && entry.showProgress(share);
    const result = await uploadFile(item, show);
    if (result.reason) {
      const hint = result.held && result.user_id ? ". The last valid row stays." : "";
      const text = `${formatLine(result.line)}${result.reason}${hint}`;
      this.finish(item, "rejected", "bad", "rejected", text);
      if (this.isNewest(item)) entry.offer(...fileButtons(item.name, entry.status, this));
    } else if (result.row) {
      const [key, extension] = splitName(item.name);
      if (result.warning) this.finish(item, "stored", "warn", "suspicious", result.warning);
      else this.finish(item, "stored", "good", extension === "csv" ? "row" : "image", "");
      if (!this.isNewest(item)) return;
      entry.showValues(this.api, result.row, () => this.onOpen(result.row));
      this.list.finishImagesOf(key);
      this.onRow(result.row, this.isSingle);
    } else {
      this.finish(item, "stored", result.className ?? "good", result.tag, result.text);
    }
    this.onChange();
  }

  showSummary() {
    this.list.showSummary(this.counts, this.items.size, this.skipped);
  }

  clear() {
    for (const [id, item] of this.items) {
      if (item.state === "waiting") continue;
      this.counts[item.state] -= 1;
      this.items.delete(id);
      this.list.remove(id);
    }
    this.skipped = 0;
    this.showSummary();
    if (this.items.size) return;
    find("uploads").hidden = true;
    focusHeading(find("uploads"));
  }
}

// Upload a file, and return what became of it: `row` and perhaps a `warning`, or `reason`, `line`
// and `held`, or `tag` and `text`. `onProgress` gets the share that is sent, and null after that.
async function uploadFile({ name, file, since }, onProgress) {
  const waitS = BUNDLE.test(name) ? BUNDLE_WAIT_S : WAIT_S;
  const { status, body } = await put(`${filePath(name)}?wait=${waitS}`, file, since, onProgress);
  onProgress(null);
  if (status === 422 && body.reason) return body;
  // A proxy that waits no longer does not know whether the file is stored.
  if (status === 502 || status === 504) throw new UnconfirmedError(NOT_UNDERSTOOD);
  if (status >= 400) throw new ApiError(status, body);
  if (!body.etag) throw new UnconfirmedError(NOT_UNDERSTOOD);
  if (body.result === "unpacked") return describeBundle(body);
  if (body.look_at === "/tasks" && status !== 200) return waitForBundle(name, body);
  return status === 200 ? describeResult(body) : waitForReceipt(name, body);
}

// The file may be stored.
class UnconfirmedError extends Error {}

// PUT with progress, which fetch does not have.
async function put(path, file, since, onProgress) {
  for (let attempt = 0; ; attempt += 1) {
    const used = getToken();
    const answer = await putOnce(path, file, onProgress);
    const isDenied = needsToken(answer.status, answer.body);
    if (isDenied && (await askForToken(answer.body.detail, used, since))) continue;
    if (answer.status !== 503 || attempt >= MAX_RETRIES) return answer;
    await sleep(1000 * (answer.retryAfter || 1));
  }
}

function putOnce(path, file, onProgress) {
  return new Promise((resolve, reject) => {
    const transfer = new XMLHttpRequest();
    let isSent = false;
    transfer.open("PUT", path);
    const headers = { "Content-Type": "application/octet-stream", ...authorization() };
    for (const [name, value] of Object.entries(headers)) transfer.setRequestHeader(name, value);
    transfer.upload.addEventListener("progress", ({ loaded, total }) =>
      onProgress(total ? loaded / total : 0));
    transfer.upload.addEventListener("load", () => {
      isSent = true;
      onProgress(null);
    });
    transfer.addEventListener("load", () => {
      let body = {};
      try {
        body = JSON.parse(transfer.responseText);
      } catch { /* not a document of this API */ }
      const retryAfter = Number(transfer.getResponseHeader("Retry-After"));
      resolve({ status: transfer.status, body, retryAfter });
    });
    transfer.addEventListener("error", () => reject(isSent
      ? new UnconfirmedError("The connection was closed: the file may be stored. Try again.")
      : new Error("The connection was closed, or the file cannot be read.")));
    transfer.send(file);
  });
}

// Ask for the receipt of this version until it is no longer pending. Without a receipt the file is
// still stored.
async function waitForReceipt(name, { etag }, maxPolls = MAX_POLLS) {
  for (let number = 0; number < maxPolls; number += 1) {
    try {
      const path = `${filePath(name)}/receipt?etag=${encodeURIComponent(etag)}`;
      const receipt = await getJson(path, { isBackground: true });
      if (receipt.result === "rejected") return receipt;
      if (receipt.result !== "pending") return describeResult(receipt);
    } catch (error) {
      if (!isOutage(error)) return STORED;
    }
    await sleep(number < 10 ? 300 : 2000);
  }
  return STORED;
}

// The task of an earlier version may be listed: only the receipt is that of this version.
async function waitForBundle(name, body) {
  const receipt = await waitForReceipt(name, body, MAX_BUNDLE_POLLS);
  if (receipt.tag !== "unpacked") return receipt;
  const tasks = await getJson("/tasks").catch(() => []);
  const task = tasks.find((each) => each.bundle === name && each.state === "done");
  return task ? describeBundle(task) : receipt;
}

function describeBundle(task) {
  const className = task.rejected || !task.users ? "warn" : "good";
  const hint = task.rejected ? ": see Problems for the reason" : "";
  return { className, tag: task.state, text: `${formatUsers(task)}${hint}` };
}

// What an answer or a receipt says about a version that is published.
function describeResult({ name, result, reason, row }) {
  if (result === "part" && !row) return describeAlone(name);
  if (!row || !["row", "suspicious", "part"].includes(result)) {
    return { className: "", tag: result, text: reason ?? "" };
  }
  return { row, warning: result === "suspicious" ? reason : null };
}

function describeAlone(name) {
  const csv = `${splitName(name)[0]}.csv`;
  const text = `It becomes visible with ${csv}: an image is named like its CSV.`;
  return { className: "warn", tag: ALONE, text };
}
