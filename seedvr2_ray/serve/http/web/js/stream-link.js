// One live stream between this page and the service: what a recorder gives goes out, and fragments of MP4 come back.

import { resolve } from "./api.js";

const TRIES = 5;
const PAUSE_MS = 700;
const FIRST_REFUSAL = 4400;
const MOST_KEPT_BYTES = 32e6;

/** Events: `news` with what the service tells, `fragment` with bytes, `broken` and `mended`, `over` with the last news. */
export class StreamLink extends EventTarget {
  #hello;
  #key;
  /** @type {WebSocket | null} */
  #socket = null;
  #stream = "";
  #pieces = 0;
  /** What was sent and may have to be sent again. @type {ArrayBuffer[]} */
  #kept = [];
  #keptFrom = 0;
  #sent = 0;
  #isReady = false;
  #isEnded = false;
  #tries = 0;
  #last = null;

  /** @param {{settings: object, policy: string}} wish @param {string | null} key */
  constructor(wish, key) {
    super();
    this.#hello = { type: "start", ...wish };
    this.#key = key;
  }

  open() {
    const url = resolve("v1/live").replace(/^http/, "ws");
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onopen = () => socket.send(JSON.stringify(this.#greeting()));
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#hear(JSON.parse(data)) : this.#take(data));
    socket.onclose = ({ code }) => this.#closed(code);
  }

  /** Send a piece of the stream, now or when there is a connection. @param {ArrayBuffer} data */
  send(data) {
    this.#kept.push(data);
    this.#sent += data.byteLength;
    while (this.#sent - this.#keptFrom > MOST_KEPT_BYTES) this.#keptFrom += this.#kept.shift().byteLength;
    if (this.#isReady) this.#socket.send(data);
  }

  /** Nothing more is sent; what is under way still comes back. */
  end() {
    this.#isEnded = true;
    if (this.#isReady) this.#socket.send(JSON.stringify({ type: "end" }));
  }

  #greeting() {
    const key = this.#key === null ? {} : { key: this.#key };
    return this.#stream ? { type: "resume", stream: this.#stream, after: this.#pieces, ...key } : { ...this.#hello, ...key };
  }

  #hear(news) {
    if (news.event === "ready") {
      this.#stream = news.stream;
      this.#tries = 0;
      this.#again(news.received);
      this.dispatchEvent(new Event("mended"));
      return;
    }
    this.#pieces += 1;
    if (news.event === "end" || news.event === "error") this.#last = news;
    this.dispatchEvent(new CustomEvent("news", { detail: news }));
  }

  #take(data) {
    this.#pieces += 1;
    this.dispatchEvent(new CustomEvent("fragment", { detail: data }));
  }

  /** Send what the service has not got. @param {number} received bytes */
  #again(received) {
    let at = this.#keptFrom;
    for (const data of this.#kept) {
      const skipped = Math.max(0, received - at);
      if (skipped < data.byteLength) this.#socket.send(skipped ? data.slice(skipped) : data);
      at += data.byteLength;
    }
    this.#isReady = true;
    if (this.#isEnded) this.#socket.send(JSON.stringify({ type: "end" }));
  }

  #closed(code) {
    this.#isReady = false;
    const isFinal = code === 1000 || code >= FIRST_REFUSAL || !this.#stream || this.#tries >= TRIES;
    if (isFinal) {
      this.dispatchEvent(new CustomEvent("over", { detail: this.#last }));
      return;
    }
    this.#tries += 1;
    this.dispatchEvent(new Event("broken"));
    setTimeout(() => this.open(), PAUSE_MS);
  }
}
