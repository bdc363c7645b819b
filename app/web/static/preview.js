// Small previews, made one after the other, and only of rows that are in sight.

const SIDE = 96;  // pixels of the canvas: twice the size on the page
const wanted = new Set();
const files = new WeakMap();
let busy = false;

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) wanted.add(target);
    else wanted.delete(target);
  }
  work();
}, { rootMargin: "200px" });

/** Draw the file into this canvas when it comes into sight. */
export function preview(canvas, file) {
  files.set(canvas, file);
  watcher.observe(canvas);
}

/** Never draw into this canvas any more. */
export function forget(canvas) {
  watcher.unobserve(canvas);
  wanted.delete(canvas);
}

async function work() {
  if (busy) return;
  busy = true;
  for (let canvas; (canvas = wanted.values().next().value); ) {
    forget(canvas);
    await draw(canvas, files.get(canvas)).catch(() => {});  // no picture: its row stays without one
  }
  busy = false;
}

async function draw(canvas, file) {
  // One side alone is given: the other follows the picture's own shape.
  const image = await createImageBitmap(file, { resizeWidth: 2 * SIDE, resizeQuality: "low" });
  const side = Math.min(image.width, image.height);
  canvas.width = canvas.height = SIDE;
  const [left, top] = [(image.width - side) / 2, (image.height - side) / 2];
  canvas.getContext("2d").drawImage(image, left, top, side, side, 0, 0, SIDE, SIDE);
  image.close();
  canvas.classList.add("drawn");
}
