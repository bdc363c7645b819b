// Makes small previews, one after the other, and only of rows in sight.

const SIDE = 96;  // pixels of the canvas: about twice the size on the page, for dense screens
const wanted = new Set();
const files = new WeakMap();
let busy = false;  // one at a time: decoding a large picture takes much memory

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) wanted.add(target);
    else wanted.delete(target);
  }
  work();
}, { rootMargin: "200px" });

/** Draw the file into this canvas once it comes into sight. */
export function preview(canvas, file) {
  files.set(canvas, file);
  watcher.observe(canvas);
}

/** Do not draw into this canvas. */
export function forget(canvas) {
  watcher.unobserve(canvas);
  wanted.delete(canvas);
}

async function work() {
  if (busy) return;
  busy = true;
  for (let canvas; (canvas = wanted.values().next().value); ) {
    forget(canvas);
    await draw(canvas, files.get(canvas)).catch(() => {});  // not a picture: its row has no preview
  }
  busy = false;
}

async function draw(canvas, file) {
  // Only the width is given: the height follows from the shape of the picture.
  const image = await createImageBitmap(file, { resizeWidth: 2 * SIDE, resizeQuality: "low" });
  const side = Math.min(image.width, image.height);
  canvas.width = canvas.height = SIDE;
  const [left, top] = [(image.width - side) / 2, (image.height - side) / 2];
  canvas.getContext("2d").drawImage(image, left, top, side, side, 0, 0, SIDE, SIDE);
  image.close();
  canvas.classList.add("drawn");
}
