// <compare-view>: before and after at one place, divided by a handle. Pictures, or two films that play together.

import { element, icon, setText } from "./dom.js";
import { clock, t } from "./language.js";
import { Loupe } from "./loupe.js";

const STEP = 2;
const BIG_STEP = 10;
/** Two films further apart than this are put together at once; below, the one behind runs a little faster. */
const FAR_SECONDS = 0.25;

export class CompareView extends HTMLElement {
  #split = 50;
  #stage = element("div", { class: "stage" });
  #grip = element(
    "div",
    {
      class: "grip",
      role: "slider",
      tabindex: "0",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-orientation": "horizontal",
    },
    icon("chevron"),
    icon("chevron"),
  );
  #labels = { before: element("span", { class: "side left" }), after: element("span", { class: "side right" }) };
  #controls = {};
  #size = { width: 1, height: 1 };
  #frames = 0;
  /** How both are laid out: one over the other, beside one another, or one pixel of the file for one of the screen. */
  #layout = "over";
  /** Where the picture is moved to while its pixels are shown one to one. */
  #pan = { x: 0.5, y: 0.5 };
  #loupe = new Loupe(this.#stage, () => [this.before, this.after]);
  #pacing = 0;
  #round = 0;
  /** @type {HTMLImageElement | HTMLVideoElement} */
  before;
  /** @type {HTMLImageElement | HTMLVideoElement} */
  after;

  /**
   * Show two pictures or two films, once both can be seen; what was shown before stays until then.
   * @param {{kind: "image" | "video", before: string, after: string, frames?: number}} sides
   * @throws when one of them cannot be shown
   */
  async show({ kind, before, after, frames = 0 }) {
    const round = ++this.#round;
    const sides = [media(kind, before, "before"), media(kind, after, "after")];
    await Promise.all(sides.map(ready));
    if (round !== this.#round) return; // Something better has been asked for meanwhile.
    this.#pause();
    this.#loupe.toggle(false);
    [this.before, this.after] = sides;
    this.#frames = frames;
    const divider = element("div", { class: "divider" }, this.#grip);
    this.#stage.replaceChildren(...sides, this.#labels.before, this.#labels.after, divider);
    const { videoWidth, videoHeight, naturalWidth, naturalHeight } = /** @type {any} */ (this.after);
    this.#size = { width: videoWidth ?? naturalWidth, height: videoHeight ?? naturalHeight };
    this.#lay();
    this.#listen();
    this.replaceChildren(this.#stage, kind === "video" ? this.#player() : this.#plainFoot());
    this.speak();
    this.#move(this.#split);
    if (kind === "video") this.#tick();
  }

  /** Say everything again in the language that is spoken now. */
  speak() {
    this.#labels.before.textContent = t("compare.before");
    this.#labels.after.textContent = t("compare.after");
    this.#grip.setAttribute("aria-label", t("compare.slider"));
    if (this.before instanceof HTMLImageElement) {
      this.before.alt = t("compare.before_alt");
      this.after.setAttribute("alt", t("compare.after_alt"));
    }
    this.#controls.seek?.setAttribute("aria-label", t("compare.seek"));
    this.#controls.full?.setAttribute("aria-label", t("compare.full"));
    this.#controls.last?.setAttribute("aria-label", t("compare.last"));
    this.#controls.next?.setAttribute("aria-label", t("compare.next"));
    if (this.#controls.sides) setText(this.#controls.sides, t("compare.sides"));
    if (this.#controls.actual) setText(this.#controls.actual, t("compare.actual"));
    if (this.#controls.loupe) setText(this.#controls.loupe, t("compare.loupe"));
    this.#sayState();
    this.#sayValue();
  }

  disconnectedCallback() {
    this.#pause();
    this.#loupe.toggle(false);
  }

  /** Lay both out as was chosen. */
  #lay() {
    const { width, height } = this.#size;
    const isActual = this.#layout === "actual";
    this.#stage.dataset.layout = this.#layout;
    this.#stage.style.aspectRatio = `${this.#layout === "sides" ? 2 * width : width} / ${height}`;
    const scale = 1 / devicePixelRatio;
    this.#stage.style.setProperty("--actual-width", `${width * scale}px`);
    this.#stage.style.setProperty("--actual-height", `${height * scale}px`);
    const { clientWidth, clientHeight } = this.#stage;
    this.#stage.style.setProperty("--x", `${isActual ? (clientWidth - width * scale) * this.#pan.x : 0}px`);
    this.#stage.style.setProperty("--y", `${isActual ? (clientHeight - height * scale) * this.#pan.y : 0}px`);
    for (const name of ["sides", "actual"])
      this.#controls[name]?.setAttribute("aria-pressed", String(this.#layout === name));
    this.#controls.loupe?.setAttribute("aria-pressed", String(this.#loupe.isOn));
  }

  #choose(layout) {
    this.#layout = this.#layout === layout ? "over" : layout;
    if (this.#layout === "actual") this.#loupe.toggle(false); // Its pixels are large already.
    this.#lay();
    if (this.#layout === "actual") this.#move(0);
  }

  #magnify() {
    if (this.#layout === "actual") this.#layout = "over";
    this.#loupe.toggle();
    this.#lay();
  }

  #movePan(x, y) {
    const within = (share) => Math.min(1, Math.max(0, share));
    this.#pan = { x: within(x), y: within(y) };
    this.#lay();
  }

  /** Keys that work wherever the focus is inside the comparison. */
  #key(event) {
    const step = this.#frames > 1 ? /** @type {HTMLVideoElement} */ (this.after).duration / this.#frames : 0;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const [x, y] = ways[event.key] ?? [0, 0];
    const isField = event.target instanceof HTMLInputElement;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "a") this.#move(100);
    else if (event.key === "b") this.#move(0);
    else if (event.key === "." && step) this.#stepBy(step);
    else if (event.key === "," && step) this.#stepBy(-step);
    else if (event.key === "l") this.#magnify();
    else if (this.#layout === "actual" && !isField && (x || y)) this.#movePan(this.#pan.x + x / 10, this.#pan.y + y / 10);
    else if (this.#loupe.isOn && !isField && event.target !== this.#grip && (x || y)) this.#loupe.move(x, y);
    else return;
    event.preventDefault();
  }

  #stepBy(seconds) {
    this.#pause();
    const { currentTime } = /** @type {HTMLVideoElement} */ (this.after);
    this.seek(Math.max(0, currentTime + seconds));
  }

  /** Buttons for how both are looked at; their words follow the language. */
  #looks() {
    const button = (keys, click) =>
      element("button", {
        type: "button",
        class: "quiet small",
        "aria-pressed": "false",
        "aria-keyshortcuts": keys,
        on: { click },
      });
    const [sides, actual] = ["sides", "actual"].map((layout) => button("a b", () => this.#choose(layout)));
    return { sides, actual, loupe: button("l", () => this.#magnify()) };
  }

  #move(percent) {
    this.#split = Math.min(100, Math.max(0, percent));
    this.#stage.style.setProperty("--split", `${this.#split}%`);
    this.#labels.before.classList.toggle("covered", this.#split < 12);
    this.#labels.after.classList.toggle("covered", this.#split > 88);
    this.#sayValue();
  }

  #sayValue() {
    const percent = Math.round(this.#split);
    this.#grip.setAttribute("aria-valuenow", String(percent));
    this.#grip.setAttribute("aria-valuetext", t("compare.value", { before: percent, after: 100 - percent }));
  }

  #listen() {
    this.onkeydown = (event) => this.#key(event);
    const follow = (event) => {
      const { left, top, width, height } = this.#stage.getBoundingClientRect();
      if (this.#layout === "actual")
        return this.#movePan((event.clientX - left) / width, (event.clientY - top) / height);
      this.#move(((event.clientX - left) / width) * 100);
    };
    let isHeld = false;
    this.#stage.onpointermove = (event) => {
      if (this.#loupe.isOn) this.#loupe.follow(event);
      else if (isHeld) follow(event);
    };
    this.#stage.onpointerdown = (event) => {
      if (event.button !== 0) return;
      this.#stage.setPointerCapture(event.pointerId);
      isHeld = true;
      this.#stage.onpointermove(event);
      this.#grip.focus({ preventScroll: true, focusVisible: false });
      event.preventDefault();
    };
    this.#stage.onpointerup = this.#stage.onpointercancel = () => (isHeld = false);
    this.#grip.onkeydown = (event) => {
      if (this.#layout === "actual") return;
      const moves = {
        ArrowLeft: -STEP,
        ArrowDown: -STEP,
        ArrowRight: STEP,
        ArrowUp: STEP,
        PageDown: -BIG_STEP,
        PageUp: BIG_STEP,
        Home: -100,
        End: 100,
      };
      if (event.key === " " && this.after instanceof HTMLVideoElement) this.#toggle();
      else if (event.key in moves) this.#move(this.#split + moves[event.key]);
      else return;
      event.preventDefault();
    };
  }

  #fullButton() {
    const full = element(
      "button",
      { type: "button", class: "quiet small square", on: { click: () => this.#toggleFull() } },
      icon("full"),
    );
    full.hidden = !document.fullscreenEnabled;
    return full;
  }

  #plainFoot() {
    const full = this.#fullButton();
    const looks = this.#looks();
    this.#controls = { full, ...looks };
    return element(
      "div",
      { class: "compare-foot" },
      element("p", { class: "hint", "data-t": "compare.hint", text: t("compare.hint") }),
      ...Object.values(looks),
      full,
    );
  }

  #player() {
    const after = /** @type {HTMLVideoElement} */ (this.after);
    const play = element("button", {
      type: "button",
      class: "secondary small square",
      on: { click: () => this.#toggle() },
    });
    const seek = /** @type {HTMLInputElement} */ (
      element("input", { type: "range", min: 0, max: 1000, value: 0, step: 1 })
    );
    const time = element("span", { class: "time" });
    const sound = element("button", {
      type: "button",
      class: "quiet small square",
      on: { click: () => (after.muted = !after.muted) },
    });
    const stepper = (sign) =>
      element("button", {
        type: "button",
        class: "quiet small square",
        text: sign < 0 ? "‹" : "›",
        "aria-keyshortcuts": sign < 0 ? "," : ".",
        on: { click: () => this.#stepBy((sign * after.duration) / Math.max(1, this.#frames)) },
      });
    const [last, next] = [stepper(-1), stepper(1)];
    const looks = this.#looks();
    last.hidden = next.hidden = this.#frames < 2;
    this.#controls = { play, seek, time, sound, last, next, ...looks, full: this.#fullButton() };
    seek.oninput = () => this.seek((Number(seek.value) / 1000) * after.duration);
    for (const event of ["play", "pause", "ended", "volumechange"])
      after.addEventListener(event, () => this.#sayState());
    for (const event of ["timeupdate", "loadedmetadata", "seeked", "ended"])
      after.addEventListener(event, () => this.#tick());
    const foot = element("div", { class: "compare-foot tools" }, last, next, ...Object.values(looks));
    return element("div", {}, element("div", { class: "player" }, play, seek, time, sound, this.#controls.full), foot);
  }

  /** Show both films at one moment. @param {number} seconds */
  seek(seconds) {
    for (const film of this.#films()) film.currentTime = Math.min(seconds, film.duration || seconds);
  }

  #films() {
    return /** @type {HTMLVideoElement[]} */ (
      [this.before, this.after].filter((side) => side instanceof HTMLVideoElement)
    );
  }

  async #toggle() {
    const after = /** @type {HTMLVideoElement} */ (this.after);
    if (!after.paused) return this.#pause();
    if (after.ended) this.seek(0);
    else this.seek(after.currentTime);
    await Promise.all(this.#films().map((film) => film.play())).catch(() => this.#pause());
    this.#pace();
  }

  #pause() {
    cancelAnimationFrame(this.#pacing);
    for (const film of this.#films()) film.pause();
  }

  /** Keep the original beside the result while both play. */
  #pace() {
    const before = /** @type {HTMLVideoElement} */ (this.before);
    const after = /** @type {HTMLVideoElement} */ (this.after);
    if (after.paused || after.ended) {
      before.pause();
      before.currentTime = Math.min(after.currentTime, before.duration);
      return;
    }
    const behind = after.currentTime - before.currentTime;
    if (Math.abs(behind) > FAR_SECONDS && !before.seeking && !before.ended) before.currentTime = after.currentTime;
    before.playbackRate = after.playbackRate * (1 + Math.min(0.2, Math.max(-0.2, behind * 2)));
    this.#tick();
    this.#pacing = requestAnimationFrame(() => this.#pace());
  }

  #tick() {
    const { currentTime, duration } = /** @type {HTMLVideoElement} */ (this.after);
    if (!duration) return;
    this.#controls.seek.value = String(Math.round((currentTime / duration) * 1000));
    const reading = `${clock(currentTime)} / ${clock(duration)}`;
    this.#controls.seek.setAttribute("aria-valuetext", reading);
    setText(this.#controls.time, reading);
  }

  #sayState() {
    const { play, sound } = this.#controls;
    if (!play) return;
    const { paused, ended, muted } = /** @type {HTMLVideoElement} */ (this.after);
    const isStill = paused || ended;
    play.replaceChildren(icon(isStill ? "play" : "pause"));
    play.setAttribute("aria-label", t(isStill ? "compare.play" : "compare.pause"));
    sound.replaceChildren(icon(muted ? "mute" : "sound"));
    sound.setAttribute("aria-label", t(muted ? "compare.unmute" : "compare.mute"));
  }

  #toggleFull() {
    if (document.fullscreenElement) void document.exitFullscreen();
    else void this.requestFullscreen();
  }
}

function media(kind, source, side) {
  if (kind === "image") return element("img", { class: side, src: source, draggable: "false" });
  const film = /** @type {HTMLVideoElement} */ (
    element("video", { class: side, src: source, playsinline: true, preload: "auto", tabindex: "-1" })
  );
  film.muted = true;
  film.disablePictureInPicture = true;
  if (side === "before") film.setAttribute("aria-hidden", "true");
  return film;
}

function ready(shown) {
  if (shown instanceof HTMLImageElement) return shown.decode();
  if (shown.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) return Promise.resolve();
  return new Promise((resolve, reject) => {
    shown.addEventListener("loadeddata", () => (shown.videoWidth ? resolve() : reject(new Error("no picture"))), {
      once: true,
    });
    shown.addEventListener("error", () => reject(new Error("not playable")), { once: true });
  });
}

customElements.define("compare-view", CompareView);
