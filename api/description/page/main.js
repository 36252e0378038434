// Put the parts of the page together.

import {
  describeApi, download, getToken, isOutage, isTokenMissing, onToken, openAnswer,
} from "./api.js";
import {
  attempt, button, el, find, refreshTimes, saveBlob, setText, sleep, throttle,
} from "./dom.js";
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
const RETRY_MS = 3000;

class Page {
  constructor(api) {
    this.api = api;
    this.health = null;
    this.isConnected = null; // not known yet
    this.tableVersion = null; // the latest one that is known
    const onOpen = (row) => this.detail.show(row);
    this.filters = new Filters(api, () => this.showQuery());
    this.uploads = new Uploads(api, {
      onRow: (row, isSingle) => this.showUploaded(row, isSingle),
      onOpen,
      onChange: () => this.refreshAll(),
    });
    this.detail = new Detail(api, this.uploads);
    this.table = new Table(api, this.filters, {
      onOpen, onTotal: (total) => this.showTotal(total),
    });
    this.histogram = new Histogram(api, this.filters);
    this.problems = new Problems(this.uploads);
    this.tasks = new Tasks();
    this.files = new Files(this.uploads);
  }

  async start() {
    this.refreshNumbers = part(() => showNumbers(this.api, this.filters), 300);
    const firstRows = Promise.all([this.table.restart(), this.refreshNumbers()]).then(() => {
      document.documentElement.dataset.ready = "true";
      performance.mark("ready");
    });
    this.prepareRefreshes(firstRows);
    showHints(this.api, this.uploads);
    showDropTitle(false);
    showDownloads(this.api, this.filters);
    showExamples(this.api, this.filters);
    document.addEventListener("click", openLink);
    await firstRows;
    this.refreshHealth();
    this.followChanges();
    repeatWhileVisible(refreshTimes, CLOCK_MS);
    repeatWhileVisible(this.refreshHealth, HEALTH_MS);
  }

  prepareRefreshes(firstRows) {
    const { histogram, problems, tasks, files, detail } = this;
    const section = (id, action, intervalMs) =>
      whileVisible(id, firstRows, part(action, intervalMs));
    this.refreshHistogram = section("histogram", () => histogram.show(), 1000);
    this.refreshProblems = section("problems", () => problems.show(), 500);
    this.refreshTasks = section("tasks", () => tasks.show(), 500);
    this.refreshFiles = section("files", () => files.show(), 2000);
    this.refreshDetail = part(() => detail.refresh(), 300);
    this.refreshTable = part(() => this.table.refresh(this.tableVersion), 50);
    this.refreshHealth = throttle(async () => {
      this.health = (await loadHealth()) ?? this.health;
      this.showHealth();
    }, 500);
  }

  followChanges() {
    follow({
      onTable: (version) => {
        this.tableVersion = version;
        if (version === this.table.version) return;
        this.refreshTable();
        this.refreshAll();
        this.refreshAllLater();
      },
      onStatus: async () => {
        await this.refreshHealth();
        this.refreshAll();
        this.refreshAllLater();
      },
      onConnection: (isNow) => {
        if (isNow && this.isConnected === false) this.reload();
        this.isConnected = isNow;
        this.showHealth();
      },
    });
    onToken(() => this.reload());
  }

  // After an outage the versions may be the same as before, but what was requested has failed.
  reload() {
    this.tableVersion = null;
    this.refreshHealth();
    this.refreshTable();
    this.refreshAll();
  }

  refreshAll() {
    this.refreshNumbers();
    this.refreshHistogram();
    this.refreshProblems();
    this.refreshTasks();
    this.refreshFiles();
    this.refreshDetail();
  }

  // Other processes of the API follow within two seconds.
  refreshAllLater() {
    clearTimeout(this.timer);
    const refresh = () => this.refreshHealth().then(() => this.refreshAll());
    this.timer = setTimeout(refresh, SETTLE_MS);
  }

  showHealth() {
    showHealth(this.health, this.isConnected);
  }

  showQuery() {
    showDownloads(this.api, this.filters);
    this.refreshNumbers();
    this.refreshHistogram();
    return this.table.restart();
  }

  showTotal(total) {
    const { isActive } = this.filters;
    setText(find("row-count"), countText(total, isActive));
    const isEmpty = total === 0;
    find("table").hidden = !total;
    const text = find("table-empty");
    text.hidden = !isEmpty;
    const isFirst = isEmpty && !isActive;
    setText(text, isFirst ? "No rows yet. The first file makes the first row." : "No row matches.");
    find("drop").classList.toggle("first", isFirst);
    find("first-steps").hidden = !isFirst;
    find("drop-example").hidden = isFirst;
    find("filters").hidden = isFirst;
    find("histogram").hidden = isFirst || !this.histogram.histograms.length;
    showDropTitle(isFirst);
  }

  async showUploaded(row, isSingle) {
    const key = row[this.api.key.name];
    if (isSingle) await this.table.reveal(key).catch(showError);
    else this.table.markFresh(key);
  }
}

// Return a throttled action, which is repeated after an outage. Each part shows its own failure or
// keeps what it has; the notice is for what concerns all. The table shows why a filter is invalid.
function part(action, intervalMs) {
  let timer = 0;
  const run = throttle(async () => {
    if (isTokenMissing()) return;
    clearTimeout(timer);
    try {
      await action();
      showNotice("");
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 400) showError(error);
      if (isOutage(error)) timer = setTimeout(run, RETRY_MS);
    }
  }, intervalMs);
  return run;
}

function openLink(event) {
  const link = event.target.closest("a[href]");
  if (!link || link.download) return;
  // A link of PAGE_LINKS may lead to another server at the same address, which must not get the
  // token.
  if (!link.getAttribute("href").startsWith("/") || link.pathname === "/") return;
  openAnswer(event, link.pathname + link.search).catch(showError);
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

const showError = (error) => showNotice(error.message);

// Without a mouse nothing can be dropped.
function showDropTitle(isFirst) {
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const [text, firstText] = isTouch
    ? ["Add files", "Add your first file"] : ["Drop files here", "Drop your first file here"];
  setText(find("drop-title"), isFirst ? firstText : text);
}

// -- texts that follow from the description ------------------------------------------------------
function showHints(api, uploads) {
  const inFile = api.columns.filter((column) => !column.isKey && column.display !== "image");
  const header = inFile.map((column) => column.name).join(",");
  const record = inFile.map((column) => column.example).join(",");
  const name = `${api.key.example}.csv`;
  const content = `${header}\n${record}\n`;
  const add = () => uploads.add([{ file: new File([content], name), path: name }]);
  const buildSave = () => button("Save an example", () =>
    saveBlob(new Blob([content], { type: "text/csv" }), name));
  const hasImages = api.columns.some((column) => column.display === "image");
  const picture = hasImages ? ", an image its picture" : "";
  setText(find("drop-hint"),
    `A CSV becomes a row${picture}; zip and tar bundles and whole folders work, too.`);
  find("drop-example").replaceChildren(
    el("span", {}, "The file's name is the key: ", el("code", {}, name)),
    el("code", {}, `${header} ↵ ${record}`), buildSave());
  const explanation = inFile.map((column) => `${column.name}: ${column.description}`).join("; ");
  find("first-steps").replaceChildren(el("div", { class: "steps" },
    el("p", {}, "A file has one record, and its name is the key of its row. For example ",
      el("code", {}, name), ":"),
    el("pre", {}, el("code", {}, `${header}\n${record}`)),
    el("p", { class: "quiet" }, explanation),
    el("p", { class: "buttons" }, button("Drop this example", add, ""), buildSave())));
}

function showDownloads(api, filters) {
  const query = filters.query();
  setText(find("download-hint"),
    filters.isActive ? "The rows that match the filters, as:" : "All rows, as:");
  const status = el("span", { role: "status" });
  const links = api.formats.filter((format) => format !== "html").map((format) => {
    const path = `/data?${query ? `${query}&` : ""}format=${format}`;
    const name = `rowdrop.${format}`;
    const onclick = (event) => attempt(status, () => download(event, path, name));
    return el("a", { class: "button", href: path, download: name, onclick }, format.toUpperCase());
  });
  find("download-links").replaceChildren(...links, status);
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
    const code = el("code", {}, `/data?${query}`);
    return el("li", {}, el("a", { href: `/?${query}`, onclick: show }, code));
  }));
  const links = [
    ["/docs", "The API, with examples"],
    ["/openapi.json", "Its description for programs (OpenAPI)"],
    ["/health/ready", "Health, as JSON"],
    ["/metrics", "Metrics, for Prometheus"],
  ];
  // The links of this page send no token.
  if (!getToken()) links.push(["/data?format=html", "The rows as a plain page without scripts"]);
  links.push(...api.links.map(({ title, address }) => [address, title]));
  const items = links.map(([href, text]) => el("li", {}, el("a", { href }, text)));
  find("links").replaceChildren(...items);
}

// Return the description of the API. Repeat the request after an outage, and when a token is given.
async function loadDescription() {
  for (;;) {
    try {
      return await describeApi();
    } catch (error) {
      showError(error);
      showHealth(null, false);
      if (isOutage(error)) await sleep(RETRY_MS);
      else if (isTokenMissing()) await new Promise(onToken);
      else throw error;
    }
  }
}

try {
  await new Page(await loadDescription()).start();
} catch (error) {
  showError(error);
  showHealth(null, false);
}
