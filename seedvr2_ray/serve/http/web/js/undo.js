// Things that happen a moment later, so that they can be taken back.

const UNDO_MS = 6000;

export class Undo {
  #timer = 0;
  /** @type {(() => void) | null} */
  #act = null;
  #flush = () => this.now();

  /** Whether something is about to happen. */
  get isPending() {
    return this.#act !== null;
  }

  /** Do something in a few seconds, or when the page is left. @param {() => void} act */
  later(act) {
    this.cancel();
    this.#act = act;
    this.#timer = setTimeout(this.#flush, UNDO_MS);
    addEventListener("pagehide", this.#flush, { once: true });
  }

  /** Do it now. */
  now() {
    const act = this.#act;
    this.cancel();
    act?.();
  }

  /** Do not do it. */
  cancel() {
    clearTimeout(this.#timer);
    removeEventListener("pagehide", this.#flush);
    this.#act = null;
  }
}
