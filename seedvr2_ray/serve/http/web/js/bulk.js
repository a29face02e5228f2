// Several jobs at once: chosen by their boxes, then cancelled, deleted or begun anew together, and taken back together.

import { announce } from "./announce.js";
import { byId, setText } from "./dom.js";
import { number, plural, t } from "./language.js";

/** @typedef {import("./job-card.js").JobCard} JobCard */

/** What can be done with many, in the order of their buttons. */
const ACTS = /** @type {const} */ (["retry", "cancel", "remove"]);
/** Jobs that nobody chooses among. */
const FEWEST = 2;

export class Bulk {
  #cards;
  #isOpen = false;
  /** Those whose end was begun together, and can be taken back together. @type {JobCard[]} */
  #acted = [];
  #isDue = false;
  #all = /** @type {HTMLInputElement} */ (byId("bulk-all"));

  /** @param {() => JobCard[]} cards those that are in view, in their order */
  constructor(cards) {
    this.#cards = cards;
    byId("select").addEventListener("click", () => this.#open(!this.#isOpen));
    this.#all.addEventListener("change", () => {
      for (const card of this.#cards()) card.isPicked = this.#all.checked;
      this.render();
    });
    byId("jobs").addEventListener("change", () => this.render());
    for (const act of ACTS) byId(`bulk-${act}`).addEventListener("click", () => this.#act(act));
    byId("bulk-undo").addEventListener("click", () => this.#takeBack());
    for (const area of [byId("bulk"), byId("jobs")])
      area.addEventListener("keydown", ({ key }) => {
        if (key === "Escape" && this.#isOpen) this.#open(false);
      });
  }

  /** Show what is chosen now; soon, and once for everything that changes together. */
  render() {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      this.#render();
    });
  }

  #render() {
    const cards = this.#cards();
    const picked = this.#picked();
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    byId("select").hidden = cards.length < FEWEST && !this.#isOpen;
    byId("select").setAttribute("aria-pressed", String(this.#isOpen));
    setText(byId("select"), t(this.#isOpen ? "bulk.done" : "bulk.select"));
    byId("bulk").hidden = !this.#isOpen;
    byId("jobs").classList.toggle("selecting", this.#isOpen);
    this.#all.checked = picked.length > 0 && picked.length === cards.length;
    this.#all.indeterminate = picked.length > 0 && picked.length < cards.length;
    setText(byId("bulk-count"), picked.length > 0 ? plural("bulk.count", picked.length) : t("bulk.all"));
    for (const act of ACTS) {
      const count = picked.filter((card) => card.offers.has(act)).length;
      const words = { retry: t("job.retry"), cancel: t("job.cancel"), remove: t("job.remove") };
      const button = byId(`bulk-${act}`);
      button.hidden = count === 0;
      setText(/** @type {Element} */ (button.lastElementChild), `${words[act]} (${number(count)})`);
    }
    byId("bulk-undo").hidden = !this.#acted.some((card) => card.isComing);
    // What had the focus is gone: what was pressed to get here remains.
    if (before?.hidden && byId("bulk").contains(before)) byId("select").focus();
  }

  #picked() {
    return this.#cards().filter((card) => card.isPicked);
  }

  #open(isOpen) {
    this.#isOpen = isOpen;
    for (const card of this.#cards()) card.isPicked = false;
    this.render();
    byId("select").focus();
  }

  #act(act) {
    const cards = this.#picked().filter((card) => card.offers.has(act));
    for (const card of cards) {
      card.isPicked = false;
      card.act(act);
    }
    if (act === "retry") announce(plural("announce.added", cards.length));
    else {
      this.#acted = cards;
      const { length } = cards;
      announce(act === "cancel" ? plural("bulk.cancelling", length) : plural("bulk.removing", length));
      byId("bulk-undo").hidden = false;
      byId("bulk-undo").focus();
    }
    this.render();
  }

  #takeBack() {
    for (const card of this.#acted) {
      if (!card.isComing) continue;
      card.takeBack();
      card.isPicked = true;
    }
    this.render();
  }
}
