// The jobs as the service has them now: a list, event streams for the few at work, and a look at the list for the rest.

import { resolve } from "./api.js";

const PAGE_JOBS = 20;
/** A browser opens six connections to one host over HTTP/1.1; uploads and pictures need some of them. */
const MOST_STREAMS = 2;
const BUSY_MS = 2000;
const IDLE_MS = 20000;
const FINAL = new Set(["completed", "failed", "cancelled"]);

/** Whether nothing more will happen to a job. */
export const isFinal = (job) => FINAL.has(job.state);

// A place in the queue changes without the job itself.
const isNews = (job, known) =>
  job.version > known.version ||
  (job.version === known.version && job.progress.queue_position !== known.progress.queue_position);

/** Events: `job` with a job that is new or has changed, `removed` with an id, `reach` when the service is lost or found. */
export class JobFeed extends EventTarget {
  /** Newest first. @type {Map<string, any>} */
  jobs = new Map();
  /** Where the list goes on, or null. @type {string | null} */
  cursor = null;
  isReachable = true;
  /** Whether the list is looked at also while nobody sees the page. */
  looksWhileHidden = false;
  #api;
  /** @type {Map<string, EventSource>} */
  #streams = new Map();
  #removed = new Set();
  #timer = 0;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.#api = api;
    document.addEventListener("visibilitychange", () => document.hidden || this.#look());
    window.addEventListener("online", () => this.#look());
  }

  /** Read the list and follow it from now on. */
  async begin() {
    const page = await this.#api.jobs({ limit: PAGE_JOBS });
    this.cursor = page.next_cursor ?? null;
    for (const job of [...page.jobs].reverse()) this.take(job);
    this.#plan();
  }

  /** Read the next page of older jobs. */
  async older() {
    const page = await this.#api.jobs({ limit: PAGE_JOBS, cursor: this.cursor });
    this.cursor = page.next_cursor ?? null;
    for (const job of page.jobs) this.take(job);
  }

  /** Take news of a job, whoever brings it; what is older than what is known is dropped. */
  take(job) {
    const known = this.jobs.get(job.id);
    if (this.#removed.has(job.id) || (known && !isNews(job, known))) return;
    this.jobs.set(job.id, job);
    this.dispatchEvent(new CustomEvent("job", { detail: job }));
    if (!known || isFinal(job)) this.#stream();
  }

  /** Cancel a job that runs. @param {string} id */
  async cancel(id) {
    const job = await this.#api.cancel(id);
    if (job) this.take(job);
    this.#plan(0);
  }

  /** Delete a job and everything the service has of it. @param {string} id */
  async remove(id) {
    await this.#api.remove(id).catch((problem) => {
      if (![404, 410].includes(problem.status)) throw problem;
    });
    this.#drop(id);
  }

  #drop(id) {
    this.#removed.add(id);
    this.jobs.delete(id);
    this.dispatchEvent(new CustomEvent("removed", { detail: id }));
    this.#stream();
  }

  /** The jobs that are at work, those that came first in front. */
  #unfinished() {
    const waits = (job) => (job.state === "queued" ? 1 : 0);
    return [...this.jobs.values()]
      .filter((job) => !isFinal(job))
      .sort((a, b) => waits(a) - waits(b) || a.created_at.localeCompare(b.created_at));
  }

  /** Keep streams open for the jobs in front, and for no others. */
  #stream() {
    const followed = this.#unfinished().slice(0, MOST_STREAMS);
    for (const [id, stream] of this.#streams) {
      if (followed.some((job) => job.id === id)) continue;
      stream.close();
      this.#streams.delete(id);
    }
    for (const job of followed) if (!this.#streams.has(job.id) && job.links.events) this.#open(job);
  }

  #open(job) {
    const stream = new EventSource(resolve(job.links.events));
    this.#streams.set(job.id, stream);
    stream.addEventListener("job", (event) => {
      this.#reached(true);
      this.take(JSON.parse(event.data));
    });
    // The stream ends with the job, or its signed link has run out: the list knows more, and has a fresh link.
    stream.addEventListener("error", () => {
      stream.close();
      if (this.#streams.get(job.id) === stream) this.#streams.delete(job.id);
      this.#plan(BUSY_MS / 2);
    });
  }

  /** Look at the list again, soon while somebody waits for something. */
  #plan(pause = this.#unfinished().length > 0 ? BUSY_MS : IDLE_MS) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), pause);
  }

  async #look() {
    clearTimeout(this.#timer);
    const isFollowedWhole =
      this.#unfinished().length > 0 && this.#unfinished().every((job) => this.#streams.has(job.id));
    if ((!document.hidden || this.looksWhileHidden) && !isFollowedWhole) {
      try {
        const page = await this.#api.jobs({ limit: PAGE_JOBS });
        this.#reached(true);
        for (const job of [...page.jobs].reverse()) this.take(job);
        await this.#missing(new Set(page.jobs.map((job) => job.id)));
        this.#stream();
      } catch (problem) {
        if (problem.isPassing) this.#reached(false);
      }
    }
    this.#plan();
  }

  /** Ask for those at work that the first page of the list does not show. @param {Set<string>} shown */
  async #missing(shown) {
    for (const { id } of this.#unfinished().filter((job) => !shown.has(job.id))) {
      try {
        this.take(await this.#api.job(id));
      } catch (problem) {
        if (![404, 410].includes(problem.status)) throw problem;
        this.#drop(id);
      }
    }
  }

  #reached(isReachable) {
    if (this.isReachable === isReachable) return;
    this.isReachable = isReachable;
    this.dispatchEvent(new Event("reach"));
  }
}
