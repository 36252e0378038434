// Files that are dropped or chosen, and whether they can be uploaded.

import { el, find } from "./dom.js";

const JUNK_START = /^[.~#@$]/;
const JUNK_FOLDERS = new Set(
  ["__MACOSX", "__pycache__", "node_modules", "lost+found", "System Volume Information"]);

// Call `onFiles` with what is dropped or chosen, as a list of {file, path}, or `onError`.
export function listenForFiles({ onFiles, onError }) {
  const inputs = { "choose-files": "files-input", "choose-folder": "folder-input" };
  for (const [name, input] of Object.entries(inputs)) {
    find(name).addEventListener("click", () => find(input).click());
    find(input).addEventListener("change", ({ target }) => {
      const toPath = (file) => file.webkitRelativePath || file.name;
      onFiles([...target.files].map((file) => ({ file, path: toPath(file) })));
      target.value = "";
    });
  }
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
      onFiles(await listDropped(event.dataTransfer));
    } catch (error) {
      onError(error);
    }
  });
}

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
    if (!part.length) return; // it returns at most 100 per call
    for (const each of part) await collect(each, found);
  }
}

// Return the files without junk, each with its `name`, an `id`, and the `problem` for which it is
// not uploaded. `pattern` matches valid names. In folders the file nearest to the top counts if a
// name occurs twice.
export function selectFiles(files, pattern) {
  const depth = ({ path }) => path.split("/").length;
  const byDepth = [...files].sort((one, other) =>
    depth(one) - depth(other) || (one.path < other.path ? -1 : 1));
  const names = new Set();
  const selected = [];
  for (const { file, path } of byDepth) {
    const parts = path.split("/").filter(Boolean);
    // A dropped file may begin with a dot if it was meant; in folders such files are junk.
    if (parts.length > 1 && parts.some(isJunk)) continue;
    const name = lowerExtension(parts.at(-1), pattern);
    let problem = null;
    if (!pattern.test(name)) problem = explainName(name, pattern);
    else if (names.has(name)) problem = `there is another ${name} nearer to the top: not uploaded`;
    else if (file.size === 0) problem = "the file is empty: not uploaded";
    selected.push({ file, name, problem, id: names.has(name) ? path : name });
    names.add(name);
  }
  return selected;
}

const isJunk = (part) => JUNK_START.test(part) || JUNK_FOLDERS.has(part);

// Of a name that does not match, the extension or the rest is the cause.
function explainName(name, pattern) {
  const [extension] = name.toLowerCase().match(/(\.tar)?\.[^.]*$/) ?? [""];
  return pattern.test(`x${extension}`)
    ? "a file with such a name would be ignored: not uploaded; rename it"
    : "not a CSV, an image or a bundle: not uploaded";
}

// Only names with an extension in lower case are read, and some programs write "ada.CSV".
function lowerExtension(name, pattern) {
  const lower = name.replace(/(\.tar)?\.[^.]+$/i, (extension) => extension.toLowerCase());
  return !pattern.test(name) && pattern.test(lower) ? lower : name;
}

// The pipeline does not look into images, so a damaged one would replace a valid one.
export async function findImageProblem(file) {
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
