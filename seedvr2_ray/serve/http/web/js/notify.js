// Tells a person who looks elsewhere that work is done: one notification of the browser, replaced by the next.

import { byId } from "./dom.js";
import { plural, t } from "./language.js";
import { recall, remember } from "./storage.js";

const TAG = "seedvr2-done";

/** Events: `change` when it is switched on or off. */
export class Notifier extends EventTarget {
  #button = byId("notify");
  /** What ended since the page was last looked at. @type {{name: string, state: string}[]} */
  #ended = [];
  #isPossible = "Notification" in window && isSecureContext;
  #isWanted = recall("notify", false);

  constructor() {
    super();
    this.#button.addEventListener("click", () => this.#toggle());
    document.addEventListener("visibilitychange", () => document.hidden || (this.#ended = []));
    this.#show();
  }

  get isOn() {
    return this.#isPossible && this.#isWanted && Notification.permission === "granted";
  }

  /** A job has ended. @param {{name: string, state: string}} job @param {() => void} show brings it into view */
  ended({ name, state }, show) {
    if (!this.isOn || !document.hidden) return;
    this.#ended.push({ name, state });
    const count = this.#ended.length;
    const title = count > 1 ? plural("notify.ended", count) : `${name}: ${t(`state.${state}`)}`;
    const body = count > 1 ? this.#ended.slice(-3).map((each) => each.name).join(", ") : "";
    try {
      const shown = new Notification(title, { body, tag: TAG, icon: "web/mark.svg" });
      shown.onclick = () => {
        window.focus();
        shown.close();
        show();
      };
    } catch {
      // Browsers of phones have notifications for installed applications only.
      this.#isPossible = false;
      this.#show();
    }
  }

  async #toggle() {
    this.#isWanted = !this.isOn && (await Notification.requestPermission()) === "granted";
    remember("notify", this.#isWanted);
    this.#show();
  }

  #show() {
    this.#button.hidden = !this.#isPossible;
    this.#button.setAttribute("aria-pressed", String(this.isOn));
    const isDenied = this.#isPossible && Notification.permission === "denied";
    byId("notify-denied").hidden = !isDenied;
    this.dispatchEvent(new Event("change"));
  }
}
