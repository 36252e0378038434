// Requests to the API, the token of this session, and what the API says of itself.

import { el, find, saveBlob, withObjectUrl } from "./dom.js";

const TOKEN_KEY = "rowdrop-token";
let pendingToken = null;
let cancelledAt = -1; // when the user last closed the question without a token
let isReadRefused = false;

export const getToken = () => sessionStorage.getItem(TOKEN_KEY) ?? "";

export const authorization = () => (getToken() ? { Authorization: `Bearer ${getToken()}` } : {});

// A response that is an error. `detail` says what went wrong, `problem` is the whole document.
export class ApiError extends Error {
  constructor(status, problem) {
    const detail = problem.detail ?? `The request failed (${status || "no connection"}).`;
    super(problem.allowed ? `${detail} (allowed: ${problem.allowed})` : detail);
    this.status = status;
    this.problem = problem;
  }
}

// Whether the same request may succeed later. A proxy sends a 502 or 504 while the API restarts.
export const isOutage = ({ status }) => [0, 502, 503, 504].includes(status);

// Whether the user has closed the question for a token, and reads need one.
export const isTokenMissing = () => isReadRefused;

// A 429 means that this token is wrong, like many before: only another one helps.
export const needsToken = (status, problem) =>
  status === 401 || status === 429 || (status === 403 && problem.type === "/docs#access-refused");

export async function readProblem(response) {
  try {
    return await response.json();
  } catch {
    return {};
  }
}

// Return the response with any status, or ask for a token and repeat the request. After the user
// has refused to give one, requests with `isBackground` are not sent.
export async function send(path, { isBackground = false, ...options } = {}) {
  const since = performance.now();
  const isRead = [undefined, "HEAD"].includes(options.method);
  for (;;) {
    if (isBackground && isReadRefused) throw new ApiError(401, { detail: "A token is needed." });
    const used = getToken();
    let response;
    try {
      const headers = { ...options.headers, ...authorization() };
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, { detail: "The API does not answer." });
    }
    if (response.ok && isRead && since > cancelledAt) isReadRefused = false;
    if (![401, 403, 429].includes(response.status)) return response;
    const problem = await readProblem(response.clone());
    if (!needsToken(response.status, problem)) return response;
    if (await askForToken(problem.detail, used, since)) continue;
    isReadRefused ||= isRead;
    return response;
  }
}

export async function request(path, options = {}) {
  const response = await send(path, options);
  if (!response.ok) throw new ApiError(response.status, await readProblem(response));
  return response;
}

export const getJson = async (path, options) => (await request(path, options)).json();

// Ask once for all requests that wait. A Cancel also counts for requests of an earlier time
// `since`. Return whether there is a new token.
export async function askForToken(detail, used, since = performance.now()) {
  if (getToken() !== used) return true;
  if (since < cancelledAt) return false;
  pendingToken ??= showTokenDialog(detail).finally(() => (pendingToken = null));
  return pendingToken;
}

// Call `action` each time a token was given.
export const onToken = (action) => document.addEventListener("token", action);

function showTokenDialog(detail) {
  const dialog = find("token-dialog");
  const input = el("input", {
    type: "password", id: "token", autocomplete: "off", required: true,
    // fetch() refuses other characters in a header.
    pattern: "\\s*[!-~]+\\s*", title: "Letters, digits and signs of ASCII, without blanks",
  });
  const form = el("form", { method: "dialog" },
    el("h2", { id: "token-title" }, "This Rowdrop needs a token"),
    el("p", { class: "quiet" }, detail ?? ""),
    el("label", { for: "token" }, "Token", input),
    el("p", { class: "quiet" }, "It is kept until this tab is closed. ",
      el("code", {}, "rowdrop credentials --show"), " prints it."),
    el("p", { class: "buttons" },
      el("button", { class: "primary", value: "ok" }, "Use it"),
      el("button", { value: "", formnovalidate: true }, "Cancel")));
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const token = input.value.trim();
      const isGiven = dialog.returnValue === "ok" && token !== "";
      dialog.replaceChildren();
      if (isGiven) {
        sessionStorage.setItem(TOKEN_KEY, token);
        isReadRefused = false;
        document.dispatchEvent(new Event("token"));
      } else {
        cancelledAt = performance.now();
      }
      resolve(isGiven);
    }, { once: true });
  });
}

// The columns, filters, statistics, formats and upload options of this API.
export async function describeApi() {
  const document = await getJson("/openapi.json");
  const { schemas } = document.components;
  const parameters = document.paths["/data"].get.parameters;
  const findParameter = (name) => parameters.find((each) => each.name === name);
  // The properties of an object would be in another order if a name consisted of digits.
  const columns = findParameter("fields").schema.items.enum.map((name, index) => {
    const field = schemas.User.properties[name];
    return {
      name,
      title: field.title ?? name,
      display: field["x-display"] ?? "text",
      isNumber: [field.type].flat().some((type) => type === "integer" || type === "number"),
      isKey: index === 0,
      description: field.description,
      example: field.examples?.[0],
      histogram: field["x-histogram"],
    };
  });
  const statistics = Object.entries(schemas.Statistics.properties)
    .filter(([, field]) => field["x-display"])
    .map(([name, field]) => ({ name, title: field.title, display: field["x-display"] }));
  const filters = parameters.filter((each) => each["x-filter"])
    .map(({ name, description, schema, "x-filter": filter }) =>
      ({ name, description, schema, ...filter }));
  const upload = document.paths["/files/{name}"].put;
  return {
    columns,
    key: columns[0],
    filters,
    statistics,
    hasSearch: findParameter("q") !== undefined,
    searchHint: findParameter("q")?.description ?? "",
    formats: findParameter("format").schema.enum,
    fileName: new RegExp(upload.parameters.find((each) => each.in === "path").schema.pattern, "u"),
    links: document["x-links"] ?? [],
  };
}

// Browsers resolve these parts of a path, so these keys have no address. They get one that does not
// exist, because the resolved one would be that of all rows.
export const WITHOUT_ADDRESS = new Set([".", ".."]);
export const rowPath = (key) =>
  `/data/${WITHOUT_ADDRESS.has(key) ? "%2F" : ""}${encodeURIComponent(key)}`;
export const filePath = (name) => `/files/${encodeURIComponent(name)}`;

// "ada.png" is the image of "ada".
export function splitName(name) {
  const index = name.lastIndexOf(".");
  return [name.slice(0, index), name.slice(index + 1)];
}

// Request that the files of a user are read again. Return whether it happened within 5 seconds.
export async function requestRead(key) {
  const response = await request(`${rowPath(key)}?wait=5`, { method: "POST" });
  return response.status === 200;
}

// Save an answer as a file. Without a token the browser follows the link itself.
export async function download(event, path, name) {
  if (!getToken()) return;
  event.preventDefault();
  saveBlob(await (await request(path)).blob(), name);
}

// Open an answer in a new tab. Without a token the browser follows the link itself.
export async function openAnswer(event, path) {
  if (!getToken()) return;
  event.preventDefault();
  const response = await send(path);
  withObjectUrl(await response.blob(), (address) => window.open(address));
}
