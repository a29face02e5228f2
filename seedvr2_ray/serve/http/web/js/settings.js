// The form of settings: what the presets and "more" choose, remembered in this browser.

import { byId, element } from "./dom.js";
import { hasWords, t } from "./language.js";
import { recall, remember } from "./storage.js";

const TIME = String.raw`(\d+:)?(\d+:)?\d+(\.\d+)?`;
const EXCERPT = new RegExp(`^(${TIME}\\s*-\\s*(${TIME})?|-\\s*${TIME}|frames? +\\d+(\\s*-\\s*\\d+)?)$`, "i");
const EXACT = /^(x\d{1,2}(\.\d+)?|\d{2,5}x\d{2,5})$/i;

/** Events: `change` when the settings are others, after a pause in typing. */
export class SettingsForm extends EventTarget {
  #form = /** @type {HTMLFormElement} */ (byId("settings"));
  #model = /** @type {HTMLSelectElement} */ (byId("model"));
  #exact = /** @type {HTMLInputElement} */ (byId("exact"));
  #excerpt = /** @type {HTMLInputElement} */ (byId("excerpt"));
  #seed = /** @type {HTMLInputElement} */ (byId("seed"));
  #models = [];
  #timer = 0;

  constructor() {
    super();
    this.#restore(recall("settings"));
    this.#form.addEventListener("input", () => this.#edited());
    document.addEventListener("language", () => this.#validate());
    this.#validate();
  }

  /** What the service takes as a job's settings. */
  get value() {
    const form = new FormData(this.#form);
    const excerpt = String(form.get("excerpt")).trim().toLowerCase();
    return {
      ...(excerpt && { excerpt }),
      resolution: String(form.get("exact")).trim().toLowerCase() || String(form.get("size")),
      model: String(form.get("model")),
      seed: Number(form.get("seed")),
      colour_match: String(form.get("colour_match")),
    };
  }

  /** Whether the form can be sent; shows what is wrong where it cannot. */
  isValid() {
    if (!this.#form.checkValidity()) /** @type {HTMLDetailsElement} */ (byId("more")).open = true;
    return this.#form.reportValidity();
  }

  /** Offer the models that the service has. @param {{name: string}[]} models */
  offer(models) {
    const chosen = recall("settings")?.model ?? "auto";
    this.#models = models;
    // Where no device is made for it, a large picture takes hours: twice the size is a beginning.
    if (!recall("settings") && models[0]?.num_gpus === 0) {
      this.#choose("x2");
      this.dispatchEvent(new Event("change")); // Files that were faster than this are looked at again.
    }
    for (const { name } of models) this.#model.append(element("option", { value: name, text: this.#nameOf(name) }));
    if (models.some(({ name }) => name === chosen)) this.#model.value = chosen;
  }

  #nameOf(name) {
    return hasWords(`model.${name}`) ? t(`model.${name}`) : name;
  }

  #edited() {
    this.#validate();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#form.checkValidity()) return;
      remember("settings", {
        ...this.value,
        exact: this.#exact.value.trim(),
        size: new FormData(this.#form).get("size"),
      });
      this.dispatchEvent(new Event("change"));
    }, 350);
  }

  #validate() {
    const exact = this.#exact.value.trim();
    this.#exact.setCustomValidity(exact && !EXACT.test(exact) ? t("exact.invalid") : "");
    const excerpt = this.#excerpt.value.trim();
    this.#excerpt.setCustomValidity(excerpt && !EXCERPT.test(excerpt) ? t("excerpt.invalid") : "");
    this.#form.querySelector(".segmented").classList.toggle("off", exact !== "");
    for (const option of this.#model.options)
      if (this.#models.some(({ name }) => name === option.value)) option.textContent = this.#nameOf(option.value);
  }

  #choose(size) {
    for (const radio of this.#form.querySelectorAll('[name="size"]'))
      if (/** @type {HTMLInputElement} */ (radio).value === size) /** @type {HTMLInputElement} */ (radio).checked = true;
  }

  #restore(before) {
    if (!before) return;
    this.#choose(before.size);
    const colour = /** @type {HTMLSelectElement} */ (byId("colour"));
    if ([...colour.options].some(({ value }) => value === before.colour_match)) colour.value = before.colour_match;
    this.#exact.value = before.exact ?? "";
    this.#seed.value = String(before.seed ?? 666);
    const isUsual =
      !this.#exact.value && before.seed === 666 && before.colour_match === "wavelet" && before.model === "auto";
    /** @type {HTMLDetailsElement} */ (byId("more")).open = !isUsual;
  }
}
