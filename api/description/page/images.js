// Images. They are fetched, because an address must not contain a token, and small in the table.

import { request, rowPath } from "./api.js";
import { el } from "./dom.js";

const THUMBNAIL_PX = 72; // twice its size on the page, for screens with small pixels
const MAX_THUMBNAIL_BYTES = 4e6;

const fetchImage = (key, options) => request(`${rowPath(key)}/image`, options);

// Return a small picture; null if the image is too large to be loaded only for that.
export async function loadThumbnail(key, signal) {
  const response = await fetchImage(key, { signal, priority: "low" });
  if (Number(response.headers.get("Content-Length")) > MAX_THUMBNAIL_BYTES) {
    await response.body.cancel();
    return null;
  }
  const image = await createImageBitmap(await response.blob(), { resizeWidth: 2 * THUMBNAIL_PX, resizeQuality: "medium" });
  const picture = el("canvas", { class: "thumb", width: THUMBNAIL_PX, height: THUMBNAIL_PX });
  // Cover the square, as `object-fit: cover` does.
  const scale = THUMBNAIL_PX / Math.min(image.width, image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  picture.getContext("2d").drawImage(image, (THUMBNAIL_PX - width) / 2, (THUMBNAIL_PX - height) / 2, width, height);
  image.close();
  return picture;
}
