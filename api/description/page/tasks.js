// Rebuilds, bundles and sweeps: what runs, what is done, and the button for a rebuild.

import { getJson, isOutage, request } from "./api.js";
import {
  ago, button, el, find, formatCount, formatDuration, formatNumber, setText, sleep,
} from "./dom.js";

const MAX_TASKS = 50;
const POLL_MS = 400;
const OUTAGE_RETRY_MS = 3000;
const ENDED = new Set(["done", "failed", "rejected", "superseded", "removed"]);
const CLASSES = { done: "good", failed: "bad", rejected: "bad", superseded: "" };

export class Tasks {
  constructor() {
    this.followed = null;
    this.timer = 0;
    this.start = button("Rebuild", () => this.rebuild(), "");
    this.progress = el("progress", {
      max: 1, value: 0, "aria-label": "Progress of the rebuild", hidden: true,
    });
    this.text = el("p", { class: "quiet", role: "status" },
      "Reads every file again. Rarely needed: it changes no row that is correct.");
    this.list = el("ul", { class: "list", tabindex: 0, "aria-label": "The latest tasks" });
    find("rebuild").replaceChildren(
      this.text, this.progress, el("p", { class: "buttons" }, this.start));
  }

  async show() {
    const tasks = await getJson("/tasks", { isBackground: true });
    // The same element each time, so that it stays where it was scrolled to.
    this.list.replaceChildren(...tasks.slice(0, MAX_TASKS).map(buildTask));
    const content = tasks.length ? this.list : el("p", { class: "quiet" }, "None so far.");
    if (!content.isConnected) find("task-list").replaceChildren(content);
    const running = tasks.find((task) => task.state === "running" || task.state === "queued");
    if (running && !running.bundle && !this.followed) this.followRebuild(running.task_id);
    clearTimeout(this.timer);
    if (tasks.some((task) => !ENDED.has(task.state)) && !document.hidden) {
      this.timer = setTimeout(() => this.update(), 1000);
    }
  }

  // After a failure the tasks stay as they are: the page shows them again after an outage.
  async update() {
    await this.show().catch(() => {});
  }

  async rebuild() {
    try {
      const response = await request("/data", { method: "POST" });
      await this.followRebuild((await response.json()).task_id);
    } catch (error) {
      setText(this.text, error.message);
    }
  }

  async followRebuild(id) {
    this.followed = id;
    this.start.disabled = true;
    this.progress.hidden = false;
    try {
      for (;;) {
        const task = await this.loadRebuild(id);
        if (task) this.showProgress(task);
        if (task && ENDED.has(task.state)) break;
        await sleep(task ? POLL_MS : OUTAGE_RETRY_MS);
      }
    } catch (error) {
      setText(this.text, error.message);
    }
    this.start.disabled = false;
    this.followed = null;
    this.update();
  }

  // Return the task of a rebuild; null during an outage.
  async loadRebuild(id) {
    try {
      return await getJson(`/tasks/${encodeURIComponent(id)}`, { isBackground: true });
    } catch (error) {
      if (!isOutage(error)) throw error;
      setText(this.text, error.message);
      return null;
    }
  }

  showProgress(task) {
    const total = task.total ?? 0;
    const withoutUsers = task.state === "done" ? 1 : 0;
    if (task.state === "queued") this.progress.removeAttribute("value");
    else this.progress.value = total ? task.done / total : withoutUsers;
    const texts = {
      queued: "Queued …",
      running: `${formatNumber(task.done)} of ${formatNumber(total)} …`,
      done: `Rebuilt ${formatNumber(task.done)} in ${formatDuration(measure(task))}.`,
      failed: `Failed: ${task.error ?? ""}`,
    };
    setText(this.text, texts[task.state] ?? task.state);
  }
}

// What became of the users of a bundle.
export function formatUsers({ published, users, rejected, ignored }) {
  const parts = [`${formatNumber(published)} of ${formatCount(users, "user")}`];
  if (rejected) parts.push(`${formatNumber(rejected)} rejected`);
  if (ignored) parts.push(`${formatNumber(ignored)} ignored`);
  return parts.join(", ");
}

const measure = (task) =>
  (new Date(task.finished_at) - new Date(task.started_at ?? task.queued_at)) / 1000;

function buildTask(task) {
  const parts = [];
  if (task.error || task.message) parts.push(task.error ?? task.message);
  if (task.cause !== undefined) {
    parts.push(`${formatCount(task.objects, "file")}, ${formatNumber(task.marked)} read again`);
  }
  if (task.total !== undefined && task.total !== null) {
    parts.push(`${formatNumber(task.done)} of ${formatNumber(task.total)}`);
  }
  if (task.users !== undefined) parts.push(formatUsers(task));
  if (task.finished_at) parts.push(`took ${formatDuration(measure(task))}`);
  const time = task.finished_at ?? task.started_at ?? task.queued_at;
  return el("li", { class: "task" },
    el("span", { class: "name" }, nameTask(task)),
    el("span", { class: `tag ${CLASSES[task.state] ?? "warn"}` }, task.state),
    el("span", { class: "text" },
      parts.join(" · "), parts.length && time ? " · " : null, time ? ago(time) : null));
}

// A bundle is unpacked because it was dropped, a rebuild runs because someone requested it.
function nameTask(task) {
  if (task.bundle) return `Unpack ${task.bundle}`;
  return task.cause === undefined ? "Requested rebuild" : `Sweep: ${task.cause}`;
}
