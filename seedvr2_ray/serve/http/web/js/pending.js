// A file between being chosen and being a job: uploaded, estimated, started. No elements here, only what is true.

import { Problem } from "./problem.js";
import { dropFile, keepFile, keptFile, recall, remember, renameFile } from "./storage.js";
import { Upload } from "./upload.js";

const VIDEO = ["mp4", "webm", "avi", "mov", "mkv"];
const IMAGE = ["jpg", "jpeg", "png", "webp", "heic", "heif", "avif", "tif", "tiff", "jp2", "jxl", "bmp"];
const suffix = (name) => name.slice(name.lastIndexOf(".") + 1).toLowerCase();

/** What a file is by its name. @param {string} name @returns {"video" | "image" | null} */
export function kindOf(name) {
  if (VIDEO.includes(suffix(name))) return "video";
  return IMAGE.includes(suffix(name)) ? "image" : null;
}

/** Under which name the original of a pending file, and later of its job, is kept in this browser. */
const keptAs = { pending: (id) => `pending:${id}`, job: (id) => `job:${id}` };
export { keptAs };

/**
 * Events: `change` after anything that is to be seen, `started` with the job when it has become one, `elsewhere` when
 * another tab of this browser is already at it.
 *
 * `step` is one of: `lost` (the page was reloaded and the browser does not have the file any more), `uploading`,
 * `estimating`, `ready`, `starting`, `failed`.
 */
export class PendingFile extends EventTarget {
  step = "uploading";
  /** @type {Problem | null} */
  problem = null;
  /** What the service expects of it. @type {any} */
  estimate = null;
  /** Start it as soon as that is possible. */
  isWanted = false;
  /** @type {Upload | null} */
  upload = null;
  /** What the service is told to read: an upload, or an address. @type {object | null} */
  #source = null;
  /** The file was not sent from this page. */
  #isElsewhere = false;
  #api;
  #settings = {};
  /** Settings that this file needs and others do not. */
  #own = {};
  #round = 0;
  #isMine = false;

  /** @param {import("./api.js").Api} api @param {{id?: string, name: string, size: number, modified?: number, address?: string | null, settings?: object, own?: object, source?: object | null, isWanted?: boolean}} record */
  constructor(api, { id = newId(), name, size, modified = 0, address = null, settings = {}, own = {}, source = null, isWanted = false }) {
    super();
    this.#api = api;
    this.id = id;
    this.name = name;
    this.size = size;
    this.modified = modified;
    this.address = address;
    this.isWanted = isWanted;
    this.#settings = settings;
    this.#own = own;
    this.#source = source;
    this.#isElsewhere = source !== null;
    /** @type {File | null} */
    this.file = null;
  }

  /** Bytes that the service has. */
  get sent() {
    return this.#source ? this.size : (this.upload?.sent ?? 0);
  }

  /** Whether a file that was chosen is the one this waits for. @param {File} file */
  matches(file) {
    return (
      this.step === "lost" && file.name === this.name && file.size === this.size && file.lastModified === this.modified
    );
  }

  /** Upload the file, then ask what it will take. @param {File | null} file null: the one this browser kept */
  async begin(file) {
    if (!(await this.#claim())) return this.dispatchEvent(new Event("elsewhere"));
    if (this.#isElsewhere) {
      this.#save();
      return void (await this.#ask());
    }
    this.file = file ?? (await keptFile(keptAs.pending(this.id)));
    if (!this.file) return this.#become("lost");
    this.#save();
    if (file) void keepFile(keptAs.pending(this.id), file);
    this.#become("uploading");
    const upload = new Upload(this.file, this.#api.session, this.address);
    this.upload = upload;
    upload.addEventListener("progress", () => this.#changed());
    upload.addEventListener("address", () => {
      this.address = upload.address;
      this.#save();
    });
    try {
      this.#source = { upload: await upload.run() };
    } catch (problem) {
      return this.#fail(problem);
    }
    await this.#ask();
  }

  /** Take other settings; the estimate follows. @param {object} settings */
  set settings(settings) {
    this.#settings = settings;
    if (this.isWanted) return; // Started with what was chosen then.
    this.#save();
    if (this.#source && this.step !== "starting") void this.#ask();
  }

  /** Take settings that only this file needs. @param {object} own */
  async cure(own) {
    this.#own = { ...this.#own, ...own };
    this.#save();
    await this.again();
  }

  /** Start it now, or as soon as it is uploaded. */
  async start() {
    this.isWanted = true;
    this.#save();
    if (this.step === "ready") await this.#submit();
    else this.#changed();
  }

  /** Try again what failed. */
  async again() {
    this.problem = null;
    if (this.#source) await this.#ask();
    else await this.begin(this.file);
  }

  /** Forget it, here and at the service. */
  async discard() {
    this.#round += 1;
    forget(this.id);
    await dropFile(keptAs.pending(this.id));
    await this.upload?.discard();
  }

  async #ask() {
    const round = ++this.#round;
    this.#become("estimating");
    try {
      const wish = { source: this.#source, settings: this.#wanted };
      const estimate = await patiently(() => this.#api.estimate(wish));
      if (round !== this.#round) return; // The settings have changed meanwhile, and another answer is on its way.
      const [refusal] = estimate.refusals ?? [];
      // A file without frames is one that could not be read.
      if (refusal) throw new Problem(estimate.frames > 0 ? "unusable" : "media", { status: 422, detail: refusal });
      this.estimate = estimate;
    } catch (problem) {
      if (round === this.#round) this.#fail(problem);
      return;
    }
    this.#become("ready");
    if (this.isWanted) await this.#submit();
  }

  get #wanted() {
    return { ...this.#settings, ...this.#own };
  }

  async #submit() {
    this.#become("starting");
    try {
      const wish = { source: this.#source, settings: this.#wanted, once: this.id };
      const job = await patiently(() => this.#api.submit(wish));
      forget(this.id);
      await renameFile(keptAs.pending(this.id), keptAs.job(job.id));
      this.dispatchEvent(new CustomEvent("started", { detail: job }));
    } catch (problem) {
      this.#fail(problem);
    }
  }

  // Only one tab uploads a file; after a reload the page before may need a moment to let go.
  async #claim() {
    if (this.#isMine || !navigator.locks) return true;
    await new Promise((resolve) => {
      const untilClosed = () => {
        this.#isMine = true;
        resolve(null);
        return new Promise(() => {});
      };
      navigator.locks.request(`seedvr2.${this.id}`, { signal: AbortSignal.timeout(1500) }, untilClosed).catch(resolve);
    });
    return this.#isMine;
  }

  #fail(problem) {
    this.problem = problem instanceof Problem ? problem : new Problem("internal", { detail: String(problem) });
    this.isWanted = false;
    this.#save();
    this.#become("failed");
  }

  #become(step) {
    this.step = step;
    if (step !== "failed") this.problem = null;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #save() {
    const { id, name, size, modified, address, isWanted } = this;
    const source = this.#isElsewhere ? this.#source : null;
    const record = { id, name, size, modified, address, isWanted, source, settings: this.#settings, own: this.#own };
    remember(`pending.${id}`, record);
    const ids = recall("pending", []);
    if (!ids.includes(id)) remember("pending", [...ids, id]);
  }
}

/** Files that were under way when the page was left. @param {import("./api.js").Api} api @returns {PendingFile[]} */
export function pendingBefore(api) {
  const records = recall("pending", []).map((id) => recall(`pending.${id}`));
  return records.filter(Boolean).map((record) => new PendingFile(api, record));
}

/** Repeat a request while the network is away. Both requests here may be repeated without harm. */
async function patiently(ask) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask();
    } catch (problem) {
      if (problem.kind !== "offline" || tries > 100) throw problem;
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
  }
}

function forget(id) {
  remember(`pending.${id}`, null);
  remember(
    "pending",
    recall("pending", []).filter((other) => other !== id),
  );
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
