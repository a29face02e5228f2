// One job of the list: what it is, where it stands, and what can be done with it.

import { resolve, shown } from "./api.js";
import { element, icon, setText } from "./dom.js";
import { bytes, cost, duration, moment, number, plural, t } from "./language.js";
import { isFinal } from "./live.js";
import { keptAs, kindOf } from "./pending.js";
import { explain } from "./problem.js";
import { keptFile } from "./storage.js";
import { offerCures } from "./cures.js";
import { Undo } from "./undo.js";
import "./compare-view.js";

const PRESETS = { "720p": "720p", "1080p": "1080p", "1440p": "2K", "2160p": "4K", "4320p": "8K" };
const SHOWN_IMAGES = new Set(["image/png", "image/jpeg", "image/webp"]);

export class JobCard {
  #job;
  #acts;
  /** The original, where this browser has it. @type {File | null} */
  #original;
  #originalAddress = "";
  #picture = "";
  /** What the comparison shows now. */
  #compared = "";
  #problem = null;
  #undo = new Undo();
  /** What is about to happen: `cancel` or `remove`. */
  #coming = "";
  /** @type {import("./compare-view.js").CompareView | null} */
  #view = null;
  #parts = parts();
  node = this.#parts.node;
  /** The comparison has opened by itself once. */
  wasOffered = false;

  /**
   * @param {any} job
   * @param {{cancel: (id: string) => Promise<void>, remove: (id: string) => Promise<void>, again: (job: any, settings: object, how: {start: boolean, isTold?: boolean}) => void, shown: () => void}} acts
   * @param {File | null} [original]
   */
  constructor(job, acts, original = null) {
    this.#job = job;
    this.#acts = acts;
    this.#original = original;
    this.node.id = `job-${job.id}`;
    const { cancel, remove, compare, retry, change, undo } = this.#parts;
    cancel.addEventListener("click", () => this.#later("cancel"));
    remove.addEventListener("click", () => this.#later("remove"));
    undo.addEventListener("click", () => {
      this.takeBack();
      (this.#coming === "cancel" ? cancel : remove).focus();
    });
    retry.addEventListener("click", () => this.#acts.again(this.#job, {}, { start: true }));
    change.addEventListener("click", () => this.#acts.again(this.#job, {}, { start: false }));
    compare.addEventListener("click", () => this.toggle());
    this.#parts.thumb.addEventListener("click", () => this.toggle());
    this.update(job);
  }

  /** Whether the comparison is open. */
  get isOpen() {
    return this.#view !== null;
  }

  /** Whether there is something to compare. */
  get isComparable() {
    const { before, after, result } = this.#job.links;
    return Boolean(result || (before && after));
  }

  /** Whether it is chosen, among others, for what is done with many. */
  get isPicked() {
    return this.#parts.pick.checked;
  }

  set isPicked(isPicked) {
    this.#parts.pick.checked = isPicked;
  }

  /** Whether something is about to happen to it that can be taken back. */
  get isComing() {
    return this.#undo.isPending;
  }

  /** What can be done with it now, alone or with others. @returns {Set<"retry" | "cancel" | "remove">} */
  get offers() {
    const { state, cancel_requested } = this.#job;
    if (this.isComing) return new Set();
    if (!isFinal(this.#job)) return new Set(cancel_requested ? [] : ["cancel"]);
    return new Set(this.#canRepeat && state !== "completed" ? ["retry", "remove"] : ["remove"]);
  }

  /** Do what was chosen for many; whoever chose it tells of it. @param {"retry" | "cancel" | "remove"} what */
  act(what) {
    if (what === "retry") this.#acts.again(this.#job, {}, { start: true, isTold: false });
    else this.#later(what, { isAlone: false });
  }

  /** Do not do what was about to happen. */
  takeBack() {
    this.#undo.cancel();
    this.#showActions(!isFinal(this.#job));
  }

  /** Show a newer state of the job, or the same one in another language. */
  update(job = this.#job) {
    this.#job = job;
    const { progress, state } = job;
    const isBusy = !isFinal(job);
    this.node.classList.toggle("busy", isBusy && !this.#picture);
    setText(this.#parts.name, job.name);
    this.#parts.name.title = job.name;
    this.#parts.state.dataset.state = state;
    setText(this.#parts.state, job.cancel_requested && isBusy ? t("state.cancelling") : t(`state.${state}`));
    setText(this.#parts.meta, metaOf(job));
    setText(this.#parts.live, isBusy ? liveOf(job) : "");
    this.#showProgress(progress, isBusy);
    this.#showProblem();
    this.#showCompanions();
    this.#showActions(isBusy);
    void this.#showPicture();
    if (this.#view) {
      this.#view.speak();
      void this.#compare();
    }
  }

  /** Open or close the comparison. */
  async toggle() {
    if (!this.isComparable) return;
    if (this.#view) {
      this.#view.remove();
      this.#view = null;
      this.#compared = "";
    } else {
      this.#view = /** @type {any} */ (document.createElement("compare-view"));
      this.node.append(this.#view);
      await this.#compare();
    }
    this.#showActions(!isFinal(this.#job));
  }

  /** Let go of what the browser holds for this card. */
  close() {
    if (this.#originalAddress) URL.revokeObjectURL(this.#originalAddress);
    this.node.remove();
  }

  #showProgress({ frames_done, frames_total }, isBusy) {
    const { bar } = this.#parts;
    bar.hidden = !isBusy;
    if (frames_total > 0 && this.#job.state !== "queued") bar.value = Math.min(100, (frames_done / frames_total) * 100);
    else bar.removeAttribute("value");
    bar.setAttribute("aria-label", t("job.progress", { name: this.#job.name }));
  }

  #showProblem() {
    const { problem, cures } = this.#parts;
    const told = this.#problem ?? this.#job.error;
    problem.hidden = !told;
    offerCures(cures, told && this.#canRepeat ? told : null, (settings) =>
      this.#acts.again(this.#job, settings, { start: true }),
    );
    if (!told) return;
    const { title, detail, remedy } = explain(told);
    problem.replaceChildren(
      element("b", { text: title }),
      ...(detail ? [element("p", { text: detail })] : []),
      element("p", { text: remedy }),
      cures,
    );
  }

  /** Whether the service still knows where the file is. */
  get #canRepeat() {
    return isFinal(this.#job) && Boolean(this.#job.source.upload || this.#job.source.url);
  }

  #showCompanions() {
    const { companions, report, provenance } = this.#parts;
    const { links } = this.#job;
    companions.hidden = !links.report;
    if (!links.report) return;
    report.href = resolve(links.report);
    provenance.href = resolve(links.provenance);
    setText(report, t("job.report"));
    setText(provenance, t("job.provenance"));
  }

  #showActions(isBusy) {
    const { compare, download, cancel, remove, thumb } = this.#parts;
    const { name, links } = this.#job;
    compare.hidden = !this.isComparable;
    compare.setAttribute("aria-expanded", String(this.isOpen));
    setText(compare.lastElementChild, t(this.isOpen ? "job.close" : "job.compare"));
    compare.setAttribute("aria-label", t(this.isOpen ? "job.close_of" : "job.compare_of", { name }));
    thumb.classList.toggle("opens", this.isComparable);
    download.hidden = !links.result;
    if (links.result) download.href = resolve(links.result);
    download.download = this.#job.result?.name ?? "";
    setText(download.lastElementChild, t("job.download"));
    download.setAttribute("aria-label", t("job.download_of", { name }));
    const { isComing, offers } = this;
    const { retry, change, undo, coming, pick } = this.#parts;
    pick.setAttribute("aria-label", t("bulk.pick", { name }));
    retry.hidden = !offers.has("retry");
    setText(retry.lastElementChild, t("job.retry"));
    retry.setAttribute("aria-label", t("job.retry_of", { name }));
    change.hidden = isComing || !this.#canRepeat;
    setText(change.lastElementChild, t("job.change"));
    change.setAttribute("aria-label", t("job.change_of", { name }));
    coming.hidden = undo.hidden = !isComing;
    setText(coming, isComing ? t(this.#coming === "cancel" ? "job.cancel_coming" : "job.remove_coming") : "");
    setText(undo.lastElementChild, t("job.undo"));
    undo.setAttribute("aria-label", t(this.#coming === "cancel" ? "job.undo_cancel_of" : "job.undo_remove_of", { name }));
    cancel.hidden = !offers.has("cancel");
    setText(cancel.lastElementChild, t("job.cancel"));
    cancel.setAttribute("aria-label", t("job.cancel_of", { name }));
    remove.hidden = !offers.has("remove");
    remove.setAttribute("aria-label", t("job.remove_of", { name }));
    remove.title = t("job.remove");
    this.#acts.shown();
  }

  async #showPicture() {
    const { after, result } = this.#job.links;
    const whole = result && SHOWN_IMAGES.has(this.#job.result?.media_type) ? result : null;
    const link = after ?? whole;
    const wanted = link ? "result" : "original";
    if (this.#picture === wanted || this.#picture === "result") return;
    const source = link ? (after ? resolve(link) : shown(link)) : await this.#originalPicture();
    if (!source || this.#picture === "result") return;
    this.#picture = wanted;
    const isFilm = !link && kindOf(this.#job.name) === "video";
    const glimpse = element(isFilm ? "video" : "img", {
      src: source,
      alt: isFilm ? undefined : "",
      "aria-hidden": isFilm ? "true" : undefined,
      preload: "metadata",
      tabindex: isFilm ? "-1" : undefined,
    });
    glimpse.addEventListener("error", () => glimpse.remove());
    this.#parts.thumb.querySelector("img, video")?.remove();
    this.#parts.thumb.append(glimpse);
  }

  async #originalPicture() {
    this.#original ??= await keptFile(keptAs.job(this.#job.id));
    if (this.#original && !this.#originalAddress) this.#originalAddress = URL.createObjectURL(this.#original);
    return this.#originalAddress;
  }

  /** Compare the best there is: film with film, picture with picture, else the stills that the service made. */
  async #compare() {
    const { links, result, settings } = this.#job;
    // The original of an excerpt shows other moments; the stills that the service made are of one.
    const original = settings.excerpt ? null : await this.#originalPicture();
    const offers = [];
    if (links.result && original && result.media_type.startsWith("video/"))
      offers.push({ kind: "video", before: original, after: shown(links.result), frames: result.num_frames });
    if (links.result && original && SHOWN_IMAGES.has(result.media_type))
      offers.push({ kind: "image", before: original, after: shown(links.result) });
    if (links.before && links.after)
      offers.push({ kind: "image", before: resolve(links.before), after: resolve(links.after) });
    const best = offers.map(({ kind, after }) => `${kind} ${new URL(after).pathname}`).join();
    if (best === this.#compared) return;
    this.#compared = best;
    const view = this.#view;
    for (const offer of offers) {
      try {
        await view.show(offer);
        return;
      } catch {
        // This browser cannot show that file; the next offer needs less.
      }
      if (view !== this.#view) return;
    }
    view.replaceChildren(element("p", { class: "notice", text: t("compare.impossible") }));
  }

  /** Do something in a few seconds, unless it is taken back. @param {"cancel" | "remove"} what */
  #later(what, { isAlone = true } = {}) {
    this.#coming = what;
    this.#problem = null;
    this.#undo.later(() => void this.#act(() => this.#acts[what](this.#job.id)));
    this.#parts.coming.setAttribute("aria-live", isAlone ? "polite" : "off");
    this.#showActions(!isFinal(this.#job));
    if (isAlone) this.#parts.undo.focus();
  }

  async #act(act) {
    try {
      await act();
    } catch (problem) {
      this.#problem = problem;
      this.#showProblem();
    } finally {
      this.#showActions(!isFinal(this.#job));
    }
  }
}

function parts() {
  const button = (kind, name) =>
    /** @type {HTMLButtonElement} */ (
      element("button", { type: "button", class: `${kind} small` }, icon(name), element("span"))
    );
  const thumb = element("div", { class: "thumb" }, icon("film"));
  const pick = /** @type {HTMLInputElement} */ (element("input", { type: "checkbox" }));
  const name = element("h3", { class: "job-name" });
  const state = element("span", { class: "state" });
  const meta = element("p", { class: "job-meta" });
  const live = element("p", { class: "job-live" });
  const bar = /** @type {HTMLProgressElement} */ (element("progress", { max: 100 }));
  const problem = element("div", { class: "job-problem", hidden: true });
  const compare = button("secondary", "compare");
  const download = /** @type {HTMLAnchorElement} */ (
    element("a", { class: "button primary small" }, icon("download"), element("span"))
  );
  const retry = button("secondary", "retry");
  const change = button("secondary", "spark");
  const undo = button("secondary", "retry");
  const coming = element("span", { class: "coming", role: "status" });
  const cures = element("div", { class: "cures" });
  const link = () => /** @type {HTMLAnchorElement} */ (element("a", { download: "" }));
  const [report, provenance] = [link(), link()];
  const companions = element("p", { class: "companions", hidden: true }, report, provenance);
  const cancel = button("quiet", "close");
  const remove = /** @type {HTMLButtonElement} */ (
    element("button", { type: "button", class: "quiet small square" }, icon("trash"))
  );
  const words = element(
    "div",
    { class: "job-words" },
    element("div", { class: "job-head" }, name, state),
    meta,
    bar,
    live,
    companions,
  );
  const actions = element("div", { class: "job-actions" }, download, compare, retry, change, coming, undo, cancel, remove);
  const node = element(
    "li",
    { class: "job card" },
    thumb,
    element("label", { class: "pick" }, pick),
    element("div", { class: "job-main" }, words, problem, actions),
  );
  const made = { node, thumb, pick, name, state, meta, live, bar, problem, compare, download, cancel, remove };
  return { ...made, retry, change, undo, coming, cures, companions, report, provenance };
}

function metaOf({ settings, model, result, usage, created_at }) {
  const { resolution = "" } = settings;
  const size = result
    ? `${result.width} × ${result.height}`
    : (PRESETS[resolution] ?? resolution.replace(/^x/, "×").replace(/(?<=\d)x/, " × "));
  const parts = [
    size,
    model,
    ...(result ? [bytes(result.num_bytes)] : []),
    ...(usage?.cost > 0 ? [cost(usage.cost)] : []),
    moment(created_at),
  ];
  return parts.filter(Boolean).join(" · ");
}

function liveOf({ state, progress, cancel_requested, started_at }) {
  if (cancel_requested) return t("live.cancelling");
  if (state === "queued") {
    return progress.queue_position > 0
      ? t("live.position", { position: number(progress.queue_position) })
      : t("live.queued");
  }
  if (state === "planning") return t("live.planning");
  if (state === "assembling") return t("live.assembling");
  const { frames_done, frames_total, frames_per_second, seconds_left } = progress;
  const parts = [];
  if (frames_total > 1) parts.push(t("live.frames", { done: number(frames_done), total: number(frames_total) }));
  if (frames_per_second > 0) parts.push(plural("live.speed", frames_per_second));
  if (seconds_left !== null && seconds_left !== undefined) parts.push(t("live.left", { time: duration(seconds_left) }));
  const elapsed = (Date.now() - Date.parse(started_at ?? "")) / 1000;
  if (elapsed >= 1) parts.push(t("live.elapsed", { time: duration(elapsed) }));
  return frames_done > 0 ? parts.join(" · ") : [t("live.restoring"), ...parts.slice(-1)].join(" · ");
}
