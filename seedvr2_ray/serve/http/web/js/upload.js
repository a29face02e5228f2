// One resumable upload. The tus client (vendor/tus.min.js) knows the protocol; this knows what the page needs of it.

import { resolve } from "./api.js";
import { Problem, problemOf } from "./problem.js";

/** So much is lost at most when a connection breaks, and so much the service holds in memory at once. */
const CHUNK_BYTES = 4 * 2 ** 20;
/** Pauses before the next try, in ms: soon at first, then patiently for as long as a train needs for a tunnel. */
const PAUSES = [300, 1000, 2000, 4000, ...Array(700).fill(5000)];

/**
 * Events: `progress` (also when the connection breaks or is back), `address` (where the upload can be resumed).
 */
export class Upload extends EventTarget {
  sent = 0;
  /** The connection is broken; the next try is under way. */
  isInterrupted = false;
  /** Where it can be resumed, once the service has said so. @type {string | null} */
  address;
  #session;
  #tus;
  #end = Promise.withResolvers();

  /** @param {File} file @param {import("./session.js").Session} session @param {string | null} [address] */
  constructor(file, session, address = null) {
    super();
    this.address = address;
    this.#session = session;
    this.#tus = new window.tus.Upload(file, {
      endpoint: resolve("v1/uploads"),
      uploadUrl: address,
      chunkSize: CHUNK_BYTES,
      retryDelays: PAUSES,
      storeFingerprintForResuming: false,
      removeFingerprintOnSuccess: true,
      metadata: { filename: file.name, filetype: file.type || "application/octet-stream" },
      headers: session.headers,
      onUploadUrlAvailable: () => this.#found(this.#tus.url),
      onProgress: (sent) => this.#report(sent, false),
      onShouldRetry: (error) => this.#mayRetry(error),
      onSuccess: () => this.#end.resolve(idOf(this.#tus.url)),
      onError: (error) => this.#fail(error),
    });
  }

  /** Upload, or go on. @returns {Promise<string>} the upload's id @throws {Problem} */
  run() {
    window.addEventListener("online", this.#again);
    this.#tus.start();
    return this.#end.promise.finally(() => window.removeEventListener("online", this.#again));
  }

  /** Stop, and delete what the service has of it. */
  async discard() {
    window.removeEventListener("online", this.#again);
    await this.#tus.abort(this.#tus.url !== null).catch(() => {});
  }

  // The network is back: no need to wait for the pause to end.
  #again = async () => {
    if (!this.isInterrupted) return;
    await this.#tus.abort(false);
    this.#tus.start();
  };

  #found(address) {
    this.address = address;
    this.dispatchEvent(new Event("address"));
  }

  #report(sent, isInterrupted) {
    this.sent = sent;
    this.isInterrupted = isInterrupted;
    this.dispatchEvent(new Event("progress"));
  }

  #mayRetry(error) {
    const isPassing = problemIn(error).isPassing || [409, 423, 460].includes(error.originalResponse?.getStatus());
    if (isPassing) this.#report(this.sent, true);
    return isPassing;
  }

  async #fail(error) {
    const problem = problemIn(error);
    if (problem.status !== 401) return this.#end.reject(problem);
    try {
      await this.#session.signIn(this.#tus.options.headers.Authorization);
      this.#tus.options.headers = this.#session.headers;
      this.#tus.start();
    } catch (refusal) {
      this.#end.reject(refusal);
    }
  }
}

const idOf = (address) => decodeURIComponent(new URL(address).pathname.split("/").filter(Boolean).pop());

function problemIn(error) {
  if (error.originalResponse) {
    const { originalResponse: answer } = error;
    return problemOf(answer.getStatus(), answer.getBody() ?? "", answer.getHeader("Retry-After"));
  }
  return new Problem(error.originalRequest ? "offline" : "internal", {
    detail: error.originalRequest ? "" : error.message,
  });
}
