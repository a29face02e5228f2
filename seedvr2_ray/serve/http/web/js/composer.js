// Files are added, uploaded, estimated and started here.

import { announce } from "./announce.js";
import { offerCures } from "./cures.js";
import { byId, element, icon, setText } from "./dom.js";
import { bytes, cost, duration, number, plural, t } from "./language.js";
import { kindOf, PendingFile, pendingBefore } from "./pending.js";
import { explain, inOneLine, Problem } from "./problem.js";
import { SettingsForm } from "./settings.js";

/** Events: `started` with a job and the address of its original in this browser. */
export class Composer extends EventTarget {
  /** The most bytes that a file may have, once the service has said so. */
  maxBytes = Infinity;
  form = new SettingsForm();
  /** @type {Map<PendingFile, ReturnType<typeof row>>} */
  #rows = new Map();
  /** Files that are refused at once, with the reason. @type {Map<HTMLElement, () => void>} */
  #refused = new Map();
  #api;
  #list = byId("pending");

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.#api = api;
    this.#listenForFiles();
    this.form.addEventListener("change", () => {
      for (const pending of this.#rows.keys()) pending.settings = this.form.valueFor(kindOf(pending.name));
    });
    byId("settings").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#start();
    });
    document.addEventListener("language", () => this.render());
    window.addEventListener("beforeunload", (event) => {
      if ([...this.#rows.keys()].some(({ step }) => step === "uploading")) event.preventDefault();
    });
  }

  /** Go on with what was under way when the page was left. */
  async resume() {
    await Promise.all(
      pendingBefore(this.#api).map(async (pending) => {
        pending.addEventListener("elsewhere", () => this.#forget(pending));
        this.#show(pending);
        await pending.begin(null);
      }),
    );
  }

  /** Take files that were dropped or chosen. @param {Iterable<File>} files */
  add(files) {
    const taken = [...files].filter((file) => this.#take(file));
    if (taken.length > 0) announce(plural("announce.added", taken.length));
    this.render();
  }

  /**
   * Restore the file of an earlier job once more.
   * @param {any} job @param {object} settings besides those of the job
   * @param {{start: boolean, isTold?: boolean}} how `start` at once, otherwise with what the form says; whether it is said
   */
  again(job, settings, { start, isTold = true }) {
    const { source, name } = job;
    const pending = new PendingFile(this.#api, {
      name,
      size: source.num_bytes ?? 0,
      source: source.upload ? { upload: source.upload } : { url: source.url },
      settings: start ? { ...job.settings, ...settings } : this.form.valueFor(kindOf(name)),
      isWanted: start,
    });
    this.#show(pending);
    void pending.begin(null);
    if (!start) byId("settings").scrollIntoView({ block: "center" });
    if (isTold) announce(t("announce.again", { name }));
  }

  /** Take a file that lies elsewhere. @param {string} url */
  addAddress(url) {
    const name = decodeURIComponent(new URL(url).pathname.split("/").pop() || url);
    const pending = new PendingFile(this.#api, { name, size: 0, source: { url }, settings: this.form.valueFor(kindOf(name)) });
    this.#show(pending);
    void pending.begin(null);
  }

  /** Say everything again: the language or a file has changed. */
  render() {
    for (const [pending, shown] of this.#rows) shown.update(pending);
    for (const say of this.#refused.values()) say();
    this.#renderSend();
  }

  #take(file) {
    if (!kindOf(file.name)) return this.#refuse(file, "type");
    if (file.size === 0) return this.#refuse(file, "empty");
    if (file.size > this.maxBytes) return this.#refuse(file, "size");
    const waiting = [...this.#rows.keys()].find((pending) => pending.matches(file));
    if (waiting) {
      void waiting.begin(file);
      return true;
    }
    const pending = new PendingFile(this.#api, {
      name: file.name,
      size: file.size,
      modified: file.lastModified,
      settings: this.form.valueFor(kindOf(file.name)),
    });
    this.#show(pending);
    void pending.begin(file);
    return true;
  }

  #show(pending) {
    const shown = row(pending, {
      remove: () => this.#discard(pending),
      again: () => void pending.again(),
      cure: (settings) => void pending.cure(settings),
      choose: () => byId("files").click(),
    });
    this.#rows.set(pending, shown);
    this.#list.append(shown.node);
    pending.addEventListener("change", () => {
      shown.update(pending);
      this.#renderSend();
      if (pending.step === "failed") announce(`${pending.name}: ${inOneLine(pending.problem)}`);
    });
    pending.addEventListener("started", (event) => {
      const { detail: job } = /** @type {CustomEvent} */ (event);
      this.#forget(pending);
      this.dispatchEvent(new CustomEvent("started", { detail: { job, file: pending.file } }));
    });
    shown.update(pending);
    this.#renderSend();
  }

  #refuse(file, why) {
    const limit = { size: bytes(file.size), limit: bytes(this.maxBytes) };
    const problem = () => new Problem(`file-${why}`, { detail: t(`refused.${why}`, limit) });
    const words = element("p", { class: "problem" });
    const close = element(
      "button",
      { type: "button", class: "quiet small square", on: { click: () => this.#unrefuse(node) } },
      icon("close"),
    );
    const node = element(
      "li",
      { class: "pending-row" },
      element("span", { class: "thumb" }, icon("close")),
      element("div", { class: "pending-words" }, element("p", { class: "pending-name", text: file.name }), words),
      element("div", { class: "pending-actions" }, close),
    );
    this.#refused.set(node, () => {
      setText(words, explain(problem()).detail);
      close.setAttribute("aria-label", t("pending.remove", { name: file.name }));
    });
    this.#list.append(node);
    announce(`${file.name}: ${problem().detail}`);
    return false;
  }

  #unrefuse(node) {
    this.#refused.delete(node);
    node.remove();
    this.render();
    byId("choose").focus();
  }

  async #discard(pending) {
    this.#forget(pending);
    byId("choose").focus();
    await pending.discard();
  }

  #forget(pending) {
    const shown = this.#rows.get(pending);
    shown?.node.remove();
    shown?.close();
    this.#rows.delete(pending);
    this.#renderSend();
  }

  #start() {
    if (!this.form.isValid()) return;
    for (const pending of this.#startable()) void pending.start();
    byId("jobs-title").focus();
  }

  #startable() {
    return [...this.#rows.keys()].filter(
      ({ step, isWanted }) => !isWanted && ["uploading", "estimating", "ready"].includes(step),
    );
  }

  #renderSend() {
    const pending = [...this.#rows.keys()];
    document.querySelector(".composer").classList.toggle("filled", pending.length + this.#refused.size > 0);
    const open = this.#startable();
    byId("send").hidden = !pending.some(({ step }) => step !== "failed" && step !== "lost");
    /** @type {HTMLButtonElement} */ (byId("start")).disabled = open.length === 0;
    setText(byId("start-label"), open.length > 1 ? plural("start.many", open.length) : t("start.label"));
    setText(byId("total"), this.#totalWords(open));
  }

  #totalWords(open) {
    if (open.length === 0) return t("total.waiting");
    const known = open.map(({ estimate }) => estimate).filter(Boolean);
    if (known.length < open.length) return t("total.unknown");
    const seconds = known.reduce((sum, each) => sum + each.seconds, 0);
    const queue = Math.max(...known.map((each) => each.queue_seconds ?? 0));
    const price = cost(known.reduce((sum, each) => sum + each.cost, 0));
    const words = t("total.known", { time: duration(seconds), cost: price });
    return queue >= 1 ? `${words} ${t("total.queue", { time: duration(queue) })}` : words;
  }

  #listenForFiles() {
    const input = /** @type {HTMLInputElement} */ (byId("files"));
    byId("choose").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.add([...input.files]);
      input.value = "";
    });
    const address = /** @type {HTMLFormElement} */ (byId("address"));
    address.addEventListener("submit", (event) => {
      event.preventDefault();
      const field = /** @type {HTMLInputElement} */ (byId("url"));
      this.addAddress(field.value.trim());
      field.value = "";
    });
    const veil = byId("veil");
    const isFiles = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      veil.hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) veil.hidden = true;
    });
    document.addEventListener("drop", (event) => {
      veil.hidden = true;
      if (!isFiles(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
    document.addEventListener("paste", (event) => {
      if (event.clipboardData?.files.length) this.add([...event.clipboardData.files]);
    });
  }
}

/** The row of one pending file. @param {PendingFile} pending @param {{remove: () => void, again: () => void, choose: () => void, cure: (settings: object) => void}} acts */
function row(pending, acts) {
  const thumb = element("span", { class: "thumb" }, icon(kindOf(pending.name) === "video" ? "film" : "image"));
  const facts = element("p");
  const noticesHead = element("summary");
  const noticesList = element("ul");
  const notices = element("details", { class: "notes" }, noticesHead, noticesList);
  const problem = element("p", { class: "problem" });
  const cures = element("div", { class: "cures" });
  const bar = /** @type {HTMLProgressElement} */ (element("progress", { max: 100, value: 0 }));
  const again = element("button", { type: "button", class: "secondary small", on: { click: acts.again } });
  const choose = element("button", { type: "button", class: "secondary small", on: { click: acts.choose } });
  const remove = element(
    "button",
    { type: "button", class: "quiet small square", on: { click: acts.remove } },
    icon("close"),
  );
  const words = element(
    "div",
    { class: "pending-words" },
    element("p", { class: "pending-name", text: pending.name, title: pending.name }),
    facts,
    notices,
    problem,
    cures,
    bar,
  );
  const node = element(
    "li",
    { class: "pending-row" },
    thumb,
    words,
    element("div", { class: "pending-actions" }, again, choose, remove),
  );
  let address = "";

  function update() {
    if (!address && pending.file) {
      address = URL.createObjectURL(pending.file);
      thumb.append(glimpse(pending.file, address));
    }
    const percent = pending.size ? Math.floor((pending.sent / pending.size) * 100) : 0;
    node.dataset.step = pending.step;
    setText(facts, factsOf(pending, percent));
    const changes = pending.step === "ready" ? changesOf(pending.estimate) : [];
    notices.hidden = changes.length === 0;
    setText(noticesHead, plural("pending.changes", changes.length));
    noticesList.replaceChildren(...changes.map((text) => element("li", { text })));
    setText(problem, pending.problem ? inOneLine(pending.problem) : "");
    offerCures(cures, pending.problem, acts.cure);
    bar.hidden = pending.step !== "uploading";
    bar.value = percent;
    bar.setAttribute("aria-label", t("pending.progress", { name: pending.name }));
    again.hidden = !pending.problem?.isPassing;
    setText(again, t("pending.again"));
    choose.hidden = pending.step !== "lost";
    setText(choose, t("pending.choose"));
    remove.setAttribute("aria-label", t("pending.remove", { name: pending.name }));
  }
  return { node, update, close: () => address && URL.revokeObjectURL(address) };
}

function factsOf({ step, size, sent, upload, estimate, isWanted }, percent) {
  if (step === "lost") return t("pending.lost");
  if (step === "failed") return size ? bytes(size) : "";
  if (step === "estimating") return t("pending.estimating");
  if (step === "starting") return t("pending.starting");
  if (step === "uploading") {
    if (upload?.isInterrupted) return t("pending.interrupted", { percent: number(percent) });
    const words = t("pending.uploading", { sent: bytes(sent), size: bytes(size), percent: number(percent) });
    return isWanted ? `${words} · ${t("pending.wanted")}` : words;
  }
  const { width, height, frames, seconds, source_width, source_height, gang_size: gpus } = estimate;
  return [
    `${source_width} × ${source_height} → ${width} × ${height}`,
    ...(frames > 1 ? [plural("frames", frames)] : []),
    t("time.about", { time: duration(seconds) }),
    ...(gpus > 1 ? [t("pending.gang", { gpus: number(gpus) })] : []),
    cost(estimate.cost),
  ].join(" · ");
}

/** What of the file will be changed or left out. */
function changesOf({ notices }) {
  return notices.filter(({ outcome }) => outcome !== "kept").map(({ subject, reason }) => `${subject}: ${reason}`);
}

/** A small picture of a local file; stays empty where the browser cannot read it. */
function glimpse(file, address) {
  const tag = kindOf(file.name) === "video" ? "video" : "img";
  const shown = element(tag, {
    src: tag === "video" ? `${address}#t=0.1` : address,
    "aria-hidden": "true",
    alt: tag === "img" ? "" : undefined,
    preload: "metadata",
    tabindex: "-1",
  });
  if (shown instanceof HTMLVideoElement) shown.muted = true;
  shown.addEventListener("error", () => shown.remove());
  return shown;
}
