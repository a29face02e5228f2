// Who is asking: the key, where it is kept, and the dialog that asks for one.

import { byId } from "./dom.js";
import { t } from "./language.js";
import { Problem } from "./problem.js";
import { recall, remember } from "./storage.js";

const NAME = "seedvr2.key";

function keyOfThisTab() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

/** Holds the key of this browser tab; remembered on the device only when asked to. */
export class Session extends EventTarget {
  #key = keyOfThisTab() ?? recall("key");
  /** @type {Promise<void> | null} */
  #asking = null;

  /** Whether there is a key. */
  get isSignedIn() {
    return this.#key !== null;
  }

  /** Headers that every request carries. @returns {Record<string, string>} */
  get headers() {
    return this.#key === null ? {} : { Authorization: `Bearer ${this.#key}` };
  }

  /**
   * Ask for a key, once for all who wait for it.
   * @param {string | undefined} refused the Authorization header that was not accepted
   * @throws {Problem} the person does not want to sign in now
   */
  async signIn(refused) {
    // Somebody else may have asked meanwhile: then the new key is tried first.
    if (this.#key !== null && refused !== this.headers.Authorization) return;
    this.#asking ??= this.#ask(refused !== undefined).finally(() => (this.#asking = null));
    await this.#asking;
  }

  signOut() {
    this.#keep(null, true);
  }

  #keep(key, isRemembered) {
    this.#key = key;
    try {
      if (key === null) sessionStorage.removeItem(NAME);
      else sessionStorage.setItem(NAME, key);
    } catch {
      // The key then lasts as long as the page.
    }
    if (key === null || isRemembered) remember("key", key);
    this.dispatchEvent(new Event("change"));
  }

  #ask(wasRefused) {
    const dialog = /** @type {HTMLDialogElement} */ (byId("sign-in"));
    const form = /** @type {HTMLFormElement} */ (byId("sign-form"));
    const field = /** @type {HTMLInputElement} */ (byId("key"));
    byId("sign-error").textContent = wasRefused ? t("sign.refused") : "";
    field.value = "";
    dialog.showModal();
    field.focus();
    return new Promise((resolve, reject) => {
      let given = false;
      form.onsubmit = (event) => {
        event.preventDefault();
        const key = field.value.trim();
        if (!key) return;
        given = true;
        this.#keep(key, /** @type {HTMLInputElement} */ (byId("remember")).checked);
        dialog.close();
      };
      byId("sign-cancel").onclick = () => dialog.close();
      dialog.onclose = () => {
        field.value = "";
        if (given) resolve();
        else reject(new Problem("unauthenticated", { status: 401 }));
      };
    });
  }
}
