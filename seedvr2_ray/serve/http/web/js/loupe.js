// A loupe over a comparison: the same few pixels of both sides beside one another, large enough to be counted.

import { element } from "./dom.js";

/** Each pixel of the result is at least this large under the loupe, and three times as large as around it. */
const SMALLEST_FACTOR = 2;
const TIMES = 3;
/** How far a key moves the loupe, as a share of the picture. */
const STEP = 0.02;

const naturalSize = (shown) => ({
  width: shown.videoWidth ?? shown.naturalWidth,
  height: shown.videoHeight ?? shown.naturalHeight,
});

export class Loupe {
  #canvas = /** @type {HTMLCanvasElement} */ (element("canvas", { class: "loupe", "aria-hidden": "true" }));
  #stage;
  #sides;
  #at = { x: 0.5, y: 0.5 };
  #drawing = 0;

  /** @param {HTMLElement} stage @param {() => (HTMLImageElement | HTMLVideoElement)[]} sides before and after */
  constructor(stage, sides) {
    this.#stage = stage;
    this.#sides = sides;
  }

  get isOn() {
    return this.#canvas.isConnected;
  }

  /** Lay it on the picture, or take it away. */
  toggle(isOn = !this.isOn) {
    cancelAnimationFrame(this.#drawing);
    this.#stage.classList.toggle("magnified", isOn);
    if (!isOn) return this.#canvas.remove();
    this.#stage.append(this.#canvas);
    this.#draw();
  }

  /** Look at a place of the picture. @param {number} x share of its width @param {number} y share of its height */
  look(x, y) {
    const within = (share) => Math.min(1, Math.max(0, share));
    this.#at = { x: within(x), y: within(y) };
  }

  /** Look where a pointer is. @param {PointerEvent} event */
  follow(event) {
    const { left, top } = this.#stage.getBoundingClientRect();
    const halves = this.#halves();
    const [x, y] = [event.clientX - left, event.clientY - top];
    const half = halves.length > 1 && x >= halves[1].frame.x ? halves[1] : halves[0];
    this.look((x - half.picture.x) / half.picture.width, (y - half.picture.y) / half.picture.height);
  }

  /** Look a little further in a direction. @param {number} x -1, 0 or 1 @param {number} y */
  move(x, y) {
    this.look(this.#at.x + x * STEP, this.#at.y + y * STEP);
  }

  /** Where the pictures lie on the stage: one place for both, or two beside one another. */
  #halves() {
    const { clientWidth, clientHeight } = this.#stage;
    const count = this.#stage.dataset.layout === "sides" ? 2 : 1;
    const { width, height } = naturalSize(this.#sides()[1]);
    return Array.from({ length: count }, (_, index) => {
      const frame = { x: (index * clientWidth) / count, width: clientWidth / count };
      const scale = Math.min(frame.width / width, clientHeight / height);
      const picture = {
        x: frame.x + (frame.width - width * scale) / 2,
        y: (clientHeight - height * scale) / 2,
        width: width * scale,
        height: height * scale,
        scale,
      };
      return { frame, picture };
    });
  }

  #draw() {
    if (!this.isOn) return;
    this.#drawing = requestAnimationFrame(() => this.#draw());
    const { clientWidth, clientHeight } = this.#canvas;
    const dense = devicePixelRatio;
    const [width, height] = [Math.round(clientWidth * dense), Math.round(clientHeight * dense)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    const [{ picture }] = this.#halves();
    const result = naturalSize(this.#sides()[1]);
    const factor = Math.max(SMALLEST_FACTOR, TIMES * picture.scale * dense);
    // As much of the picture as one pane shows, in shares, so that both sides show the same of it.
    const seen = { width: width / 2 / factor / result.width, height: height / factor / result.height };
    const context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, width, height);
    this.#sides().forEach((side, index) => {
      const own = naturalSize(side);
      const from = [(this.#at.x - seen.width / 2) * own.width, (this.#at.y - seen.height / 2) * own.height];
      const size = [seen.width * own.width, seen.height * own.height];
      context.drawImage(side, ...from, ...size, (index * width) / 2, 0, width / 2, height);
    });
    context.fillStyle = "#fff";
    context.fillRect(width / 2 - dense / 2, 0, dense, height);
    this.#place(picture);
  }

  /** Beside the place that it shows, and never past the stage. */
  #place(picture) {
    const { clientWidth, clientHeight } = this.#canvas;
    const [x, y] = [picture.x + this.#at.x * picture.width, picture.y + this.#at.y * picture.height];
    const left = Math.min(Math.max(0, x - clientWidth / 2), this.#stage.clientWidth - clientWidth);
    const above = y - clientHeight - 24;
    this.#canvas.style.left = `${Math.max(0, left)}px`;
    this.#canvas.style.top = `${above >= 0 ? above : Math.min(y + 24, this.#stage.clientHeight - clientHeight)}px`;
  }
}
