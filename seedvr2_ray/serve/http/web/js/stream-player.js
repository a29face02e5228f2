// Plays fragments of MP4 as they come, close to their end, through Media Source Extensions.

const MOST_BEHIND = 1.5;
const CLOSE = 0.3;
const KEPT_SECONDS = 20;

export class StreamPlayer {
  /** @type {MediaSource | null} */
  #source = null;
  /** @type {SourceBuffer | null} */
  #buffer = null;
  /** @type {ArrayBuffer[]} */
  #waiting = [];
  #isOver = false;
  #url = "";

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.video = video;
  }

  /** Whether this browser plays what the service will send. @param {string} mime */
  static plays(mime) {
    return "MediaSource" in window && MediaSource.isTypeSupported(mime);
  }

  /** @param {string} mime */
  begin(mime) {
    this.#source = new MediaSource();
    this.#source.addEventListener("sourceopen", () => {
      this.#buffer = this.#source.addSourceBuffer(mime);
      this.#buffer.addEventListener("updateend", () => this.#next());
      this.#next();
    }, { once: true });
    this.#url = URL.createObjectURL(this.#source);
    this.video.src = this.#url;
  }

  /** @param {ArrayBuffer} data */
  take(data) {
    this.#waiting.push(data);
    this.#next();
  }

  end() {
    this.#isOver = true;
    this.#next();
  }

  close() {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = "";
    this.#buffer = null;
    this.video.removeAttribute("src");
    this.video.load();
  }

  #next() {
    const buffer = this.#buffer;
    if (!buffer || buffer.updating || this.#source.readyState !== "open") return;
    this.#follow();
    const data = this.#waiting.shift();
    if (data) buffer.appendBuffer(data);
    else if (this.#isOver) this.#source.endOfStream();
    else if (buffer.buffered.length && this.video.currentTime - buffer.buffered.start(0) > 2 * KEPT_SECONDS)
      buffer.remove(0, this.video.currentTime - KEPT_SECONDS);
  }

  /** Stay close to the newest picture, whatever held up the ones before. */
  #follow() {
    const { buffered } = this.video;
    if (!buffered.length) return;
    const start = buffered.start(buffered.length - 1);
    const end = buffered.end(buffered.length - 1);
    if (this.video.currentTime < start || (end - this.video.currentTime > MOST_BEHIND && !this.video.paused))
      this.video.currentTime = Math.max(start, end - CLOSE);
    if (this.video.paused && !this.video.ended) void this.video.play().catch(() => {});
  }
}
