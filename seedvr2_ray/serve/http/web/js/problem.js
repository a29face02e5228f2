// What went wrong, said so that a person can act on it.

import { hasWords, language, t } from "./language.js";

/** Something that the service, the network or this page refuses. */
export class Problem extends Error {
  /**
   * @param {string} kind last part of a problem's type, as the service's table names it; or one of the page's own
   * @param {{status?: number, title?: string, detail?: string, remedy?: string, retryAfter?: number}} [what]
   */
  constructor(kind, { status = 0, title = "", detail = "", remedy = "", retryAfter = 0 } = {}) {
    super(detail || title || kind);
    this.kind = kind;
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.remedy = remedy;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed a little later. */
  get isPassing() {
    return ["offline", "unusable"].includes(this.kind) || this.status === 429 || this.status >= 500;
  }
}

/** Read a problem from the answer of the service. @param {number} status @param {string} body @param {string | null} [retryAfter] */
export function problemOf(status, body, retryAfter = null) {
  let told = {};
  try {
    told = JSON.parse(body);
  } catch {
    // A proxy in between answers with a page of its own.
  }
  const kind =
    typeof told.type === "string"
      ? told.type.split("/").pop()
      : (KINDS[status] ?? (status >= 500 ? "unavailable" : "refused"));
  return new Problem(kind, {
    status,
    title: text(told.title),
    detail: text(told.detail),
    remedy: text(told.remedy),
    retryAfter: Number(retryAfter) || 0,
  });
}

const KINDS = {
  401: "unauthenticated",
  403: "forbidden",
  404: "not-found",
  409: "conflict",
  410: "gone",
  413: "too-large",
  422: "input",
  429: "too-many",
};
const text = (value) => (typeof value === "string" ? value : "");

/**
 * A heading, what was wrong, and the way out. The service writes English; other languages get their own heading and
 * way out for every kind, and the service's sentence for the particulars.
 * @param {{kind: string, title?: string, detail?: string, remedy?: string}} problem
 */
export function explain({ kind, title = "", detail = "", remedy = "" }) {
  const known = hasWords(`problem.${kind}.title`) ? kind : "internal";
  const isForeign = language() !== "en";
  return {
    title: isForeign || !title ? t(`problem.${known}.title`) : title,
    detail,
    remedy: isForeign || !remedy ? t(`problem.${known}.remedy`) : remedy,
  };
}

/** The same in one line. */
export function inOneLine(problem) {
  const { title, detail, remedy } = explain(problem);
  const end = language() === "zh" ? "。" : ".";
  return [title, detail, remedy]
    .filter(Boolean)
    .map((part) => (/[.!?。！？]$/.test(part) ? part : part + end))
    .join(" ");
}
