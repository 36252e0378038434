// Put the parts of the page together.

import { describeApi, download, getToken, openAnswer } from "./api.js";
import { attempt, button, el, find, formatNumber, refreshTimes, setText, throttle } from "./dom.js";
import { Detail } from "./detail.js";
import { Files } from "./files.js";
import { Filters } from "./filters.js";
import { Histogram } from "./histogram.js";
import { follow, repeatWhileVisible } from "./live.js";
import { loadHealth, showHealth, showNumbers } from "./overview.js";
import { Problems } from "./problems.js";
import { countText, Table } from "./table.js";
import { Tasks } from "./tasks.js";
import { Uploads } from "./uploads.js";

const CLOCK_MS = 5000;
const HEALTH_MS = 15000; // "complete up to" changes without an event
const SETTLE_MS = 2500;

let health = null;
let isConnected = false;

async function start() {
  const api = await describeApi();
  const filters = new Filters(api, () => showQuery());
  const uploads = new Uploads(api, { onRow, onOpen: (row) => detail.show(row), onChange: () => refreshAll() });
  const detail = new Detail(api, uploads);
  const table = new Table(api, filters, { onOpen: (row) => detail.show(row), onTotal: showTotal });
  const histogram = new Histogram(api, filters);
  const problems = new Problems(uploads);
  const tasks = new Tasks();
  const files = new Files(uploads);

  // Each part shows its own failure or keeps what it has; the notice is for what concerns all.
  const part = (action, intervalMs) => throttle(async () => {
    try {
      await action();
      showNotice("");
    } catch (error) {
      if (error.name !== "AbortError") showNotice(error.message);
    }
  }, intervalMs);
  const refreshNumbers = part(() => showNumbers(api, filters), 300);
  const firstRows = Promise.all([table.restart(), refreshNumbers()]).then(() => {
    document.documentElement.dataset.ready = "true";
    performance.mark("ready");
  });
  const refreshHistogram = whileVisible("histogram", firstRows, part(() => histogram.show(), 1000));
  const refreshProblems = whileVisible("problems", firstRows, part(() => problems.show(), 500));
  const refreshTasks = whileVisible("tasks", firstRows, part(() => tasks.show(), 500));
  const refreshFiles = whileVisible("files", firstRows, part(() => files.show(), 2000));
  const refreshDetail = part(() => detail.refresh(), 300);
  let tableVersion = null;
  const refreshTable = part(() => table.refresh(tableVersion), 50);
  const refreshHealth = throttle(async () => {
    health = (await loadHealth()) ?? health;
    showHealth(health, isConnected);
  }, 500);

  function showQuery() {
    showDownloads(api, filters);
    refreshNumbers();
    refreshHistogram();
    return table.restart();
  }

  function showTotal(total) {
    setText(find("row-count"), countText(total, filters.isActive));
    const isEmpty = total === 0;
    find("table").hidden = isEmpty;
    const text = find("table-empty");
    text.hidden = !isEmpty;
    setText(text, filters.isActive ? "No row matches." : "No rows yet. The first file makes the first row.");
    const isFirst = isEmpty && !filters.isActive;
    find("drop").classList.toggle("first", isFirst);
    find("first-steps").hidden = !isFirst;
    find("drop-example").hidden = isFirst;
    find("filters").hidden = isFirst;
    find("histogram").hidden = isFirst || !histogram.ranges.length;
    showDropTitle(isFirst);
  }

  async function onRow(row, isSingle) {
    const key = row[api.key.name];
    if (isSingle) {
      await table.reveal(key).catch((error) => showNotice(error.message));
    } else {
      table.markFresh(key);
    }
  }

  showHints(api, uploads);
  showDropTitle(false);
  showDownloads(api, filters);
  showExamples(api, filters);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    // A link of PAGE_LINKS may lead to another server at the same address, which must not get the token.
    if (!link || link.download || !link.getAttribute("href").startsWith("/") || link.pathname === "/") return;
    openAnswer(event, link.pathname + link.search).catch((error) => showNotice(error.message));
  });
  await firstRows;
  refreshHealth();
  function refreshAll() {
    refreshNumbers();
    refreshHistogram();
    refreshProblems();
    refreshTasks();
    refreshFiles();
    refreshDetail();
  }
  // Later once more: other processes of the API follow within two seconds.
  let settling = 0;
  const refreshAllLater = () => {
    clearTimeout(settling);
    settling = setTimeout(() => refreshHealth().then(refreshAll), SETTLE_MS);
  };
  follow({
    onTable: (version) => {
      tableVersion = version;
      if (version === table.version) return;
      refreshTable();
      refreshAll();
      refreshAllLater();
    },
    onStatus: async () => {
      await refreshHealth();
      refreshAll();
      refreshAllLater();
    },
    onConnection: (isNow) => {
      if (isNow && !isConnected) refreshHealth();
      isConnected = isNow;
      showHealth(health, isConnected);
    },
  });
  repeatWhileVisible(refreshTimes, CLOCK_MS);
  repeatWhileVisible(refreshHealth, HEALTH_MS);
}

// Return an action that waits until the section can be seen. After the first rows each section is
// shown once, so that the page does not move when it is scrolled.
function whileVisible(id, firstRows, action) {
  let isVisible = true;
  let isWanted = false;
  const run = () => {
    isWanted = !isVisible;
    if (isVisible) action();
  };
  const observer = new IntersectionObserver(([entry]) => {
    isVisible = entry.isIntersecting;
    if (isWanted) run();
  }, { rootMargin: "300px" });
  firstRows.then(() => {
    run();
    observer.observe(find(id));
  });
  return run;
}

function showNotice(text) {
  const notice = find("notice");
  notice.hidden = !text;
  setText(notice, text);
}

// Without a mouse nothing can be dropped.
function showDropTitle(isFirst) {
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const texts = isTouch ? ["Add files", "Add your first file"] : ["Drop files here", "Drop your first file here"];
  setText(find("drop-title"), texts[Number(isFirst)]);
}

// -- texts that follow from the description ------------------------------------------------------
function showHints(api, uploads) {
  const inFile = api.columns.filter((column) => !column.isKey && column.display !== "image");
  const header = inFile.map((column) => column.name).join(",");
  const record = inFile.map((column) => column.example).join(",");
  const name = `${api.key.example}.csv`;
  const content = `${header}\n${record}\n`;
  const save = () => button("Save an example", () => {
    const address = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
    el("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  });
  setText(find("drop-hint"), `A CSV becomes a row, an image its picture; zip and tar bundles and whole folders work, too.`);
  find("drop-example").replaceChildren(el("span", {}, "The file's name is the key: ", el("code", {}, name)),
    el("code", {}, `${header} ↵ ${record}`), save());
  find("first-steps").replaceChildren(el("div", { class: "steps" },
    el("p", {}, "A file has one record, and its name is the key of its row. For example ", el("code", {}, name), ":"),
    el("pre", {}, el("code", {}, `${header}\n${record}`)),
    el("p", { class: "quiet" }, inFile.map((column) => `${column.name}: ${column.description}`).join("; ")),
    el("p", { class: "buttons" },
      button("Drop this example", () => uploads.add([{ file: new File([content], name), path: name }]), ""),
      save())));
}

function showDownloads(api, filters) {
  const query = filters.query();
  setText(find("download-hint"), filters.isActive ? "The rows that match the filters, as:" : "All rows, as:");
  const status = el("span", { role: "status" });
  find("download-links").replaceChildren(...api.formats.filter((format) => format !== "html").map((format) => {
    const path = `/data?${query ? `${query}&` : ""}format=${format}`;
    const name = `rowdrop.${format}`;
    return el("a", { class: "button", href: path, download: name, onclick: (event) => attempt(status, () => download(event, path, name)) }, format.toUpperCase());
  }), status);
}

function showExamples(api, filters) {
  const examples = api.filters.map((filter) => ({ [filter.name]: filter.example }));
  const last = api.columns.filter((column) => !column.isKey).at(0);
  if (last) examples.push({ sort: last.name });
  if (api.hasSearch && last) examples.push({ q: last.example });
  find("examples").replaceChildren(...examples.map((changes) => {
    const query = new URLSearchParams(changes).toString();
    const empty = Object.fromEntries(filters.names.map((name) => [name, null]));
    const show = (event) => {
      event.preventDefault();
      filters.set({ ...empty, ...changes });
      find("rows").scrollIntoView();
      find("rows").focus({ preventScroll: true });
    };
    return el("li", {}, el("a", { href: `/?${query}`, onclick: show }, el("code", {}, `/data?${query}`)));
  }));
  const links = [["/docs", "The API, with examples"], ["/openapi.json", "Its description for programs (OpenAPI)"],
    ["/health/ready", "Health, as JSON"], ["/metrics", "Metrics, for Prometheus"],
    ...(getToken() ? [] : [["/data?format=html", "The rows as a plain page without scripts"]]), // its links send no token
    ...api.links.map(({ title, address }) => [address, title])];
  find("links").replaceChildren(...links.map(([href, text]) => el("li", {}, el("a", { href }, text))));
}

start().catch((error) => {
  showNotice(error.message);
  showHealth(null, false);
});
