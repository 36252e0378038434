// Calls the handlers when the table or the status changes: by the stream of /changes, or by
// polling.

import { request } from "./api.js";
import { sleep } from "./dom.js";

const RETRY_MS = 3000;
const SILENCE_MS = 40000; // the API sends something every 15 s
const POLL_MS = 3000;

// Call `onTable` and `onStatus` with the version after each change, and `onConnection` with true or
// false.
// A hidden tab has no stream: a browser has few connections to one server, for all tabs together.
export function follow({ onTable, onStatus, onConnection }) {
  const handlers = { table: onTable, status: onStatus };
  const versions = {};
  let controller = null;

  const note = (name, version) => {
    if (versions[name] === version) return;
    versions[name] = version;
    handlers[name]?.(version);
  };

  async function readStream(signal) {
    const headers = { Accept: "text/event-stream" };
    const response = await request("/changes", { signal, headers, isBackground: true });
    onConnection(true);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    let silence = 0;
    const watch = () => {
      clearTimeout(silence);
      silence = setTimeout(() => controller?.abort(), SILENCE_MS);
    };
    try {
      for (;;) {
        watch();
        const { value, done } = await reader.read();
        if (done) return;
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const pairs = block.split("\n").map((line) => line.split(/: ?(.*)/s, 2));
          const fields = Object.fromEntries(pairs);
          if (fields.event) note(fields.event, fields.data);
        }
      }
    } finally {
      clearTimeout(silence);
    }
  }

  async function poll(signal) {
    const response = await request("/data?limit=0", { signal, isBackground: true });
    onConnection(true);
    note("table", response.headers.get("X-Table-Version"));
    note("status", String(Date.now()));
  }

  async function run() {
    if (controller || document.hidden) return;
    const own = new AbortController();
    controller = own;
    while (controller === own) {
      let pause = RETRY_MS;
      try {
        await readStream(own.signal);
        pause = 200; // the process stops: another one answers
      } catch (error) {
        if (error.status) {
          pause = POLL_MS;
          await poll(own.signal).catch(() => onConnection(false));
        } else if (controller === own) {
          onConnection(false);
        }
      }
      await sleep(pause);
      if (own.signal.aborted && controller === own) controller = null;
    }
    run();
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      controller?.abort();
      controller = null;
    } else {
      run();
    }
  });
  run();
}

// Call `action` in this interval while the tab is visible, and when it becomes visible.
export function repeatWhileVisible(action, intervalMs) {
  const run = () => document.hidden || action();
  setInterval(run, intervalMs);
  document.addEventListener("visibilitychange", run);
}
