"use strict";

// The drawing pad: strokes by mouse, finger, pen or keys, and their picture as the net's own training images are made.

const PEN_STEP = 0.035;
const SAMPLES = 8; // each pixel is the mean of 8 x 8 finer ones

function strokePath(context, points, place) {
  const [x, y] = place(points[0]);
  context.beginPath();
  context.moveTo(x, y);
  if (points.length === 1) context.lineTo(x + 0.01, y);
  for (let i = 1; i < points.length; i++) {
    const [px, py] = place(points[i]), [nx, ny] = place(points[Math.min(i + 1, points.length - 1)]);
    context.quadraticCurveTo(px, py, i + 1 < points.length ? (px + nx) / 2 : nx, i + 1 < points.length ? (py + ny) / 2 : ny);
  }
  context.stroke();
}

// Strokes, [[x, y], ..] each, in any unit -> pixels 0 to 1 [height * width * channels].
// As in MNIST: the longer side fills a box, and the centre of mass lies where it lies in the training images.
function rasterise(strokes, { size: [height, width, channels], box, centre, pen }) {
  const pixels = new Float64Array(height * width * channels), points = strokes.flat();
  if (points.length === 0) return pixels;
  const low = [0, 1].map((axis) => Math.min(...points.map((p) => p[axis])));
  const high = [0, 1].map((axis) => Math.max(...points.map((p) => p[axis])));
  const extent = Math.max(high[0] - low[0], high[1] - low[1]);
  // A dot stays a dot: it is not blown up to the size of a digit.
  const scale = extent > 0 ? Math.max(box - pen, 1) / extent : 1;
  let mass = 0, sumX = 0, sumY = 0;
  for (const stroke of strokes)
    for (let i = 0; i < stroke.length; i++) {
      const before = stroke[Math.max(i - 1, 0)], here = stroke[i];
      const length = Math.hypot(here[0] - before[0], here[1] - before[1]) + 1e-9;
      mass += length;
      sumX += (length * (before[0] + here[0])) / 2;
      sumY += (length * (before[1] + here[1])) / 2;
    }
  const middle = [sumX / mass, sumY / mass];
  // The centre of mass may push the far end out of the picture: then the picture's edge wins.
  const offset = [0, 1].map((axis) => {
    const room = [width, height][axis], at = centre[axis] - middle[axis] * scale, edge = pen / 2;
    const least = edge - low[axis] * scale, most = room - edge - high[axis] * scale;
    return least <= most ? Math.min(Math.max(at, least), most) : (least + most) / 2;
  });
  const sheet = document.createElement("canvas");
  sheet.width = width * SAMPLES;
  sheet.height = height * SAMPLES;
  const context = sheet.getContext("2d", { willReadFrequently: true });
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: pen * SAMPLES });
  for (const stroke of strokes)
    if (stroke.length) strokePath(context, stroke, ([x, y]) => [(x * scale + offset[0]) * SAMPLES, (y * scale + offset[1]) * SAMPLES]);
  const fine = context.getImageData(0, 0, sheet.width, sheet.height).data;
  for (let y = 0; y < sheet.height; y++)
    for (let x = 0; x < sheet.width; x++) {
      const value = fine[(y * sheet.width + x) * 4 + 3] / 255 / SAMPLES ** 2;
      const at = (((y / SAMPLES) | 0) * width + ((x / SAMPLES) | 0)) * channels;
      for (let c = 0; c < channels; c++) pixels[at + c] += value;
    }
  return pixels;
}

class Pad {
  constructor(canvas, { pen, inset, changed, say }) {
    Object.assign(this, { canvas, pen, inset, changed, say }); // pen and inset as shares of the pad
    this.strokes = [];
    this.image = null; // a test image lies here until the first stroke
    this.cursor = [0.5, 0.2];
    this.penDown = false;
    this.held = new Set();
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (this.pointer = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("keyup", (event) => this.held.delete(event.key));
    canvas.addEventListener("focus", () => this.paint());
    canvas.addEventListener("blur", () => this.leave());
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => Math.min(1, Math.max(0, v)));
  }

  start(point) {
    this.image = null;
    this.strokes.push([point]);
  }

  begin(event) {
    if (event.button > 0) return;
    this.pointer = event.pointerId;
    try { this.canvas.setPointerCapture(event.pointerId); } catch { /* a pointer that is gone already */ }
    this.canvas.focus({ preventScroll: true });
    this.lift();
    this.start(this.at(event));
    this.update();
  }

  move(event) {
    if (this.pointer !== event.pointerId) return;
    const passed = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const one of passed.length ? passed : [event]) this.strokes.at(-1).push(this.at(one));
    this.cursor = this.strokes.at(-1).at(-1);
    this.update();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in ways) {
      this.held.add(event.key); // two arrows held together go aslant
      const step = PEN_STEP / (event.shiftKey ? 4 : 1);
      for (const axis of [0, 1]) {
        const way = [...this.held].reduce((sum, key) => sum + ways[key][axis], 0);
        this.cursor[axis] = Math.min(0.96, Math.max(0.04, this.cursor[axis] + way * step));
      }
      this.cursor = this.cursor.slice();
      if (this.penDown) this.strokes.at(-1).push(this.cursor);
      this.penDown ? this.update() : this.paint();
    } else if (event.key === " " || event.key === "Enter") {
      if (event.repeat) return event.preventDefault();
      if (this.penDown) this.lift();
      else {
        this.penDown = true;
        this.start(this.cursor);
        this.update();
      }
      this.say(this.penDown ? "Pen down." : "Pen lifted.");
      this.paint();
    } else if (event.key === "Backspace") this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
  }

  lift() {
    this.penDown = false;
  }

  leave() {
    this.lift();
    this.held.clear();
    this.paint();
  }

  undo() {
    this.lift();
    this.strokes.pop();
    this.update();
  }

  clear() {
    this.lift();
    this.strokes = [];
    this.image = null;
    this.update();
  }

  show(image) {
    this.lift();
    this.strokes = [];
    this.image = image;
    this.paint();
  }

  update() {
    this.paint();
    this.changed(this.strokes);
  }

  paint() {
    const { canvas } = this, side = Math.round(canvas.clientWidth * devicePixelRatio) || 1;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"), look = getComputedStyle(canvas);
    context.clearRect(0, 0, side, side);
    if (this.image) {
      context.imageSmoothingEnabled = false;
      const edge = Math.round(this.inset * side);
      context.drawImage(this.image, edge, edge, side - 2 * edge, side - 2 * edge);
    }
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: this.pen * side, strokeStyle: look.color });
    for (const stroke of this.strokes) strokePath(context, stroke, ([x, y]) => [x * side, y * side]);
    if (canvas.matches(":focus-visible") && !this.pointer) {
      Object.assign(context, { lineWidth: 2 * devicePixelRatio, strokeStyle: look.accentColor, fillStyle: look.accentColor });
      context.beginPath();
      context.arc(this.cursor[0] * side, this.cursor[1] * side, (this.pen * side) / 2 + 3 * devicePixelRatio, 0, 7);
      context.stroke();
      context.beginPath();
      context.arc(this.cursor[0] * side, this.cursor[1] * side, (this.penDown ? 5 : 2) * devicePixelRatio, 0, 7);
      context.fill();
    }
  }
}
