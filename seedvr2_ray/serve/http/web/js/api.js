// The service's own HTTP API, version 1. Nothing else talks to the service, apart from the uploads in upload.js.

import { Problem, problemOf } from "./problem.js";

/** Where the service lies: beside this page, also behind a proxy that gives it a prefix. */
const ROOT = new URL("./", document.baseURI);

/** Resolve a path or a link that the service gave. @param {string} link */
export const resolve = (link) => new URL(link.startsWith("/v1/") ? link.slice(1) : link, ROOT).href;

/** What the service shows in place rather than gives to be saved. @param {string} link */
export function shown(link) {
  const url = new URL(resolve(link));
  url.searchParams.set("download", "false");
  return url.href;
}

export class Api {
  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.session = session;
  }

  /**
   * @param {string} method @param {string} path
   * @param {{body?: any, headers?: Record<string, string>}} [options]
   * @throws {Problem}
   */
  async #ask(method, path, { body, headers = {} } = {}) {
    for (;;) {
      const key = this.session.headers;
      /** @type {Response} */
      let answer;
      try {
        answer = await fetch(resolve(path), {
          method,
          headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers, ...key },
          body: body === undefined ? undefined : JSON.stringify(body),
          cache: "no-store",
        });
      } catch {
        throw new Problem("offline");
      }
      if (answer.status === 401) {
        await this.session.signIn(key.Authorization);
        continue;
      }
      const text = await answer.text().catch(() => "");
      if (!answer.ok) throw problemOf(answer.status, text, answer.headers.get("Retry-After"));
      return text ? JSON.parse(text) : null;
    }
  }

  models() {
    return this.#ask("GET", "v1/models");
  }

  /** @param {{limit: number, cursor?: string | null}} page */
  jobs({ limit, cursor = null }) {
    const query = new URLSearchParams({ limit: String(limit), ...(cursor ? { cursor } : {}) });
    return this.#ask("GET", `v1/jobs?${query}`);
  }

  /** @param {string} id */
  job(id) {
    return this.#ask("GET", `v1/jobs/${encodeURIComponent(id)}`);
  }

  /** @param {{source: object, settings: object}} wish */
  estimate({ source, settings }) {
    return this.#ask("POST", "v1/estimate", { body: { source, settings } });
  }

  /** @param {{source: object, settings: object, once: string}} wish `once` makes a repeated submission harmless */
  submit({ source, settings, once }) {
    return this.#ask("POST", "v1/jobs", {
      body: { source, settings },
      headers: { "Idempotency-Key": once },
    });
  }

  /** @param {string} id */
  cancel(id) {
    return this.#ask("POST", `v1/jobs/${encodeURIComponent(id)}/cancel`);
  }

  /** @param {string} id */
  remove(id) {
    return this.#ask("DELETE", `v1/jobs/${encodeURIComponent(id)}`);
  }
}
